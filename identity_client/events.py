"""What happens to a service, for logs, counters, listeners and readiness probes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from attrs import frozen

from .models import Value

_log = logging.getLogger("identity_client")


class ServiceState(str, Enum):
    """The states of a service: ``PENDING → READY ⇄ DEGRADED``, and ``FAILED``, ``CLOSED``."""

    PENDING = "PENDING"
    """No token was had yet; attempts are being made, or will be."""

    READY = "READY"
    """The last attempt brought a token."""

    DEGRADED = "DEGRADED"
    """A token was had, and the last attempt to replace it failed; more are being made."""

    FAILED = "FAILED"
    """No more attempts are made until ``start()`` is called again."""

    CLOSED = "CLOSED"
    """``close()`` was called."""


class EventKind(str, Enum):
    """The kinds of a `ServiceEvent`."""

    REGISTERED = "registered"
    SECRET_REGENERATED = "secret_regenerated"
    CREDENTIALS_LOADED = "credentials_loaded"
    REGISTRATION_FAILED = "registration_failed"
    CREDENTIALS_REJECTED = "credentials_rejected"
    TOKEN_ISSUED = "token_issued"
    TOKEN_REQUEST_FAILED = "token_request_failed"
    TOKEN_INVALIDATED = "token_invalidated"
    STATE_CHANGED = "state_changed"


@frozen(kw_only=True, eq=False, repr=False)
class ServiceEvent(Value):
    """Something that happened to a service.

    Attributes:
        kind: what it was.
        service_name: the name of the service.
        message: the event in words, without secrets.
        next_attempt: seconds until the next attempt after a failure, or None.
    """

    kind: EventKind
    service_name: str
    message: str
    next_attempt: float | None = None


@frozen(kw_only=True, eq=False, repr=False)
class ServiceStatus(Value):
    """A service at one moment; times in seconds.

    Attributes:
        service_name: the name of the service.
        state: see `ServiceState`.
        client_id: the OAuth2 client's id, or None before there are credentials.
        token_expires_in: how long the current token may still be served; 0 when there is none.
        attempts: registration attempts that failed in a row.
        last_error: the last failure as text, without secrets, or None.
        next_attempt: time to the next attempt after a failure; None when none is due or planned.
        registrations: registrations that succeeded.
        secrets_regenerated: registrations that replaced a secret.
        tokens_issued: token requests that succeeded.
        token_requests_failed: token requests that failed.
        tokens_invalidated: tokens that were taken out of service by ``invalidate_token``.
    """

    service_name: str
    state: ServiceState
    client_id: str | None
    token_expires_in: float
    attempts: int
    last_error: str | None
    next_attempt: float | None
    registrations: int
    secrets_regenerated: int
    tokens_issued: int
    token_requests_failed: int
    tokens_invalidated: int


class Reporter:
    """Counts events, logs them and hands them to listeners.

    Args:
        service_name: the name that every event carries.

    Attributes:
        counts: how often each kind was reported.
        muted: whether logs and listeners are left alone, as the interpreter is about to end.
    """

    def __init__(self, service_name: str) -> None:
        self.counts: Counter[EventKind] = Counter()
        self._service_name = service_name
        self.muted = False
        self._listeners: tuple[Callable[[ServiceEvent], object], ...] = ()

    def listen(self, callback: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with every event from now on; return what ends that."""
        self._listeners += (callback,)

        def stop() -> None:
            self._listeners = tuple(item for item in self._listeners if item is not callback)

        return stop

    def emit(
        self,
        kind: EventKind,
        message: str,
        *,
        level: int = logging.DEBUG,
        next_attempt: float | None = None,
    ) -> None:
        """Report one event. A listener that fails is logged and disturbs nobody."""
        self.counts[kind] += 1
        self.log(level, message)
        event = ServiceEvent(
            kind=kind,
            service_name=self._service_name,
            message=message,
            next_attempt=next_attempt,
        )
        for callback in () if self.muted else self._listeners:
            try:
                callback(event)
            except Exception as error:  # noqa: BLE001  # whatever a listener raises is its own affair
                self.log(
                    logging.ERROR,
                    f"a listener for events raised {type(error).__name__}; it is called again "
                    "with the next event",
                )

    def log(self, level: int, message: str) -> None:
        """Log a message; a handler that raises must not end the thread that logs."""
        if not self.muted:
            with suppress(Exception):
                _log.log(level, "%s: %s", self._service_name, message)
