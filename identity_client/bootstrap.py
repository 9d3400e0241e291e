"""`IdentityBootstrapService`: the face of the package, and what happens on fork and at exit."""

from __future__ import annotations

import atexit
import math
import os
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn

from . import uwsgi
from .auth import TokenAuth
from .clock import Clock, SystemClock
from .config import IdentityBootstrapConfig
from .errors import (
    ConfigurationError,
    CredentialStoreError,
    IdentityApiError,
    IdentityError,
    NotReadyError,
    RemoteError,
    ServiceClosedError,
    replica,
)
from .events import EventKind, Reporter, ServiceEvent, ServiceStatus
from .registration import Registration
from .token_cache import Failure, TokenCache
from .token_source import Preconfigured, TokenSource
from .worker import Worker

_CLOSE_TIMEOUT = 1.0
_EXIT_TIMEOUT = 0.2


class IdentityBootstrapService:
    """Registers a service in the background and gives its access tokens to all threads.

    A context manager that starts the service and closes it. Safe to use from any thread, and in
    children that were forked after it was made.

    Args:
        config: the settings.
        clock: where time is read; for tests.
    """

    def __init__(self, config: IdentityBootstrapConfig, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._clock = clock
        self._monotonic = clock.monotonic
        self._cache = TokenCache(clock)
        self._report = Reporter(config.service_name)
        self._source = _source(config, clock, self._report)
        self._worker = Worker(config, clock, self._cache, self._source, self._report)
        uwsgi.warn_without_threads()
        _services.add(self)
        weakref.finalize(self, self._worker.retire).atexit = False

    def start(self) -> None:
        """Start the service; it registers in the background. Harmless when it runs already.

        With pre-configured credentials this fetches a first token, in ``request_timeout`` seconds
        at most, and the service has failed when that fails. A service that has failed begins anew.

        Raises:
            TokenEndpointError: the pre-configured credentials, or their endpoint, do not work.
            NotReadyError: their endpoint does not answer in time.
            ServiceClosedError: the service was closed.
        """
        self._worker.reset_after_fork()
        if self._cache.is_closed:
            raise self._closed()
        if self._cache.is_terminal:
            self._worker.attempts = 0
            self._cache.force()
        self._work_ahead()
        if isinstance(self._source, Preconfigured) and not self._cache.had_token:
            self._prove_credentials()

    def get_access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token.

        A token that is usable is returned at once, whatever the network does. Otherwise the caller
        waits, with all others, for the one attempt in flight. Starts a service that nobody started.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.

        Raises:
            TokenEndpointError: the token endpoint issued no token; all who waited get the same.
            NotReadyError: no token can be had in time; says why, and when the next attempt is.
            RegistrationError: all registration attempts are used up.
            ServiceClosedError: the service was closed.
        """
        snapshot = self._cache.snapshot
        if self._monotonic() < snapshot.serve_until:
            return snapshot.value
        return self._wait_for_token(timeout)

    def wait_for_ready(self, timeout: float | None = None) -> bool:
        """Wait until a first token was had, through as many attempts as it takes.

        Args:
            timeout: seconds to wait at most, 0 or more; None for no limit.

        Returns:
            True once a token was had; False when the time is up, or the service has failed or was
            closed.
        """
        deadline = self._deadline(math.inf if timeout is None else timeout)
        with self._attendance() as attended:
            if not attended:
                self._worker.step(deadline)
                deadline = self._clock.monotonic()
            return self._cache.wait_until_ready(deadline)

    def has_credentials(self) -> bool:
        """Return whether there are credentials that the token endpoint accepted."""
        return self._source.credentials is not None

    def get_client_id(self) -> str | None:
        """Return the OAuth2 client_id, or None before there are credentials."""
        credentials = self._source.credentials
        return credentials.client_id if credentials is not None else None

    def invalidate_token(self, token: str) -> None:
        """Stop serving a token that a resource server rejected, and fetch another.

        Does nothing unless ``token`` is still the current one, so that late rejections of one
        token, from many threads, cause one request.

        Args:
            token: the token that was rejected.
        """
        self._worker.reset_after_fork()
        if self._cache.invalidate(token):
            self._report.emit(
                EventKind.TOKEN_INVALIDATED, "the current token was taken out of service"
            )

    def force_reregistration(self) -> None:
        """Register again, in the background; the current token is served until there is another.

        If identity-api tells no secret, the secret is regenerated, and other replicas that use the
        old one are rejected.

        Raises:
            ConfigurationError: the credentials are pre-configured.
            ServiceClosedError: the service was closed.
        """
        self._worker.reset_after_fork()
        if self._cache.is_closed:
            raise self._closed()
        self._source.reregister()
        self._cache.force()
        self._work_ahead()

    def auth(self) -> TokenAuth:
        """Return an auth object for requests: a bearer header, and one retry after a 401."""
        return TokenAuth(self.get_access_token, self.invalidate_token)

    def status(self) -> ServiceStatus:
        """Return how the service stands, for readiness probes and for people."""
        failure = self._cache.failure
        remaining = None if failure is None else failure.retry_at - self._clock.monotonic()
        counts = self._report.counts
        return ServiceStatus(
            service_name=self._config.service_name,
            state=self._worker.state,
            client_id=self.get_client_id(),
            token_expires_in=self._cache.usable_seconds(),
            attempts=self._worker.attempts,
            last_error=self._worker.last_error,
            next_attempt=remaining if remaining is not None and 0 < remaining < math.inf else None,
            registrations=counts[EventKind.REGISTERED],
            secrets_regenerated=counts[EventKind.SECRET_REGENERATED],
            tokens_issued=counts[EventKind.TOKEN_ISSUED],
            token_requests_failed=counts[EventKind.TOKEN_REQUEST_FAILED],
            tokens_invalidated=counts[EventKind.TOKEN_INVALIDATED],
        )

    def on_event(self, callback: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with every `ServiceEvent` from now on.

        It is called in the thread in which the event happens, mostly the worker's, so it should
        be quick. What it raises is logged.

        Returns:
            A function that ends this.
        """
        return self._report.listen(callback)

    def close(self) -> None:
        """End the service within about a second; safe twice and from any thread.

        Whoever waits for a token gets `ServiceClosedError`. A request that is under way is left to
        end by itself.
        """
        self._worker.reset_after_fork()
        self._cache.close(self._closed())
        self._worker.retire(_CLOSE_TIMEOUT)
        self._worker.note_state()

    def __enter__(self) -> IdentityBootstrapService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<IdentityBootstrapService {self._config.service_name} {self._worker.state.value}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an IdentityBootstrapService holds a thread and secrets and does not pickle; "
            "make one in each process, or before forking"
        )

    def _wait_for_token(self, timeout: float | None) -> str:
        seconds = self._config.token_timeout if timeout is None else timeout
        outcome = self._outcome(seconds)
        if isinstance(outcome, str):
            return outcome
        raise self._refusal(outcome, seconds)

    def _prove_credentials(self) -> None:
        seconds = self._config.request_timeout + 1.0  # the request ends first, and says why
        outcome = self._outcome(seconds)
        if not isinstance(outcome, str):
            error = self._refusal(None, seconds) if outcome is None else replica(outcome.error)
            self._cache.give_up(replica(error))
            self._worker.note_state()
            raise error

    def _outcome(self, seconds: float) -> str | Failure | None:
        deadline = self._deadline(seconds)
        with self._attendance() as attended:
            if not attended:
                self._worker.step(deadline)
            return self._cache.get(deadline, attended=attended)

    def _work_ahead(self) -> None:
        """Let the worker begin though nobody waits; but not where processes are forked from."""
        if not uwsgi.is_master():
            self._worker.ensure_running()

    @contextmanager
    def _attendance(self) -> Generator[bool, None, None]:
        """Have the worker running for those who wait; tell whether a thread could be started."""
        try:
            yield self._worker.ensure_running()
        finally:
            if uwsgi.is_master():
                self._worker.retire(_CLOSE_TIMEOUT)

    def _deadline(self, seconds: float) -> float:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise ConfigurationError("timeout must be a number of seconds, 0 or more")
        return self._clock.monotonic() + seconds

    def _refusal(self, outcome: Failure | None, seconds: float) -> IdentityError:
        if outcome is not None and not isinstance(
            outcome.error, (IdentityApiError, CredentialStoreError)
        ):
            error = replica(outcome.error)
            error.message = outcome.message
            error.args = (outcome.message,)
            if isinstance(error, RemoteError):
                error.retry_after = max(outcome.retry_at - self._clock.monotonic(), 0.0)
            return error
        status = self.status()
        last_error = status.last_error if outcome is None else outcome.message
        name, state = status.service_name, status.state.value
        if outcome is None:
            message = f"no access token for {name!r} within {seconds:g} s: an attempt is under way"
            if last_error is not None:
                message += f"; the last failure: {last_error}"
        else:
            message = f"no access token for {name!r}: {last_error}"
        refusal = NotReadyError(
            f"{message} ({state}, failed attempts: {status.attempts})",
            state=state,
            attempts=status.attempts,
            last_error=last_error,
            next_attempt=status.next_attempt,
        )
        refusal.__cause__ = replica(outcome.error) if outcome is not None else None
        return refusal

    def _closed(self) -> ServiceClosedError:
        return ServiceClosedError(
            f"the service {self._config.service_name!r} was closed; make another one"
        )


def _source(config: IdentityBootstrapConfig, clock: Clock, report: Reporter) -> TokenSource:
    credentials = config.preconfigured_credentials
    if credentials is not None:
        return Preconfigured(config, credentials, clock, report)
    return Registration(config, clock, report)


_services: weakref.WeakSet[IdentityBootstrapService] = weakref.WeakSet()


def _before_fork() -> None:
    for service in list(_services):
        service._worker.rest_before_fork(_CLOSE_TIMEOUT)


def _after_fork() -> None:
    for service in list(_services):
        service._worker.note_fork()


def _retire_workers_at_exit() -> None:
    """End the threads while they can: one that is in the middle of something must not log later."""
    for service in list(_services):
        service._report.muted = not service._worker.retire(_EXIT_TIMEOUT)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
atexit.register(_retire_workers_at_exit)
