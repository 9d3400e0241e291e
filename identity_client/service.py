"""`IdentityBootstrapService`, the public façade."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import NoReturn, Self

import requests

from . import _fork
from ._http.hosts import AcceptedTokens
from ._http.retry import Backoff
from ._public import public
from ._status_file import StatusFile
from ._tokens.cache import Failure, Invalidation, RefreshAttempt, TokenCache, WorkerGone
from ._tokens.clock import Clock, SystemClock
from ._tokens.registration import RegistrationSource
from ._tokens.sources import StaticCredentialsSource, TokenSource
from ._tokens.waiters import AsyncWaiters
from ._tokens.worker import Worker
from .auth import TokenAuth
from .config import IdentityBootstrapConfig
from .errors import (
    ConfigurationError,
    CredentialStoreError,
    IdentityApiError,
    IdentityError,
    NotReadyError,
    RemoteError,
    ServiceClosedError,
    copy_for_raise,
)
from .events import EventEmitter, EventKind, ServiceEvent, ServiceStatus
from .models import AccessToken

_CLOSE_TIMEOUT = 1.0


@public
class IdentityBootstrapService:
    """Registers a service in the background and serves its access tokens to all threads.

    A context manager that starts the service and closes it. Thread-safe, and fork-safe: create it
    before or after forking. Creating it makes no request and starts no thread.

    Args:
        config: the settings.
        clock: where time is read; for tests.
    """

    _worker_class: type[Worker] = Worker

    def __init__(self, config: IdentityBootstrapConfig, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._clock = clock
        self._monotonic = clock.monotonic
        self._cache = TokenCache(
            clock, lambda: Backoff(config.base_retry_delay, config.max_retry_delay)
        )
        self._events = EventEmitter(config.service_name)
        if config.status_file is not None:
            self._events.listen(StatusFile(config.status_file, self._current_status))
        self._source = self._make_source(config, clock)
        self._worker = self._worker_class(config, clock, self._cache, self._source, self._events)
        self._waiters = AsyncWaiters(self._cache)
        self._accepted_tokens = AcceptedTokens()
        self._started = False
        _fork.warn_without_threads()
        _fork.register(self._worker)
        weakref.finalize(self, self._worker.stop).atexit = False

    def start(self, *, validate: bool = True) -> None:
        """Start the service; it registers in the background. Harmless when it runs already.

        A standing order: in a forked child, or where the worker ended, `status` and `is_ready`
        bring the worker back. With pre-configured credentials this fetches a first token, in
        ``request_timeout`` seconds at most, and the service has failed when that fails. A service
        that has failed starts again.

        Args:
            validate: whether to fetch the first token with pre-configured credentials here; False
                to return at once, for frameworks that must not wait.

        Raises:
            TokenEndpointError: the pre-configured credentials, or their endpoint, do not work.
            NotReadyError: their endpoint does not respond in time.
            ServiceClosedError: the service was closed.
        """
        self._worker.check_fork()
        if self._cache.is_closed:
            raise self._closed_error()
        is_preconfigured = isinstance(self._source, StaticCredentialsSource)
        must_validate = validate and is_preconfigured and not self._cache.has_ever_been_ready
        if self._cache.is_terminal or (must_validate and self._cache.failure is not None):
            self._worker.reset_backoff()
            self._cache.reset_failure()
        self._ensure_started()
        if must_validate:
            self._validate_credentials()

    def get_access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token.

        A usable token is returned at once from memory, whatever the network does. Otherwise the
        caller waits, with all others, for the one refresh in flight. Starts the service if it was
        not started.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.

        Raises:
            TokenEndpointError: the token endpoint issued no token; all waiters get the same.
            NotReadyError: no token is available in time; says why, and when the next attempt is.
            RegistrationError: all registration attempts are used up.
            ServiceClosedError: the service was closed.
        """
        snapshot = self._cache.snapshot
        if timeout is None and self._monotonic() < snapshot.serve_until:
            return snapshot.value
        return self._wait_for_value(timeout)

    def get_token(self, timeout: float | None = None) -> AccessToken:
        """Return a valid access token with its ``expires_at``; as `get_access_token` otherwise.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.

        Raises:
            IdentityError: as `get_access_token` does.
        """
        token = None
        while token is None:  # another thread may invalidate it in between
            self.get_access_token(timeout)
            token = self._cache.snapshot.token
        return token

    async def aget_token(self, timeout: float | None = None) -> AccessToken:
        """Return a valid access token with its ``expires_at`` to a coroutine.

        As `aget_access_token` otherwise.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.
        """
        token = None
        while token is None:  # another thread may invalidate it in between
            await self.aget_access_token(timeout)
            token = self._cache.snapshot.token
        return token

    def peek_token(self) -> AccessToken | None:
        """Return the current token if it is usable, else None; never waits, starts nothing."""
        snapshot = self._cache.snapshot
        return snapshot.token if snapshot.usable_seconds(self._clock) else None

    async def aget_access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token to a task of asyncio or trio; never block its event loop.

        Waiting coroutines take no thread, however many there are. Otherwise the same as
        `get_access_token`.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.

        Raises:
            IdentityError: as `get_access_token` does.
        """
        snapshot = self._cache.snapshot
        if timeout is None and self._monotonic() < snapshot.serve_until:
            return snapshot.value
        seconds = self._config.token_timeout if timeout is None else timeout
        deadline = self._deadline(seconds)
        outcome: str | Failure | RefreshAttempt | None = None
        while True:
            if not self._ensure_started():
                return self._wait_for_value(seconds)  # at shutdown: there is no other way
            attempt = outcome if isinstance(outcome, RefreshAttempt) else None
            outcome = self._cache.look(deadline, attempt)
            if not isinstance(outcome, RefreshAttempt):
                return self._value_or_raise(outcome, seconds)
            await self._waiters.wait(outcome, deadline - self._clock.monotonic())

    def wait_for_ready(self, timeout: float | None = None) -> bool:
        """Wait until the first token is available, through as many attempts as it takes.

        Args:
            timeout: seconds to wait at most, 0 or more; None for no limit.

        Returns:
            True once there was a token; False when the time is up, or the service has failed or
            was closed.
        """
        return self._wait_until(lambda: self._cache.has_ever_been_ready, timeout)

    def wait_for_token(self, timeout: float | None = None) -> bool:
        """Wait until a usable token is in hand, through failures, e.g. after an outage.

        Args:
            timeout: seconds to wait at most, 0 or more; None for no limit.

        Returns:
            True once there is one; False when the time is up, or the service has failed or was
            closed.
        """
        return self._wait_until(lambda: self._cache.usable_seconds() > 0, timeout)

    def is_ready(self) -> bool:
        """Return whether a usable token is in hand; for probes: never waits.

        Starts the service if it was not started, and brings its worker back where that is missing.
        """
        if not self._cache.is_closed:
            self._ensure_started()
        return self._cache.usable_seconds() > 0

    def has_credentials(self) -> bool:
        """Return whether there are credentials that the token endpoint accepted."""
        return self._source.credentials is not None

    def get_client_id(self) -> str | None:
        """Return the OAuth2 client_id, or None before there are credentials."""
        credentials = self._source.credentials
        return credentials.client_id if credentials is not None else None

    def invalidate_token(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None:
        """Stop serving a token that a resource server rejected, and fetch another.

        Does nothing unless ``token`` is still the current one, so that late rejections of one
        token, from many threads, cause one request. A token that came in place of a rejected one
        and is rejected soon in turn stays in use, as the resource server is at fault: refreshes on
        its account happen after pauses that grow, like those after failures. The token comes back
        when no other can be obtained.

        Args:
            token: the token that was rejected.
            host: the resource server, for the log.
            was_accepted: whether that server accepted this very token before. Then the token was
                revoked, and is replaced without a pause, but for one server at most 20 times while
                rejections follow each other within 10 minutes.
        """
        self._worker.check_fork()
        outcome, pause = self._cache.invalidate(token, host, was_accepted=was_accepted)
        if outcome is Invalidation.REPLACING:
            self._events.emit(
                EventKind.TOKEN_INVALIDATED,
                "access token rejected by %s; fetching another",
                host or "a resource server",
            )
            self._cache.wake_worker()
        elif pause:
            self._events.log(
                logging.WARNING,
                "%s rejects each new access token; serving the current one, no refresh on its "
                "account for %.1f s; check the audience and roles that it expects",
                host or "a resource server",
                pause,
            )
            self._cache.wake_worker()

    def force_reregistration(self) -> None:
        """Register again, in the background; the current token is served until there is another.

        If identity-api returns no secret, the secret is regenerated, which invalidates the old one
        for all replicas. If registration fails, the current credentials stay in use and it is
        repeated later; regenerations keep their pauses.

        Raises:
            ConfigurationError: the credentials are pre-configured.
            RegistrationError: all registration attempts are used up; call `start`.
            ServiceClosedError: the service was closed.
        """
        self._worker.check_fork()
        if self._cache.is_closed:
            raise self._closed_error()
        self._source.register_again()
        failure = self._cache.failure
        if failure is not None and failure.final:
            raise copy_for_raise(failure.error)
        self._cache.request_refresh()
        self._ensure_started()

    def auth(self, hosts: Iterable[str] | None = None) -> TokenAuth:
        """Return an auth object for requests: a bearer header, and one retry after a 401.

        One for each call does what one for all calls does: the service remembers which host
        accepted which token.

        Args:
            hosts: where the token may be sent, such as ``"orders"``, ``"orders:8080"`` or
                ``"*.internal.example"``; None for every host that is called with it.
        """
        return TokenAuth(
            self.get_access_token,
            self.invalidate_token,
            hosts,
            accepted_tokens=self._accepted_tokens,
        )

    def session(self, hosts: Iterable[str] | None = None) -> requests.Session:
        """Return a new `requests.Session` that sends the token.

        Args:
            hosts: as for `auth`.
        """
        session = requests.Session()
        session.auth = self.auth(hosts)
        return session

    def status(self) -> ServiceStatus:
        """Return how the service stands, for readiness probes and for people.

        Starts nothing that was not started; brings the worker of a started service back.
        """
        if self._started and not self._cache.is_closed:
            self._ensure_started()
        return self._current_status()

    def _current_status(self) -> ServiceStatus:
        failure = self._cache.failure
        remaining = 0.0 if failure is None else failure.retry_at - self._clock.monotonic()
        counts = self._events.counts
        return ServiceStatus(
            service_name=self._config.service_name,
            state=self._worker.state,
            started=self._started,
            client_id=self.get_client_id(),
            token_expires_in=self._cache.usable_seconds(),
            attempts=self._worker.attempts,
            last_error=self._worker.last_error,
            last_success_at=self._worker.last_success_at,
            next_attempt_in=remaining if remaining > 0 else None,
            registrations=counts[EventKind.REGISTERED],
            registrations_failed=counts[EventKind.REGISTRATION_FAILED],
            secrets_regenerated=counts[EventKind.SECRET_REGENERATED],
            tokens_issued=counts[EventKind.TOKEN_ISSUED],
            token_requests_failed=counts[EventKind.TOKEN_REQUEST_FAILED],
            tokens_invalidated=counts[EventKind.TOKEN_INVALIDATED],
        )

    def on_event(self, callback: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with every `ServiceEvent` from now on.

        It is called in the worker's thread, after the token was published, so it delays no caller.
        One that takes long may be called by another thread meanwhile. What it raises is logged.

        Returns:
            A function that ends this.
        """
        return self._events.listen(callback)

    def close(self) -> None:
        """End the service within about a second; safe twice and from any thread.

        Waiters get `ServiceClosedError`. A request that is under way is left to end by itself.
        """
        self._worker.check_fork()
        self._cache.close(self._closed_error())
        self._worker.stop(_CLOSE_TIMEOUT)
        self._worker.publish_state_change()
        self._events.deliver()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name, state = self._config.service_name, self._worker.state.value
        return f"<{type(self).__name__} {name} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an IdentityBootstrapService holds a thread and secrets and cannot be pickled; "
            "create one per process, or before forking"
        )

    # --- waiting ---

    def _wait_for_value(self, timeout: float | None) -> str:
        seconds = self._config.token_timeout if timeout is None else timeout
        return self._value_or_raise(self._wait_for_outcome(seconds), seconds)

    def _wait_for_outcome(self, seconds: float) -> str | Failure | None:
        deadline = self._deadline(seconds)
        if self._worker.is_current_thread():
            # A listener or a log handler asks: the worker cannot wait for itself.
            return self._cache.get(-math.inf)
        while True:
            exits = self._cache.worker_exits
            with self._running_worker() as has_worker:
                if not has_worker:
                    if self._worker.is_shutting_down():
                        return self._cache.get(-math.inf)
                    self._worker.refresh_inline(deadline)
                try:
                    return self._cache.get(deadline, has_worker=has_worker, worker_exits=exits)
                except WorkerGone:
                    continue

    def _wait_until(self, is_reached: Callable[[], bool], timeout: float | None) -> bool:
        deadline = self._deadline(math.inf if timeout is None else timeout)
        if self._worker.is_current_thread():
            return self._cache.wait_until(is_reached, -math.inf, self._cache.worker_exits)
        while True:
            exits = self._cache.worker_exits
            with self._running_worker() as has_worker:
                if not has_worker:
                    self._worker.refresh_inline(deadline)
                    deadline = -math.inf
                try:
                    return self._cache.wait_until(is_reached, deadline, exits)
                except WorkerGone:
                    continue

    def _make_source(self, config: IdentityBootstrapConfig, clock: Clock) -> TokenSource:
        credentials = config.preconfigured_credentials
        if credentials is not None:
            return StaticCredentialsSource(config, credentials, clock, self._events)
        return RegistrationSource(config, clock, self._events)

    def _ensure_started(self) -> bool:
        """Let the worker run without being waited for; but not where processes are forked from."""
        self._started = True
        return _fork.is_uwsgi_master() or self._worker.ensure_running()

    @contextmanager
    def _running_worker(self) -> Generator[bool, None, None]:
        """Have the worker running for callers that wait; yield whether it could be started."""
        self._started = True
        try:
            yield self._worker.ensure_running()
        finally:
            if _fork.is_uwsgi_master():
                self._worker.stop(_CLOSE_TIMEOUT)

    def _validate_credentials(self) -> None:
        seconds = self._config.request_timeout + 1.0  # the request ends first, and says why
        outcome = self._wait_for_outcome(seconds)
        if not isinstance(outcome, str):
            error: IdentityError = (
                self._not_ready_error(None, seconds)
                if outcome is None
                else copy_for_raise(outcome.error)
            )
            self._cache.fail_permanently(copy_for_raise(error))
            self._cache.wake_worker()
            raise error

    def _deadline(self, seconds: float) -> float:
        """Return the monotonic moment when a timeout ends; a negative one has ended already."""
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, (int, float))
            or math.isnan(seconds)
        ):
            raise ConfigurationError("timeout must be a number of seconds, 0 or more, or None")
        return self._clock.monotonic() + max(seconds, 0.0)

    # --- errors ---

    def _value_or_raise(self, outcome: str | Failure | None, seconds: float) -> str:
        if isinstance(outcome, str):
            return outcome
        if (
            outcome is None
            or outcome.registering
            or isinstance(outcome.error, (IdentityApiError, CredentialStoreError))
        ):
            raise self._not_ready_error(outcome, seconds)
        error: IdentityError = copy_for_raise(outcome.error)
        now = self._clock.monotonic()
        error.message = outcome.message_at(now)
        error.args = (error.message,)
        if isinstance(error, RemoteError):
            error.retry_after = max(outcome.retry_at - now, 0.0)
        raise error

    def _not_ready_error(self, outcome: Failure | None, seconds: float) -> IdentityError:
        status = self.status()
        name, state = status.service_name, status.state.value
        last_error = status.last_error
        if outcome is not None:
            last_error = outcome.message_at(self._clock.monotonic())
            message = f"no access token for {name!r}: {last_error}"
        elif self._worker.is_shutting_down():
            message = f"no access token for {name!r}: the interpreter is shutting down"
        elif self._worker.is_current_thread():
            message = (
                f"no access token for {name!r}: there is none yet, and an event listener or log "
                "handler that runs in the worker's thread cannot wait for one"
            )
        else:
            message = f"no access token for {name!r} within {seconds:g} s: an attempt is under way"
            if last_error is not None:
                message += f"; last error: {last_error}"
        error = NotReadyError(
            f"{message} ({state}, failed attempts: {status.attempts})",
            state=state,
            attempts=status.attempts,
            last_error=last_error,
            next_attempt_in=status.next_attempt_in,
        )
        error.__cause__ = copy_for_raise(outcome.error) if outcome is not None else None
        return error

    def _closed_error(self) -> ServiceClosedError:
        return ServiceClosedError(
            f"the service {self._config.service_name!r} is closed; create a new one"
        )
