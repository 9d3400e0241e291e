"""The interpreter exits cleanly, without a traceback and without delay, in every state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support import hostile
from support.processes import Ended, run
from support.services import MakeService

from identity_client import NotReadyError, _fork
from identity_client.server import IdentityServer


def _clean(done: Ended, out: str = "") -> None:
    lines = [line for line in done.err.splitlines() if not line.startswith("orders: ")]
    assert (done.status, done.out.strip(), lines) == (0, out, [])
    assert done.seconds < 5  # a request that is waited for takes 10 s


@pytest.fixture(params=["up", "down", "silent"])
def url(request: pytest.FixtureRequest, api: IdentityServer) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "up":
            yield api.url
        elif request.param == "down":
            yield f"http://127.0.0.1:{stack.enter_context(hostile.closed_port())}"
        else:
            silent = stack.enter_context(hostile.HostileServer(hostile.says_nothing))
            yield f"http://127.0.0.1:{silent.port}"


@pytest.mark.parametrize(
    "state",
    [
        pytest.param("", id="made"),
        pytest.param("service.start()", id="started"),
        pytest.param("service.wait_for_ready(0.3)", id="waited for"),
        pytest.param("service.wait_for_ready(0.3); service.close()", id="closed"),
        pytest.param("service.start(); del service", id="dropped"),
        pytest.param(
            "service = make(url, max_registration_attempts=1); service.wait_for_ready(0.3)",
            id="failed",
        ),
        pytest.param(
            "threading.Thread(target=service.wait_for_ready, args=(0.3,)).start()",
            id="a thread waits",
        ),
        pytest.param(
            "threading.Thread(target=service.wait_for_ready, daemon=True).start()",
            id="a daemon thread waits",
        ),
    ],
)
def test_exit_is_clean_when_nobody_closes(state: str, url: str) -> None:
    _clean(run(f"service = make(url, base_retry_delay=0.2)\n{state}", url))


def test_exit_is_clean_with_a_refresh_under_way(api: IdentityServer) -> None:
    done = run(
        """
        import urllib.request
        service = make(url)
        token = service.get_access_token()
        request = urllib.request.Request(
            url + "/dev/settings", b'{"tokenLatency": 60}', method="PATCH",
            headers={"Authorization": "Bearer internal-token-of-the-tests",
                     "Content-Type": "application/json"})
        urllib.request.urlopen(request).close()
        service.invalidate_token(token)
        while not service._cache.in_flight:
            time.sleep(0.001)
        """,
        api.url,
    )
    _clean(done)


def test_the_workers_of_40_services_share_one_deadline_at_exit() -> None:
    with hostile.HostileServer(hostile.says_nothing) as silent:
        done = run(
            """
            def after_all():
                print(time.monotonic() - began < 4)  # 0.2 s each would be 8 s
            services = [make(url) for _ in range(40)]
            for service in services:
                service.start()
            while not all(service._cache.in_flight for service in services):
                time.sleep(0.01)
            began = time.monotonic()
            """,
            f"http://127.0.0.1:{silent.port}",
        )
    assert (done.status, done.out.strip(), done.err) == (0, "True", "")


@pytest.mark.parametrize(
    "registered",
    [
        pytest.param("before", id="a handler that runs after ours"),
        pytest.param("after", id="a handler that runs before ours"),
    ],
)
@pytest.mark.parametrize("had", ["a token", "none"])
def test_an_atexit_handler_gets_a_token(registered: str, had: str, api: IdentityServer) -> None:
    define = "def after_all():" if registered == "before" else "@atexit.register\ndef last():"
    done = run(
        f"{define}\n    print(len(service.get_access_token(5)) > 100)\nservice = make(url)\n"
        + ("service.invalidate_token(service.get_access_token())" if had == "a token" else ""),
        api.url,
    )
    _clean(done, "True")


def test_the_worker_has_ended_before_the_interpreter_ends(api: IdentityServer) -> None:
    done = run(
        """
        def after_all():
            print(thread.is_alive())
        service = make(url)
        service.get_access_token()
        thread = service._worker._thread
        """,
        api.url,
    )
    _clean(done, "False")


def test_an_atexit_handler_gets_a_clear_error() -> None:
    with hostile.closed_port() as port:
        done = run(
            """
            @atexit.register
            def last():
                try:
                    service.get_access_token(1)
                except NotReadyError as error:
                    print(type(error).__name__)
            service = make(url, base_retry_delay=5.0, max_retry_delay=5.0)
            """,
            f"http://127.0.0.1:{port}",
        )
    _clean(done, "NotReadyError")


def test_a_worker_that_does_not_end_in_time_says_nothing_any_more(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork, "_exiting", False)  # this process goes on after the test
    with hostile.HostileServer(hostile.says_nothing) as silent:
        service = make_service(f"http://127.0.0.1:{silent.port}")
        heard: list[object] = []
        service.on_event(heard.append)
        service.start()
        while not silent.connections:
            pass
        _fork._stop_all_at_exit()
    with pytest.raises(NotReadyError):
        service.get_access_token(0.5)
    assert heard == []


def test_an_interrupt_ends_a_wait(api: IdentityServer) -> None:
    with hostile.HostileServer(hostile.says_nothing) as silent:
        done = run(
            """
            import signal
            service = make(url)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                service.wait_for_ready()
            except KeyboardInterrupt:
                print("interrupted")
            """,
            f"http://127.0.0.1:{silent.port}",
        )
    _clean(done, "interrupted")


def test_a_signal_handler_may_ask_for_a_token(api: IdentityServer) -> None:
    done = run(
        """
        import signal
        service = make(url)
        service.get_access_token()
        asked = []
        signal.signal(signal.SIGALRM, lambda *_: asked.append(service.get_access_token()))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        began = time.monotonic()
        while (took := time.monotonic() - began) < 1 or (len(asked) <= 50 and took < 20):
            service._cache.snapshot = service._cache.snapshot.without_fast_path()
            service.get_access_token()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(asked) > 50)
        """,
        api.url,
    )
    _clean(done, "True")


def test_the_worker_imports_nothing(api: IdentityServer) -> None:
    # A fork during an import leaves the import lock held in the child.
    done = run(
        """
        before = set(sys.modules)
        service = make(url)
        service.get_access_token()
        try:
            make("http://127.0.0.1:9").get_access_token(0.3)
        except NotReadyError:
            pass
        try:
            make("http://no-such-host.invalid").get_access_token(0.3)
        except NotReadyError:
            pass
        service.invalidate_token(service.get_access_token())
        service.get_access_token()
        service.close()
        print(sorted(set(sys.modules) - before))
        """,
        api.url,
    )
    _clean(done, "[]")
