"""The life of a service: starting, failing, recovering, reporting, closing."""

from __future__ import annotations

import gc
import logging
import pickle
import re
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from support import hostile
from support.canned import reply, token_reply
from support.clock import FakeClock
from support.recorder import Recorder
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured
from support.starts import failure_of_start

from identity_client import (
    EventKind,
    IdentityApiClient,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    IdentityError,
    InvalidClientError,
    NotReadyError,
    RegistrationError,
    ServiceClosedError,
    ServiceEvent,
    ServiceState,
    ServiceType,
    TokenEndpointError,
)
from identity_client._tokens.worker import Worker
from identity_client.server import IdentityServer

DOWN = "http://127.0.0.1:9"


def test_start_returns_at_once_and_twice_is_harmless(make_service: MakeService) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        url = f"http://127.0.0.1:{server.port}"
        service = make_service(url, service_name="started-twice")
        began = time.perf_counter()
        service.start()
        service.start()
        assert time.perf_counter() - began < 5  # a request takes 10 s to time out
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("identity-client started-twice") == 1


def test_a_service_that_nobody_started_starts_itself(
    api: IdentityServer, make_service: MakeService
) -> None:
    assert make_service(api, service_name="a").get_access_token()
    assert make_service(api, service_name="b").wait_for_ready()


def test_the_context_manager_starts_and_closes(
    api: IdentityServer, make_service: MakeService
) -> None:
    with make_service(api) as service:
        assert service.wait_for_ready(5)
    assert service.status().state is ServiceState.CLOSED


def test_a_service_waits_through_outages_until_it_is_ready(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service = make_service(api)
    recorder = Recorder(service)
    service.start()
    failed = recorder.wait_for(EventKind.REGISTRATION_FAILED, 2)
    assert failed.next_attempt_in is not None
    assert 0.05 <= failed.next_attempt_in <= 0.1
    assert service.status().state is ServiceState.PENDING
    assert service.status().attempts >= 2
    assert not service.wait_for_ready(0.01)
    api.backend.change(api_outage=False)
    assert service.get_access_token()
    recorder.wait_for(EventKind.STATE_CHANGED)
    status = service.status()
    assert (status.state, status.attempts) == (ServiceState.READY, 0)
    assert status.last_error is not None
    assert "returned HTTP 503" in status.last_error


def test_after_the_last_attempt_the_service_has_failed_until_it_is_started_again(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service = make_service(api, max_registration_attempts=3)
    assert service.wait_for_ready() is False
    status = service.status()
    assert (status.state, status.attempts) == (ServiceState.FAILED, 3)
    assert status.next_attempt_in is None
    assert api.backend.requests["api"] == 3
    with pytest.raises(RegistrationError, match="failed after 3 attempts") as caught:
        service.get_access_token()
    assert "returned HTTP 503" in str(caught.value.__cause__)
    assert service.wait_for_ready() is False
    api.backend.change(api_outage=False)
    service.start()
    assert service.wait_for_ready(5)
    assert service.status().state is ServiceState.READY


def test_a_usable_token_outlives_the_last_attempt(
    api: IdentityServer, make_service: MakeService
) -> None:
    clock = FakeClock()
    service = make_service(api, max_registration_attempts=1, clock=clock)
    recorder = Recorder(service)
    token = service.get_access_token()
    api.backend.delete_client("orders")
    api.backend.change(api_outage=True)
    clock.advance(271)
    recorder.wait_for(EventKind.REGISTRATION_FAILED)
    assert service.status().state is ServiceState.FAILED
    assert service.wait_for_ready() is False
    assert service.get_access_token() == token
    clock.advance(19)
    with pytest.raises(RegistrationError):
        service.get_access_token()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(reply({"error": "invalid_client"}, 401), InvalidClientError, id="rejected"),
        pytest.param(reply({"error": "x"}, 503), TokenEndpointError, id="out of order"),
    ],
)
def test_start_raises_when_preconfigured_credentials_do_not_work(
    answer: Any, kind: type[IdentityError], preconfigured: Preconfigured
) -> None:
    service, endpoint = preconfigured(answer)
    with pytest.raises(kind):
        service.start()
    assert service.status().state is ServiceState.FAILED
    with pytest.raises(kind):
        service.get_access_token()
    assert len(endpoint.asked) == 1
    endpoint.answers.append(token_reply())
    endpoint.answers.popleft()
    service.start()
    assert service.get_access_token() == "a-token"


def test_start_raises_when_a_preconfigured_endpoint_does_not_answer(
    make_service: MakeService,
) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        service = make_service(
            DOWN,
            client_id="orders",
            client_secret="secret",
            token_endpoint=f"http://127.0.0.1:{server.port}/token",
            request_timeout=0.2,
        )
        assert "timed out after 0.2 s" in failure_of_start(service).message


def test_a_token_endpoint_that_does_not_exist_names_what_to_check(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured(reply({"error": "Realm does not exist"}, 404))
    with pytest.raises(TokenEndpointError, match=r"check its path and realm \(SERVICE_TOKEN_END"):
        service.start()


def test_start_does_not_fail_a_service_that_has_had_its_token(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured(token_reply(), reply({"error": "x"}, 503))
    service.start()
    service.invalidate_token("a-token")
    service.start()
    assert service.status().state is not ServiceState.FAILED
    assert endpoint.asked


def test_the_worker_refreshes_without_being_asked(preconfigured: Preconfigured) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(token_reply("first"), token_reply("second"), clock=clock)
    recorder = Recorder(service)
    service.start()
    clock.advance(67)
    assert len(endpoint.asked) == 1
    clock.advance(203)
    recorder.wait_for(EventKind.TOKEN_ISSUED, 2)


@pytest.mark.parametrize("call", ["get_access_token", "wait_for_token"])
def test_after_a_sleep_of_the_machine_the_first_caller_wakes_the_worker(
    preconfigured: Preconfigured, call: str
) -> None:
    clock = FakeClock()
    service, _ = preconfigured(token_reply("first"), token_reply("second"), clock=clock)
    service.start()
    time.sleep(0.5)  # by then it waits for the second time, which takes 30 s if nobody wakes it
    clock.advance(3600, asleep=True)
    service._cache.snapshot = service._cache.snapshot.without_fast_path()
    began = time.perf_counter()
    assert getattr(service, call)(20)
    assert service.get_access_token() == "second"
    assert time.perf_counter() - began < 10


def test_callers_within_a_pause_hear_how_much_of_it_is_left(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    service, _ = preconfigured(
        reply({"error": "x"}, 503), clock=clock, base_retry_delay=5.0, max_retry_delay=60.0
    )
    left = []
    for _ in range(2):
        with pytest.raises(TokenEndpointError) as caught:
            service.get_access_token()
        told = re.search(r"retrying in (\d+\.\d) s$", caught.value.message)
        assert told is not None
        left.append(float(told[1]))
        assert left[-1] == pytest.approx(service.status().next_attempt_in, abs=0.1)
        clock.advance(0.3)
    assert left[0] - left[1] == pytest.approx(0.3, abs=0.11)


def test_a_failing_refresh_is_served_over_logged_once_and_retried_in_the_window(
    preconfigured: Preconfigured, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(
        token_reply("first"),
        reply({"error": "x"}, 503),
        clock=clock,
        base_retry_delay=5.0,
        max_retry_delay=300.0,
    )
    recorder = Recorder(service)
    service.start()
    with caplog.at_level(logging.WARNING, "identity_client"):
        clock.advance(270)
        recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED)
        recorder.wait_for(EventKind.STATE_CHANGED, 2)
        status = service.status()
        assert status.state is ServiceState.DEGRADED
        assert status.next_attempt_in is not None
        assert 0.5 <= status.next_attempt_in <= 1
        assert service.get_access_token() == "first"
        clock.advance(1)
        recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED, 2)
        assert service.get_access_token() == "first"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "token refresh failed; serving the cached token for another 20.0 s" in caplog.text
    endpoint.answers.append(token_reply("second"))
    endpoint.answers.popleft()
    clock.advance(5)
    recorder.wait_for(EventKind.STATE_CHANGED, 3)
    assert service.get_access_token() == "second"
    assert service.status().token_requests_failed == 2


def test_pauses_start_anew_from_the_base_when_the_token_has_expired(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    service, _ = preconfigured(
        token_reply("first"),
        reply({"error": "x"}, 503),
        clock=clock,
        base_retry_delay=100.0,
        max_retry_delay=300.0,
    )
    recorder = Recorder(service)
    service.start()
    clock.advance(270)
    recorder.wait_for(EventKind.STATE_CHANGED, 2)
    for failures in range(2, 5):
        clock.advance(4)
        recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED, failures)
    clock.advance(20)
    recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED, 5)
    with pytest.raises(TokenEndpointError) as caught:
        service.get_access_token()
    assert caught.value.retry_after is not None
    assert 0.5 <= caught.value.retry_after <= 1


@pytest.mark.parametrize(
    ("header", "at_least", "at_most"),
    [
        pytest.param("200", 200, 300, id="honoured"),
        pytest.param("9999", 150, 300, id="capped at max_retry_delay"),
        pytest.param("garbage", 0.4, 1, id="garbage is ignored"),
    ],
)
def test_retry_after_lengthens_the_pause(
    header: str, at_least: float, at_most: float, preconfigured: Preconfigured
) -> None:
    clock = FakeClock()
    service, _ = preconfigured(
        reply({"error": "x"}, 429, Retry_After=header),
        clock=clock,
        base_retry_delay=5.0,
        max_retry_delay=300.0,
    )
    with pytest.raises(TokenEndpointError) as caught:
        service.get_access_token()
    assert caught.value.retry_after is not None
    assert at_least <= caught.value.retry_after <= at_most


def test_a_token_that_expired_on_its_way_is_a_failure(preconfigured: Preconfigured) -> None:
    service, endpoint = preconfigured(token_reply(expires_in=0.05))
    endpoint.before_answer = lambda asked: time.sleep(0.1)
    with pytest.raises(TokenEndpointError, match="had expired when it arrived"):
        service.get_access_token()


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        pytest.param(300, 300, id="a number"),
        pytest.param("300", 300, id="a string"),
        pytest.param(300.5, 300.5, id="a fraction"),
        pytest.param(10**9, 86400, id="more than a day"),
        pytest.param(1e999, 86400, id="infinity"),
        pytest.param("9" * 5000, 86400, id="thousands of digits"),
    ],
)
def test_expires_in_is_read_in_all_its_forms(
    expires_in: object, seconds: float, preconfigured: Preconfigured
) -> None:
    service, _ = preconfigured(token_reply(expires_in=expires_in), clock=FakeClock())
    service.start()
    assert service.status().token_expires_in == pytest.approx(seconds - min(10, seconds * 0.05))


@pytest.mark.parametrize(
    "expires_in",
    [None, float("nan"), True, "abc", "", [300], {"s": 300}],
    ids=repr,
)
def test_an_expires_in_that_says_nothing_means_a_minute_and_one_warning(
    expires_in: object, preconfigured: Preconfigured, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = preconfigured(token_reply(expires_in=expires_in), clock=FakeClock())
    with caplog.at_level(logging.WARNING, "identity_client"):
        service.start()
        service.invalidate_token("a-token")
        service.get_access_token()
        assert service.status().token_expires_in == pytest.approx(57)
        service.close()  # all is logged by then
    assert sum("expires_in" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("expires_in", [0, -5, "0"])
def test_a_token_that_expired_on_arrival_is_a_failure(
    expires_in: object, preconfigured: Preconfigured
) -> None:
    service, _ = preconfigured(token_reply(expires_in=expires_in))
    with pytest.raises(TokenEndpointError, match="a gateway that caches"):
        service.start()


def test_an_error_that_is_null_is_none(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(token_reply(error=None))
    service.start()
    assert service.get_access_token() == "a-token"


def test_a_short_token_is_fetched_once_not_for_ever(preconfigured: Preconfigured) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(token_reply(expires_in=60), clock=clock)
    service.start()
    for _ in range(13):  # a first token may be due after half of its 54 s
        clock.advance(1)
        service.get_access_token()
    assert len(endpoint.asked) == 1


def test_listeners_hear_everything_until_they_stop_and_may_fail(
    api: IdentityServer, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(api)
    heard: list[str] = []

    def fail(event: ServiceEvent) -> None:
        raise LookupError("a secret of the listener")

    service.on_event(fail)
    stop = service.on_event(lambda event: heard.append(event.kind.value))
    with caplog.at_level(logging.ERROR, "identity_client"):
        recorder = Recorder(service)
        token = service.get_access_token()
        recorder.wait_for(EventKind.STATE_CHANGED)
        service.invalidate_token(token)
        recorder.wait_for(EventKind.TOKEN_INVALIDATED)
        stop()
        service.close()
    assert heard[:4] == ["registered", "token_issued", "state_changed", "token_invalidated"]
    assert "raised LookupError" in caplog.text
    assert "a secret of the listener" not in caplog.text


def test_a_log_handler_that_raises_disturbs_nobody(
    api: IdentityServer, make_service: MakeService
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    logger = logging.getLogger("identity_client")
    handler = Broken()
    logger.addHandler(handler)
    try:
        api.backend.change(api_error_rate=1.0)
        service = make_service(api)
        assert not service.wait_for_ready(0.2)
        api.backend.change(api_error_rate=0.0)
        assert service.wait_for_ready(5)
    finally:
        logger.removeHandler(handler)


def test_an_unexpected_exception_becomes_ours_and_the_worker_lives_on(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured()
    internals: Any = service
    broken = True

    def before(asked: object) -> None:
        nonlocal broken
        if broken:
            broken = False
            internals._source._endpoint._lifetime = None

    endpoint.before_answer = before
    with pytest.raises(
        IdentityError,
        match=r"TypeError while requesting a token \(_read, .*report it",
    ):
        service.get_access_token()
    del internals._source._endpoint._lifetime
    assert service.wait_for_ready(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_leaves_nobody_behind_and_is_replaced(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured()
    internals: Any = service
    fetch = internals._source._endpoint.fetch

    def die(*_: object) -> None:
        internals._source._endpoint.fetch = fetch
        raise SystemExit

    internals._source._endpoint.fetch = die
    with pytest.raises(IdentityError, match="unexpected SystemExit"):
        service.get_access_token()
    thread = internals._worker._thread
    thread.join(5)
    assert not thread.is_alive()
    assert service.wait_for_ready(5)
    assert internals._worker._thread is not thread


def test_where_no_thread_can_be_started_the_caller_does_the_step(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("identity-client"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    service = make_service(api)
    token = service.get_access_token()
    assert service.get_access_token() == token
    assert api.backend.requests["token"] == 1
    assert make_service(api, service_name="b").wait_for_ready() is True
    began = time.perf_counter()
    down = make_service(DOWN, base_retry_delay=9.0, max_retry_delay=9.0)
    for _ in range(2):
        with pytest.raises(NotReadyError, match="connection refused"):
            down.get_access_token()
    assert down.status().attempts == 1
    assert make_service(DOWN).wait_for_ready() is False
    with (
        hostile.HostileServer(hostile.says_nothing) as silent,
        pytest.raises(NotReadyError, match=r"timed out after 0\.[0-3]"),
    ):
        make_service(f"http://127.0.0.1:{silent.port}").get_access_token(0.3)
    assert time.perf_counter() - began < 5


def test_close_is_quick_in_a_long_pause_and_safe_twice(make_service: MakeService) -> None:
    service = make_service(DOWN, base_retry_delay=300.0, max_retry_delay=300.0)
    with pytest.raises(NotReadyError):
        service.get_access_token(5)
    thread = service._worker._thread
    began = time.perf_counter()
    service.close()
    service.close()
    assert time.perf_counter() - began < 5
    assert thread is not None
    assert not thread.is_alive()


class Gate:
    """A re-entrant lock that says when a thread is about to take it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.was_reached = threading.Event()

    def __enter__(self) -> None:
        self.was_reached.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_start_beside_close_leaves_no_thread(make_service: MakeService) -> None:
    service = make_service("http://127.0.0.1:9", service_name="start-beside-close")
    gate = Gate()
    service._worker._start_lock = gate  # type: ignore[assignment]  # it is used as one
    starter = threading.Thread(target=service.start)
    with gate.lock:
        starter.start()
        assert gate.was_reached.wait(10)
        service.close()
    starter.join(10)
    names = [thread.name for thread in threading.enumerate()]
    assert "identity-client start-beside-close" not in names
    assert service.status().state is ServiceState.CLOSED


def test_close_releases_those_who_wait(make_service: MakeService) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        service = make_service(f"http://127.0.0.1:{server.port}")
        outcomes: list[object] = []

        def ask() -> None:
            try:
                service.get_access_token(30)
            except ServiceClosedError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        threads.append(threading.Thread(target=lambda: outcomes.append(service.wait_for_ready(30))))
        for thread in threads:
            thread.start()
        while not server.connections:
            pass
        service.close()
        for thread in threads:
            thread.join(5)
    assert len(outcomes) == 6
    assert False in outcomes


def test_what_fails_after_close_is_not_told_any_more(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        service = make_service(f"http://127.0.0.1:{server.port}")
        service.start()
        while not server.connections:
            pass
        thread = service._worker._thread
        service.close()
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    assert not [message for message in caplog.messages if "failed" in message]


def test_a_listener_may_close_the_service(api: IdentityServer, make_service: MakeService) -> None:
    service = make_service(api)
    recorder = Recorder(service)
    service.on_event(lambda event: service.close())
    service.start()
    recorder.wait_for(EventKind.STATE_CHANGED)
    with pytest.raises(ServiceClosedError):
        service.get_access_token()


def test_a_closed_service_says_so(api: IdentityServer, make_service: MakeService) -> None:
    service = make_service(api)
    service.get_access_token()
    service.close()
    for call in (service.start, service.get_access_token, service.force_reregistration):
        with pytest.raises(ServiceClosedError, match="'orders' is closed"):
            call()
    assert service.wait_for_ready() is False
    service.invalidate_token("any")
    assert "CLOSED" in repr(service)


def test_services_and_their_threads_are_collected(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = IdentityBootstrapService(
        IdentityBootstrapConfig(
            service_name="gone",
            identity_api_url=api.url,
            identity_api_internal_token=INTERNAL_TOKEN,
        )
    )
    service.get_access_token()
    thread = service._worker._thread
    assert thread is not None
    gone = weakref.ref(service)
    del service
    gc.collect()
    assert gone() is None
    thread.join(5)
    assert not thread.is_alive()


def test_services_and_clients_do_not_pickle_and_say_why(
    api: IdentityServer, make_service: MakeService
) -> None:
    with pytest.raises(TypeError, match="holds a thread and secrets"):
        pickle.dumps(make_service(api))
    with IdentityApiClient(api.url, "the-token") as client:
        assert repr(client) == f"<IdentityApiClient {api.url}>"
        with pytest.raises(TypeError, match="holds a secret and a session"):
            pickle.dumps(client)


def test_a_late_report_of_a_state_is_not_repeated(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    recorder = Recorder(service)
    service.get_access_token()
    recorder.wait_for(EventKind.STATE_CHANGED)
    service._worker.publish_state_change()
    assert sum(event.kind is EventKind.STATE_CHANGED for event in recorder.events) == 1


def test_a_worker_is_started_once_by_many(api: IdentityServer, make_service: MakeService) -> None:
    service = make_service(api, service_name="started-by-many")
    worker: Worker = service._worker
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        gate = threading.Barrier(16)

        def start() -> None:
            gate.wait()
            worker.ensure_running()

        threads = [threading.Thread(target=start) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("identity-client started-by-many") == 1


def test_service_types_are_plain_strings_on_the_wire() -> None:
    assert ServiceType.BACKEND == "BACKEND"
