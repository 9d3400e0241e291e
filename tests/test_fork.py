"""A service that was made before a fork works in the child."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.processes import run
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured

from identity_client import IdentityApiClient, ServiceState, _fork
from identity_client.server import IdentityServer

# What every child does: get a token in 5 s, from a worker and a session of its own.
CHILD = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
def child(service, seconds=5, fork=os.fork):
    pid = fork()
    if pid:
        return pid
    status = 1
    try:
        began = time.monotonic()
        service.get_access_token(seconds)
        status = 0 if time.monotonic() - began < seconds else 2
    except BaseException as error:
        print(repr(error), flush=True)
    finally:
        os._exit(status)
def reap(pid, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"
"""


@pytest.mark.parametrize(
    ("prepare", "requests_per_child"),
    [
        pytest.param("service = make(url)", 1, id="a service that was never started"),
        pytest.param(
            "service = make(url); service.get_access_token()", 0, id="a service with a token"
        ),
        pytest.param(
            "service = make(url); service.invalidate_token(service.get_access_token())",
            1,
            id="a service whose token was rejected",
        ),
    ],
)
def test_a_child_gets_a_token(prepare: str, requests_per_child: int, api: IdentityServer) -> None:
    done = run(f"{CHILD}\n{prepare}\nprint([reap(child(service)) for _ in range(5)])", api.url)
    assert (done.status, done.out.strip()) == (0, "[0, 0, 0, 0, 0]")
    assert "Traceback" not in done.err
    assert api.backend.requests["token"] <= 2 + 5 * requests_per_child


@pytest.mark.parametrize(
    "told",
    [
        pytest.param("", id="and the hook tells of them"),
        pytest.param("_fork._parts.clear()", id="and no hook tells of them"),
    ],
)
def test_200_forks_in_a_row_while_the_lock_is_held(told: str, api: IdentityServer) -> None:
    done = run(
        CHILD
        + "from identity_client import _fork\nservice = make(url)\n"
        + told
        + """
service.get_access_token()
stopped = False
def busy():
    while not stopped:
        with service._cache._lock:
            time.sleep(0)
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
held = 0
outcomes = []
for index in range(200):
    if index % 2:
        service.invalidate_token(service.get_access_token(), f"host-{index}", was_accepted=True)
    if service._cache._lock.acquire(False):
        service._cache._lock.release()
    else:
        held += 1
    outcomes.append(reap(child(service)))
stopped = True
for thread in threads:
    thread.join()
print(set(outcomes), held > 20)
""",
        api.url,
        timeout=110,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "{0} True", "")


def test_forks_that_python_does_not_know_of(api: IdentityServer) -> None:
    # As uWSGI forks: not with os.fork(), but from a process in which no other thread is left.
    done = run(
        CHILD
        + """
import ctypes, types
master = os.getpid()
sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=1, masterpid=lambda: master)
fork = ctypes.PyDLL(None).fork
service = make(url)
token = service.get_access_token()
outcomes = [reap(child(service, fork=fork)) for _ in range(5)]
service.invalidate_token(token)
outcomes += [reap(child(service, fork=fork)) for _ in range(5)]
print(outcomes)
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, str([0] * 10), "")


def test_forks_while_a_refresh_is_in_flight(api: IdentityServer) -> None:
    api.backend.change(token_latency=0.5)
    done = run(
        CHILD
        + """
service = make(url)
service.get_access_token()
while not service._cache.in_flight:
    if token := service.peek_token():
        service.invalidate_token(token.value, was_accepted=True)
    time.sleep(0.001)
outcomes = [reap(pid) for pid in [child(service) for _ in range(10)]]
print(outcomes, service._cache.in_flight or service.wait_for_ready(5))
""",
        api.url,
    )
    assert done.out.strip() == "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0] True"
    assert (done.status, done.err) == (0, "")


def test_a_child_refreshes_by_itself_once_it_was_asked(api: IdentityServer) -> None:
    api.backend.change(token_lifetime=20.0)
    done = run(
        CHILD
        + """
service = make(url, refresh_ratio=0.2)
first = service.get_access_token()
pid = os.fork()
if not pid:
    same = service.get_access_token() == first
    workers = sum(thread.name == "identity-client orders" for thread in threading.enumerate())
    deadline = time.monotonic() + 15
    while service.get_access_token() == first and time.monotonic() < deadline:
        time.sleep(0.01)
    os._exit(0 if same and workers == 1 and time.monotonic() < deadline else 1)
print(reap(pid, 30))
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "0", "")


def test_a_child_of_a_child_works(api: IdentityServer) -> None:
    done = run(
        CHILD
        + """
service = make(url)
service.get_access_token()
pid = os.fork()
if not pid:
    service.get_access_token()
    os._exit(reap(child(service)))
print(reap(pid))
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "0", "")


def test_forks_after_a_service_is_gone_are_quiet(api: IdentityServer) -> None:
    done = run(
        CHILD
        + """
import gc
other = make(url, service_name="other")
service = make(url)
service.get_access_token()
del service
gc.collect()
print(reap(child(other)))
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "0", "")


def test_a_closed_service_is_closed_in_the_child(api: IdentityServer) -> None:
    done = run(
        CHILD
        + """
service = make(url)
service.get_access_token()
service.close()
pid = os.fork()
if not pid:
    try:
        service.get_access_token()
    except ServiceClosedError:
        os._exit(0)
    os._exit(1)
print(reap(pid))
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "0", "")


def test_a_client_uses_a_session_of_its_own_in_the_child(api: IdentityServer) -> None:
    done = run(
        CHILD
        + """
client = IdentityApiClient(url, "internal-token-of-the-tests")
client.ensure_system_org(name="system", display_name="System")
session = client._transport._adapter
pid = os.fork()
if not pid:
    name = client.get_system_org("system").name
    os._exit(0 if name == "system" and client._transport._adapter is not session else 1)
print(reap(pid), client.get_system_org("system").name, client._transport._adapter is session)
""",
        api.url,
    )
    assert (done.status, done.out.strip(), done.err) == (0, "0 system True", "")


def test_what_happens_in_a_child_after_a_fork(
    api: IdentityServer, make_service: MakeService
) -> None:
    # The hooks themselves, in this process, where their coverage can be seen.
    service = make_service(api)
    token = service.get_access_token()
    thread, left_behind = service._worker._thread, service._cache._work
    _fork._after_fork_in_child()
    assert service.get_access_token() == token
    assert service._worker._thread is not thread
    assert service.status().state is ServiceState.READY
    assert api.backend.requests["token"] == 1
    assert thread is not None
    with left_behind:
        left_behind.notify_all()
    thread.join(5)
    assert not thread.is_alive()


def test_a_greenlet_rests_while_its_process_forks(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork, "_BEFORE_FORK_TIMEOUT", 10.0)
    service = make_service(api)
    token = service.get_access_token()
    thread: Any = service._worker._thread
    _fork._before_fork()
    assert thread.is_alive()
    thread._native_id = threading.get_native_id()  # as gevent's are, all in one thread
    _fork._before_fork()
    assert not thread.is_alive()
    _fork._after_fork_in_parent()
    assert service._worker._thread is not thread
    service.invalidate_token(token)
    assert service.get_access_token() != token


class Greenlet:
    """What gevent's have, for a worker that is a thread of its own."""

    def __init__(self) -> None:
        self.killed = 0

    def kill(self, *, block: bool) -> None:
        assert not block, "the hub does not run during a fork"
        self.killed += 1


class GreenletExit(BaseException):
    """What is raised in a greenlet that is killed."""


@pytest.fixture
def greenlet(monkeypatch: pytest.MonkeyPatch) -> Greenlet:
    """The worker's greenlet; all other code runs in the main one, which has no `kill`."""
    greenlet, main = Greenlet(), object()

    def current() -> object:
        is_worker = threading.current_thread().name.startswith("identity-client")
        return greenlet if is_worker else main

    monkeypatch.setitem(sys.modules, "gevent", cast(Any, SimpleNamespace(getcurrent=current)))
    module = cast(Any, SimpleNamespace(GreenletExit=GreenletExit))
    monkeypatch.setitem(sys.modules, "greenlet", module)
    return greenlet


def test_the_copy_of_a_greenlet_is_killed_in_the_child_and_leaves_all_alone(
    api: IdentityServer,
    make_service: MakeService,
    greenlet: Greenlet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make_service(api)
    token = service.get_access_token()
    copy: Any = service._worker._thread
    has_begun, is_killed = threading.Event(), threading.Event()

    def obtain(_: float) -> None:
        has_begun.set()
        assert is_killed.wait(5)
        raise GreenletExit

    with monkeypatch.context() as patch:
        patch.setattr(service._worker._source, "obtain", obtain)
        service.invalidate_token(token)
        assert has_begun.wait(5)
    exits, pid = service._cache.worker_exits, os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        _fork._after_fork_in_child()
        assert greenlet.killed == 1
        assert service.get_access_token() != token  # from the child's own worker
        is_killed.set()
        copy.join(5)
        assert not copy.is_alive()
        assert service._cache.worker_exits == exits
        assert service._worker._is_running()
        service.close()
    assert "bug" not in caplog.text
    assert api.backend.requests["token"] == 2


def test_the_copy_of_a_greenlet_that_ends_before_the_child_needs_a_worker_closes_nothing(
    api: IdentityServer,
    make_service: MakeService,
    greenlet: Greenlet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make_service(api)
    token = service.get_access_token()
    copy: Any = service._worker._thread
    has_begun, is_killed = threading.Event(), threading.Event()
    closed: list[bool] = []

    def obtain(_: float) -> None:
        has_begun.set()
        assert is_killed.wait(5)
        raise GreenletExit

    exits, pid = service._cache.worker_exits, os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(service._worker._source, "obtain", obtain)
        patch.setattr(service._worker._source, "close", lambda: closed.append(True))
        service.invalidate_token(token)
        assert has_begun.wait(5)
        patch.setattr(os, "getpid", lambda: pid + 1)
        _fork._after_fork_in_child()
        assert greenlet.killed == 1
        is_killed.set()
        copy.join(5)
        assert not copy.is_alive()
    assert closed == []
    assert service._cache.worker_exits == exits


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("greenlet")
def test_a_greenlet_that_is_killed_by_the_application_is_replaced(
    api: IdentityServer,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make_service(api)
    obtain, kills = service._worker._source.obtain, [GreenletExit]

    def obtain_unless_killed(deadline: float) -> Any:
        if kills:
            raise kills.pop()
        return obtain(deadline)

    monkeypatch.setattr(service._worker._source, "obtain", obtain_unless_killed)
    assert service.get_access_token()
    assert "bug" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("greenlet")
@pytest.mark.parametrize("where", ["listener", "log handler"])
def test_a_greenlet_that_is_killed_in_foreign_code_ends_there(
    where: str, api: IdentityServer, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(api)
    kills = [GreenletExit]

    def be_killed(_: object) -> bool:
        is_worker = threading.current_thread().name.startswith("identity-client")
        if is_worker and kills:
            raise kills.pop()
        return True

    if where == "listener":
        service.on_event(be_killed)
    else:
        caplog.handler.addFilter(be_killed)
    with caplog.at_level("DEBUG", "identity_client"):
        token = service.get_access_token()
        while service._cache.worker_exits == 0:
            time.sleep(0.01)
    caplog.handler.removeFilter(be_killed)
    assert "event listener raised" not in caplog.text
    service.invalidate_token(token)
    assert service.get_access_token() != token


@pytest.mark.usefixtures("greenlet")
def test_a_caller_that_is_killed_in_a_request_of_its_own_leaves_the_next_one_free(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)

    def be_killed(_: float) -> None:
        raise GreenletExit

    with monkeypatch.context() as patch:
        patch.setattr(service._source, "obtain", be_killed)
        with pytest.raises(GreenletExit):
            service._worker.refresh_inline(math.inf)
    assert service.get_access_token()


def test_all_greenlets_rest_within_one_time_before_a_fork(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork, "_BEFORE_FORK_TIMEOUT", 1.0)
    services = [make_service(api, service_name=f"orders-{number}") for number in range(6)]
    for service in services:
        service.get_access_token()
        thread: Any = service._worker._thread
        thread._native_id = threading.get_native_id()  # as gevent's are, all in one thread
        monkeypatch.setattr(thread, "join", time.sleep)  # they do not end
        monkeypatch.setattr(thread, "is_alive", lambda: True)
    began = time.monotonic()
    _fork._before_fork()
    assert time.monotonic() - began < 4  # and not 1 s for each
    _fork._after_fork_in_parent()


def test_forks_in_a_row_during_one_slow_request_cause_no_second(
    preconfigured: Preconfigured, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, endpoint = preconfigured()
    is_asked, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        is_asked.set()
        go_on.wait(30)

    endpoint.before_answer = hold
    monkeypatch.setattr(_fork, "_BEFORE_FORK_TIMEOUT", 0.05)
    service.start(validate=False)
    assert is_asked.wait(10)
    for _ in range(3):
        thread: Any = service._worker._thread
        thread._native_id = threading.get_native_id()  # as gevent's are, all in one thread
        _fork._before_fork()
        _fork._after_fork_in_parent()
        time.sleep(0.1)  # in which a second request would be sent
    go_on.set()
    assert service.get_access_token(20)
    assert len(endpoint.asked) == 1


def test_a_service_starts_while_another_thread_imports_gevent(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gevent", cast(Any, SimpleNamespace()))
    assert make_service(api).get_access_token()


def test_a_signal_handler_may_use_a_service_while_its_child_begins_anew() -> None:
    begun: list[object] = []

    def reinit() -> None:
        begun.append(1)
        if len(begun) == 1:
            guard.check()  # as what the handler calls does

    guard = _fork.ForkGuard(reinit)
    guard.expect_fork()
    thread = threading.Thread(target=guard.check, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.usefixtures("greenlet")
def test_the_worker_comes_back_in_a_greenlet_that_runs_after_the_fork(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)
    token = service.get_access_token()
    thread: Any = service._worker._thread
    thread._native_id = threading.get_native_id()  # as gevent's are, all in one thread
    spawned: list[Any] = []
    monkeypatch.setattr(sys.modules["gevent"], "spawn", spawned.append, raising=False)
    _fork._before_fork()
    _fork._after_fork_in_parent()
    assert not service._worker._is_running()
    for call in spawned:
        call()
    assert service._worker._is_running()
    assert service.get_access_token() == token


class Part:
    """The least that the hooks of a fork know of."""

    def before_fork(self, timeout: float) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...

    def stop(self, timeout: float = 0.0) -> bool:
        return True

    def at_exit(self, *, stopped: bool) -> None: ...


def test_a_call_for_children_is_made_in_each_of_them_and_nowhere_else() -> None:
    made: list[int] = []
    _fork.in_child(lambda: made.append(os.getpid()))
    child = os.fork()
    if child == 0:
        os._exit(made != [os.getpid()])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert made == []


def test_the_hooks_of_a_fork_run_while_other_threads_make_and_drop_services() -> None:
    kept = [Part() for _ in range(200)]  # so that each look at all of them takes a while
    for part in kept:
        _fork.register(part)
    ended = threading.Event()

    def make_and_drop() -> None:
        while not ended.is_set():
            _fork.register(Part())

    threads = [threading.Thread(target=make_and_drop) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            _fork._before_fork()
            _fork._after_fork_in_parent()
            _fork._after_fork_in_child()
    finally:
        ended.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


def test_threads_that_find_out_about_a_fork_together_begin_anew_once(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    service.get_access_token()
    entrance = Entrance()
    guard = service._worker._fork_guard
    guard._reinit_locks[os.getpid()] = entrance  # type: ignore[assignment]  # it is used as one
    _fork._after_fork_in_child()
    late = threading.Thread(target=service.get_access_token)
    with entrance.lock:
        late.start()
        assert entrance.somebody_came.wait(5)
        guard._pid = os.getpid()  # as who came first leaves it
        condition = service._cache._work
    late.join(5)
    assert service._cache._work is condition


class Entrance:
    """A lock that tells when somebody is about to take it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.somebody_came = threading.Event()

    def __enter__(self) -> None:
        self.somebody_came.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_session_is_replaced_in_another_process(
    api: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.ensure_system_org(name="system", display_name="System")
        session = client._transport._adapter
        assert session is not None
        session.pid += 1
        client.get_system_org("system")
        assert client._transport._adapter is not session
        session.close()


def test_a_child_does_not_take_its_threads_for_the_workers_of_its_parent(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    # As where the system gives a thread of the child the identifier of the parent's worker.
    service._worker._running[threading.get_ident()] = None
    _fork._after_fork_in_child()
    assert service.get_access_token()
