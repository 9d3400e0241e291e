"""Keeps the events of a service, for tests that wait for one."""

from __future__ import annotations

import threading

from identity_client import EventKind, IdentityBootstrapService, ServiceEvent


class Recorder:
    """Keeps the events of a service and waits for them."""

    def __init__(self, service: IdentityBootstrapService) -> None:
        self.events: list[ServiceEvent] = []
        self._happened = threading.Condition()
        service.on_event(self._note)

    def _note(self, event: ServiceEvent) -> None:
        with self._happened:
            self.events.append(event)
            self._happened.notify_all()

    def wait_for(self, kind: EventKind, count: int = 1) -> ServiceEvent:
        def those() -> list[ServiceEvent]:
            return [event for event in self.events if event.kind is kind]

        with self._happened:
            assert self._happened.wait_for(lambda: len(those()) >= count, 10)
            return those()[count - 1]
