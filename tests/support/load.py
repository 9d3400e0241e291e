"""Threads that ask a service for its token all the time, and what they saw."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Self

from attrs import define, field

from identity_client import IdentityBootstrapService, IdentityError


@lru_cache(maxsize=64)
def expiry(token: str) -> float:
    """Read when a token ends, in seconds since the epoch."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["exp"])


@define
class Seen:
    """What callers saw.

    Attributes:
        calls: how often they asked.
        failed: how often they were told of a failure.
        failed_with_usable_token: how often that was while the service had a usable token.
        expired: how often they got a token whose ``exp`` was over.
        slowest: the longest time that a call took, in seconds.
        least_left: the shortest time that a token had left when it was returned, in seconds.
        failures: the kinds of exceptions, and how often.
    """

    calls: int = 0
    failed: int = 0
    failed_with_usable_token: int = 0
    expired: int = 0
    slowest: float = 0.0
    least_left: float = 1e9
    failures: Counter[str] = field(factory=Counter)

    def add(self, other: Seen) -> None:
        self.calls += other.calls
        self.failed += other.failed
        self.failed_with_usable_token += other.failed_with_usable_token
        self.expired += other.expired
        self.slowest = max(self.slowest, other.slowest)
        self.least_left = min(self.least_left, other.least_left)
        self.failures.update(other.failures)


class Load:
    """So many threads; a context manager. What they saw is complete when it has been left.

    Args:
        service: whom they ask.
        threads: how many they are.
        pause: seconds between two calls of one thread.
        ends_at: reads when a token ends, in seconds since the epoch.
    """

    def __init__(
        self,
        service: IdentityBootstrapService,
        threads: int = 8,
        pause: float = 0.005,
        ends_at: Callable[[str], float] = expiry,
    ) -> None:
        self.seen = Seen()
        self._service = service
        self._pause = pause
        self._ends_at = ends_at
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call_on) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _call_on(self) -> None:
        seen = Seen()
        while not self._stopped.wait(self._pause):
            looked = time.perf_counter()
            usable = self._service.status().token_expires_in
            began, now = time.perf_counter(), time.time()
            try:
                left = self._ends_at(self._service.get_access_token()) - now
                seen.expired += left <= 0
                seen.least_left = min(seen.least_left, left)
            except IdentityError as error:
                seen.failed += 1
                seen.failures[type(error).__name__] += 1
                seen.failed_with_usable_token += usable > time.perf_counter() - looked
            seen.calls += 1
            seen.slowest = max(seen.slowest, time.perf_counter() - began)
        with self._lock:
            self.seen.add(seen)
