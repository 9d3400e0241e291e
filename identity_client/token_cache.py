"""The monitor that callers and the worker meet in: one token, one refresh in flight.

Callers read an immutable snapshot without a lock while it is fresh. Everything else happens under
one lock with two conditions: the worker sleeps on one until a token is due, callers sleep on the
other until the attempt that they wait for, a `Flight`, has ended. No I/O happens here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import backoff
from attrs import evolve, frozen

from .clock import Clock
from .errors import CredentialStoreError, IdentityApiError, IdentityError
from .models import AccessToken

# The fast path looks at the monotonic clock only, which may stand still while the machine sleeps.
# So it serves this many seconds at most before a caller or the worker looks at both clocks again.
LEASE = 15.0

# Servers put the end of a token (``exp``) at whole seconds. Rounded down, as Keycloak does it, that
# comes up to this many seconds before ``expires_in`` is over.
ROUNDING = 1.0

# The part of the time to the refresh that is left to chance, so that a fleet does not refresh in
# step. A token that replaces none may be one of many that were issued in the same second (a boot,
# the end of an outage, revoked keys): its refresh is spread wide, and the next ones drift on.
SPREAD = 0.1
SPREAD_OF_FIRST = 0.5


@frozen(eq=False, repr=False)
class Snapshot:
    """A token and how long it may be served; durations in seconds since it was requested."""

    value: str
    requested_at: float
    requested_at_wall: float
    lifetime: float
    fresh_for: float
    usable_for: float
    serve_until: float = -math.inf  # monotonic; the only thing that the fast path compares

    @classmethod
    def of(cls, token: AccessToken, refresh_ratio: float, *, replaces_one: bool = True) -> Snapshot:
        """Draw the two lines of a lifetime: when it is due, and when it may not be served any more.

        Both are fractions, so that a token of any lifetime is served before it is replaced, and
        there is time between them to replace it. It is due at ``refresh_ratio`` at the latest, and
        before by chance: a little if it replaces one.
        """
        lifetime = token.expires_in
        leeway = max(min(10.0, 0.05 * lifetime), min(ROUNDING, 0.1 * lifetime))
        usable_for = lifetime - leeway
        due = min(refresh_ratio * lifetime, 0.95 * usable_for)
        spread = SPREAD if replaces_one else SPREAD_OF_FIRST
        return cls(
            value=token.value,
            requested_at=token.requested_at,
            requested_at_wall=token.requested_at_wall,
            lifetime=lifetime,
            fresh_for=due - backoff.full_jitter(spread * due),
            usable_for=usable_for,
        )

    def age(self, clock: Clock) -> float:
        """Return the age by whichever clock says more: one of them may have stood still."""
        return max(clock.monotonic() - self.requested_at, clock.time() - self.requested_at_wall)


NO_TOKEN = Snapshot("", -math.inf, -math.inf, 0.0, 0.0, 0.0)


class Failure:
    """How an attempt ended that brought no token.

    Attributes:
        error: what callers are told.
        pause: seconds between the failure and the next attempt; infinite when none will come.
        retry_at: the monotonic moment of the next attempt.
    """

    def __init__(self, error: IdentityError, pause: float, now: float) -> None:
        self.error = error
        self.pause = pause
        self.retry_at: float = now + pause

    @property
    def message(self) -> str:
        """What failed and when the next attempt follows; the same for all who are told."""
        if self.pause == math.inf:
            return self.error.message
        return f"{self.error.message}; the next attempt follows after a pause of {self.pause:.1f} s"

    def is_worth_waiting_out(self, deadline: float) -> bool:
        """Whether the next attempt may help a caller who has time until ``deadline``.

        While identity-api or the credential store cannot be had, a caller at boot waits for the
        next attempt. When the token endpoint failed, nobody queues up for it.
        """
        error = self.error
        registering = isinstance(error, IdentityApiError) and error.retryable
        return (registering or isinstance(error, CredentialStoreError)) and self.retry_at < deadline


class Flight:
    """One attempt to obtain a token, coming or under way, and what those who wait for it share."""

    def __init__(self) -> None:
        self.generation = 0
        self.started = False
        self.failure: Failure | None = None


class TokenCache:
    """Holds the current token, and brings those who need one together with the one who gets it.

    Args:
        clock: where time is read.
    """

    def __init__(self, clock: Clock) -> None:
        self.snapshot: Snapshot = NO_TOKEN
        self.had_token: bool = False
        self.is_closed: bool = False
        self.failure: Failure | None = None
        self._clock = clock
        self._generation = 0
        self._flight: Flight | None = None
        self._forced = False
        self._make_lock()

    def _make_lock(self) -> None:
        # Re-entrant, so that a signal handler or a finalizer that asks for a token while its
        # thread is in here does not deadlock.
        lock = threading.RLock()
        self._work = threading.Condition(lock)  # the worker: something may be due
        self._outcome = threading.Condition(lock)  # callers: an attempt has ended

    # --- callers ---

    def get(self, deadline: float, *, attended: bool = True) -> str | Failure | None:
        """Return a usable token, waiting for one until the monotonic moment ``deadline``.

        Args:
            deadline: when to give up.
            attended: whether somebody will make another attempt should this one fail.

        Returns:
            The token; or the failure that stands in the way; or None when the time was up.
        """
        flight: Flight | None = None
        with self._outcome:
            while True:
                now = self._clock.monotonic()
                token = self._usable_token(now)
                if token is not None:
                    return token
                failure = (flight and flight.failure) or self._failure_in_force(now)
                if failure is not None and not (
                    attended and failure.is_worth_waiting_out(deadline)
                ):
                    return failure
                if now >= deadline:
                    return None
                flight = self._join_flight()
                self._clock.wait(self._outcome, deadline - now)

    def wait_until_ready(self, deadline: float) -> bool:
        """Wait until a first token was had, no more attempt will come, or the time is up."""
        with self._outcome:
            while not self.had_token:
                now = self._clock.monotonic()
                if now >= deadline or self.is_terminal:
                    return False
                self._clock.wait(self._outcome, deadline - now)
            return not self.is_terminal

    def invalidate(self, value: str) -> bool:
        """Stop serving a token, if it is still the one that is served; return whether it was.

        An attempt under way was asked for before this and may bring a token of the same kind, so
        the generation that it belongs to ends here.
        """
        with self._outcome:
            current = value == self.snapshot.value and self._usable_token(self._clock.monotonic())
            if current:
                self.snapshot = NO_TOKEN
                self._generation += 1
                self._work.notify()
            return bool(current)

    def force(self) -> None:
        """Make a token due now, whatever stands in the way; the current one is served on."""
        with self._outcome:
            self._forced = True
            self._generation += 1
            if not self.is_closed:
                self.failure = None
            self._work.notify()

    # --- the worker ---

    def next_flight(self, on_duty: Callable[[], bool]) -> Flight | None:
        """Wait until a token is due and begin to get it; return None once ``on_duty`` is false."""
        with self._work:
            while on_duty():
                flight = self.begin()
                if flight is not None:
                    return flight
                nap = LEASE if self.in_flight else min(self._due_in(), LEASE)
                self._clock.wait(self._work, nap)
        return None

    def begin(self) -> Flight | None:
        """Begin an attempt if one is due and none is under way."""
        with self._work:
            flight = self._flight
            if (flight is not None and flight.started) or self._due_in() > 0:
                return None
            self._flight = flight = flight or Flight()
            flight.started = True
            flight.generation = self._generation
            self._forced = False
            self._usable_token(self._clock.monotonic())
            return flight

    def publish(self, flight: Flight, snapshot: Snapshot) -> bool:
        """End an attempt with a token; return False when it was asked for before an invalidation.

        In that case those who wait go on waiting, and the next attempt is due at once.
        """
        with self._outcome:
            self._work.notify()
            if flight.generation != self._generation:
                flight.started = False
                return False
            self.snapshot = snapshot
            self.had_token = True
            self.failure = None
            self._flight = None
            self._usable_token(self._clock.monotonic())
            self._outcome.notify_all()
            return True

    def fail(self, flight: Flight, error: IdentityError, pause: float) -> Failure:
        """End an attempt without a token; who waits for it is told, and so is who comes soon."""
        with self._outcome:
            flight.failure = failure = Failure(error, pause, self._clock.monotonic())
            self._flight = None
            if not self.is_terminal:
                self.failure = failure
            self._outcome.notify_all()
            self._work.notify()
            return failure

    def give_up(self, error: IdentityError) -> None:
        """Make no more attempts, and tell everybody who needs a token ``error``."""
        with self._outcome:
            self.failure = Failure(error, math.inf, self._clock.monotonic())
            self._generation += 1
            self._outcome.notify_all()

    def close(self, error: IdentityError) -> None:
        """Serve no token any more and tell everybody who asks ``error``."""
        with self._outcome:
            self.is_closed = True
            self.snapshot = NO_TOKEN
            self.give_up(error)

    def wake(self) -> None:
        """Let the worker look again whether it is on duty."""
        with self._work:
            self._work.notify()

    def attract_attention(self) -> None:
        """Send the next caller past the fast path, so that it finds the worker gone."""
        with self._outcome:
            self.end_lease()

    def end_lease(self) -> None:
        """Send the next caller past the fast path; without the lock, for one who is alone."""
        self.snapshot = evolve(self.snapshot, serve_until=-math.inf)

    def reset_after_fork(self) -> None:
        """In a child: the lock may be held and the attempt made by threads that are not here."""
        self._make_lock()
        self._flight = None
        self.end_lease()

    # --- what both ask ---

    @property
    def is_terminal(self) -> bool:
        """Whether no attempt will come any more."""
        return self.failure is not None and self.failure.retry_at == math.inf

    def usable_seconds(self) -> float:
        """Return how long the current token may still be served, 0 when there is none."""
        snapshot = self.snapshot
        return max(snapshot.usable_for - snapshot.age(self._clock), 0.0)

    @property
    def in_flight(self) -> bool:
        """Whether an attempt is under way."""
        flight = self._flight
        return flight is not None and flight.started

    # --- under the lock ---

    def _usable_token(self, now: float) -> str | None:
        """Return the token if it may be served, and let the fast path serve it for a while."""
        snapshot = self.snapshot
        age = snapshot.age(self._clock)
        if age >= snapshot.usable_for:
            return None
        # While somebody replaces it, the fast path may serve it to the end.
        attended = self.in_flight or self._failure_in_force(now) is not None
        limit = snapshot.usable_for if attended else snapshot.fresh_for
        if age >= limit:
            self._work.notify()
        self.snapshot = evolve(snapshot, serve_until=now + min(limit - age, LEASE))
        return snapshot.value

    def _failure_in_force(self, now: float) -> Failure | None:
        failure = self.failure
        return failure if failure is not None and now < failure.retry_at else None

    def _due_in(self) -> float:
        """Return seconds until the worker has something to do; not positive when it has now."""
        if self.failure is not None:
            return self.failure.retry_at - self._clock.monotonic()
        if self._forced:
            return 0.0
        return self.snapshot.fresh_for - self.snapshot.age(self._clock)

    def _join_flight(self) -> Flight:
        if self._flight is None:
            self._flight = Flight()
            self._work.notify()
        return self._flight
