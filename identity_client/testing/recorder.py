"""Keeps the events of a service, for tests that look at them or wait for one."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from ..events import EventKind, ServiceEvent
from ..service import IdentityBootstrapService


class EventRecorder:
    """Keeps the events of a service from now on; a context manager that ends with its block.

    Thread-safe. The events of a real service come from its worker, after the token was published,
    so wait for them; those of a `FakeIdentityService` are there when its call returns.

    Args:
        service: the service to listen to.
    """

    __test__ = False

    def __init__(self, service: IdentityBootstrapService) -> None:
        self._events: list[ServiceEvent] = []
        self._changed = threading.Condition()
        self._stop = service.on_event(self._add)

    @property
    def events(self) -> list[ServiceEvent]:
        """The events so far, oldest first."""
        with self._changed:
            return list(self._events)

    @property
    def kinds(self) -> list[EventKind]:
        """The kinds of the events so far, oldest first."""
        return [event.kind for event in self.events]

    def wait_for(self, kind: EventKind, count: int = 1, timeout: float = 10.0) -> ServiceEvent:
        """Wait until there were ``count`` events of a kind, and return that one.

        Args:
            kind: the kind.
            count: how many of them to wait for, counted since the beginning or `clear`.
            timeout: seconds of real time to wait at most.

        Raises:
            TimeoutError: there were fewer in that time; the message has the kinds that came.
        """

        def found() -> list[ServiceEvent]:
            return [event for event in self._events if event.kind is kind]

        with self._changed:
            if self._changed.wait_for(lambda: len(found()) >= count, timeout):
                return found()[count - 1]
            seen = ", ".join(event.kind.value for event in self._events) or "none"
        raise TimeoutError(
            f"fewer than {count} events of the kind {kind.value!r} within {timeout:g} s; "
            f"events so far: {seen}"
        )

    def clear(self) -> None:
        """Forget the events so far."""
        with self._changed:
            self._events.clear()

    def stop(self) -> None:
        """Record no more events; harmless when called again."""
        self._stop()

    def _add(self, event: ServiceEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_class: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
