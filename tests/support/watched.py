"""A service whose events a test can wait for."""

from __future__ import annotations

import threading

from identity_client import EventKind, IdentityBootstrapService, ServiceEvent


class Watched:
    """A service, and what happens to it."""

    def __init__(self, service: IdentityBootstrapService) -> None:
        self.service = service
        self._events: list[EventKind] = []
        self._happened = threading.Condition()
        service.on_event(self._note)

    def _note(self, event: ServiceEvent) -> None:
        with self._happened:
            self._events.append(event.kind)
            self._happened.notify_all()

    def wait_for(self, kind: EventKind, count: int = 1) -> None:
        """Wait until there were so many events of a kind."""
        with self._happened:
            assert self._happened.wait_for(lambda: self._events.count(kind) >= count, 30), kind
