"""The cache and the worker under a scheduler that chooses who runs next."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import interleave_test as it
import pytest
from interleavings.models import MODELS, Exhaustive, World
from interleavings.mutants import DEFECTS, PYTHON_LOCK, Defect, sow
from support.cache_model import explore_cache
from support.clock import FakeClock

from identity_client import AccessToken, IdentityError
from identity_client._tokens import cache as token_cache
from identity_client._tokens import worker
from identity_client._tokens.cache import Snapshot, TokenCache

CACHE = token_cache.__file__
WORKER = worker.__file__


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    World.current_cache = None
    yield
    World.current_cache = None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("callers", [3, 6])
def test_random_schedules_hold_the_invariants(model: type, callers: int) -> None:
    it.explore(
        model(TokenCache, callers),
        include=[CACHE, WORKER],
        strategy=it.PCTStrategy(depth=3 if callers == 3 else 8),
        iterations=60,
        seed=callers,
    )


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("granularity", "preemptions"),
    [
        pytest.param("opcode", 1, id="one pre-emption between any two instructions"),
        pytest.param("line", 2, id="two pre-emptions between any two lines"),
    ],
)
def test_all_schedules_hold_the_invariants(
    model: type, granularity: str, preemptions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = it.explore(
        model(TokenCache, 3),
        include=[CACHE],
        strategy=Exhaustive(preemptions, callers=3),
        granularity=granularity,
        iterations=10**7,
    )
    with capsys.disabled():
        print(f"\n{model.__name__}: {result.schedules_run} schedules, {result.elapsed:.0f} s")
    assert result.exhausted


CAUGHT_BY = {
    "the lock is dropped where an attempt begins": "callers_without_a_worker_do_one_step",
    "waiters are not notified of a token": "callers_share_one_request",
    "waiters are not notified of a failure": "callers_share_one_failure",
    "expiry is checked after the throttle": "nobody_gets_an_expired_token",
    "the generation is not checked": "what_was_rejected_does_not_come_back",
    "rejections have no brake": "rejections_that_follow_each_other_cause_one_refresh",
    "a rejected token does not come back": "a_rejected_token_comes_back_when_no_other_can_be_had",
    "waiters are left behind by a worker that ends": "a_worker_that_ends_leaves_no_waiter_behind",
    "there is no pause after a failure": "callers_share_one_failure",
    "callers within a pause do not get the failure": "callers_share_one_failure",
    "a worker that dies leaves its attempt open": "a_worker_that_dies_in_an_attempt_ends_it",
    "listeners are called before the token is published": "a_listener_delays_no_caller",
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_that_is_sown_is_caught(
    defect: Defect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant, file = sow(defect, tmp_path)
    if defect.module is worker:
        monkeypatch.setattr(World, "worker_class", mutant.Worker)
    model = next(model for model in MODELS if model.__name__ == CAUGHT_BY[defect.name])
    with pytest.raises(it.InterleaveError):
        it.explore(
            model(mutant.TokenCache, 3),
            include=[file, CACHE, WORKER],
            strategy="pct",
            iterations=1000,
            seed=1,
        )


@pytest.mark.parametrize(
    "name", ["expiry is checked after the throttle", "the generation is not checked"]
)
def test_the_state_machine_catches_what_needs_no_threads(name: str, tmp_path: Path) -> None:
    mutant, _ = sow(next(defect for defect in DEFECTS if defect.name == name), tmp_path)
    with pytest.raises(AssertionError):
        explore_cache(mutant.TokenCache, examples=500)


class Interruption(BaseException):
    """What a signal handler raises."""


def calls_that_an_exception_ends_with_the_lock_held(cache_class: type[TokenCache]) -> list[int]:
    """Raise in each call once, where the interpreter runs signal handlers; return the bad ones.

    That is where a Python function begins and where a C function has returned.
    """
    bad: list[int] = []
    for number in itertools.count(1):
        cache = cache_class(FakeClock())
        remaining = itertools.count(number, -1)

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            if event in ("call", "c_return") and next(remaining) == 1:  # noqa: B023  # used at once
                raise Interruption

        sys.setprofile(interrupt)
        try:
            use_all(cache)
        except Interruption:
            pass
        else:
            return bad
        finally:
            sys.setprofile(None)
        with ThreadPoolExecutor(1) as other_thread:
            if not other_thread.submit(cache._lock.acquire, blocking=False).result():
                bad.append(number)
    raise AssertionError


def use_all(cache: TokenCache) -> None:
    """Take each way through the cache that takes the lock, but for those that wait."""
    assert cache.get(0.0) is None
    attempt = cache.begin_refresh()
    assert attempt is not None
    cache.call_at_outcome(attempt, lambda: None)
    cache.fail_refresh(attempt, IdentityError("refused"), 0.0)
    attempt = cache.begin_refresh()
    assert attempt is not None
    token = AccessToken(value="t", expires_in=300, requested_at=0.0, requested_at_wall=0.0)
    cache.publish(attempt, Snapshot.of(token, 0.9))
    cache.look(0.0)
    cache.wait_until(lambda: True, 0.0, 0)
    cache.next_look_in()
    cache.wait_for_refresh(lambda: False)
    cache.request_refresh()
    cache.invalidate("t")
    cache.reset_failure()
    cache.wake_worker()
    cache.release_waiters()
    cache.close(IdentityError("closed"))


def test_an_exception_of_a_signal_handler_in_any_call_leaves_no_lock_held() -> None:
    assert calls_that_an_exception_ends_with_the_lock_held(TokenCache) == []


def test_a_lock_that_python_code_takes_is_caught(tmp_path: Path) -> None:
    mutant, _ = sow(PYTHON_LOCK, tmp_path)
    assert calls_that_an_exception_ends_with_the_lock_held(mutant.TokenCache)
