"""Runs a piece of Python in a process of its own, as a service would run it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

# What is registered before the import of the package runs after what the package registers.
PREAMBLE = """
import atexit
def after_all():
    pass
atexit.register(lambda: after_all())
import sys, threading, time, os
from identity_client import *
def make(url, **settings):
    values = dict(service_name="orders", identity_api_url=url,
                  identity_api_internal_token="internal-token-of-the-tests", base_retry_delay=0.05,
                  max_retry_delay=0.4)
    return IdentityBootstrapService(IdentityBootstrapConfig(**{**values, **settings}))
url = sys.argv[1]
"""


# Python's monotonic clock is common to all processes of a machine.
TELL_THAT_THE_CODE_HAS_ENDED = 'os.write({pipe}, b"%f\\n" % time.monotonic())'


class Ended(NamedTuple):
    """How a process ended; ``seconds`` is how long its exit took once the code had ended."""

    status: int
    out: str
    err: str
    seconds: float


def run(code: str, *arguments: str, timeout: float = 60.0, **environment: str) -> Ended:
    """Run `code` with `sys.argv[1:]`, warnings as errors, and wait for its end."""
    reading, writing = os.pipe()
    last_line = TELL_THAT_THE_CODE_HAS_ENDED.format(pipe=writing)
    program = f"{PREAMBLE}{textwrap.dedent(code)}\n{last_line}"
    with os.fdopen(reading) as pipe:
        try:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", program, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={**os.environ, **environment},
                pass_fds=[writing],
            )
            process_ended_at = time.monotonic()
        finally:
            os.close(writing)
        code_ended_at = float(pipe.readline() or "nan")
    return Ended(done.returncode, done.stdout, done.stderr, process_ended_at - code_ended_at)
