"""Small worlds of callers and a worker, for a scheduler that tries their interleavings.

Each runs once per schedule. Threads, locks and clocks are the scheduler's: time stands still until
nobody can run, so whoever returns later than at 0 s has waited for a timeout, and not been woken.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Condition
from typing import Any

import interleave_test as it

from identity_client import (
    AccessToken,
    EventKind,
    IdentityBootstrapConfig,
    IdentityError,
    ServiceCredentials,
    TokenEndpointError,
)
from identity_client._tokens.cache import Failure, Invalidation, Snapshot, TokenCache, WorkerGone
from identity_client._tokens.sources import Step
from identity_client._tokens.worker import Worker
from identity_client.events import EventEmitter

CONFIG = IdentityBootstrapConfig(
    service_name="orders",
    client_id="orders",
    client_secret="secret",
    token_endpoint="http://127.0.0.1:9/token",
    base_retry_delay=100.0,
    max_retry_delay=100.0,
)
TIMEOUT = 10.0

Model = Callable[[], None]


class SchedulersClock:
    """The scheduler's clock; its functions are looked up at each call, as they are patched."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, condition: Condition, timeout: float) -> None:
        condition.wait(timeout)


class Source:
    """Gives numbered tokens, or fails, and sees to it that it is asked by one at a time."""

    def __init__(self, clock: SchedulersClock, *failures: BaseException) -> None:
        self.requests = 0
        self.step = Step.TOKEN
        self.has_known_credentials = True
        self.credentials: ServiceCredentials | None = CONFIG.preconfigured_credentials
        self._clock = clock
        self._failures = list(failures)
        self._busy = False

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        assert not self._busy, "two requests in flight"
        self._busy = True
        self.requests += 1
        number = self.requests
        requested_at, requested_at_wall = self._clock.monotonic(), self._clock.time()
        time.sleep(0)  # the network: others may run
        self._busy = False
        if self._failures:
            raise self._failures.pop(0)
        return AccessToken(
            value=f"token {number}",
            expires_in=300,
            requested_at=requested_at,
            requested_at_wall=requested_at_wall,
        )

    def follow_up(self) -> None:
        pass

    def register_again(self) -> None:
        pass

    def next_registration_in(self) -> float | None:
        return None

    def at_fork_reinit(self) -> None:
        pass

    def close(self) -> None:
        pass


class World:
    """A cache, a worker and what callers got."""

    current_cache: TokenCache | None = None
    worker_class = Worker

    def __init__(self, cache_class: type[TokenCache], *failures: BaseException) -> None:
        self.clock = SchedulersClock()
        World.current_cache = None  # what is made here is nobody else's yet
        self.cache = World.current_cache = cache_class(self.clock)
        self.source = Source(self.clock, *failures)
        self.events = EventEmitter("orders")
        self.worker = self.worker_class(CONFIG, self.clock, self.cache, self.source, self.events)
        self.got: list[str | Failure | None] = []

    def call(self) -> str | Failure | None:
        """What `get_access_token` does, the fast path included."""
        snapshot = self.cache.snapshot
        if self.clock.monotonic() < snapshot.serve_until:
            outcome: str | Failure | None = snapshot.value
        else:
            deadline = self.clock.monotonic() + TIMEOUT
            while True:
                exits = self.cache.worker_exits
                self.worker.ensure_running()
                try:
                    outcome = self.cache.get(deadline, worker_exits=exits)
                except WorkerGone:
                    continue
                break
        assert self.clock.monotonic() < TIMEOUT, "a waiter was not woken"
        self.got.append(outcome)
        return outcome

    def put(self, age: float, value: str = "old") -> None:
        """Begin with a token of some age; it lives 300 s."""
        self.cache.snapshot = Snapshot.of(
            AccessToken(
                value=value,
                expires_in=300,
                requested_at=self.clock.monotonic() - age,
                requested_at_wall=self.clock.time() - age,
            ),
            0.9,
        )

    def end(self) -> None:
        assert self.worker.stop(5), "the worker did not end"


def together(count: int, call: Callable[[], object], last: Callable[[], object]) -> None:
    """Run `count` threads: this one does `last`, the others `call`."""
    others = [it.spawn(call) for _ in range(count - 1)]
    last()
    for other in others:
        other.join()


def callers_share_one_request(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class)
        together(callers, world.call, world.call)
        world.end()
        assert world.got == ["token 1"] * callers
        assert world.source.requests == 1

    return model


def callers_share_one_failure(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class, TokenEndpointError("refused", status_code=500))
        together(callers, world.call, world.call)
        world.end()
        assert world.source.requests == 1
        errors = {outcome.error for outcome in world.got if isinstance(outcome, Failure)}
        assert len(world.got) == callers
        assert len(errors) == 1

    return model


def nobody_gets_an_expired_token(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class, TokenEndpointError("refused", status_code=500))
        world.put(age=291)
        together(callers, world.call, world.call)
        world.end()
        assert all(isinstance(outcome, Failure) for outcome in world.got), world.got
        assert world.source.requests == 1

    return model


def nobody_waits_while_a_due_token_is_replaced(
    cache_class: type[TokenCache], callers: int = 3
) -> Model:
    def model() -> None:
        world = World(cache_class)
        world.put(age=275)
        together(callers, world.call, world.call)
        world.end()
        assert set(world.got) <= {"old", "token 1"}
        assert world.source.requests <= 1

    return model


def what_was_rejected_does_not_come_back(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class)
        world.put(age=275)

        def reject() -> None:
            asked_before = world.source.requests
            if world.cache.invalidate("old")[0] is Invalidation.REPLACING:
                token = world.call()
                assert isinstance(token, str)
                assert int(token.split()[1]) > asked_before, "asked for before the invalidation"

        together(callers, world.call, reject)
        world.end()
        assert world.source.requests <= 2

    return model


def closing_releases_everybody(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class)
        closed = IdentityError("closed")

        def close() -> None:
            world.cache.close(closed)
            world.end()

        together(callers, world.call, close)
        outcome = world.call()
        world.end()
        assert isinstance(outcome, Failure)
        assert outcome.error is closed
        assert world.source.requests <= 1

    return model


def callers_without_a_worker_do_one_step(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class)

        def call() -> None:
            world.worker.refresh_inline(math.inf)
            world.got.append(world.cache.get(world.clock.monotonic() + TIMEOUT, has_worker=False))
            assert world.clock.monotonic() < TIMEOUT, "a waiter was not woken"

        together(callers, call, call)
        assert world.got == ["token 1"] * callers
        assert world.source.requests == 1

    return model


def a_rejected_token_comes_back_when_no_other_can_be_had(
    cache_class: type[TokenCache], callers: int = 3
) -> Model:
    def model() -> None:
        world = World(cache_class, TokenEndpointError("refused", status_code=500))
        world.put(age=100)

        def reject() -> None:
            world.cache.invalidate("old")
            world.call()

        together(callers, reject, reject)
        world.end()
        assert world.got == ["old"] * callers
        assert world.source.requests == 1

    return model


def rejections_that_follow_each_other_cause_one_refresh(
    cache_class: type[TokenCache], callers: int = 3
) -> Model:
    def model() -> None:
        world = World(cache_class)
        world.put(age=100)

        def reject() -> None:
            for _ in range(2):
                token = world.call()
                assert isinstance(token, str)
                world.cache.invalidate(token)
            world.call()

        together(callers, reject, reject)
        world.end()
        assert world.source.requests == 1

    return model


def a_worker_that_ends_leaves_no_waiter_behind(
    cache_class: type[TokenCache], callers: int = 3
) -> Model:
    def model() -> None:
        world = World(cache_class)

        together(callers, world.call, world.worker.stop)
        world.end()
        assert all(isinstance(outcome, str) for outcome in world.got), world.got

    return model


def a_worker_that_dies_in_an_attempt_ends_it(
    cache_class: type[TokenCache], callers: int = 3
) -> Model:
    def model() -> None:
        world = World(cache_class, SystemExit())
        run: Callable[[object], None] = world.worker._run

        def run_to_the_end(run_id: object) -> None:
            with suppress(SystemExit):  # which ends a thread silently, but not the scheduler's
                run(run_id)

        world.worker._run = run_to_the_end  # type: ignore[method-assign]  # what the thread does
        together(callers, world.call, world.call)
        world.end()
        assert all(isinstance(outcome, Failure) for outcome in world.got), world.got
        assert world.source.requests == 1

    return model


def a_listener_delays_no_caller(cache_class: type[TokenCache], callers: int = 3) -> Model:
    def model() -> None:
        world = World(cache_class)
        obtain = world.source.obtain

        def obtain_and_emit(deadline: float = math.inf) -> AccessToken:
            token = obtain(deadline)
            world.events.emit(EventKind.TOKEN_ISSUED, "a token was issued")
            return token

        world.source.obtain = obtain_and_emit  # type: ignore[method-assign]  # as real ones emit
        world.events.listen(lambda event: threading.Event().wait(TIMEOUT))
        together(callers, world.call, world.call)
        world.worker.stop()
        assert world.got == ["token 1"] * callers

    return model


MODELS: list[Any] = [
    a_worker_that_dies_in_an_attempt_ends_it,
    a_listener_delays_no_caller,
    a_rejected_token_comes_back_when_no_other_can_be_had,
    rejections_that_follow_each_other_cause_one_refresh,
    a_worker_that_ends_leaves_no_waiter_behind,
    callers_share_one_request,
    callers_share_one_failure,
    nobody_gets_an_expired_token,
    nobody_waits_while_a_due_token_is_replaced,
    what_was_rejected_does_not_come_back,
    closing_releases_everybody,
    callers_without_a_worker_do_one_step,
]


class Exhaustive(it.DFSStrategy):  # type: ignore[misc]  # untyped on the oldest Python
    """Tries all schedules within a bound of pre-emptions, but for those that cannot differ.

    - Spawned callers do the same, so of those that have not run yet only the first is tried.
    - A thread that holds the monitor's lock is not pre-empted: the others can do nothing then but
      run up to that lock, or read the snapshot, one reference that is written in one step and
      means «take the lock» in all states that it has only while the lock is held. Code that
      touched shared state without the lock would not be spared.
    """

    def __init__(self, max_preemptions: int, callers: int) -> None:
        super().__init__(max_preemptions)
        self._alike = range(1, callers)  # the scheduler's numbers of the spawned callers
        self._locked: list[bool] = []

    def begin(self, iteration: int, seed: int) -> None:
        super().begin(iteration, seed)
        self._locked = []

    def pick(self, runnable: Any, current: Any, index: int) -> Any:
        cache = World.current_cache
        owner = cache._work._lock._owner if cache is not None else None  # type: ignore[attr-defined]  # the scheduler's lock
        self._locked.append(current is not None and owner is current)
        return super().pick(runnable, current, index)

    def end(self) -> None:
        known = len(self._frontier)
        super().end()
        self._frontier[known:] = [
            (prefix, preemptions)
            for prefix, preemptions in self._frontier[known:]
            if not (self._locked[len(prefix) - 1] or self._is_a_twin(prefix))
        ]
        self.exhausted = not self._frontier

    def _is_a_twin(self, prefix: list[int]) -> bool:
        *before, chosen = prefix
        return chosen in self._alike and any(
            chosen not in before and twin not in before for twin in self._alike if twin < chosen
        )
