"""The daemon thread that obtains tokens: the only one that does network I/O for a service."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import traceback
from typing import Any

import backoff

from .. import _fork
from .._http.retry import Backoff, retry_after_with_jitter
from ..config import IdentityBootstrapConfig
from ..errors import (
    IdentityError,
    RegistrationError,
    RemoteError,
    TokenEndpointError,
    copy_for_raise,
)
from ..events import EventEmitter, EventKind, ServiceState
from .cache import RefreshAttempt, Snapshot, TokenCache
from .clock import Clock
from .sources import Step, TokenSource

# The first pause between token requests, in seconds; they double up to `max_token_retry_delay`.
TOKEN_RETRY_DELAY = 1.0

# How many threads may hang in listeners and log handlers. After that, events are kept for the
# first one that returns, so that an outage of hours does not use up the threads of the process.
MAX_HANGING = 8


class Worker:
    """Makes attempts when the cache says that one is due, and decides when the next one is.

    The thread starts when it is first needed, in each process. Any exception keeps it going; should
    it end all the same, its waiters are released and bring another.

    After each attempt the thread delivers events, logs, and writes the credentials back to a store
    that has lost them. The token is published by then. All of this may take long or never end (a
    listener is foreign code), so a caller that needs the worker meanwhile replaces the thread: each
    thread has a run id, and one whose id is not the current one ends when it gets there.

    Args:
        config: the settings of the service.
        clock: where time is read.
        cache: where tokens and failures go.
        source: where tokens come from.
        events: where events go.
    """

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        clock: Clock,
        cache: TokenCache,
        source: TokenSource,
        events: EventEmitter,
    ) -> None:
        self.attempts: int = 0
        self.last_error: str | None = None
        self.last_success_at: float | None = None
        self._config = config
        self._clock = clock
        self._cache = cache
        self._source = source
        self._events = events
        self._backoff: Backoff | None = None
        self._backoff_is_for: object = None
        self._published_state = ServiceState.PENDING
        self._unavailable_since: float | None = None
        self._thread: threading.Thread | None = None
        self._run_id: object = None
        self._is_replaceable = False
        self._stopped_for_fork = False
        self._running: dict[int, Any] = {}  # by thread id: the greenlet, where it is one
        # Re-entrant: a signal handler that asks for a token may run while its thread is in here.
        self._start_lock = threading.RLock()
        self._fork_guard = _fork.ForkGuard(self._at_fork_reinit)
        # Kept here, as modules lose their names while the interpreter shuts down.
        self._is_finalizing = sys.is_finalizing

    # --- state ---

    @property
    def state(self) -> ServiceState:
        cache = self._cache
        if cache.is_closed:
            return ServiceState.CLOSED
        if cache.is_terminal:
            return ServiceState.FAILED
        if not cache.has_ever_been_ready:
            return ServiceState.PENDING
        if cache.failure is None:
            return ServiceState.READY
        return ServiceState.DEGRADED if cache.usable_seconds() else ServiceState.UNAVAILABLE

    def publish_state_change(self) -> None:
        """Report the state if it is another than was reported last."""
        state, before = self.state, self._published_state
        if state is before:
            return
        self._published_state = state
        now = self._clock.monotonic()
        level, template = logging.INFO, "state %s -> %s"
        arguments: tuple[object, ...] = (before.value, state.value)
        duration: float | None = None
        if state is ServiceState.UNAVAILABLE:
            self._unavailable_since = now
            level = logging.ERROR
            template = "state %s -> %s: the access token has expired and calls fail; last error: %s"
            arguments = (*arguments, self.last_error or "none")
        elif self._unavailable_since is not None and state is ServiceState.READY:
            duration, self._unavailable_since = now - self._unavailable_since, None
            level = logging.WARNING
            template = "state %s -> %s: access tokens are available again after %.1f s"
            arguments = (*arguments, duration)
        self._events.emit(
            EventKind.STATE_CHANGED,
            template,
            *arguments,
            level=level,
            state_before=before,
            state=state,
            duration=duration,
        )

    # --- the thread ---

    def ensure_running(self) -> bool:
        """Start the thread unless it runs; return False where no thread can be started.

        There is none once the interpreter shuts down (a new thread would never run, and starting
        one waits for it), and in sub-interpreters without daemon threads.
        """
        self.check_fork()
        if self._is_running():
            return True
        if _fork.is_exiting() or self._is_finalizing():
            return False
        with self._start_lock:
            if self._cache.is_closed or self._is_running():
                return True
            self._run_id = run_id = object()
            self._is_replaceable = False
            try:
                thread = threading.Thread(
                    target=self._run,
                    args=(run_id,),
                    name=f"identity-client {self._config.service_name}",
                    daemon=True,
                )
                # Before it starts: what interrupts this thread in `start()` may get here, too, and
                # starts another; the one with the older run id then ends by itself.
                self._thread = thread
                thread.start()
            except (RuntimeError, KeyError) as error:
                self._thread = None
                interruption = error.__context__
            else:
                return True
        # An exception of a signal handler that appears in `start` leaves threading's own lock
        # released, or the thread unknown to it, and its complaint of that hides the exception.
        if interruption is not None:
            raise interruption
        return False

    def is_shutting_down(self) -> bool:
        """Whether the interpreter is past the point where anything can be requested."""
        return self._is_finalizing()

    def is_current_thread(self) -> bool:
        """Whether this is a worker's thread, replaced or not, which must not wait for one."""
        self.check_fork()  # the identifiers of a parent's threads are given out again in a child
        return threading.get_ident() in self._running

    def refresh_inline(self, deadline: float) -> None:
        """Do the thread's next step in the calling thread, if one is due and none is under way."""
        attempt = self._cache.begin_refresh()
        if attempt is not None:
            try:
                self._attempt(attempt, deadline)
                self.publish_state_change()
                self._events.deliver()
            except BaseException:
                self._cache.release_waiters(attempt)  # it has not ended, if a greenlet was killed
                raise
            finally:
                self._source.close()

    def stop(self, timeout: float = 0.0) -> bool:
        """Let the thread end, wait up to ``timeout`` seconds for it, and return whether it has."""
        self.check_fork()
        with self._start_lock:
            thread, self._run_id = self._thread, None
        self._cache.wake_worker()
        if thread is None or thread.ident == threading.get_ident():
            return True
        if timeout and thread.ident is not None:
            thread.join(timeout)
        return not thread.is_alive()

    def _is_running(self) -> bool:
        thread = self._thread
        return (
            thread is not None
            and self._run_id is not None
            and not self._is_replaceable
            and thread.is_alive()
        )

    def _run(self, run_id: object) -> None:
        # Not a threading.local: one from before gevent patched it belongs to all greenlets.
        thread_id, pid = threading.get_ident(), os.getpid()
        own: RefreshAttempt | None = None

        def should_run() -> bool:
            return self._run_id is run_id and not self._cache.is_closed

        try:
            self._running[thread_id] = _fork.current_greenlet()
            while should_run():
                attempt = own = self._cache.wait_for_refresh(should_run)
                if attempt is not None:
                    self._attempt(attempt)
                    own = None
                if should_run():
                    self._after_attempt(run_id, sync=attempt is not None)
        except BaseException:
            if pid == os.getpid():
                raise
            # A copy that was killed, see `after_fork_in_child`. threading forgot it at the fork and
            # would complain at its end; this makes it known again.
            threading.current_thread()
        finally:
            self._running.pop(thread_id, None)
            # A thread that was replaced leaves the connections to the one that follows it, and a
            # copy leaves all to the child's own.
            if pid == os.getpid():
                if self._retire(run_id):
                    self._source.close()
                    self._cache.release_waiters(own)
                else:
                    self._cache.wake_worker()  # what woke this thread was for the one that follows

    def _retire(self, run_id: object) -> bool:
        """Stop counting as running, before the waiters look; return False if replaced before."""
        with self._start_lock:
            is_current = self._run_id is run_id or self._run_id is None
            if is_current:
                self._run_id = None
            return is_current

    def _after_attempt(self, run_id: object, *, sync: bool) -> None:
        """Do what comes after a token was published, or a failure: report, and write back."""
        self.publish_state_change()
        if not (sync or self._events.has_pending):
            return
        if len(self._running) > MAX_HANGING:
            return
        self._is_replaceable = True
        self._events.deliver()
        if sync:
            try:
                self._source.follow_up()
            except Exception as error:  # noqa: BLE001  # a store may be anybody's
                activity = "using the credential store"
                self._events.log(logging.WARNING, *_unexpected(error, activity))
            self._events.deliver()
        if self._run_id is run_id:
            self._is_replaceable = False

    # --- forks and the end of the process; see `_fork` ---

    def before_fork(self, timeout: float) -> None:
        """End the thread, for now, if it is a greenlet: that would go on in the child as well.

        It would use the parent's connections there and the parent's lock on the credential store.
        One that waits for a slow server outlasts the timeout, and is left to finish in the parent.
        """
        thread = self._thread
        is_greenlet = (
            thread is not None
            and self._run_id is not None
            and thread.native_id == threading.get_native_id()
            and not self.is_current_thread()
        )
        if is_greenlet or self._stopped_for_fork:
            self._stopped_for_fork = True
            self.stop(timeout)

    def after_fork_in_parent(self) -> None:
        """Bring a greenlet back that `before_fork` ended: there may be waiters."""
        if self._stopped_for_fork:
            self._stopped_for_fork = False
            _fork.call_in_greenlet(self.ensure_running)

    def after_fork_in_child(self) -> None:
        """Send the next caller past the fast path, to `check_fork`; kill copies of greenlets.

        A copy would read the answer that the parent waits for. It gets no chance: gevent raises in
        it before it looks at any connection.
        """
        for greenlet in self._running.values():
            if greenlet is not None and greenlet is not _fork.current_greenlet():
                greenlet.kill(block=False)
        self._fork_guard.expect_fork()
        self._cache.snapshot = self._cache.snapshot.without_fast_path()

    def check_fork(self) -> None:
        """Reinitialise locks and thread state in a forked child; before any lock is taken."""
        self._fork_guard.check()

    def at_exit(self, *, stopped: bool) -> None:
        """Keep a thread that could not be stopped from logging into closed handlers."""
        self._events.silenced = not stopped

    def _at_fork_reinit(self) -> None:
        self._start_lock = threading.RLock()
        self._thread = self._run_id = None
        self._running = {}
        self._stopped_for_fork = False
        self._cache.at_fork_reinit(self._draw)
        self._source.at_fork_reinit()
        self._events.at_fork_reinit()

    # --- one attempt ---

    def _attempt(self, attempt: RefreshAttempt, deadline: float = math.inf) -> None:
        try:
            token = self._source.obtain(deadline)
            replaces_one = self._cache.usable_seconds() > 0
            snapshot = Snapshot.of(
                token, self._config.refresh_ratio, replaces_one=replaces_one, draw=self._draw
            )
            if not snapshot.usable_seconds(self._clock):
                raise TokenEndpointError(
                    f"the token endpoint issued a token for {snapshot.lifetime:g} s, which had "
                    "expired when it arrived; check the endpoint's speed and its token lifetime"
                )
        except IdentityError as error:
            self._handle_failure(attempt, copy_for_raise(error))
        except BaseException as error:
            if _fork.is_killed_greenlet(error):
                raise  # no failure of anybody; waiters bring another worker
            template, *arguments = _unexpected(error, "requesting a token")
            self._handle_failure(attempt, IdentityError(template % tuple(arguments)))
            if not isinstance(error, Exception):
                raise
        else:
            if self._cache.publish(attempt, snapshot):
                self.attempts = 0
                self._backoff = None
                self.last_success_at = self._clock.time()
            delay = self._source.next_registration_in()
            if delay is not None:
                self._cache.request_refresh(max(delay, 0.001))

    @staticmethod
    def _draw(limit: float) -> float:
        """Draw by how much earlier a token is due; the testing kit draws nothing."""
        return backoff.full_jitter(limit)

    def _handle_failure(self, attempt: RefreshAttempt, error: IdentityError) -> None:
        self.last_error = error.message
        if self._cache.is_closed:
            self._cache.fail_refresh(attempt, error, 0.0)  # its waiters get it; nothing is logged
        elif self._source.step is Step.REGISTRATION:
            self._handle_registration_failure(attempt, error)
        else:
            self._handle_token_failure(attempt, error)

    def _handle_token_failure(self, attempt: RefreshAttempt, error: IdentityError) -> None:
        is_first = self._cache.failure is None
        failure = self._cache.fail_refresh(attempt, error, self._next_pause(error))
        level = logging.WARNING if is_first else logging.DEBUG
        usable = self._cache.usable_seconds()
        if usable:
            self._events.log(
                level,
                "token refresh failed; serving the cached token for another %.1f s: %s",
                usable,
                failure.message,
            )
        else:
            self._events.log(level, "token request failed: %s", failure.message)

    def _handle_registration_failure(self, attempt: RefreshAttempt, error: IdentityError) -> None:
        self.attempts += 1
        if self.attempts == self._config.max_registration_attempts:
            final = RegistrationError(
                f"registration of {self._config.service_name!r} failed after {self.attempts} "
                f"attempts; call start() to retry; last error: {error.message}"
            )
            final.__cause__ = error
            failure = self._cache.fail_refresh(attempt, final, 0.0, final=True)
        else:
            pause = self._next_pause(error)
            failure = self._cache.fail_refresh(attempt, error, pause, registering=True)
        self._events.emit_failure(
            EventKind.REGISTRATION_FAILED,
            "registration attempt %d failed: %s",
            self.attempts,
            failure.message,
            error=error,
            level=logging.WARNING,
            next_attempt_in=None if failure.final else failure.pause,
        )

    def reset_backoff(self) -> None:
        """Begin the pauses and the count of attempts anew."""
        self.attempts = 0
        self._backoff = None

    def _next_pause(self, error: IdentityError) -> float:
        """Return the pause after a failure; with a usable token, it grows to half of its use."""
        config, usable = self._config, self._cache.usable_seconds()
        base, cap = config.base_retry_delay, config.max_retry_delay
        has_known = self._source.has_known_credentials
        if has_known:  # a registration, where one is due as well, has a schedule of its own
            base, cap = min(base, TOKEN_RETRY_DELAY), min(cap, config.max_token_retry_delay)
        kind = (has_known, bool(usable))
        if self._backoff is None or self._backoff_is_for != kind:
            self._backoff_is_for = kind
            if usable:
                cap = min(cap, max(base, usable / 2))
            self._backoff = Backoff(base, cap)
        # A server that asks for a longer pause gets it, up to the longest one there is. What
        # identity-api asks for delays registrations only, where there are credentials to try.
        retry_after = None
        if isinstance(error, TokenEndpointError if has_known else RemoteError):
            retry_after = error.retry_after
        asked = retry_after_with_jitter(retry_after or 0.0, config.max_retry_delay)
        return max(self._backoff.next(), asked)


def _unexpected(error: BaseException, activity: str) -> tuple[str, str, str, str, str, int]:
    """Describe an error that should not have happened, without its text, which may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        "unexpected %s while %s (%s, %s:%d); this is a bug, please report it",
        type(error).__name__,
        activity,
        where.name,
        where.filename,
        where.lineno or 0,
    )
