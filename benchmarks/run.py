"""What a call costs, and what the import costs; each beside its floor, measured in the same run.

    python benchmarks/run.py [--check]

With ``--check`` the exit status is 1 when a figure is beyond its limit.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.server import IdentityServer

CALLS = 200_000
ROUNDS = 9
IMPORTS = 41
FRESH_LIMIT = 1.5
IMPORT_LIMIT = 15.0  # ms of CPU time


class Floor:
    """The least that a token provider can do: read an attribute, compare it, return a string."""

    def __init__(self) -> None:
        self.serve_until = time.monotonic() + 3600

    def get_access_token(self) -> str:
        if time.monotonic() < self.serve_until:
            return "token"
        raise TimeoutError


def _time_calls(call: Callable[[], str], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e9


def _time_in_threads(call: Callable[[], str], threads: int) -> float:
    """Return nanoseconds per call, over all threads."""
    if threads == 1:
        return _time_calls(call, CALLS)
    gate = threading.Barrier(threads + 1)

    def work() -> None:
        gate.wait()
        for _ in range(CALLS // threads):
            call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) / CALLS * 1e9


def fresh_token(threads: int) -> float:
    """Print the cost of a call and of its floor, and return their ratio."""
    floor = Floor()
    with IdentityServer("token") as server:
        config = IdentityBootstrapConfig(
            service_name="bench", identity_api_url=server.url, identity_api_internal_token="token"
        )
        with IdentityBootstrapService(config) as service:
            service.get_access_token()
            pairs = [
                (
                    _time_in_threads(floor.get_access_token, threads),
                    _time_in_threads(service.get_access_token, threads),
                )
                for _ in range(ROUNDS)
            ]
    ratio = statistics.median(ours / least for least, ours in pairs)
    least, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"get_access_token(), fresh, {threads} thread{'s' * (threads > 1)}: {ours:.0f} ns, "
        f"floor {least:.0f} ns, ratio {ratio:.2f} (limit {FRESH_LIMIT})"
    )
    return ratio


def _time_import(statement: str) -> float:
    code = (
        f"import time; began = time.process_time(); {statement}; print(time.process_time() - began)"
    )
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else nothing would be measured but compiling
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout) * 1e3


def import_time() -> float:
    """Print the CPU time of the import and of its dependencies, and return the first, in ms.

    Each is the least of many: what else the machine does only ever adds to it.
    """
    floor, ours = "import requests, attrs, cattrs, backoff", "import identity_client"
    pairs = [(_time_import(floor), _time_import(ours)) for _ in range(IMPORTS + 1)][1:]
    least, mine = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    print(
        f"import identity_client: {mine:.1f} ms (limit {IMPORT_LIMIT:g}), "
        f"its dependencies {least:.1f} ms"
    )
    return mine


def main() -> int:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    good = [
        fresh_token(threads=1) <= FRESH_LIMIT,
        fresh_token(threads=8) <= FRESH_LIMIT,
        import_time() <= IMPORT_LIMIT,
    ]
    return 0 if all(good) or "--check" not in sys.argv else 1


if __name__ == "__main__":
    sys.exit(main())
