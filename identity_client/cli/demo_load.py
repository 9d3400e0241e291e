"""What the demo watches a service with: threads under load, and its events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from ..errors import IdentityError
from ..events import EventKind, ServiceEvent


class DemoStepTimeout(Exception):
    """An event that the demo's next step depends on did not happen in time."""


class LoadGenerator:
    """Threads that call for the token all the time, as the threads of a service do.

    Args:
        get_token: returns a token.
        expires_at: returns when a token expires, in seconds since the epoch.

    Attributes:
        calls: how many calls were made.
        failed: how many of them raised an `IdentityError`.
        expired: how many of them returned an expired token.
        slowest: seconds that the slowest took.
    """

    def __init__(self, get_token: Callable[[], str], expires_at: Callable[[str], float]) -> None:
        self.calls: int = 0
        self.failed: int = 0
        self.expired: int = 0
        self.slowest: float = 0.0
        self._get_token = get_token
        self._expires_at = expires_at
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            began = time.perf_counter()
            failed = expired = False
            try:
                expired = self._expires_at(self._get_token()) < time.time()
            except IdentityError:
                failed = True
            with self._lock:
                self.calls += 1
                self.slowest = max(self.slowest, time.perf_counter() - began)
                self.failed += failed
                self.expired += expired


class EventRecorder:
    """Records the events of a service.

    Args:
        timeout: seconds to wait for an event at most.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._events: list[tuple[float, ServiceEvent]] = []
        self._arrived = threading.Condition()

    def record(self, event: ServiceEvent) -> None:
        """Record an event; the service's listener."""
        with self._arrived:
            self._events.append((time.perf_counter(), event))
            self._arrived.notify_all()

    def count(self, kind: EventKind) -> int:
        """Return how many events of a kind there were."""
        return len(self._all(kind))

    def moments(self, kind: EventKind) -> list[float]:
        """Return the times of the events of a kind, on the clock of `time.perf_counter`."""
        return [moment for moment, _ in self._all(kind)]

    def wait_for(self, kind: EventKind, count: int) -> ServiceEvent:
        """Wait until there were ``count`` events of a kind, and return that one.

        Raises:
            DemoStepTimeout: there were fewer before the timeout.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.count(kind) >= count, self._timeout):
                raise DemoStepTimeout(
                    f"timed out after {self._timeout:g} s waiting for {kind.value} number {count}"
                )
            return self._all(kind)[count - 1][1]

    def _all(self, kind: EventKind) -> list[tuple[float, ServiceEvent]]:
        return [(moment, event) for moment, event in self._events if event.kind is kind]
