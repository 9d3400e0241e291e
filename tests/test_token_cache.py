"""The rules of the token cache, on a clock that moves when told."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable

import pytest
from support.clock import FakeClock

from identity_client import (
    AccessToken,
    IdentityApiConnectionError,
    IdentityError,
    TokenEndpointError,
)
from identity_client._tokens.cache import (
    MIN_REFRESH_INTERVAL,
    RECHECK_INTERVAL,
    Failure,
    Invalidation,
    RefreshAttempt,
    Snapshot,
    TokenCache,
    WorkerGone,
)
from identity_client._tokens.waiters import LoopWaiters


def snapshot(clock: FakeClock, value: str = "token", lifetime: float = 300.0) -> Snapshot:
    token = AccessToken(
        value=value,
        expires_in=lifetime,
        requested_at=clock.monotonic(),
        requested_at_wall=clock.time(),
    )
    return Snapshot.of(token, 0.9)


class Cache:
    """A cache on a fake clock, with the worker's part played by the test."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cache = TokenCache(self.clock)

    def begin(self) -> RefreshAttempt:
        attempt = self.cache.begin_refresh()
        if attempt is None:  # the one before has just begun
            self.clock.advance(MIN_REFRESH_INTERVAL)
            attempt = self.cache.begin_refresh()
        assert attempt is not None
        return attempt

    def publish(self, value: str = "token", lifetime: float = 300.0) -> None:
        assert self.cache.publish(self.begin(), snapshot(self.clock, value, lifetime))

    def fail(
        self, pause: float = 5.0, error: IdentityError | None = None, *, registering: bool = False
    ) -> IdentityError:
        error = error or TokenEndpointError("refused", status_code=500)
        self.cache.fail_refresh(self.begin(), error, pause, registering=registering)
        return error

    def ask(self, timeout: float = 0.0) -> str | Failure | None:
        return self.cache.get(self.clock.monotonic() + timeout)

    def served_without_lock(self) -> str | None:
        current = self.cache.snapshot
        return current.value if self.clock.monotonic() < current.serve_until else None

    def ask_in_thread(self, timeout: float) -> Callable[[], str | Failure | None]:
        """Start to ask; return what waits for the answer. The asker waits in the cache by then."""
        outcome: list[str | Failure | None] = []
        waiting = threading.Event()
        wait = self.clock.wait

        def tell(condition: threading.Condition, timeout: float) -> None:
            waiting.set()
            wait(condition, timeout)

        self.clock.wait = tell  # type: ignore[method-assign]  # the clock is the test's own
        thread = threading.Thread(target=lambda: outcome.append(self.ask(timeout)))
        thread.start()
        assert waiting.wait(5)
        with self.cache._lock:  # free once the asker waits
            pass

        def answer() -> str | Failure | None:
            thread.join(5)
            return outcome[0]

        return answer


@pytest.fixture
def c() -> Cache:
    return Cache()


@pytest.mark.parametrize(
    ("lifetime", "due", "usable_for"),
    [
        pytest.param(300, 270, 290, id="five minutes: ten seconds of leeway"),
        pytest.param(60, 54, 57, id="one minute: five per cent of leeway"),
        pytest.param(20, 18, 19, id="twenty seconds: one of leeway, as `exp` is in whole seconds"),
        pytest.param(10, 8.55, 9, id="ten seconds: still a window to refresh in"),
        pytest.param(1, 0.855, 0.9, id="one second"),
        pytest.param(86400, 77760, 86390, id="a day"),
    ],
)
def test_the_margins_are_fractions_of_the_lifetime(
    c: Cache, lifetime: float, due: float, usable_for: float
) -> None:
    drawn = [snapshot(c.clock, lifetime=lifetime) for _ in range(200)]
    assert all(one.usable_for == pytest.approx(usable_for) for one in drawn)
    points = sorted(one.fresh_for / due for one in drawn)
    assert 0.9 - 1e-9 <= points[0] < 0.92
    assert 0.98 < points[-1] <= 1 + 1e-9


@pytest.mark.parametrize("lifetime", [1, 10, 300])
def test_a_token_that_replaces_none_is_due_at_any_time_but_not_at_once(lifetime: float) -> None:
    token = AccessToken(value="t", expires_in=lifetime, requested_at=0, requested_at_wall=0)
    drawn = [Snapshot.of(token, 0.9, replaces_one=False) for _ in range(400)]
    due = min(0.9 * lifetime, 0.95 * drawn[0].usable_for)
    points = sorted(one.fresh_for / due for one in drawn)
    assert 0.5 - 1e-9 <= points[0] < 0.55
    assert 0.95 < points[-1] <= 1 + 1e-9


def test_a_token_is_due_before_it_expires_even_with_a_refresh_ratio_near_one(c: Cache) -> None:
    token = AccessToken(value="t", expires_in=300, requested_at=0, requested_at_wall=0)
    points = [Snapshot.of(token, 0.999).fresh_for for _ in range(200)]
    assert all(0.9 * 275.5 - 1e-9 <= point <= 275.5 for point in points)


def test_a_fresh_token_is_served_and_nothing_is_due(c: Cache) -> None:
    c.publish()
    c.clock.advance(242)
    assert c.ask() == "token"
    assert c.cache.begin_refresh() is None


def test_a_due_token_is_served_and_one_refresh_is_due(c: Cache) -> None:
    c.publish()
    c.clock.advance(270)
    assert c.ask() == "token"
    assert c.cache.begin_refresh() is not None
    assert c.ask() == "token"
    assert c.cache.begin_refresh() is None


def test_a_token_beyond_its_leeway_is_not_served(c: Cache) -> None:
    c.publish()
    c.clock.advance(289.9)
    assert c.ask() == "token"
    c.clock.advance(0.1)
    assert c.served_without_lock() is None
    assert c.ask() is None


def test_the_fast_path_ends_where_somebody_has_to_look(c: Cache) -> None:
    c.publish()
    assert c.served_without_lock() == "token"
    c.clock.advance(RECHECK_INTERVAL)
    assert c.served_without_lock() is None
    assert c.ask() == "token"
    assert c.served_without_lock() == "token"
    c.clock.advance(c.cache.snapshot.fresh_for - RECHECK_INTERVAL - 1)
    assert c.ask() == "token"
    assert c.served_without_lock() == "token"
    c.clock.advance(1)
    assert c.served_without_lock() is None


def test_the_fast_path_goes_on_while_the_token_is_being_replaced(c: Cache) -> None:
    c.publish()
    c.clock.advance(275)
    assert c.served_without_lock() is None
    c.begin()
    assert c.served_without_lock() == "token"
    c.clock.advance(14.9)
    assert c.served_without_lock() == "token"
    c.clock.advance(0.2)
    assert c.served_without_lock() is None
    assert c.ask() is None


def test_a_machine_that_slept_serves_nothing_old_for_longer_than_a_lease(c: Cache) -> None:
    c.publish()
    c.clock.advance(3600, asleep=True)
    assert c.served_without_lock() == "token"
    c.clock.advance(RECHECK_INTERVAL)
    assert c.served_without_lock() is None
    assert c.ask() is None
    assert c.cache.begin_refresh() is not None
    assert RECHECK_INTERVAL <= 30


def test_a_wall_clock_that_steps_back_does_not_keep_a_token_alive(c: Cache) -> None:
    c.publish()
    c.clock.advance(-3600, asleep=True)
    c.clock.advance(290)
    assert c.ask() is None


def test_waiters_get_the_token_of_the_one_attempt(c: Cache) -> None:
    answers = [c.ask_in_thread(10) for _ in range(5)]
    c.publish("new")
    assert [answer() for answer in answers] == ["new"] * 5


def test_waiters_share_the_failure_of_the_one_attempt(c: Cache) -> None:
    answers = [c.ask_in_thread(10) for _ in range(5)]
    error = c.fail()
    failures = [answer() for answer in answers]
    assert all(isinstance(failure, Failure) and failure.error is error for failure in failures)


def test_a_waiter_is_told_the_outcome_of_its_attempt_though_the_pause_is_over(c: Cache) -> None:
    answer = c.ask_in_thread(10)
    error = c.fail(pause=0.0)
    failure = answer()
    assert isinstance(failure, Failure)
    assert failure.error is error


def test_within_the_pause_callers_get_the_failure_and_nothing_is_due(c: Cache) -> None:
    c.fail(pause=5)
    c.clock.advance(4.9)
    assert isinstance(c.ask(60), Failure)
    assert c.cache.begin_refresh() is None
    c.clock.advance(0.2)
    assert c.ask() is None
    assert c.cache.begin_refresh() is not None


def test_a_failure_does_not_stop_a_usable_token(c: Cache) -> None:
    c.publish()
    c.clock.advance(275)
    c.fail(pause=60)
    assert c.ask() == "token"
    c.clock.advance(14.9)
    assert c.ask() == "token"
    c.clock.advance(0.2)
    assert isinstance(c.ask(60), Failure)


def test_the_worker_looks_again_when_a_token_ends_within_a_pause(c: Cache) -> None:
    c.publish()
    c.clock.advance(280)
    c.fail(pause=60)
    assert c.cache.next_look_in() == pytest.approx(10, abs=MIN_REFRESH_INTERVAL)
    c.clock.advance(10)
    assert c.cache.next_look_in() == RECHECK_INTERVAL


def test_a_caller_waits_out_a_pause_of_registration_if_its_time_allows(c: Cache) -> None:
    down = IdentityApiConnectionError("down")
    c.fail(5, down, registering=True)
    answer = c.ask_in_thread(10)
    c.clock.advance(5)
    c.publish("after all")
    assert answer() == "after all"


def test_a_caller_whose_time_ends_before_the_next_attempt_is_told_at_once(c: Cache) -> None:
    c.fail(5, IdentityApiConnectionError("down"), registering=True)
    assert isinstance(c.ask(4.9), Failure)


def test_nobody_waits_out_a_pause_when_nobody_makes_another_attempt(c: Cache) -> None:
    c.fail(5, IdentityApiConnectionError("down"), registering=True)
    outcome = c.cache.get(c.clock.monotonic() + 10, has_worker=False)
    assert isinstance(outcome, Failure)


def test_a_waiter_whose_time_is_up_leaves_with_nothing(c: Cache) -> None:
    answer = c.ask_in_thread(2)
    c.clock.advance(2)
    assert answer() is None


def test_invalidation_counts_only_for_the_current_token(c: Cache) -> None:
    c.publish("first")
    assert c.cache.invalidate("another")[0] is Invalidation.IGNORED
    assert c.cache.invalidate("")[0] is Invalidation.IGNORED
    assert c.ask() == "first"
    assert c.cache.invalidate("first")[0] is Invalidation.REPLACING
    assert c.cache.invalidate("first")[0] is Invalidation.IGNORED
    assert c.ask() is None
    c.publish("second")
    assert c.cache.invalidate("first")[0] is Invalidation.IGNORED
    assert c.ask() == "second"


def test_a_late_rejection_of_an_expired_token_does_not_spoil_its_replacement(c: Cache) -> None:
    c.publish("first")
    c.clock.advance(295)
    attempt = c.begin()
    assert c.cache.invalidate("first")[0] is Invalidation.IGNORED
    assert c.cache.publish(attempt, snapshot(c.clock, "second"))


def test_what_was_asked_for_before_an_invalidation_does_not_come_after_it(c: Cache) -> None:
    c.publish("first")
    c.clock.advance(275)
    early = c.begin()
    assert c.cache.invalidate("first")[0] is Invalidation.REPLACING
    answer = c.ask_in_thread(10)
    assert not c.cache.publish(early, snapshot(c.clock, "stale"))
    c.publish("second")
    assert answer() == "second"


def test_a_forced_refresh_is_due_at_once_and_serves_the_old_token_meanwhile(c: Cache) -> None:
    c.publish("first")
    assert c.cache.begin_refresh() is None
    c.cache.request_refresh()
    assert c.ask() == "first"
    c.publish("second")
    assert c.ask() == "second"


def test_a_closed_cache_serves_nothing_and_tells_everybody(c: Cache) -> None:
    c.publish()
    closed = IdentityError("closed")
    attempt_before = c.cache.snapshot
    c.cache.close(closed)
    assert c.served_without_lock() is None
    outcome = c.ask(math.inf)
    assert isinstance(outcome, Failure)
    assert outcome.error is closed
    assert c.cache.begin_refresh() is None
    c.cache.request_refresh()
    assert isinstance(c.ask(math.inf), Failure)
    assert attempt_before.value == "token"


def test_closing_releases_those_who_wait_and_outlasts_the_attempt_under_way(c: Cache) -> None:
    answer = c.ask_in_thread(60)
    attempt = c.begin()
    c.cache.close(closed := IdentityError("closed"))
    failure = answer()
    assert isinstance(failure, Failure)
    assert failure.error is closed
    c.cache.fail_refresh(attempt, IdentityError("late"), 1.0)
    assert not c.cache.publish(attempt, snapshot(c.clock))
    failure = c.ask()
    assert isinstance(failure, Failure)
    assert failure.error is closed


def test_a_forked_child_keeps_the_token_and_forgets_the_attempt(c: Cache) -> None:
    c.publish()
    c.clock.advance(275)
    c.begin()
    c.cache.at_fork_reinit(lambda limit: 0.0)
    assert c.served_without_lock() is None
    assert c.ask() == "token"
    assert c.cache.begin_refresh() is not None


def test_a_forked_child_draws_anew_when_its_token_is_due(c: Cache) -> None:
    c.publish()
    due = c.cache._due_in()
    drawn: list[float] = []

    def draw(limit: float) -> float:
        drawn.append(limit)
        return limit

    c.cache.at_fork_reinit(draw)
    assert c.cache._due_in() == pytest.approx(due - drawn[0])
    assert drawn[0] == pytest.approx(0.1 * due)


def test_a_worker_that_ends_leaves_the_attempt_of_another_alone(c: Cache) -> None:
    attempt = c.begin()
    c.cache.release_waiters()
    assert c.cache.begin_refresh() is None
    c.cache.release_waiters(attempt)
    assert c.cache.begin_refresh() is attempt


def test_a_waiter_whose_worker_has_ended_is_sent_back_for_another(c: Cache) -> None:
    before = c.cache.worker_exits
    c.cache.release_waiters()
    deadline = c.clock.monotonic() + 10
    with pytest.raises(WorkerGone):
        c.cache.get(deadline, worker_exits=before)
    with pytest.raises(WorkerGone):
        c.cache.wait_until(lambda: False, deadline, before)


def test_nothing_is_called_at_the_end_of_an_attempt_that_has_ended(c: Cache) -> None:
    called: list[str] = []
    attempt = c.begin()
    assert c.cache.call_at_outcome(attempt, lambda: called.append("it"))
    assert c.cache.publish(attempt, snapshot(c.clock))
    assert not c.cache.call_at_outcome(attempt, lambda: called.append("again"))
    assert called == ["it"]
    asyncio.run(LoopWaiters(c.cache).wait(attempt, 10))


def test_a_closed_cache_does_not_begin_anew(c: Cache) -> None:
    c.cache.close(IdentityError("closed"))
    c.cache.reset_failure()
    assert c.cache.is_terminal
