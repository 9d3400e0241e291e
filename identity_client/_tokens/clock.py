"""Time, as everything here reads it: injected, so that tests of lifetimes never sleep."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks and a way to wait on them; all values in seconds."""

    def monotonic(self) -> float:
        """The clock that never steps, and may stand still while the machine sleeps."""
        ...

    def time(self) -> float:
        """The wall clock, since the epoch: it steps, and goes on while the machine sleeps."""
        ...

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        """Wait on a condition that the caller holds, for ``timeout`` seconds at most."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    # The functions themselves, so that reading the clock costs no Python frame.
    monotonic: staticmethod[[], float] = staticmethod(time.monotonic)
    time: staticmethod[[], float] = staticmethod(time.time)

    @staticmethod
    def wait(condition: threading.Condition, timeout: float) -> None:
        condition.wait(min(timeout, threading.TIMEOUT_MAX))
