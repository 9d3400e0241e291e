"""Threads that call: all at once, or each at a steady pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .endpoint import expiry_of

SLOW = 0.5


@dataclass
class Calls:
    """What became of calls.

    Attributes:
        finished: calls that came back.
        failed: those of them that raised.
        slow: calls that took longer than `SLOW` seconds, or did not come back.
        slowest: seconds that the slowest took.
        expired: tokens that had expired when they were asked for.
        first_success: when the first call succeeded, in seconds of `time.monotonic`.
    """

    finished: int = 0
    failed: int = 0
    slow: int = 0
    slowest: float = 0.0
    expired: int = 0
    first_success: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, call: Callable[[], object]) -> None:
        """Make one call and count it."""
        began, asked_at, result, failed = time.monotonic(), time.time(), None, 0
        try:
            result = call()
        except Exception:  # noqa: BLE001  # each library has errors of its own
            failed = 1
        ended = time.monotonic()
        with self._lock:
            self.finished += 1
            self.failed += failed
            self.slow += ended - began > SLOW
            self.slowest = max(self.slowest, ended - began)
            if isinstance(result, str):
                self.expired += expiry_of(result) < asked_at
            if not failed and self.first_success is None:
                self.first_success = ended


def all_at_once(call: Callable[[], object], threads: int, limit: float) -> tuple[Calls, float]:
    """Call once in each thread; return what came of it, and seconds until the last came back."""
    calls = Calls()
    gate = threading.Barrier(threads + 1)
    done = threading.Semaphore(0)

    def work() -> None:
        gate.wait()
        calls.run(call)
        done.release()

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    gate.wait()
    began = time.monotonic()
    for _ in range(threads):
        if not done.acquire(timeout=max(began + limit - time.monotonic(), 0)):
            break
    return calls, min(time.monotonic() - began, limit)


class SteadyLoad:
    """Threads that call at a steady pace until they are stopped.

    Args:
        call: what they call.
        threads: how many.
        rate: calls a second in each.
    """

    def __init__(self, call: Callable[[], object], threads: int = 8, rate: float = 10.0) -> None:
        self.calls = Calls()
        self._call = call
        self._interval = 1 / rate
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0)):
            self.calls.run(self._call)
            due = max(due + self._interval, time.monotonic())

    def stop(self, patience: float = 3.0) -> Calls:
        """End it, wait a little for the calls under way, and return what became of all."""
        self._stop.set()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        self.calls.slow += sum(thread.is_alive() for thread in self._threads)
        return self.calls
