"""The same question put to frontrun, whose processes know nothing of the test.

It looks at the keys that each command names, and tries all orders but those that cannot differ. It
judges a run by its end alone, so a save by someone who does not hold the lock goes unnoticed where
the next one is refused; and it knows neither answers that are lost nor a lease that ends by itself,
which a third process deletes here. `test_redis_interleavings` sees these.
"""

from __future__ import annotations

import time
from typing import Any

import frontrun
import pytest
from redis.lock import Lock
from replicas.holders import (
    CAREFUL,
    CARELESS,
    NO_VERSION,
    NONE,
    REFUSED,
    TWO_COMMANDS,
    end_lease,
    take_turn,
)
from support.credentials import store_at
from support.redis_server import RedisServer

HOLDERS = ("A", "B")


def explore(server: RedisServer, turn: str, defect: str, **bounds: Any) -> Any:
    client = server.client
    client.script_load(Lock.LUA_RELEASE_SCRIPT)  # or the first run would differ from the others

    def holds() -> bool:
        """Tell whether each save that was told replaced the one before, and the last is there."""
        outcomes = {name: int(client.get(f"outcome of {name}")) for name in HOLDERS}
        saved = {version: name for name, version in outcomes.items() if version != REFUSED}
        stored = store_at(server.url).load()
        if stored.version != sum(version != REFUSED for version in outcomes.values()):
            return False
        if sorted(saved) != list(range(stored.version)):
            return False
        last = stored.credentials.client_secret if stored.credentials else None
        return last == saved.get(stored.version - 1)

    module = take_turn.__module__
    processes = {
        name: frontrun.Subprocess(
            f"{module}:{take_turn.__name__}", (server.url, name, turn, defect)
        )
        for name in HOLDERS
    }
    processes["lease"] = frontrun.Subprocess(f"{module}:{end_lease.__name__}", (server.url,))
    return frontrun.explore_processes(
        processes,
        setup=client.flushall,
        invariant=lambda _: holds(),
        reuse_workers=True,
        **bounds,
    )


def test_all_orders_that_differ_hold_the_invariant(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    result = explore(redis_server, CAREFUL, NONE, preemption_bound=None)
    with capsys.disabled():
        print(f"\nfrontrun: {result.iterations} schedules, {time.monotonic() - began:.1f} s")
    assert result.ok, result.failure
    assert result.exhausted


@pytest.mark.parametrize(("defect", "turn"), [(NO_VERSION, CARELESS), (TWO_COMMANDS, CAREFUL)])
def test_a_defect_that_is_sown_is_caught(redis_server: RedisServer, defect: str, turn: str) -> None:
    result = explore(redis_server, turn, defect)
    assert result.failure_kind == "invariant"
