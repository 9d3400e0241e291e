"""A clock that moves when it is told to."""

from __future__ import annotations

import threading
import weakref


class FakeClock:
    """Both clocks of the package; whoever waits on them is woken when they move."""

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self._wall = 1_700_000_000.0
        self._waited_on: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._wall

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        self._waited_on.add(condition)
        # Callers look again after every wake-up; the bound only keeps a broken test from hanging.
        condition.wait(30)

    def advance(self, seconds: float, *, asleep: bool = False) -> None:
        """Let time pass; on a machine that is asleep the wall clock goes on and nobody wakes."""
        self._wall += seconds
        if asleep:
            return
        self._monotonic += seconds
        for condition in list(self._waited_on):
            with condition:
                condition.notify_all()
