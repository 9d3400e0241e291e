"""A clock that stands still until a test moves it."""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import Protocol

# Less would be lost in the rounding of a clock that has run for months.
_SMALLEST_STEP = 0.001


class TimedPart(Protocol):
    """Something that has to act when time passes."""

    def run_due(self) -> float:
        """Do what is due by now; return seconds until the next thing is."""
        ...


class FakeClock:
    """Both clocks of the package, which stand still until `advance` is called.

    Several `FakeIdentityService` objects can share one. The wall clock begins at the real time, so
    that tokens are valid to code that compares them with it.
    """

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self._wall = time.time()
        self._parts: weakref.WeakKeyDictionary[TimedPart, None] = weakref.WeakKeyDictionary()
        self._waited_on: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def monotonic(self) -> float:
        """Return seconds since some moment; stands still while the machine sleeps."""
        return self._monotonic

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._wall

    def wait(self, condition: threading.Condition, timeout: float) -> None:  # noqa: ARG002  # of another time
        """Wait on a condition that the caller holds, until it is notified or the clock moves.

        Only the thread of a real service waits here; a `FakeIdentityService` never does.

        Args:
            condition: the condition, whose lock the caller holds.
            timeout: seconds of this clock; not used, as the caller looks again when it wakes.
        """
        is_first = condition not in self._waited_on
        self._waited_on.add(condition)
        # Waiters look again whenever they wake. Before the first wait, the clock may have moved
        # without notifying them; later, the bound only keeps a broken test from hanging.
        condition.wait(0.05 if is_first else 30)

    def advance(self, seconds: float, *, asleep: bool = False) -> None:
        """Let time pass, and let the services do on the way what falls due.

        Args:
            seconds: how much, 0 or more.
            asleep: whether the wall clock alone moves and nothing is done, as while a machine
                sleeps; ``seconds`` may be negative then, as when the clock is set back.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if asleep:
            self._wall += seconds
            return
        if not 0 <= seconds < math.inf:
            raise ValueError(f"cannot advance by {seconds!r}: it must be 0 s or more")
        end = self._monotonic + seconds
        pause = self._run_due()
        while self._monotonic < end:
            self.jump(min(max(pause, _SMALLEST_STEP), end - self._monotonic))
            pause = self._run_due()

    def jump(self, seconds: float) -> None:
        """Move both clocks, as after a process was stopped: what fell due on the way is late.

        Args:
            seconds: how much, 0 or more.
        """
        self._monotonic += seconds
        self._wall += seconds
        for condition in list(self._waited_on):
            with condition:
                condition.notify_all()

    def attach(self, part: TimedPart) -> None:
        """Let a part act whenever time passes, as long as it exists.

        Args:
            part: what acts; the clock holds a weak reference to it.
        """
        self._parts[part] = None

    def _run_due(self) -> float:
        return min((part.run_due() for part in list(self._parts)), default=math.inf)
