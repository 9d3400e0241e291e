"""The ``identity-client`` command; needs the extra ``cli``."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    """Run the command, or say what to install."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding cannot show must not end the command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # text streams have it
    if os.getpid() == 1:
        # The kernel has no default action for process 1, as in a container.
        signal.signal(signal.SIGTERM, _end)
    try:
        from .commands import cli  # the extra may be absent, and so may what it imports

        cli(prog_name="identity-client")
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"identity-client: {error.name} is missing; pip install 'xemahq-identity-client[cli]'\n"
        )
        sys.exit(2)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _replace_closed_streams() -> None:
    """Give each stream that the caller has closed, which Python has as None, a file instead."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # for good
    if sys.stdout is None:
        # For reading: a command that prints fails, as with any output that cannot be written.
        unwritable = os.open(os.devnull, os.O_RDONLY)
        sys.stdout = os.fdopen(unwritable, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # as above
