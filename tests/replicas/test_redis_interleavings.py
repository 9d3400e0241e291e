"""All orders in which the Redis commands of several holders can arrive, on a real server.

The holders are processes that stop before each command until they may send it. The lease of the
lock ends at any point in between, and the answer to any command is lost, upon which redis-py sends
it again. After each command the record is compared with what it was before.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import pytest
import redis
from replicas.holders import (
    ANSWER_LOST,
    CAREFUL,
    CARELESS,
    DEFECTS,
    KEY,
    LOCK,
    NO_TOKEN,
    NO_VERSION,
    NONE,
    REFUSED,
    TURNS,
    TWO_COMMANDS,
)
from support.credentials import store_at
from support.redis_server import RedisServer

from identity_client.stores import redis as redis_store

FOREVER = 1e6
LEASE_ENDS = "the lease ends"
ANSWER_IS_LOST = "'s answer is lost"


class Bound(NamedTuple):
    """How often, at most, something goes wrong in one schedule."""

    leases: int = 0
    answers: int = 0


class Step(NamedTuple):
    """A command that waits to be sent, or the outcome."""

    command: tuple[Any, ...] = ()
    outcome: int = REFUSED


class GatedClient(cast(Any, redis.Redis)):  # type: ignore[misc]  # typed otherwise in each version
    """Sends a command when it may, and once more when its answer was lost."""

    gate: Connection

    def execute_command(self, *args: Any, **options: Any) -> Any:
        while True:
            self.gate.send(Step(args))
            answer_is_kept = self.gate.recv()
            answer = super().execute_command(*args, **options)
            if answer_is_kept:
                return answer


def _hold(url: str, name: str, gate: Connection, defect: str) -> None:
    DEFECTS[defect]()
    redis_store._POLL = 0
    store: Any = store_at(url)
    store.load()
    store._client = GatedClient.from_url(url)
    store._client.gate = gate
    while True:
        turn = gate.recv()
        gate.send(Step(outcome=TURNS[turn](store, name, FOREVER)))


class Holder:
    """A process that takes the lock, loads and saves, one command at a time."""

    def __init__(self, url: str, name: str, defect: str) -> None:
        context = multiprocessing.get_context("fork")
        self.name = name
        self._gate, gate = context.Pipe()
        self._process = context.Process(target=_hold, args=(url, name, gate, defect), daemon=True)
        self._process.start()
        gate.close()

    def begin(self, turn: str) -> None:
        self._gate.send(turn)
        self.token = b""
        self.waits = False
        self._receive()

    def proceed(self, *, answer_is_kept: bool) -> None:
        """Let it send its command, and see where it gets to."""
        sent = self.next.command
        if sent[0] == "SET":
            self.token = sent[2]
        self._gate.send(answer_is_kept)
        self._receive()
        self.waits = sent[:1] == self.next.command[:1] == ("SET",)

    def _receive(self) -> None:
        self.next: Step = self._gate.recv()

    def end(self) -> None:
        self._process.kill()  # it may be anywhere
        self._process.join()
        self._gate.close()


class World:
    """Some holders and a server; each run follows a schedule and judges what it sees."""

    def __init__(self, server: RedisServer, defect: str, holders: int) -> None:
        self._redis = server.client
        self._holders = [Holder(server.url, name, defect) for name in "ABC"[:holders]]
        self.run(CAREFUL, Bound(), min)  # now the server has the scripts: all runs are alike

    def end(self) -> None:
        for holder in self._holders:
            holder.end()
        self._redis.close()

    def run(self, turn: str, bound: Bound, choose: Callable[[list[str]], str]) -> None:
        self._redis.delete(KEY, LOCK)
        self._taken: list[str] = []
        self._saved: list[Holder] = []  # at index n, who replaced version n
        self._owner, self._record = self._look()
        for holder in self._holders:
            holder.begin(turn)
        while choices := self._choices(bound):
            choice = choose(choices)
            self._taken.append(choice)
            if choice == LEASE_ENDS:
                self._redis.pexpire(LOCK, 0)
            else:
                self._step(choice)
            self._owner, self._record = self._look()
        self._judge()

    def _look(self) -> tuple[bytes | None, tuple[int, str]]:
        """Return the token of the lock's owner, and the record's version and secret."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(LOCK)
            pipeline.hmget(KEY, "version", "document")
            owner, (version, document) = pipeline.execute()
        if document is None:
            return owner, (0, "")
        return owner, (int(version), json.loads(document)["credentials"]["clientSecret"])

    def _choices(self, bound: Bound) -> list[str]:
        """Return what can happen next; a schedule's next choice depends on this alone."""
        going = [holder for holder in self._holders if holder.next.command]
        # Who was refused the lock would be refused again until it is free.
        choices = [each.name for each in going if not (each.waits and self._owner)]
        lease_may_end = self._taken.count(LEASE_ENDS) < bound.leases or not choices
        if sum(choice.endswith(ANSWER_IS_LOST) for choice in self._taken) < bound.answers:
            choices += [name + ANSWER_IS_LOST for name in choices]
        if going and self._owner and lease_may_end:
            choices.append(LEASE_ENDS)
        return choices

    def _step(self, choice: str) -> None:
        holder = next(each for each in self._holders if choice.startswith(each.name))
        holder.proceed(answer_is_kept=choice == holder.name)
        _, after = self._look()
        if after != self._record:
            self._require(self._owner == holder.token, "who wrote did not hold the lock")
            expected = (len(self._saved) + 1, holder.name)
            self._require(after == expected, "what was written is not the next version")
            self._saved.append(holder)

    def _judge(self) -> None:
        for holder in self._holders:
            if holder.next.outcome != REFUSED:
                replaced = self._saved.index(holder) if holder in self._saved else None
                self._require(replaced == holder.next.outcome, "a save was not seen by the next")
            elif not self._cannot_know(holder):
                self._require(holder not in self._saved, "a save that was refused has written")

    def _cannot_know(self, holder: Holder) -> bool:
        """Tell whether its lease may have ended before it could ask again for a lost answer."""
        return LEASE_ENDS in self._taken and holder.name + ANSWER_IS_LOST in self._taken

    def _require(self, condition: bool, what: str) -> None:
        assert condition, f"{what}: {', '.join(self._taken)}"


def run_all(world: World, turn: str, bound: Bound) -> int:
    """Run all schedules, the next after one that can be changed at the end; return their number."""
    ahead: list[list[str]] = []  # what is left to try, for each choice of the schedule before
    count = 0
    while not count or ahead:
        step = 0

        def choose(choices: list[str]) -> str:
            nonlocal step
            if step == len(ahead):
                ahead.append(choices)
            choice = ahead[step][0]
            step += 1
            assert choice in choices, "a schedule went another way than before"
            return choice

        world.run(turn, bound, choose)
        count += 1
        while ahead and len(ahead[-1]) == 1:
            ahead.pop()
        if ahead:
            ahead[-1] = ahead[-1][1:]
    return count


MakeWorld = Callable[[str, int], World]


@pytest.fixture
def make_world(redis_server: RedisServer) -> Iterator[MakeWorld]:
    worlds: list[World] = []

    def make(defect: str, holders: int) -> World:
        worlds.append(World(redis_server, defect, holders))
        return worlds[-1]

    yield make
    for world in worlds:
        world.end()


@pytest.mark.parametrize(
    ("turn", "bound"),
    [
        (CAREFUL, Bound(leases=2)),
        (CAREFUL, Bound(answers=1)),
        (CAREFUL, Bound(leases=1, answers=1)),
        (CARELESS, Bound(leases=2)),
        (CARELESS, Bound(answers=1)),
    ],
    ids=str,
)
def test_two_holders_never_both_write(
    make_world: MakeWorld, turn: str, bound: Bound, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    count = run_all(make_world(NONE, 2), turn, bound)
    with capsys.disabled():
        print(f"\n{turn}, {bound}: {count} schedules, {time.monotonic() - began:.1f} s")
    assert count > 100


@pytest.mark.parametrize("turn", [CAREFUL, CARELESS])
def test_three_holders_never_write_two_at_a_time(make_world: MakeWorld, turn: str) -> None:
    world = make_world(NONE, 3)
    for seed in range(300):
        world.run(turn, Bound(leases=3, answers=1), random.Random(seed).choice)


@pytest.mark.parametrize(
    ("defect", "turn", "bound", "seen"),
    [
        (NO_TOKEN, CAREFUL, Bound(leases=1), "who wrote did not hold the lock"),
        (NO_VERSION, CARELESS, Bound(), "what was written is not the next version"),
        (TWO_COMMANDS, CAREFUL, Bound(leases=1), "who wrote did not hold the lock"),
        (ANSWER_LOST, CAREFUL, Bound(answers=1), "a save that was refused has written"),
    ],
)
def test_a_defect_that_is_sown_is_caught(
    make_world: MakeWorld, defect: str, turn: str, bound: Bound, seen: str
) -> None:
    world = make_world(defect, 2)
    with pytest.raises(AssertionError, match=seen):
        run_all(world, turn, bound)
