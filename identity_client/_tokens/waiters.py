"""Coroutines that wait for a token: a future for each, resolved by the monitor, and no thread.

The monitor calls one function for each event loop, not one for each coroutine, and the loop
resolves the futures in batches: ten thousand tasks that were all made ready at once would keep
everything else on that loop waiting. trio needs no batches: ten thousand tasks delay it by 30 ms.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

from .cache import RefreshAttempt, TokenCache

_BATCH = 100
_LONGEST_WAIT = 86400.0  # event loops refuse an infinite one


class LoopWaiters:
    """The futures of one event loop that wait for the next outcome of one cache."""

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache
        self.pid: int = os.getpid()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_registered = False

    async def wait(self, attempt: RefreshAttempt, timeout: float) -> None:
        """Wait for an attempt's end, ``timeout`` seconds at most; runs in the loop's thread."""
        loop = asyncio.get_running_loop()
        if not self._is_registered:
            if not self._cache.call_at_outcome(attempt, lambda: self._wake(loop)):
                return
            self._is_registered = True
        future = loop.create_future()
        self._waiting.append(future)
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(min(timeout, _LONGEST_WAIT)):
                await future

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop was closed, and its coroutines with it
            loop.call_soon_threadsafe(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_registered = False
        ready, self._waiting = self._waiting, deque()
        self._resolve(loop, ready)

    def _resolve(self, loop: asyncio.AbstractEventLoop, ready: deque[asyncio.Future[None]]) -> None:
        for _ in range(min(_BATCH, len(ready))):
            future = ready.popleft()
            if not future.done():
                future.set_result(None)
        if ready:
            loop.call_soon(self._resolve, loop, ready)


class AsyncWaiters:
    """The coroutines that wait for tokens of one service, under asyncio or trio."""

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWaiters] = (
            weakref.WeakKeyDictionary()
        )

    async def wait(self, attempt: RefreshAttempt, timeout: float) -> None:
        """Wait in the running loop for an attempt's end, ``timeout`` seconds at most."""
        trio = _trio_of_current_task()
        if trio is not None:
            await _wait_in_trio(trio, self._cache, attempt, timeout)
            return
        loop = asyncio.get_running_loop()
        waiters = self._loops.get(loop)
        if waiters is None or waiters.pid != os.getpid():  # a loop may live on in a child
            self._loops[loop] = waiters = LoopWaiters(self._cache)
        await waiters.wait(attempt, timeout)


def _trio_of_current_task() -> Any:
    """Return the module trio if it runs the current task; asyncio may run trio as its guest."""
    trio: Any = sys.modules.get("trio")
    with suppress(AttributeError, RuntimeError):  # not imported, or only in part; not its task
        trio.lowlevel.current_task()
        return trio
    return None


async def _wait_in_trio(
    trio: Any, cache: TokenCache, attempt: RefreshAttempt, timeout: float
) -> None:
    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(event.set)

    if cache.call_at_outcome(attempt, wake):
        with trio.move_on_after(min(timeout, _LONGEST_WAIT)):
            await event.wait()
