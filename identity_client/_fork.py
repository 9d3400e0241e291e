"""What happens when a process forks, and when it ends: the only module that knows of either.

A forked child has one thread, the one that forked. Locks that other threads held stay locked there
for ever, connections are shared with the parent, and the worker thread is missing. Everything that
is bound to a process therefore compares process ids before it takes a lock, because

- uWSGI forks in C and runs none of Python's hooks (unless told to), and
- a hook would make new locks at once, before gevent patches `threading` in the workers that
  gunicorn forks; made at the first use, they are the patched ones.

The hooks only send the next caller past the lock-free fast path, and look after greenlets.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

_log = logging.getLogger("identity_client")

_BEFORE_FORK_TIMEOUT = 1.0
_EXIT_TIMEOUT = 0.2


class ProcessBound(Protocol):
    """A part that has to know when its process forks or ends."""

    def before_fork(self, timeout: float) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...

    def stop(self, timeout: float = 0.0) -> bool: ...

    def at_exit(self, *, stopped: bool) -> None: ...


class ForkGuard:
    """Runs ``reinit`` once in each forked child, before anything there takes a lock."""

    def __init__(self, reinit: Callable[[], None]) -> None:
        self._reinit = reinit
        self._pid = os.getpid()
        self._reinit_locks: dict[int, threading.RLock] = {}

    def check(self) -> None:
        """Look for a fork; called by every thread that is about to take a lock."""
        pid = os.getpid()
        if self._pid == pid:
            return
        # A lock of this process, made by whichever thread comes first: setdefault is atomic. It is
        # reentrant, as a signal handler may use the service while its thread is in here.
        with self._reinit_locks.setdefault(pid, threading.RLock()):
            if self._pid != pid:
                self._reinit()
                self._pid = pid

    def expect_fork(self) -> None:
        """Make the next `check` reinitialise, whatever the process id is."""
        self._pid = 0


class ForkSafeLock:
    """A lock that is free in a forked child, whichever thread of the parent held it.

    It is reentrant: the collector may run a finalizer that closes a service in any thread, so also
    in one that holds the lock.
    """

    def __init__(self) -> None:
        self._reinit()
        self._guard = ForkGuard(self._reinit)

    def _reinit(self) -> None:
        self._lock = threading.RLock()

    def of_this_process(self) -> threading.RLock:
        """Return what to hold, by ``with``: a C-level lock, which is entered in one step.

        An exception of a signal handler comes before it or after it, and never leaves it held.
        """
        self._guard.check()
        return self._lock


# By identity; a plain dictionary, because a weak set cannot be copied while a thread adds to it.
_parts: dict[int, weakref.ref[Any]] = {}
_exiting = False


def register(part: ProcessBound) -> None:
    """Tell ``part`` of forks and of the end of the process, as long as it exists."""
    key = id(part)
    _parts[key] = weakref.ref(part, lambda _: _parts.pop(key, None) and None)


def in_child(call: Callable[[], None]) -> None:
    """Call ``call`` in each forked child, where Python's hooks run."""
    getattr(os, "register_at_fork", _no_hooks)(after_in_child=call)


def current_greenlet() -> Any:
    """Return the greenlet of gevent that this code runs in, or None in a thread of its own."""
    gevent = sys.modules.get("gevent")
    # An import in another thread may have got half way.
    getcurrent = getattr(gevent, "getcurrent", None)
    current = None if getcurrent is None else getcurrent()
    return current if hasattr(current, "kill") else None


def call_in_greenlet(call: Callable[[], object]) -> None:
    """Call in a new greenlet of gevent, which does not run yet; at once where there is no gevent.

    What a hook of a fork calls must not let others run: gevent watches the child only after the
    hooks, and would never hear of the end of one that has ended by then.
    """
    spawn = getattr(sys.modules.get("gevent"), "spawn", None)
    if spawn is None:
        call()
    else:
        spawn(call)


def is_killed_greenlet(error: BaseException) -> bool:
    """Whether ``error`` is what gevent raises in a greenlet to end it."""
    greenlet = sys.modules.get("greenlet")
    return isinstance(error, getattr(greenlet, "GreenletExit", ()))


def is_exiting() -> bool:
    """Whether workers have been stopped for good, so that callers must do without one."""
    return _exiting


def _living() -> list[Any]:
    return [part for ref in tuple(_parts.values()) if (part := ref()) is not None]


def _before_fork() -> None:
    """Have greenlets rest: all are told first, and share one deadline."""
    parts = _living()
    for part in parts:
        part.before_fork(0.0)
    deadline = time.monotonic() + _BEFORE_FORK_TIMEOUT
    for part in parts:
        part.before_fork(max(deadline - time.monotonic(), 0.0))


def _after_fork_in_parent() -> None:
    for part in _living():
        part.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for part in _living():
        part.after_fork_in_child()


def _stop_all_at_exit() -> None:
    """Stop the workers while they can still end: all are told first, and share one deadline.

    A daemon thread is frozen wherever it is when the interpreter ends. One that is in the middle
    of a request is left behind silently: it must not log into handlers that are closed by then.
    """
    global _exiting  # noqa: PLW0603  # a state of the process
    _exiting = True
    parts = _living()
    for part in parts:
        part.stop()
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for part in parts:
        part.at_exit(stopped=part.stop(max(deadline - time.monotonic(), 0.001)))


def _no_hooks(**_: object) -> None:
    """Stand in for ``os.register_at_fork`` where processes do not fork, as on Windows."""


getattr(os, "register_at_fork", _no_hooks)(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
atexit.register(_stop_all_at_exit)


def is_uwsgi_master() -> bool:
    """Whether this is uWSGI's master process, in which no thread may be left running.

    uWSGI forks its workers at any time. One that is forked while a thread of the master holds the
    interpreter's lock waits for that lock for ever.
    """
    uwsgi = sys.modules.get("uwsgi")  # there is no such module elsewhere
    return uwsgi is not None and uwsgi.masterpid() == os.getpid()


@cache
def warn_without_threads() -> None:
    """Warn, once in a process, when uWSGI lets threads run during requests only."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and not uwsgi.has_threads:
        _log.warning(
            "uWSGI runs without threads, so tokens cannot be refreshed in the background and "
            "requests block while one is fetched; set 'enable-threads = true' in uWSGI's "
            "configuration"
        )
