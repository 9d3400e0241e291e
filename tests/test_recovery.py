"""What works again by itself: credentials, listeners, workers, probes, and callers."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from asyncio import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.canned import reply, token_reply
from support.clock import FakeClock
from support.hostile import closed_port
from support.processes import run
from support.recorder import Recorder
from support.scripted import REJECTED, Scripted, existing, numbered_tokens, registered, wait_for
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured

from identity_client import (
    EventKind,
    IdentityApiClient,
    IdentityBootstrapService,
    IdentityError,
    NotReadyError,
    RegistrationError,
    ServiceEvent,
    ServiceState,
    StoredCredentials,
    TokenEndpointError,
)
from identity_client._tokens import registration, worker
from identity_client.server import IdentityServer

# --- credentials ---

LONG_PAUSES: dict[str, Any] = {"base_retry_delay": 60.0, "max_retry_delay": 60.0}


def test_a_client_that_was_disabled_for_a_moment_works_again_with_its_secret(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url, allow_secret_regeneration=False)
    token = service.get_access_token()
    scripted.registrations = [existing(scripted.url)]
    scripted.tokens = [REJECTED] * 4 + [token_reply("again")]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().tokens_issued == 2)
    assert service.get_access_token() == "again"
    assert "register and regenerate" not in scripted.asked
    assert set(scripted.asked[2:]) <= {"token a-client-secret", "register"}


def test_rejected_credentials_are_tried_again_while_identity_api_is_down(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url)
    token = service.get_access_token()
    scripted.registrations = [reply({"message": "down"}, 503)]
    scripted.tokens = [REJECTED] * 3 + [token_reply("again")]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().tokens_issued == 2)
    assert service.get_access_token() == "again"


def test_the_pause_that_identity_api_asks_for_delays_no_token_request(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url, max_retry_delay=300.0)
    token = service.get_access_token()
    scripted.registrations = [reply({"message": "down"}, 503, Retry_After="240")]
    scripted.tokens = [REJECTED] * 3 + [token_reply("again")]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().tokens_issued == 2)
    assert service.get_access_token() == "again"
    assert scripted.asked.count("register") == 2  # the second one waits for 240 s


def test_listeners_that_hang_use_up_few_threads(
    preconfigured: Preconfigured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_HANGING", 2)
    service, endpoint = preconfigured(token_reply())
    numbered_tokens(endpoint, 0.3)
    release, heard = threading.Event(), list[ServiceEvent]()

    def hang(event: ServiceEvent) -> None:
        heard.append(event)
        release.wait(60)

    stop = service.on_event(hang)
    while len(endpoint.asked) < 12:
        assert service.get_access_token(10)
        time.sleep(0.01)
    assert len(service._worker._running) <= 3
    release.set()
    while len(heard) < 12:
        assert service.get_access_token(10)
        time.sleep(0.01)
    stop()


def test_one_rejection_by_mistake_regenerates_nothing(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url)
    token = service.get_access_token()
    scripted.registrations = [existing(scripted.url)]
    scripted.tokens = [REJECTED, token_reply("second")]
    service.invalidate_token(token)
    assert service.get_access_token() == "second"
    assert "register and regenerate" not in scripted.asked


def test_a_registration_that_got_a_401_is_tried_again_with_the_rotated_internal_token(
    api: IdentityServer, make_service: MakeService, tmp_path: Path
) -> None:
    file = tmp_path / "internal-token"
    file.write_text("a-token-that-has-expired")
    service = make_service(
        api, identity_api_internal_token=None, identity_api_internal_token_file=str(file)
    )
    service.start()
    wait_for(service, lambda: service.status().last_error is not None)
    assert "HTTP 401" in str(service.status().last_error)
    file.write_text(f"{INTERNAL_TOKEN}\n")
    assert service.wait_for_token(10)


def test_a_registration_after_weeks_uses_the_internal_token_that_is_mounted_by_then(
    scripted: Scripted, make_service: MakeService, tmp_path: Path
) -> None:
    file = tmp_path / "internal-token"
    file.write_text("first")
    service = make_service(
        scripted.url, identity_api_internal_token=None, identity_api_internal_token_file=str(file)
    )
    token = service.get_access_token()
    file.write_text("second")
    scripted.registrations = [existing(scripted.url), registered(scripted.url)]
    scripted.tokens = [REJECTED, REJECTED, token_reply("again")]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().tokens_issued == 2)
    sent = [
        asked.headers["Authorization"] for asked in scripted.server.asked if asked.path != "/token"
    ]
    assert sent[0] == "Bearer first"
    assert set(sent[1:]) == {"Bearer second"}


def test_a_forced_registration_that_fails_leaves_what_works_in_use(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url, **LONG_PAUSES)
    recorder = Recorder(service)
    service.get_access_token()
    scripted.registrations = [reply({"message": "down"}, 503)]
    scripted.tokens = [token_reply("second")]
    service.force_reregistration()
    failed = recorder.wait_for(EventKind.REGISTRATION_FAILED)
    assert "the current credentials stay in use" in failed.message
    assert (failed.status_code, failed.error_class) == (503, "IdentityApiError")
    assert service.get_access_token() == "second"
    assert service.status().state is ServiceState.READY


def test_a_forced_registration_that_fails_with_credentials_that_do_not_work_is_a_failure(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url)
    token = service.get_access_token()
    scripted.registrations = [reply({"message": "down"}, 503)]
    scripted.tokens = [REJECTED]
    service.force_reregistration()
    wait_for(service, lambda: service.status().state is ServiceState.DEGRADED)
    assert service.get_access_token() == token
    assert "returned HTTP 503" in (service.status().last_error or "")


def test_a_forced_registration_rotates_once_though_its_first_token_fails(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api, base_retry_delay=0.05, max_retry_delay=0.2)
    token = service.get_access_token()
    api.backend.change(token_outage=True)
    service.force_reregistration()
    wait_for(service, lambda: service.status().token_requests_failed >= 6)
    assert (service.status().registrations, service.status().secrets_regenerated) == (2, 1)
    assert service.get_access_token() == token
    api.backend.change(token_outage=False)
    wait_for(service, lambda: service.status().state is ServiceState.READY)
    assert service.get_access_token() != token
    assert (service.status().registrations, service.status().secrets_regenerated) == (2, 1)


def test_forcing_registrations_in_a_loop_rotates_once_per_pause(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api, base_retry_delay=5.0, max_retry_delay=60.0)
    service.get_access_token()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        service.force_reregistration()
    assert service.status().secrets_regenerated <= 1
    assert api.backend.requests["token"] <= 15


def test_forcing_a_registration_does_not_revive_a_service_that_has_failed(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service = make_service(api, max_registration_attempts=2)
    assert service.wait_for_ready(5) is False
    with pytest.raises(RegistrationError, match="call start"):
        service.force_reregistration()
    assert service.status().attempts == 2
    api.backend.change(api_outage=False)
    service.start()
    assert service.wait_for_ready(5)


def test_a_service_that_is_started_again_counts_and_pauses_from_the_beginning(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service = make_service(
        api, max_registration_attempts=5, base_retry_delay=0.02, max_retry_delay=60.0
    )
    recorder = Recorder(service)
    for _ in range(2):
        service.start()
        assert service.wait_for_ready(10) is False
        status = service.status()
        assert (status.state, status.attempts) == (ServiceState.FAILED, 5)
    recorder.wait_for(EventKind.REGISTRATION_FAILED, 10)
    events = [event for event in recorder.events if event.kind is EventKind.REGISTRATION_FAILED]
    first, again = events[0].next_attempt_in, events[5].next_attempt_in
    assert first is not None
    assert again is not None
    assert max(first, again) <= 0.02


def test_failures_of_the_token_endpoint_do_not_use_up_the_registration_attempts(
    scripted: Scripted, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ENDPOINT_CHECK_PAUSE", 1e6)  # no draw is near 0
    scripted.tokens = [reply({"error": "x"}, 503)] * 5 + [token_reply("at-last")]
    service = make_service(scripted.url, max_registration_attempts=2)
    assert service.wait_for_token(10)
    assert service.get_access_token() == "at-last"
    assert scripted.asked.count("register") == 1


@pytest.mark.parametrize("step", [-3600.0, -100000.0])
def test_a_wall_clock_that_steps_back_does_not_block_a_regeneration(
    api: IdentityServer, make_service: MakeService, step: float
) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.register_service(name="orders", display_name="Orders")  # nobody knows its secret
    service = make_service(api)
    stored = StoredCredentials(regenerations=1, no_regeneration_before=time.time() - step)
    service._source._store._stored = stored  # type: ignore[attr-defined]  # another replica's clock
    recorder = Recorder(service)
    service.start()
    failed = recorder.wait_for(EventKind.REGISTRATION_FAILED)
    assert "not regenerating for" in failed.message
    assert service.wait_for_ready(5)
    assert service.status().secrets_regenerated == 1


def test_start_within_a_pause_tries_at_once(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(
        reply({"error": "x"}, 503),
        token_reply("first"),
        base_retry_delay=60.0,
        max_retry_delay=60.0,
    )
    with pytest.raises(TokenEndpointError):
        service.get_access_token()
    service.start()
    assert service.get_access_token() == "first"


def test_start_without_validation_returns_at_once(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(reply({"error": "x"}, 503), token_reply("first"))
    service.start(validate=False)
    assert service.wait_for_ready(5)


# --- listeners and log handlers ---


def test_a_listener_may_ask_for_the_token_that_it_hears_of(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    heard: list[str] = []
    done = threading.Event()

    def listen(event: ServiceEvent) -> None:
        if event.kind is EventKind.TOKEN_ISSUED:
            heard.append(service.get_access_token())
            assert service.wait_for_ready()
            done.set()

    service.on_event(listen)
    token = service.get_access_token()
    assert done.wait(5)
    assert heard == [token]


def test_a_listener_that_asks_while_there_is_no_token_is_refused_at_once(
    make_service: MakeService,
) -> None:
    refused: list[str] = []
    done = threading.Event()

    def listen(event: ServiceEvent) -> None:
        began = time.monotonic()
        try:
            service.get_access_token(30)
        except NotReadyError as error:
            refused.append(str(error))
        assert service.wait_for_ready(30) is False
        assert time.monotonic() - began < 5
        done.set()

    with closed_port() as port:
        service = make_service(f"http://127.0.0.1:{port}", **LONG_PAUSES)
        service.on_event(listen)
        service.start()
        assert done.wait(10)
    assert "no access token for 'orders'" in refused[0]


def test_threads_that_subscribe_at_once_all_hear(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    heard: set[int] = set()
    stopped = threading.Event()

    def churn() -> None:
        while not stopped.is_set():
            service.on_event(lambda event: None)()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=churn) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for number in range(300):
            service.on_event(lambda event, number=number: heard.add(number))  # type: ignore[misc]  # its default
            time.sleep(0)
    finally:
        stopped.set()
        sys.setswitchinterval(interval)
    for thread in threads:
        thread.join()
    service.get_access_token()
    service.close()
    assert heard == set(range(300))


def test_registration_that_is_forced_again_and_again_keeps_no_token_from_callers(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(token_latency=0.3)
    service = make_service(api)
    first = service.get_access_token()
    until = time.monotonic() + 20
    while service.get_access_token() == first:
        assert time.monotonic() < until
        service.force_reregistration()
        time.sleep(0.1)


def test_what_identity_api_fails_with_is_told_in_a_not_ready_error(
    api: IdentityServer, make_service: MakeService
) -> None:
    """Also after the first token, when the client secret is rejected and identity-api is down."""
    api.backend.change(token_lifetime=1.0)
    service = make_service(api, base_retry_delay=5.0, max_retry_delay=5.0)
    service.get_access_token()
    api.backend.change(api_outage=True)
    api.backend.rotate_secret("orders")
    errors: list[IdentityError] = []
    until = time.monotonic() + 20
    while not any("HTTP 503" in str(error) for error in errors):
        assert time.monotonic() < until
        try:
            service.get_access_token(0.2)
        except IdentityError as error:
            errors.append(error)
    assert isinstance(errors[-1], NotReadyError)
    assert all(isinstance(error, (NotReadyError, TokenEndpointError)) for error in errors)


def test_a_rejected_token_is_served_again_while_the_token_endpoint_hangs(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    token = service.get_token()
    api.backend.change(token_latency=8.0)
    service.invalidate_token(token.value)
    assert service.get_access_token(1.0) == token.value  # other servers may accept it
    began = time.monotonic()
    assert service.get_token() == token
    assert time.monotonic() - began < 4


def test_a_slow_listener_delays_no_caller(api: IdentityServer, make_service: MakeService) -> None:
    service = make_service(api)
    release = threading.Event()
    service.on_event(lambda event: release.wait(20))
    began = time.monotonic()
    try:
        for _ in range(3):
            service.invalidate_token(service.get_access_token(), was_accepted=True)
        service.get_access_token()
        assert time.monotonic() - began < 5
    finally:
        release.set()


def test_a_slow_log_handler_delays_no_caller(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(*(token_reply(name) for name in ("first", "second", "third")))
    release = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: release.wait(20)  # type: ignore[method-assign, assignment]  # any callable
    logger = logging.getLogger("identity_client")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    began = time.monotonic()
    try:
        for name in ("first", "second"):
            assert service.get_access_token() == name
            service.invalidate_token(name, was_accepted=True)
        assert service.get_access_token() == "third"
        assert time.monotonic() - began < 5
    finally:
        release.set()
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_a_listener_that_is_cancelled_ends_nothing(
    api: IdentityServer, make_service: MakeService
) -> None:
    service, heard, worker = make_service(api), [], threading.Event()

    def cancel(event: ServiceEvent) -> None:
        raise CancelledError

    def hear(event: ServiceEvent) -> None:
        heard.append(event.kind)
        if event.kind is EventKind.TOKEN_ISSUED:
            worker.set()

    handler = logging.Handler()
    handler.emit = cancel  # type: ignore[method-assign, assignment]  # any callable
    logging.getLogger("identity_client").addHandler(handler)
    try:
        service.on_event(cancel)
        service.on_event(hear)
        service.start()
        assert worker.wait(10)
        service.close()
    finally:
        logging.getLogger("identity_client").removeHandler(handler)
    assert heard[0] is EventKind.REGISTERED
    assert heard[-1] is EventKind.STATE_CHANGED


def test_an_interrupt_in_a_listener_reaches_the_thread_that_closes(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    recorder = Recorder(service)
    service.get_access_token()
    recorder.wait_for(EventKind.STATE_CHANGED)  # so that the worker does not report the end

    def interrupt(event: ServiceEvent) -> None:
        if event.state is ServiceState.CLOSED:
            raise KeyboardInterrupt

    service.on_event(interrupt)
    with pytest.raises(KeyboardInterrupt):
        service.close()
    assert service.status().state is ServiceState.CLOSED


def test_an_interrupt_in_a_log_handler_reaches_the_thread_that_closes(
    api: IdentityServer, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(api)
    recorder = Recorder(service)
    service.get_access_token()
    recorder.wait_for(EventKind.STATE_CHANGED)  # so that the worker does not report the end

    def interrupt(record: logging.LogRecord) -> None:
        if "CLOSED" in record.getMessage():
            raise KeyboardInterrupt

    handler = logging.Handler()
    handler.emit = interrupt  # type: ignore[method-assign]  # as above
    caplog.set_level(logging.DEBUG, "identity_client")
    logging.getLogger("identity_client").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            service.close()
    finally:
        logging.getLogger("identity_client").removeHandler(handler)
    assert service.status().state is ServiceState.CLOSED


@pytest.mark.parametrize("error", [SystemExit, LookupError])
def test_a_listener_that_exits_leaves_no_waiter_behind(
    api: IdentityServer, make_service: MakeService, error: type[BaseException]
) -> None:
    service = make_service(api)

    def leave(event: ServiceEvent) -> None:
        raise error

    service.on_event(leave)
    assert service.wait_for_ready(10)
    service.invalidate_token(service.get_access_token(), was_accepted=True)
    assert service.get_access_token()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_ended_from_outside_is_replaced_for_its_waiters(
    api: IdentityServer, make_service: MakeService
) -> None:
    class Killed(BaseException):
        pass

    service = make_service(api)
    first = service.get_access_token()
    source: Any = service._source
    obtain = source.obtain
    waiting = threading.Event()

    def die(deadline: float) -> Any:
        source.obtain = obtain
        waiting.wait(5)
        raise Killed

    source.obtain = die
    service.invalidate_token(first, was_accepted=True)
    got: list[object] = []

    def call() -> None:
        try:
            got.append(service.get_access_token(10))
        except IdentityError as error:
            got.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.set()
    for thread in threads:
        thread.join(10)
    assert len(got) == 4
    assert service.wait_for_token(10)


# --- probes and outages ---


def test_the_end_of_a_token_in_an_outage_is_logged_and_so_is_the_way_back(
    preconfigured: Preconfigured, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(token_reply("first"), reply({"error": "x"}, 503), clock=clock)
    recorder = Recorder(service)
    service.start()
    with caplog.at_level(logging.INFO, "identity_client"):
        for number in range(40):
            clock.advance(10)
            if number > 26:
                recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED, number - 26)
            if service.status().state is ServiceState.UNAVAILABLE:
                break
        assert service.is_ready() is False
        endpoint.answers[0] = token_reply("second")
        clock.advance(60)
        assert service.get_access_token(10) == "second"
        service.close()
    changes = [record for record in caplog.records if "state" in record.message]
    levels = {record.levelno for record in changes}
    assert logging.ERROR in levels
    [back] = [record for record in changes if "available again after" in record.message]
    assert back.levelno == logging.WARNING
    assert all(record.msg.startswith("%s: ") for record in caplog.records)
    assert all(record.__dict__["identity_service"] == "orders" for record in caplog.records)


def test_events_tell_the_host_the_status_the_duration_and_both_states(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(token_reply("first"), reply({"error": "x"}, 503), clock=clock)
    endpoint.before_answer = lambda asked: clock.jump(0.25)
    host = urlsplit(endpoint.url).netloc
    recorder = Recorder(service)
    service.start()
    issued = recorder.wait_for(EventKind.TOKEN_ISSUED)
    assert (issued.host, issued.duration) == (host, 0.25)
    ready = recorder.wait_for(EventKind.STATE_CHANGED)
    assert (ready.state_before, ready.state) == (ServiceState.PENDING, ServiceState.READY)
    clock.advance(270)
    failed = recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED)
    assert (failed.host, failed.duration) == (host, 0.25)
    assert (failed.status_code, failed.error_class) == (503, "TokenEndpointError")
    degraded = recorder.wait_for(EventKind.STATE_CHANGED, 2)
    assert (degraded.state_before, degraded.state) == (ServiceState.READY, ServiceState.DEGRADED)


def test_status_says_whether_the_service_was_started_and_starts_nothing(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    recorder = Recorder(service)
    status = service.status()
    assert (status.started, status.state) == (False, ServiceState.PENDING)
    assert service._worker._thread is None
    assert service.peek_token() is None
    assert service.is_ready() is False
    assert service.wait_for_token(5)
    recorder.wait_for(EventKind.STATE_CHANGED)
    assert service.is_ready() is True
    status = service.status()
    assert status.started
    assert status.last_success_at == pytest.approx(time.time(), abs=60)
    assert status.to_dict()["state"] == "READY"
    token = service.get_token()
    assert token == service.peek_token()
    assert token.expires_at == pytest.approx(time.time() + 300, abs=60)
    service.close()
    assert service.is_ready() is False
    assert service.wait_for_token(5) is False


@pytest.mark.parametrize(
    ("before", "probe"),
    [
        ("service.start()", "is_ready()"),
        ("service.start()", "status().token_expires_in"),
        ("service.get_access_token()", "is_ready()"),
        ("service.get_access_token()", "status().token_expires_in"),
        ("pass", "is_ready()"),
    ],
)
def test_a_forked_child_that_is_only_probed_becomes_ready(
    api: IdentityServer, before: str, probe: str
) -> None:
    done = run(
        f"""
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
service = IdentityBootstrapService(IdentityBootstrapConfig(
    service_name="orders", identity_api_url=sys.argv[1],
    identity_api_internal_token="internal-token-of-the-tests"))
{before}
if pid := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    until = time.monotonic() + 20
    while not service.{probe} and time.monotonic() < until:
        time.sleep(0.01)
    status = service.status()
    os._exit(0 if service._worker._thread.is_alive() and status.token_expires_in else 1)
""",
        api.url,
    )
    assert (done.status, done.out.strip()) == (0, "0"), done.err


def test_counters_begin_anew_in_a_forked_child(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    service.get_access_token()
    pid = os.fork()
    if not pid:
        os._exit(service.status().tokens_issued)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_no_thread_is_started_while_the_interpreter_shuts_down(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)
    monkeypatch.setattr(service._worker, "_is_finalizing", lambda: True)
    with pytest.raises(NotReadyError, match="the interpreter is shutting down"):
        service.get_access_token()
    assert service._worker._thread is None


def test_a_finalizer_may_ask_for_a_token_at_the_end_of_the_interpreter(api: IdentityServer) -> None:
    done = run(
        """
import sys
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService, IdentityError
service = IdentityBootstrapService(IdentityBootstrapConfig(
    service_name="orders", identity_api_url=sys.argv[1],
    identity_api_internal_token="internal-token-of-the-tests"))
class Last:
    def __init__(self, service, ours):
        self.service, self.ours = service, ours
    def __del__(self):
        try:
            self.service.get_access_token()
        except self.ours:
            pass
last = Last(service, IdentityError)
last.itself = last
""",
        api.url,
        timeout=30,
    )
    assert (done.status, done.err) == (0, "")


def test_a_thread_that_may_not_be_a_daemon_is_done_without(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> threading.Thread:
        raise RuntimeError("daemon threads are disabled in this interpreter")

    service: IdentityBootstrapService = make_service(api)
    monkeypatch.setattr(threading, "Thread", refuse)
    assert service.get_access_token()
    assert service.wait_for_ready(5)
    monkeypatch.undo()


@pytest.mark.parametrize("complaint", [RuntimeError, KeyError])
def test_an_exception_of_a_signal_handler_while_a_thread_starts_reaches_the_caller(
    complaint: type[Exception],
    api: IdentityServer,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TimeLimitError(Exception):
        pass

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            try:
                raise TimeLimitError
            except TimeLimitError:
                # As threading does when it is interrupted, on some Pythons.
                raise complaint("un-acquired lock")  # noqa: B904  # the context is the point

    service = make_service(api)
    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(TimeLimitError):
        service.get_access_token()
    monkeypatch.undo()
    assert service.get_access_token()


@pytest.mark.parametrize("runs_before", [False, True], ids=["once it runs", "before it runs"])
def test_a_signal_handler_may_ask_for_a_token_while_the_worker_is_being_started(
    api: IdentityServer, runs_before: bool
) -> None:
    done = run(
        f"""
Thread = threading.Thread
got = []
def handle_signal():
    got.append(service.get_access_token())
class Interrupted(Thread):
    def start(self):
        threading.Thread = Thread
        if {runs_before}:
            handle_signal()
        super().start()
        if not {runs_before}:
            handle_signal()
service = make(url)
threading.Thread = Interrupted
got.append(service.get_access_token())
workers = []
until = time.monotonic() + 10
while workers != [service._worker._thread] and time.monotonic() < until:
    # The older one ends by itself.
    workers = [thread for thread in threading.enumerate() if thread.name.endswith("orders")]
print(len(got), len(workers), workers == [service._worker._thread])
""",
        api.url,
        timeout=30,
    )
    assert (done.status, done.out.split()) == (0, ["2", "1", "True"]), done.err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 14),
    reason="python/cpython#148874: an exception after __enter__ skips __exit__, mended in 3.15",
)
def test_an_exception_of_a_signal_handler_leaves_no_lock_held(api: IdentityServer) -> None:
    done = run(
        """
import signal, sys, time
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
service = IdentityBootstrapService(IdentityBootstrapConfig(
    service_name="orders", identity_api_url=sys.argv[1],
    identity_api_internal_token="internal-token-of-the-tests"))
service.get_access_token()
class Limit(Exception):
    pass
def interrupt(*_):
    raise Limit
signal.signal(signal.SIGALRM, interrupt)
interrupts = 0
until = time.monotonic() + 3
while time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        while True:
            service._cache.snapshot = service._cache.snapshot.without_fast_path()
            service.get_access_token()
            service._cache.invalidate("another")
    except Limit:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
is_free = service._cache._lock.acquire(timeout=10)  # but for a moment of the worker's
print(interrupts > 50, is_free, len(service.get_access_token()) > 0)
import threading
got = []
thread = threading.Thread(target=lambda: got.append(service._cache.get(0)))
service._cache._lock.release()
thread.start()
thread.join(5)
print(len(got))
""",
        api.url,
        timeout=60,
    )
    assert (done.status, done.out.split()) == (0, ["True", "True", "True", "1"]), done.err


def test_waiters_bring_another_worker_when_theirs_ends(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service = make_service(api, base_retry_delay=0.5, max_retry_delay=0.5)
    got: list[object] = []
    calls = [
        lambda: got.append(service.get_access_token(30)),
        lambda: got.append(service.wait_for_ready(30)),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    wait_for(service, lambda: service.status().attempts >= 1)
    first = service._worker._thread
    service._worker.stop()
    api.backend.change(api_outage=False)
    for thread in threads:
        thread.join(30)
    assert len(got) == 2
    assert service._worker._thread is not first


def test_a_listener_that_takes_the_token_away_and_asks_is_refused_at_once(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    refused: list[str] = []
    done = threading.Event()

    def listen(event: ServiceEvent) -> None:
        if event.kind is EventKind.REGISTERED:
            service.invalidate_token(service.get_access_token(), was_accepted=True)
            try:
                service.get_access_token(30)
            except NotReadyError as error:
                refused.append(str(error))
            done.set()

    service.on_event(listen)
    service.start()
    assert done.wait(10)
    assert "cannot wait for one" in refused[0]
    assert service.get_access_token(10)


def test_a_source_that_is_closed_while_its_store_is_in_use_leaves_the_store_alone(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)
    source: Any = service._source
    closed: list[bool] = []
    monkeypatch.setattr(source._store, "close", lambda: closed.append(True))
    with source._store_lock:
        source.close()
    assert closed == []
    source.close()
    assert closed == [True]


def test_get_token_asks_again_when_the_token_is_taken_away_in_between(
    preconfigured: Preconfigured, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))
    service.start()
    ask = service.get_access_token

    def ask_and_invalidate(timeout: float | None = None) -> str:
        monkeypatch.undo()
        token: str = ask(timeout)
        service.invalidate_token(token)
        return token

    monkeypatch.setattr(service, "get_access_token", ask_and_invalidate)
    assert service.get_token(10).value == "second"


def test_a_static_source_has_nothing_to_reinitialise_in_a_child(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured()
    token = service.get_access_token()
    service._source.at_fork_reinit()
    assert service.get_access_token() == token
