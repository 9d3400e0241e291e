"""What happens to a service, for logs, counters, listeners and readiness probes."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import attrs
from attrs import frozen

from ._fork import is_killed_greenlet
from ._public import public
from .errors import IdentityError, RemoteError
from .models import Record

_log = logging.getLogger("identity_client")

# How many events are kept while all listeners and log handlers hang; the oldest are dropped.
MAX_PENDING = 1000


@public
class ServiceState(str, Enum):
    """The states: ``PENDING → READY ⇄ DEGRADED ⇄ UNAVAILABLE``, and ``FAILED``, ``CLOSED``."""

    PENDING = "PENDING"
    """There has been no token yet; attempts are being made, or will be."""

    READY = "READY"
    """The last attempt brought a token."""

    DEGRADED = "DEGRADED"
    """The last refresh failed, and the cached token is still usable; attempts go on."""

    UNAVAILABLE = "UNAVAILABLE"
    """The cached token has expired and refreshes fail, so calls fail; attempts go on."""

    FAILED = "FAILED"
    """No more attempts are made until ``start()`` is called again."""

    CLOSED = "CLOSED"
    """``close()`` was called."""


@public
class EventKind(str, Enum):
    """The kinds of a `ServiceEvent`."""

    REGISTERED = "registered"
    """identity-api registered the service, or found it, and returned credentials."""

    SECRET_REGENERATED = "secret_regenerated"
    """The registration replaced the client secret; the old one is rejected from now on."""

    CREDENTIALS_LOADED = "credentials_loaded"
    """Credentials came from the credential store; nothing was registered."""

    REGISTRATION_FAILED = "registration_failed"
    """A registration attempt failed; the next one follows after ``next_attempt_in``."""

    CREDENTIALS_REJECTED = "credentials_rejected"
    """The token endpoint rejected the client or its secret."""

    TOKEN_ISSUED = "token_issued"
    """The token endpoint issued an access token; it is served already."""

    TOKEN_REQUEST_FAILED = "token_request_failed"
    """A token request failed; a usable token is served meanwhile."""

    TOKEN_INVALIDATED = "token_invalidated"
    """A resource server rejected the current token, and another is fetched."""

    STATE_CHANGED = "state_changed"
    """The `ServiceState` changed, from ``state_before`` to ``state``."""


@public
@frozen(kw_only=True, eq=False, repr=False)
class ServiceEvent(Record):
    """Something that happened to a service.

    Attributes:
        kind: what it was.
        service_name: the name of the service.
        message: the event in words, without secrets.
        next_attempt_in: seconds until the next attempt after a failure, or None.
        state_before: with ``STATE_CHANGED``, the state before, else None.
        state: with ``STATE_CHANGED``, the state from now on, else None.
        host: the host of the server concerned, or None where there was none.
        status_code: the HTTP status that a failure came with, or None.
        error_class: the name of the failure's class, or None.
        duration: seconds that it took: a token request, or calls failing; or None.
    """

    kind: EventKind
    service_name: str
    message: str
    next_attempt_in: float | None = None
    state_before: ServiceState | None = None
    state: ServiceState | None = None
    host: str | None = None
    status_code: int | None = None
    error_class: str | None = None
    duration: float | None = None


@public
@frozen(kw_only=True, eq=False, repr=False)
class ServiceStatus(Record):
    """A service at one moment; durations in seconds. Counters are of this process.

    Attributes:
        service_name: the name of the service.
        state: see `ServiceState`.
        started: whether the service was started, by ``start()`` or by a call that needs a token.
        client_id: the OAuth2 client's id, or None before there are credentials.
        token_expires_in: how long the current token may still be served; 0 when there is none.
        attempts: registration attempts that failed in a row.
        last_error: the last failure as text, without secrets, or None.
        last_success_at: the wall clock, in seconds since the epoch, when the last token was
            obtained in this process, or None.
        next_attempt_in: time to the next attempt after a failure; None when none is planned.
        registrations: registrations that succeeded.
        registrations_failed: attempts to register that failed.
        secrets_regenerated: registrations that replaced a secret.
        tokens_issued: token requests that succeeded.
        token_requests_failed: token requests that failed.
        tokens_invalidated: tokens that were taken out of service by ``invalidate_token``.
    """

    service_name: str
    state: ServiceState
    started: bool
    client_id: str | None
    token_expires_in: float
    attempts: int
    last_error: str | None
    last_success_at: float | None
    next_attempt_in: float | None
    registrations: int
    registrations_failed: int
    secrets_regenerated: int
    tokens_issued: int
    token_requests_failed: int
    tokens_invalidated: int

    def to_dict(self) -> dict[str, str | float | bool | None]:
        """Return the members as JSON knows them; none of them is a secret."""
        members = {item.name: getattr(self, item.name) for item in attrs.fields(type(self))}
        return {**members, "state": self.state.value}


class EventEmitter:
    """Counts events, and later logs them and hands them to listeners.

    An event is counted when it is emitted, and delivered by `deliver`. The worker emits in the
    middle of an attempt and delivers after the token was published, so that no listener or log
    handler, which are foreign code and may take long, keeps a caller from the token.

    Args:
        service_name: the name that every event carries.

    Attributes:
        counts: how often each kind was emitted in this process.
        silenced: whether logs and listeners are left alone, as the interpreter is about to end.
    """

    def __init__(self, service_name: str) -> None:
        self.counts: Counter[EventKind] = Counter()
        self.silenced = False
        self._service_name = service_name
        self._pending: deque[_Pending] = deque(maxlen=MAX_PENDING)
        # Threads begin and end subscriptions at once, each by one operation on the dictionary.
        self._listeners: dict[object, Callable[[ServiceEvent], object]] = {}

    def listen(self, callback: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with every event from now on; return what ends that."""
        key = object()
        self._listeners[key] = callback
        return lambda: self._listeners.pop(key, None) and None

    def emit(
        self,
        kind: EventKind,
        template: str,
        *arguments: object,
        level: int = logging.DEBUG,
        url: str | None = None,
        **fields: Any,
    ) -> None:
        """Count one event and keep it for `deliver`.

        Args:
            kind: what happened.
            template: the message, the same for all events like it, so that aggregators can group
                them.
            arguments: what the template is filled with.
            level: the level of the log record.
            url: the address of the server concerned; its host goes into the event.
            fields: other members of the `ServiceEvent`.
        """
        self.counts[kind] += 1
        event = ServiceEvent(
            kind=kind,
            service_name=self._service_name,
            message=template % arguments,
            host=urlsplit(url).netloc if url is not None else None,
            **fields,
        )
        self._pending.append(_Pending(level, template, arguments, event))

    def emit_failure(
        self,
        kind: EventKind,
        template: str,
        *arguments: object,
        error: IdentityError,
        **fields: Any,
    ) -> None:
        """Emit an event with what is known of an error."""
        status_code = error.status_code if isinstance(error, RemoteError) else None
        error_class = type(error).__name__
        self.emit(
            kind, template, *arguments, status_code=status_code, error_class=error_class, **fields
        )

    def log(self, level: int, template: str, *arguments: object) -> None:
        """Keep a log record without an event for `deliver`."""
        self._pending.append(_Pending(level, template, arguments, None))

    @property
    def has_pending(self) -> bool:
        """Whether there is something to deliver."""
        return bool(self._pending)

    def deliver(self) -> None:
        """Log and hand out what was emitted. Whatever listeners and handlers raise ends here."""
        while True:
            try:
                pending = self._pending.popleft()
            except IndexError:
                return
            if not self.silenced:
                self._log(pending)
                if pending.event is not None:
                    self._call_listeners(pending.event)

    def at_fork_reinit(self) -> None:
        """In a child: begin the counters anew; what is pending is the parent's to deliver."""
        self.counts = Counter()
        self._pending = deque(maxlen=MAX_PENDING)

    def _call_listeners(self, event: ServiceEvent) -> None:
        for callback in self._listeners.copy().values():
            try:
                callback(event)
            except BaseException as error:
                if _ends_the_thread(error):
                    raise
                self._log(
                    _Pending(
                        logging.ERROR,
                        "event listener raised %s; it stays registered",
                        (type(error).__name__,),
                        None,
                    )
                )

    def _log(self, pending: _Pending) -> None:
        extra: dict[str, object] = {"identity_service": self._service_name}
        if pending.event is not None:
            extra["identity_event"] = pending.event.kind.value
            extra.update(_fields_of(pending.event))
        try:
            _log.log(
                pending.level,
                f"%s: {pending.template}",
                self._service_name,
                *pending.arguments,
                extra=extra,
            )
        except BaseException as error:  # a handler that fails must not end the worker
            if _ends_the_thread(error):
                raise


def _ends_the_thread(error: BaseException) -> bool:
    """Whether an error is not of the foreign code that it came through.

    It may be the interrupt of the thread that closes the service, or the end of a greenlet.
    """
    return isinstance(error, KeyboardInterrupt) or is_killed_greenlet(error)


def _fields_of(event: ServiceEvent) -> dict[str, object]:
    """Return the members of an event that say something, named so that no formatter clashes."""
    names = ("next_attempt_in", "host", "status_code", "error_class", "duration")
    values = {f"identity_{name}": getattr(event, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


class _Pending(NamedTuple):
    level: int
    template: str
    arguments: tuple[object, ...]
    event: ServiceEvent | None
