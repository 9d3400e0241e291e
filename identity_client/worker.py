"""The daemon thread that obtains tokens: the only one that does network I/O for a service."""

from __future__ import annotations

import logging
import math
import os
import threading
import traceback

from .clock import Clock
from .config import IdentityBootstrapConfig
from .errors import IdentityError, RegistrationError, RemoteError, TokenEndpointError, replica
from .events import EventKind, Reporter, ServiceState
from .retry import Backoff, pause_asked_for
from .token_cache import Flight, Snapshot, TokenCache
from .token_source import TokenSource


class Worker:
    """Makes attempts when the cache says that one is due, and decides when the next one is.

    The thread starts when it is first needed, in each process. Any exception keeps it going; should
    it die all the same, nobody who waits is left behind, and the next call starts another.

    Args:
        config: the settings of the service.
        clock: where time is read.
        cache: where tokens and failures go.
        source: where tokens come from.
        report: where events go.
    """

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        clock: Clock,
        cache: TokenCache,
        source: TokenSource,
        report: Reporter,
    ) -> None:
        self.attempts: int = 0
        self.last_error: str | None = None
        self._config = config
        self._clock = clock
        self._cache = cache
        self._source = source
        self._report = report
        self._pauses: Backoff | None = None
        self._pauses_are_for_usable = False
        self._reported_state = ServiceState.PENDING
        self._thread: threading.Thread | None = None
        self._shift: object = None
        self._start_lock = threading.Lock()
        self._pid = os.getpid()
        self._resets: dict[int, threading.Lock] = {}

    @property
    def state(self) -> ServiceState:
        cache = self._cache
        if cache.is_closed:
            return ServiceState.CLOSED
        if cache.is_terminal:
            return ServiceState.FAILED
        if not cache.had_token:
            return ServiceState.PENDING
        return ServiceState.READY if cache.failure is None else ServiceState.DEGRADED

    def ensure_running(self) -> bool:
        """Start the thread unless it runs; return False where no thread can be started."""
        self.reset_after_fork()
        thread = self._thread
        if thread is not None and thread.is_alive():
            return True
        with self._start_lock:
            if self._cache.is_closed or (self._thread is not None and self._thread.is_alive()):
                return True
            self._shift = shift = object()
            thread = threading.Thread(
                target=self._run,
                args=(shift,),
                name=f"identity-client {self._config.service_name}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
            return True

    def step(self, deadline: float) -> None:
        """Do the thread's next step in the calling thread, if one is due and nobody is at it."""
        flight = self._cache.begin()
        if flight is not None:
            try:
                self._attempt(flight, deadline)
            finally:
                self._source.close()

    def retire(self, timeout: float = 0.0) -> bool:
        """Let the thread end, wait up to ``timeout`` seconds for it, and return whether it has."""
        self.reset_after_fork()
        thread, self._thread, self._shift = self._thread, None, None
        self._cache.wake()
        if thread is None or thread.ident == threading.get_ident():
            return True
        if timeout:
            thread.join(timeout)
        return not thread.is_alive()

    def rest_before_fork(self, timeout: float) -> None:
        """End the thread, for now, if it is a greenlet: that would go on in the child as well.

        It would use the parent's connections there and the parent's lock on the credential store.
        """
        thread = self._thread
        if thread is not None and thread.native_id == threading.get_native_id():
            self.retire(timeout)

    def note_fork(self) -> None:
        """In a child: send the next caller to `reset_after_fork`."""
        self._pid = 0
        self._cache.end_lease()

    def reset_after_fork(self) -> None:
        """In a child: begin anew, as threads do not survive a fork and what they held stays locked.

        For whoever is about to take a lock. It looks for itself, as uWSGI calls no hook, and what a
        hook would make gevent could not patch any more in the workers that gunicorn forks for it.
        """
        pid = os.getpid()
        if self._pid == pid:
            return
        with self._resets.setdefault(pid, threading.Lock()):  # several threads may come first
            if self._pid != pid:
                self._start_lock = threading.Lock()
                self._thread = self._shift = None
                self._cache.reset_after_fork()
                self._pid = pid

    def note_state(self) -> None:
        """Report the state if it is another than was reported last."""
        state, before = self.state, self._reported_state
        if state is not before:
            self._reported_state = state
            self._report.emit(
                EventKind.STATE_CHANGED, f"{before.value} → {state.value}", level=logging.INFO
            )

    def _run(self, shift: object) -> None:
        try:
            while flight := self._cache.next_flight(lambda: self._shift is shift):
                self._attempt(flight)
                self._share()
        finally:
            self._source.close()
            if self._shift is shift:
                self._cache.attract_attention()

    def _attempt(self, flight: Flight, deadline: float = math.inf) -> None:
        try:
            token = self._source.obtain(deadline)
            replaces_one = self._cache.usable_seconds() > 0
            snapshot = Snapshot.of(token, self._config.refresh_ratio, replaces_one=replaces_one)
            if snapshot.age(self._clock) >= snapshot.usable_for:
                raise TokenEndpointError(
                    f"the token endpoint issued a token for {snapshot.lifetime:g} s, which had "
                    "expired when it arrived; check the endpoint's speed and its token lifetime"
                )
        except IdentityError as error:
            self._end_with(flight, replica(error))
        except BaseException as error:
            message = _unexpected(error, "the token from being obtained")
            self._end_with(flight, IdentityError(message))
            if not isinstance(error, Exception):
                raise
        else:
            if self._cache.publish(flight, snapshot):
                self.attempts = 0
                self._pauses = None
        self.note_state()

    def _share(self) -> None:
        try:
            self._source.share()
        except Exception as error:  # noqa: BLE001  # a store may be anybody's
            message = _unexpected(error, "the credentials from being shared")
            self._report.log(logging.WARNING, message)

    def _end_with(self, flight: Flight, error: IdentityError) -> None:
        self.last_error = error.message
        if self._cache.is_closed:
            self._cache.fail(flight, error, 0.0)  # to whom it may concern; nobody else is told
            return
        if self._source.credentials is None:
            self._end_registration_attempt(flight, error)
            return
        first_of_episode = self._cache.failure is None
        failure = self._cache.fail(flight, error, self._next_pause(error))
        usable = self._cache.usable_seconds()
        served = f"the current one is served for {usable:.1f} s more" if usable else "there is none"
        self._report.log(
            logging.WARNING if first_of_episode else logging.DEBUG,
            f"no new token, {served}: {failure.message}",
        )

    def _end_registration_attempt(self, flight: Flight, error: IdentityError) -> None:
        self.attempts += 1
        if self.attempts == self._config.max_registration_attempts:
            final = RegistrationError(
                f"registration of {self._config.service_name!r} failed {self.attempts} times and "
                f"is given up; start() begins anew; the last failure: {error.message}"
            )
            final.__cause__ = error
            failure = self._cache.fail(flight, final, math.inf)
        else:
            failure = self._cache.fail(flight, error, self._next_pause(error))
        self._report.emit(
            EventKind.REGISTRATION_FAILED,
            f"attempt {self.attempts} failed: {failure.message}",
            level=logging.WARNING,
            next_attempt=failure.pause if failure.pause < math.inf else None,
        )

    def _next_pause(self, error: IdentityError) -> float:
        """Return the pause after a failure: short ones while a usable token leaves little time."""
        usable = self._cache.usable_seconds()
        if self._pauses is None or self._pauses_are_for_usable != bool(usable):
            self._pauses_are_for_usable = bool(usable)
            base, cap = self._config.base_retry_delay, self._config.max_retry_delay
            if usable:
                base, cap = min(base, usable / 8), min(cap, usable / 2)
            self._pauses = Backoff(base, cap)
        retry_after = error.retry_after if isinstance(error, RemoteError) else None
        asked_for = pause_asked_for(retry_after or 0.0, self._config.max_retry_delay)
        return max(self._pauses.next(), asked_for)


def _unexpected(error: BaseException, what: str) -> str:
    """Tell of an error that should not have happened, without its text, which may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"an unexpected {type(error).__name__} in {where.name} ({where.filename}:{where.lineno}) "
        f"kept {what}; please report it"
    )
