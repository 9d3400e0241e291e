"""The cache against a simple model of it, under random sequences of what can happen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from identity_client import (
    AccessToken,
    IdentityApiConnectionError,
    IdentityError,
    TokenEndpointError,
)
from identity_client._http.retry import Backoff
from identity_client._tokens.cache import (
    MAX_REVOCATIONS,
    MIN_REFRESH_INTERVAL,
    RECHECK_INTERVAL,
    REJECTION_MEMORY,
    Failure,
    Invalidation,
    RefreshAttempt,
    Snapshot,
    TokenCache,
)
from support.clock import FakeClock

LIFETIMES = st.sampled_from([1.0, 10.0, 60.0, 300.0, 86400.0])
STEPS = st.one_of(
    st.sampled_from([0.0, 0.05, 1.0, 8.55, 9.0, 15.0, 270.0, 290.0, 300.0]),
    st.floats(0.0, 400.0, allow_nan=False),
)


class FixedPauses(Backoff):
    """Pauses that the model can foresee."""

    PAUSE = 7.0

    def __init__(self) -> None:
        super().__init__(self.PAUSE, self.PAUSE)

    def next(self) -> float:
        return self.PAUSE


class Issued:
    """A token as the model knows it: when it was asked for, by both clocks, and in which era."""

    def __init__(self, value: str, at: float, at_wall: float, lifetime: float, era: int) -> None:
        self.value, self.at, self.at_wall = value, at, at_wall
        self.lifetime, self.era = lifetime, era
        # The last twentieth is not for use, nor is the last second, where there are seconds.
        self.usable_for = lifetime - max(min(10.0, 0.05 * lifetime), min(1.0, 0.1 * lifetime))
        self.due_at_age = min(0.9 * lifetime, 0.95 * self.usable_for)


class CacheMachine(RuleBasedStateMachine):
    """Callers, a worker, clocks and mishaps; the model keeps what must be true."""

    cache_class = TokenCache

    @initialize()
    def begin_world(self) -> None:
        self.clock = FakeClock()
        self.cache = self.cache_class(self.clock, FixedPauses)
        self.tokens: dict[str, Issued] = {}
        self.current: Issued | None = None
        self.era = 0  # ends with each invalidation or forced refresh
        self.attempt: RefreshAttempt | None = None
        self.asked: tuple[float, float, int] = (0.0, 0.0, 0)
        self.retry_at: float | None = None
        self.forced = False
        self.began_at = (-1e9, -1e9)
        self.rejected: Issued | None = None
        self.next_rejection_at = self.rejected_at = -1e9
        self.revocations = 0
        self.closed: IdentityError | None = None
        self.slept_at = -1e9

    # --- the model ---

    def age(self, issued: Issued) -> float:
        return max(self.clock.monotonic() - issued.at, self.clock.time() - issued.at_wall)

    def usable(self) -> bool:
        issued = self.current
        return issued is not None and self.age(issued) < issued.usable_for

    def due(self) -> bool:
        if self.closed:
            return False
        if self.retry_at is not None:
            return self.clock.monotonic() >= self.retry_at
        issued = self.current
        if issued is None:
            return True
        began, began_wall = self.began_at
        since = max(self.clock.monotonic() - began, self.clock.time() - began_wall)
        if since < MIN_REFRESH_INTERVAL:
            return False
        return self.forced or self.age(issued) >= issued.due_at_age

    # --- what can happen ---

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=STEPS)
    def the_machine_sleeps(self, seconds: float) -> None:
        self.clock.advance(seconds, asleep=True)
        self.slept_at = self.clock.monotonic()

    @rule()
    def a_caller_asks(self) -> None:
        outcome = self.cache.get(self.clock.monotonic())
        if self.usable():
            assert self.current is not None
            assert outcome == self.current.value
        elif self.closed:
            assert isinstance(outcome, Failure)
            assert outcome.error is self.closed
        elif self.retry_at is not None and self.clock.monotonic() < self.retry_at:
            assert isinstance(outcome, Failure)
        else:
            assert outcome is None

    @rule()
    def a_caller_asks_without_lock(self) -> None:
        snapshot = self.cache.snapshot
        if self.clock.monotonic() < snapshot.serve_until:
            assert self.current is not None
            assert snapshot.value == self.current.value
            # Both clocks are looked at once per lease; by the monotonic one it is never expired.
            assert self.usable() or self.clock.monotonic() - self.slept_at <= RECHECK_INTERVAL
            assert self.clock.monotonic() - self.current.at < self.current.lifetime

    @rule()
    def the_worker_begins(self) -> None:
        attempt = self.cache.begin_refresh()
        assert (attempt is not None) is (self.attempt is None and self.due())
        if attempt is not None:
            self.attempt = attempt
            self.forced = False
            self.began_at = (self.clock.monotonic(), self.clock.time())
            self.asked = (self.clock.monotonic(), self.clock.time(), self.era)

    @precondition(lambda self: self.attempt)
    @rule(lifetime=LIFETIMES)
    def a_token_comes(self, lifetime: float) -> None:
        assert self.attempt is not None
        at, at_wall, era = self.asked
        issued = Issued(f"token {len(self.tokens)}", at, at_wall, lifetime, era)
        self.tokens[issued.value] = issued
        token = AccessToken(
            value=issued.value, expires_in=lifetime, requested_at=at, requested_at_wall=at_wall
        )
        snapshot = Snapshot.of(token, 0.9)
        assert 0.9 * issued.due_at_age <= snapshot.fresh_for <= issued.due_at_age
        issued.due_at_age = snapshot.fresh_for
        published = self.cache.publish(self.attempt, snapshot)
        assert published is (era == self.era)
        self.attempt = None
        if published:
            self.current, self.rejected, self.retry_at = issued, None, None

    @precondition(lambda self: self.attempt)
    @rule(pause=st.floats(0.01, 300.0), registering=st.booleans())
    def the_attempt_fails(self, pause: float, registering: bool) -> None:
        assert self.attempt is not None
        error = IdentityApiConnectionError("x") if registering else TokenEndpointError("x")
        self.cache.fail_refresh(self.attempt, error, pause, registering=registering)
        self.attempt = None
        if not self.closed:
            self.retry_at = self.clock.monotonic() + pause
            if self.current is None:  # what was taken out for a replacement comes back
                self.current, self.rejected = self.rejected, None

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), was_accepted=st.booleans())
    def a_token_is_rejected(self, data: st.DataObject, was_accepted: bool) -> None:
        value = data.draw(st.sampled_from(sorted(self.tokens)))
        now = self.clock.monotonic()
        outcome, _ = self.cache.invalidate(value, was_accepted=was_accepted)
        if not (self.usable() and self.current is not None and self.current.value == value):
            assert outcome is Invalidation.IGNORED
            return
        is_first = now - self.rejected_at > REJECTION_MEMORY
        was_revoked = was_accepted and (is_first or self.revocations < MAX_REVOCATIONS)
        if self.retry_at is not None or (not was_revoked and now < self.next_rejection_at):
            assert outcome is Invalidation.SERVED_ON
        else:
            assert outcome is Invalidation.REPLACING
            self.current, self.rejected = None, self.current
            self.era += 1
            self.rejected_at = now
            if is_first:
                self.revocations = 0
            if was_revoked:
                self.revocations += 1
            else:
                self.next_rejection_at = now + FixedPauses.PAUSE

    @rule()
    def a_refresh_is_requested(self) -> None:
        self.cache.request_refresh()
        self.forced = True

    @rule()
    def it_begins_anew(self) -> None:
        self.cache.reset_failure()
        if not self.closed:
            self.era += 1
            self.retry_at = None

    @rule()
    def the_process_forks(self) -> None:
        self.cache.at_fork_reinit(lambda limit: 0.0)
        self.attempt = None
        self.began_at = (-1e9, -1e9)

    @precondition(lambda self: not self.closed)
    @rule(chance=st.integers(0, 30))
    def it_is_closed(self, chance: int) -> None:
        if chance == 0:
            self.closed = IdentityError("closed")
            self.cache.close(self.closed)
            self.current = self.rejected = None
            self.era += 1

    # --- what is always true ---

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        assert self.cache.in_flight is (self.attempt is not None)

    @invariant()
    def what_is_served_was_asked_for_in_this_era(self) -> None:
        token = self.cache.snapshot.value
        assert token == (self.current.value if self.current else "")

    @invariant()
    def the_figures_agree(self) -> None:
        assert (self.cache.usable_seconds() > 0) is self.usable()


def explore_cache(cache_class: type[TokenCache] = TokenCache, examples: int = 200) -> None:
    """Run the state machine on a cache."""
    machine = type("Machine", (CacheMachine,), {"cache_class": cache_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
        ),
    )
