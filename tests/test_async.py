"""Coroutines that wait for a token: one request, no thread for each, and a loop that goes on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest
import trio
from support.canned import reply, token_reply
from support.clock import FakeClock
from support.services import MakeService, Preconfigured

from identity_client import (
    NotReadyError,
    ServiceClosedError,
    TokenEndpointError,
)
from identity_client._tokens.cache import RefreshAttempt
from identity_client.server import IdentityServer


def test_many_coroutines_on_a_cold_cache_cause_one_request(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: time.sleep(0.5)
    threads = threading.active_count()

    async def main() -> Any:
        tasks = []
        for _ in range(2000):
            tasks.append(asyncio.create_task(service.aget_access_token()))
            if len(tasks) % 100 == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["a-token"] * 2000
    assert len(endpoint.asked) == 1
    assert threading.active_count() <= threads + 2  # the worker, and the server's


def test_a_fresh_token_is_returned_without_waiting(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    token = service.get_access_token()
    assert asyncio.run(service.aget_access_token()) == token
    assert asyncio.run(service.aget_access_token(5)) == token


def test_a_failure_reaches_all_who_wait(preconfigured: Preconfigured) -> None:
    failure = reply({"error": "x"}, 503, Retry_After="60")
    service, endpoint = preconfigured(failure, max_retry_delay=60.0)

    async def main() -> Any:
        return await asyncio.gather(
            *(service.aget_access_token() for _ in range(20)), return_exceptions=True
        )

    assert all(isinstance(error, TokenEndpointError) for error in asyncio.run(main()))
    assert len(endpoint.asked) == 1


def test_the_time_is_kept_and_a_cancelled_coroutine_disturbs_no_other(
    preconfigured: Preconfigured,
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)

    async def main() -> Any:
        patient = asyncio.create_task(service.aget_access_token(10))
        cancelled = asyncio.create_task(service.aget_access_token(10))
        with pytest.raises(NotReadyError, match="an attempt is under way"):
            await service.aget_access_token(0.1)
        cancelled.cancel()
        release.set()
        return await patient

    assert asyncio.run(main()) == "a-token"


def test_a_task_that_is_cancelled_as_its_token_arrives_is_cancelled(
    preconfigured: Preconfigured,
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)

    async def main() -> None:
        task = asyncio.create_task(service.aget_access_token(10))
        while not service._waiters._loops:
            await asyncio.sleep(0.01)
        waiters: Any = service._waiters._loops[asyncio.get_running_loop()]
        resolve = waiters._resolve

        def resolve_and_cancel(*arguments: object) -> None:
            resolve(*arguments)
            task.cancel()

        waiters._resolve = resolve_and_cancel
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_loop_that_lives_on_in_a_child_is_woken_there(
    preconfigured: Preconfigured, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)
    pid = os.getpid()

    async def main() -> str:
        in_the_parent = asyncio.create_task(service.aget_access_token(10))
        while not service._waiters._loops:
            await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid + 1)
            in_the_child = asyncio.create_task(service.aget_access_token(10))
            await asyncio.sleep(0.1)
            release.set()
            token = await in_the_child
            in_the_parent.cancel()
            service.close()
        return token

    assert asyncio.run(asyncio.wait_for(main(), 5)) == "a-token"


def test_two_event_loops_one_after_the_other_and_one_that_is_gone(
    preconfigured: Preconfigured,
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)

    async def give_up() -> None:
        with pytest.raises(NotReadyError):
            await service.aget_access_token(0.05)

    asyncio.run(give_up())
    release.set()
    assert asyncio.run(service.aget_access_token(10)) == "a-token"


def test_closing_releases_coroutines(preconfigured: Preconfigured) -> None:
    release = threading.Event()
    service, endpoint = preconfigured(token_reply())
    endpoint.before_answer = lambda asked: release.wait(10)

    async def main() -> None:
        waiting = asyncio.create_task(service.aget_access_token(10))
        await asyncio.sleep(0.05)
        service.close()
        with pytest.raises(ServiceClosedError):
            await waiting

    asyncio.run(main())
    release.set()


def test_without_a_worker_the_coroutine_does_the_step(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)
    monkeypatch.setattr(service._worker, "ensure_running", lambda: False)
    assert asyncio.run(service.aget_access_token(10))


def test_coroutines_of_trio_share_one_request_and_block_nothing(
    preconfigured: Preconfigured,
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)
    threads = threading.active_count()
    tokens = []

    async def ask() -> None:
        tokens.append(await service.aget_access_token(10))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(ask)
            with pytest.raises(NotReadyError, match="an attempt is under way"):
                await service.aget_access_token(0.1)
            release.set()

    trio.run(main)
    assert tokens == ["a-token"] * 500
    assert len(endpoint.asked) == 1
    assert threading.active_count() <= threads + 2  # the worker, and the server's
    assert asyncio.run(service.aget_access_token(5)) == "a-token"


def test_a_trio_loop_that_is_gone_and_cancelled_tasks_disturb_no_other(
    preconfigured: Preconfigured,
) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)

    async def cancel() -> None:
        with trio.move_on_after(0.05):
            await service.aget_access_token(10)

    trio.run(cancel)
    release.set()
    assert trio.run(service.aget_access_token, 10) == "a-token"


def test_asyncio_tasks_wait_where_trio_is_their_guest(preconfigured: Preconfigured) -> None:
    release = threading.Event()
    service, endpoint = preconfigured()
    endpoint.before_answer = lambda asked: release.wait(10)

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            service.aget_access_token,
            10,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        waiting = asyncio.create_task(service.aget_access_token(10))
        await asyncio.sleep(0.05)
        release.set()
        return [await waiting, (await ended).unwrap()]

    assert asyncio.run(main()) == ["a-token"] * 2


def test_an_attempt_that_has_ended_is_not_waited_for(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured()
    ended = RefreshAttempt()
    trio.run(service._waiters.wait, ended, 10)
    asyncio.run(service._waiters.wait(ended, 10))


def test_a_token_with_its_expiry_is_returned_after_the_wall_clock_was_set(
    api: IdentityServer, make_service: MakeService
) -> None:
    clock = FakeClock()
    service = make_service(api, clock=clock)
    token = service.get_access_token()
    assert asyncio.run(service.aget_token()).value == token
    clock.advance(400, asleep=True)  # the lock-free path looks at the monotonic clock only
    assert asyncio.run(asyncio.wait_for(service.aget_token(), 20)).expires_in == 300
