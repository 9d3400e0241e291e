"""The monitor that callers and the worker meet in: one token, one refresh in flight.

Callers read an immutable snapshot without a lock while it is fresh. Everything else happens under
one lock with two conditions: the worker sleeps on one until a token is due, callers sleep on the
other until the attempt that they wait for, a `RefreshAttempt`, has ended (single-flight). No I/O
happens here, and no foreign code is called while the lock is held.

The fast path, and why it needs no lock. It reads `TokenCache.snapshot` once and compares the
monotonic clock with `Snapshot.serve_until`. Guarantees:

- A snapshot is immutable and is replaced as a whole, by one store to one attribute. That is atomic
  under the interpreter's lock and on free-threaded builds alike, so a reader has one token with its
  own end, and never half of two.
- `serve_until` is never later than the token's end of use, so a reader that was preempted between
  the read and the return gives out, at worst, a token that was valid when it looked.
- A reader may see a snapshot that another thread has just replaced. Then it serves a token that
  was current a moment ago, as if it had come earlier.

The lock is a C-level ``RLock`` that is itself the context manager (``with self._lock``, never
``with self._condition``, whose `__enter__` is Python code). An exception that a signal handler
raises, such as Celery's soft time limit, may appear between any two bytecodes; acquiring and
entering in one step leaves no gap in which the lock would stay held. It is re-entrant, so a signal
handler or a finalizer that asks for a token while its own thread is in here does not deadlock.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto

import backoff
from attrs import evolve, frozen

from .._http.retry import Backoff
from ..errors import IdentityError
from ..models import AccessToken
from .clock import Clock

# The fast path looks at the monotonic clock only, which may stand still while the machine sleeps.
# So it serves this many seconds at most before a caller or the worker looks at both clocks again.
RECHECK_INTERVAL = 15.0

# Servers put the end of a token (``exp``) at whole seconds. Rounded down, as Keycloak does it, that
# comes up to this many seconds before ``expires_in`` is over.
EXP_ROUNDING = 1.0

# The part of the time to the refresh that is left to chance, so that a fleet does not refresh in
# step. A token that replaces none may be one of many that were issued in the same second (a boot,
# the end of an outage, revoked keys): its refresh is spread wide, and the next ones drift on.
REFRESH_JITTER = 0.1
FIRST_REFRESH_JITTER = 0.5

# Seconds between the beginnings of two refreshes, however short the tokens live and however often
# one is asked for. (A rejected token has pauses of its own, and a failure has.)
MIN_REFRESH_INTERVAL = 0.1

# Seconds without a rejected token after which the next rejection counts as the first again.
REJECTION_MEMORY = 600.0

# How often within that time a host's rejection of a token that it accepted before counts as a
# revocation, which needs no pause. A host that rejects one path for good does so with each token.
MAX_REVOCATIONS = 20


@frozen(eq=False, repr=False)
class Snapshot:
    """A token and how long it may be served; durations in seconds since it was requested."""

    token: AccessToken | None
    value: str
    requested_at: float
    requested_at_wall: float
    lifetime: float
    fresh_for: float
    usable_for: float
    serve_until: float = -math.inf  # monotonic; the only thing that the fast path compares

    @classmethod
    def of(
        cls,
        token: AccessToken,
        refresh_ratio: float,
        *,
        replaces_one: bool = True,
        draw: Callable[[float], float] = backoff.full_jitter,
    ) -> Snapshot:
        """Draw the two lines of a lifetime: when it is due, and when it may not be served any more.

        Both are fractions, so that a token of any lifetime is served before it is refreshed, and
        there is time between them to refresh it. It is due at ``refresh_ratio`` at the latest, and
        before by chance: a little if it replaces one.
        """
        lifetime = token.expires_in
        leeway = max(min(10.0, 0.05 * lifetime), min(EXP_ROUNDING, 0.1 * lifetime))
        usable_for = lifetime - leeway
        due = min(refresh_ratio * lifetime, 0.95 * usable_for)
        jitter = REFRESH_JITTER if replaces_one else FIRST_REFRESH_JITTER
        return cls(
            token=token,
            value=token.value,
            requested_at=token.requested_at,
            requested_at_wall=token.requested_at_wall,
            lifetime=lifetime,
            fresh_for=due - draw(jitter * due),
            usable_for=usable_for,
        )

    def age(self, clock: Clock) -> float:
        """Return the age by whichever clock says more: one of them may have stood still."""
        return max(clock.monotonic() - self.requested_at, clock.time() - self.requested_at_wall)

    def usable_seconds(self, clock: Clock) -> float:
        """Return how long the token may still be served, 0 when it has expired."""
        return max(self.usable_for - self.age(clock), 0.0)

    def due_earlier(self, draw: Callable[[float], float]) -> Snapshot:
        """Return the same token, due a little earlier by chance."""
        return evolve(self, fresh_for=self.fresh_for - draw(REFRESH_JITTER * self.fresh_for))

    def without_fast_path(self) -> Snapshot:
        """Return the same token, which only a caller that holds the lock may serve."""
        return evolve(self, serve_until=-math.inf)


NO_TOKEN = Snapshot(None, "", -math.inf, -math.inf, 0.0, 0.0, 0.0)


class Failure:
    """How an attempt ended that brought no token.

    Attributes:
        error: the error that callers get.
        pause: seconds between the failure and the next attempt.
        retry_at: the monotonic moment of the next attempt.
        registering: whether there was no client yet to request a token with. Then a caller at boot
            waits for the next attempt; when the token endpoint failed, no caller queues up for it.
        final: whether no attempt will follow.
    """

    def __init__(
        self,
        error: IdentityError,
        pause: float,
        now: float,
        *,
        registering: bool = False,
        final: bool = False,
    ) -> None:
        self.error = error
        self.pause = pause
        self.retry_at: float = now + pause
        self.registering = registering
        self.final = final

    @property
    def message(self) -> str:
        """What failed, and how long after that the next attempt follows."""
        return self.message_at(self.retry_at - self.pause)

    def message_at(self, now: float) -> str:
        """Return what failed, and in how many seconds the next attempt follows."""
        if self.final:
            return self.error.message
        return f"{self.error.message}; retrying in {max(self.retry_at - now, 0.0):.1f} s"

    def should_wait(self, deadline: float) -> bool:
        """Whether the next attempt may help a caller that has time until ``deadline``."""
        return (
            self.registering
            and not self.final
            and getattr(self.error, "retryable", True)
            and self.retry_at < deadline
        )


class RefreshAttempt:
    """One attempt to obtain a token, coming or under way, and the result its waiters share."""

    def __init__(self) -> None:
        self.generation = 0
        self.started = False
        self.failure: Failure | None = None


class Invalidation(Enum):
    """What became of a token that a resource server rejected."""

    IGNORED = auto()
    """It was not the current token: a late rejection of one that is replaced already."""

    REPLACING = auto()
    """It is not served any more, and a refresh is due."""

    SERVED_ON = auto()
    """It stays in use, because a replacement cannot help or cannot be had now."""


class WorkerGone(Exception):  # a signal between two layers, not an error
    """The worker ended while a caller waited; the caller has to bring another."""


class TokenCache:
    """Holds the current token, and connects callers that need one with the worker's refresh.

    Args:
        clock: where time is read.
        rejection_pauses: makes the growing pauses between refreshes that rejections cause.
    """

    def __init__(
        self, clock: Clock, rejection_pauses: Callable[[], Backoff] = lambda: Backoff(5.0, 300.0)
    ) -> None:
        self.snapshot: Snapshot = NO_TOKEN
        self.has_ever_been_ready: bool = False
        self.is_closed: bool = False
        self.failure: Failure | None = None
        self.worker_exits: int = 0
        self._clock = clock
        self._generation = 0
        self._attempt: RefreshAttempt | None = None
        self._refresh_at = math.inf
        self._last_begin = (-math.inf, -math.inf)  # by both clocks
        self._rejected: Snapshot = NO_TOKEN
        self._rejected_at = -math.inf
        self._is_accused = False
        self._next_rejection_at = -math.inf
        self._revocations: Counter[str | None] = Counter()
        self._rejection_pauses = rejection_pauses
        self._rejection_backoff = rejection_pauses()
        self._wakers: list[Callable[[], None]] = []
        self._make_lock()

    def _make_lock(self) -> None:
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # the worker: something may be due
        self._outcome = threading.Condition(self._lock)  # callers: an attempt has ended

    # --- callers ---

    def get(
        self, deadline: float, *, has_worker: bool = True, worker_exits: int | None = None
    ) -> str | Failure | None:
        """Return a usable token, waiting for one until the monotonic moment ``deadline``.

        Args:
            deadline: when to give up.
            has_worker: whether a worker will make another attempt should this one fail.
            worker_exits: `worker_exits` as it was before the caller saw to the worker; one that
                has ended since then does not notify the waiters that come after it.

        Returns:
            The token; or the failure that stands in the way; or None when the time was up.

        Raises:
            WorkerGone: the worker ended meanwhile.
        """
        attempt: RefreshAttempt | None = None
        with self._lock:
            exits = self.worker_exits if worker_exits is None else worker_exits
            while True:
                outcome = self.look(deadline, attempt, has_worker=has_worker)
                if not isinstance(outcome, RefreshAttempt):
                    return outcome
                if self.worker_exits != exits:
                    raise WorkerGone
                attempt = outcome
                self._clock.wait(self._outcome, deadline - self._clock.monotonic())

    def look(
        self, deadline: float, attempt: RefreshAttempt | None = None, *, has_worker: bool = True
    ) -> str | Failure | RefreshAttempt | None:
        """Return what `get` returns, or the attempt that has to be waited for; never wait."""
        with self._lock:
            now = self._clock.monotonic()
            token = self._usable_token(now)
            if token is not None:
                return token
            failure = (attempt and attempt.failure) or self._active_failure(now)
            if failure is not None and not (has_worker and failure.should_wait(deadline)):
                return failure
            if now >= deadline:
                return self._take_rejected_back(now) if attempt is not None else None
            return self._join_refresh()

    def _take_rejected_back(self, now: float) -> str | None:
        """Serve a rejected token to a caller that waited in vain for another, and to all others.

        The token endpoint hangs; other servers may accept the token.
        """
        if self.snapshot.value or self._rejected.usable_seconds(self._clock) <= 0:
            return None
        self.snapshot, self._rejected = self._rejected, NO_TOKEN
        self._renew_fast_path(now)
        return self._usable_token(now)

    def call_at_outcome(self, attempt: RefreshAttempt, waker: Callable[[], None]) -> bool:
        """Call ``waker`` once, without the lock, when an attempt has ended; False if it has."""
        with self._lock:
            is_pending = self._attempt is attempt
            if is_pending:
                self._wakers.append(waker)
            return is_pending

    def wait_until(
        self, is_reached: Callable[[], bool], deadline: float, worker_exits: int
    ) -> bool:
        """Wait until ``is_reached``, no more attempt will come, or the time is up.

        Raises:
            WorkerGone: the worker ended meanwhile.
        """
        with self._lock:
            while not is_reached():
                now = self._clock.monotonic()
                if now >= deadline or self.is_terminal:
                    return False
                if self.worker_exits != worker_exits:
                    raise WorkerGone
                self._work.notify()  # it may sleep by a clock that stood still
                self._clock.wait(self._outcome, deadline - now)
            return not self.is_terminal

    def invalidate(
        self, value: str, host: str | None = None, *, was_accepted: bool = False
    ) -> tuple[Invalidation, float]:
        """Stop serving a token that was rejected, if that may help.

        It may not when the token is not the current one any more; when it came in place of one
        that was rejected just before, so that the resource server is at fault; and while the token
        endpoint is failing, so that no other token can be had.

        Args:
            value: the token.
            host: the server that rejects it.
            was_accepted: whether that server accepted it before: then it was revoked, and the
                server is not at fault, unless it says so again and again.

        Returns:
            What became of it; and, once per episode of rejections that follow each other, the
            seconds until one may cause the next refresh, else 0.
        """
        with self._lock:
            now = self._clock.monotonic()
            snapshot = self.snapshot
            if value != snapshot.value or snapshot.usable_seconds(self._clock) <= 0:
                return Invalidation.IGNORED, 0.0
            if self.failure is not None:
                return Invalidation.SERVED_ON, 0.0
            is_first = now - self._rejected_at > REJECTION_MEMORY
            was_revoked = was_accepted and (is_first or self._revocations[host] < MAX_REVOCATIONS)
            if not was_revoked and now < self._next_rejection_at:
                pause = 0.0 if self._is_accused else self._next_rejection_at - now
                self._is_accused = True
                return Invalidation.SERVED_ON, pause
            if is_first:
                self._is_accused = False
                self._rejection_backoff = self._rejection_pauses()
                self._revocations.clear()
            if was_revoked:
                self._revocations[host] += 1
            else:
                self._next_rejection_at = now + self._rejection_backoff.next()
            self._rejected_at = now
            self._rejected, self.snapshot = snapshot, NO_TOKEN
            # An attempt under way was asked for before this and may bring a token of the same
            # kind, so the generation that it belongs to ends here.
            self._generation += 1
            self._work.notify()
            return Invalidation.REPLACING, 0.0

    def request_refresh(self, delay: float = 0.0) -> None:
        """Make a refresh due in ``delay`` seconds; the current token stays in use."""
        with self._lock:
            self._refresh_at = min(self._refresh_at, self._clock.monotonic() + delay)
            self._work.notify()

    def reset_failure(self) -> None:
        """Make an attempt due now, whatever pause or final failure there was."""
        with self._lock:
            if not self.is_closed:
                self.failure = None
                self._generation += 1
                self._work.notify()

    # --- the worker ---

    def wait_for_refresh(self, should_run: Callable[[], bool]) -> RefreshAttempt | None:
        """Wait until a token is due and begin to obtain it.

        Returns:
            The attempt; or None when there was something else to look at, which may be the end of
            a token's use, an event to deliver, or that ``should_run`` is false by now.
        """
        with self._lock:
            attempt = self.begin_refresh()
            if attempt is not None or not should_run():
                return attempt
            self._clock.wait(self._work, self.next_look_in())
            return self.begin_refresh() if should_run() else None

    def next_look_in(self) -> float:
        """Return seconds until the worker has to look again, 0 or more; now if a token is due."""
        with self._lock:
            pause = RECHECK_INTERVAL if self.in_flight else min(self._due_in(), RECHECK_INTERVAL)
            if self.failure is not None:
                # The end of the token during an outage is a change of state to be logged.
                usable = self.snapshot.usable_seconds(self._clock)
                pause = min(pause, usable) if usable > 0 else pause
            return max(pause, 0.0)

    def begin_refresh(self) -> RefreshAttempt | None:
        """Begin an attempt if one is due and none is under way."""
        with self._lock:
            attempt = self._attempt
            if (attempt is not None and attempt.started) or self._due_in() > 0:
                return None
            self._attempt = attempt = attempt or RefreshAttempt()
            attempt.started = True
            attempt.generation = self._generation
            self._refresh_at = math.inf
            self._last_begin = self._clock.monotonic(), self._clock.time()
            self._renew_fast_path(self._last_begin[0])
            return attempt

    def publish(self, attempt: RefreshAttempt, snapshot: Snapshot) -> bool:
        """End an attempt with a token; return False when it was asked for before an invalidation.

        In that case the waiters go on waiting, and the next attempt is due at once.
        """
        with self._lock:
            self._work.notify()
            if attempt.generation != self._generation:
                attempt.started = False
                return False
            self.snapshot = snapshot
            self._rejected = NO_TOKEN
            self.has_ever_been_ready = True
            self.failure = None
            self._attempt = None
            self._renew_fast_path(self._clock.monotonic())
            self._outcome.notify_all()
            wakers = self._take_wakers()
        _call_all(wakers)
        return True

    def fail_refresh(
        self,
        attempt: RefreshAttempt,
        error: IdentityError,
        pause: float,
        *,
        registering: bool = False,
        final: bool = False,
    ) -> Failure:
        """End an attempt without a token: all its waiters share the failure.

        Callers that come before ``pause`` is over get the failure, too. A token that was taken out
        of service for a replacement that cannot be had comes back: other servers may accept it.
        """
        with self._lock:
            now = self._clock.monotonic()
            failure = Failure(error, pause, now, registering=registering, final=final)
            attempt.failure = failure
            self._attempt = None
            if not self.is_terminal:
                self.failure = failure
            if not self.snapshot.value and not self.is_closed:
                self.snapshot, self._rejected = self._rejected, NO_TOKEN
            self._outcome.notify_all()
            self._work.notify()
            wakers = self._take_wakers()
        _call_all(wakers)
        return failure

    def fail_permanently(self, error: IdentityError) -> None:
        """Make no more attempts, and give ``error`` to all callers that need a token."""
        with self._lock:
            self.failure = Failure(error, 0.0, self._clock.monotonic(), final=True)
            self._generation += 1
            self._outcome.notify_all()
            wakers = self._take_wakers()
        _call_all(wakers)

    def close(self, error: IdentityError) -> None:
        """Serve no token any more, and give ``error`` to all callers."""
        with self._lock:
            self.is_closed = True
            self.snapshot = self._rejected = NO_TOKEN
            self.fail_permanently(error)
            self._work.notify()

    def wake_worker(self) -> None:
        """Let the worker look again whether it should run."""
        with self._lock:
            self._work.notify()

    def release_waiters(self, own: RefreshAttempt | None = None) -> None:
        """Send all waiters back to bring another worker, because this one has ended.

        Its ``own`` attempt starts again there; one that another thread makes goes on.
        """
        with self._lock:
            self.worker_exits += 1
            if own is not None and self._attempt is own:
                own.started = False
            self.snapshot = self.snapshot.without_fast_path()
            self._outcome.notify_all()
            wakers = self._take_wakers()
        _call_all(wakers)

    def at_fork_reinit(self, draw: Callable[[float], float]) -> None:
        """In a child: the lock may be held and the attempt made by threads that are not here.

        Each child draws anew when its token is due, or all would refresh in the same instant.
        """
        self._make_lock()
        self._attempt = None
        self._last_begin = (-math.inf, -math.inf)
        self._wakers = []
        self.snapshot = self.snapshot.due_earlier(draw).without_fast_path()

    # --- what both ask; none of these changes anything ---

    @property
    def is_terminal(self) -> bool:
        """Whether no attempt will come any more."""
        return self.failure is not None and self.failure.final

    @property
    def in_flight(self) -> bool:
        """Whether an attempt is under way."""
        attempt = self._attempt
        return attempt is not None and attempt.started

    def usable_seconds(self) -> float:
        """Return how long the current token may still be served, 0 when there is none."""
        return self.snapshot.usable_seconds(self._clock)

    # --- under the lock ---

    def _usable_token(self, now: float) -> str | None:
        """Return the token if it may be served, and request its refresh if that is due."""
        snapshot = self.snapshot
        if snapshot.usable_seconds(self._clock) <= 0:
            return None
        self._renew_fast_path(now)
        return snapshot.value

    def _renew_fast_path(self, now: float) -> None:
        """Let the fast path serve the token for a while; notify the worker if a refresh is due.

        While an attempt is under way, or a pause is, no caller can do better than the current
        token, so the fast path may serve it to the end.
        """
        snapshot = self.snapshot
        age = snapshot.age(self._clock)
        if age >= snapshot.usable_for:
            return
        is_attended = self.in_flight or self._active_failure(now) is not None
        limit = snapshot.usable_for if is_attended else snapshot.fresh_for
        if age >= limit:
            self._work.notify()
        self.snapshot = evolve(snapshot, serve_until=now + min(limit - age, RECHECK_INTERVAL))

    def _active_failure(self, now: float) -> Failure | None:
        failure = self.failure
        if failure is None or failure.final or now < failure.retry_at:
            return failure
        return None

    def _due_in(self) -> float:
        """Return seconds until an attempt is due; not positive when it is due now."""
        now = self._clock.monotonic()
        if self.failure is not None:
            return math.inf if self.failure.final else self.failure.retry_at - now
        if not self.snapshot.value:
            return -math.inf
        due = self.snapshot.fresh_for - self.snapshot.age(self._clock)
        since_begin = max(now - self._last_begin[0], self._clock.time() - self._last_begin[1])
        return max(min(due, self._refresh_at - now), MIN_REFRESH_INTERVAL - since_begin)

    def _join_refresh(self) -> RefreshAttempt:
        if self._attempt is None:
            self._attempt = RefreshAttempt()
        # Each time, not only for a new attempt: a caller that was interrupted here before may have
        # left an attempt that the worker was not notified of.
        self._work.notify()
        return self._attempt

    def _take_wakers(self) -> list[Callable[[], None]]:
        wakers, self._wakers = self._wakers, []
        return wakers


def _call_all(wakers: list[Callable[[], None]]) -> None:
    for waker in wakers:
        waker()
