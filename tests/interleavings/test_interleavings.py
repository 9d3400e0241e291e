"""The cache and the worker under a scheduler that chooses who runs next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import interleave_test as it
import pytest
from interleavings.models import MODELS, Exhaustive, World
from interleavings.mutants import DEFECTS, Defect, sow
from support.cache_model import explore_cache

from identity_client._tokens import cache as token_cache
from identity_client._tokens import worker
from identity_client._tokens.cache import TokenCache

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
@pytest.mark.timeout(1800)
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
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_that_is_sown_is_caught(defect: Defect, tmp_path: Path) -> None:
    mutant, file = sow(defect, tmp_path)
    model = next(model for model in MODELS if model.__name__ == CAUGHT_BY[defect.name])
    with pytest.raises(it.InterleaveError):
        it.explore(
            model(mutant, 3),
            include=[file, WORKER],
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
        explore_cache(mutant, examples=500)
