"""Tokens that resource servers reject: the brake, the way back, and what a server may cause."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import nullcontext, suppress
from itertools import pairwise

import pytest
import requests
from support import hostile
from support.canned import Asked, Canned, reply, token_reply
from support.clock import FakeClock
from support.recorder import Recorder
from support.scripted import wait_for
from support.services import Preconfigured, StartCanned

from identity_client import EventKind, IdentityError, ServiceState, TokenAuth
from identity_client.testing import FakeIdentityService

UNAUTHORIZED = Canned(401, b"no")
OK = Canned(200, b"done")
LONG_PAUSES = {"base_retry_delay": 60.0, "max_retry_delay": 60.0}


def test_a_server_that_always_rejects_causes_few_token_requests_and_one_warning(
    preconfigured: Preconfigured, canned: StartCanned, caplog: pytest.LogCaptureFixture
) -> None:
    service, endpoint = preconfigured(
        *(token_reply(f"token {number}".replace(" ", "-")) for number in range(50)),
        **LONG_PAUSES,
    )
    strict, lenient = canned(UNAUTHORIZED), canned(OK)
    auth = service.auth()
    until = time.monotonic() + 2
    statuses: set[int] = set()

    def call() -> None:
        with requests.Session() as session:
            while time.monotonic() < until:
                assert session.get(strict.url, auth=auth, timeout=10).status_code == 401
                statuses.add(session.get(lenient.url, auth=auth, timeout=10).status_code)

    with caplog.at_level(logging.WARNING, "identity_client"):
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    service.close()
    assert statuses == {200}
    assert len(endpoint.asked) <= 2
    (warning,) = [message for message in caplog.messages if "rejects each new" in message]
    assert f"{strict.url.removeprefix('http://')} rejects each new access token" in warning


def test_a_rejected_token_is_served_again_when_the_token_endpoint_fails(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured(token_reply("first"), reply({"error": "x"}, 503))
    assert service.get_access_token() == "first"
    service.invalidate_token("first")
    assert service.get_access_token() == "first"
    assert service.status().state is ServiceState.DEGRADED
    service.invalidate_token("first")  # within the pause no other can be had
    assert service.get_access_token() == "first"
    assert service.status().tokens_invalidated == 1


def test_a_token_that_a_server_accepted_before_is_replaced_without_a_pause(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    names = [f"token-{number}" for number in range(6)]
    service, endpoint = preconfigured(*map(token_reply, names), **LONG_PAUSES)
    resource = canned(*[OK, UNAUTHORIZED] * 4, OK)
    auth = service.auth()
    for _ in range(5):
        assert requests.get(resource.url, auth=auth, timeout=10).ok
    assert len(endpoint.asked) == 5


def test_the_auth_objects_of_a_service_remember_together_which_token_a_host_accepted(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    names = [f"token-{number}" for number in range(6)]
    service, endpoint = preconfigured(*map(token_reply, names), **LONG_PAUSES)
    resource = canned(*[OK, UNAUTHORIZED] * 4, OK)
    for number in range(5):
        if number % 2:
            with service.session() as session:
                assert session.get(resource.url, timeout=10).ok
        else:
            assert requests.get(resource.url, auth=service.auth(), timeout=10).ok
    assert len(endpoint.asked) == 5


def test_the_auth_objects_of_a_fake_remember_together_too(canned: StartCanned) -> None:
    service = FakeIdentityService(base_retry_delay=60.0, max_retry_delay=60.0)
    resource = canned(*[OK, UNAUTHORIZED] * 4, OK)
    for _ in range(5):
        assert requests.get(resource.url, auth=service.auth(), timeout=10).ok
    assert len(service.tokens) == 5


def test_two_services_do_not_share_what_a_host_accepted(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    first, _ = preconfigured(token_reply("same"))
    second, endpoint = preconfigured(token_reply("same"), token_reply("other"), **LONG_PAUSES)
    resource = canned(OK, UNAUTHORIZED)
    assert requests.get(resource.url, auth=first.auth(), timeout=10).ok
    for _ in range(4):
        assert requests.get(resource.url, auth=second.auth(), timeout=10).status_code == 401
    assert len(endpoint.asked) == 2


def test_an_auth_object_without_a_service_remembers_by_itself(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    names = [f"token-{number}" for number in range(6)]
    service, endpoint = preconfigured(*map(token_reply, names), **LONG_PAUSES)
    resource = canned(*[OK, UNAUTHORIZED] * 4, OK)
    auth = TokenAuth(service.get_access_token, service.invalidate_token)
    for _ in range(5):
        assert requests.get(resource.url, auth=auth, timeout=10).ok
    assert len(endpoint.asked) == 5


@pytest.mark.parametrize("has_own_session", [False, True])
def test_a_server_that_always_rejects_one_path_causes_few_token_requests(
    preconfigured: Preconfigured, canned: StartCanned, has_own_session: bool
) -> None:
    names = [f"token-{number}" for number in range(90)]
    service, endpoint = preconfigured(*map(token_reply, names), **LONG_PAUSES)
    resource = canned(OK)

    def by_path(asked: Asked) -> None:
        resource.answers[0] = UNAUTHORIZED if asked.path == "/admin" else OK

    resource.before_answer = by_path
    http = service.session()
    for _ in range(60):
        with service.session() if has_own_session else nullcontext(http) as session:
            assert session.get(f"{resource.url}/orders", timeout=10).status_code == 200
            assert session.get(f"{resource.url}/admin", timeout=10).status_code == 401
    assert len(endpoint.asked) == 22  # the first, twenty revocations, one rejection before a pause
    for _ in range(4):
        service.invalidate_token(service.get_access_token(), "another-host", was_accepted=True)
        service.get_access_token()
    assert len(endpoint.asked) == 26


def test_after_a_quiet_time_a_revocation_counts_as_the_first_again(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    names = [f"token-{number}" for number in range(60)]
    service, endpoint = preconfigured(*map(token_reply, names), clock=clock, **LONG_PAUSES)
    for _ in range(30):
        service.invalidate_token(service.get_access_token(), "orders", was_accepted=True)
    clock.advance(2000)
    service.get_access_token()
    asked = len(endpoint.asked)
    for _ in range(10):
        service.invalidate_token(service.get_access_token(), "orders", was_accepted=True)
    service.get_access_token()
    assert len(endpoint.asked) == asked + 10


def test_a_gateway_that_is_out_of_service_has_accepted_no_token(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    names = [f"token-{number}" for number in range(60)]
    service, endpoint = preconfigured(*map(token_reply, names), **LONG_PAUSES)
    resource = canned(*[UNAUTHORIZED, Canned(503)] * 50)
    session = service.session()
    for _ in range(50):
        session.get(resource.url, timeout=10)
    assert len(endpoint.asked) == 2


def test_a_token_that_comes_back_unchanged_is_not_fetched_again_and_again(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured(token_reply("same"), **LONG_PAUSES)
    for _ in range(50):
        service.invalidate_token(service.get_access_token())
    assert service.get_access_token() == "same"
    assert len(endpoint.asked) == 2


def test_refreshes_on_account_of_rejections_come_after_pauses_that_grow(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    tokens = (token_reply(f"token-{number}", expires_in=86400) for number in range(20))
    service, endpoint = preconfigured(
        *tokens, clock=clock, base_retry_delay=10.0, max_retry_delay=300.0
    )
    service.start()
    refreshed_at: list[int] = []
    for moment in range(80):
        asked = len(endpoint.asked)
        service.invalidate_token(service.get_access_token())
        service.get_access_token()
        if len(endpoint.asked) > asked:
            refreshed_at.append(moment)
        clock.advance(1)
    first, second, third = [later - earlier for earlier, later in pairwise(refreshed_at)][:3]
    assert 5 <= first <= 11
    assert 10 <= second <= 21
    assert 20 <= third <= 41


def test_a_token_that_is_rejected_while_refreshes_fail_stays_in_use(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    service, _ = preconfigured(token_reply("first"), reply({"error": "x"}, 503), clock=clock)
    service.start()
    clock.advance(270)
    wait_for(service, lambda: service.status().state is ServiceState.DEGRADED)
    service.invalidate_token("first")  # the first rejection: no brake is on
    assert service.get_access_token() == "first"
    assert service.status().tokens_invalidated == 0


def test_after_a_quiet_time_a_rejection_counts_as_the_first_again(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    service, endpoint = preconfigured(
        *(token_reply(f"token-{number}") for number in range(9)),
        clock=clock,
        base_retry_delay=300.0,
        max_retry_delay=300.0,
    )
    service.invalidate_token(service.get_access_token())
    current = service.get_access_token()
    service.invalidate_token(current)
    assert service.get_access_token() == current
    clock.advance(2000)
    service.get_access_token()
    asked = len(endpoint.asked)
    service.invalidate_token(service.get_access_token())
    service.get_access_token()
    assert len(endpoint.asked) == asked + 1


def test_each_episode_of_rejections_has_a_warning_of_its_own(
    preconfigured: Preconfigured, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    tokens = (token_reply(f"token-{number}") for number in range(9))
    service, _ = preconfigured(*tokens, clock=clock, **LONG_PAUSES)
    for _ in range(2):
        for _ in range(3):
            service.invalidate_token(service.get_access_token(), "orders.example")
        clock.advance(2000)
    service.close()  # all is logged by then
    assert sum("rejects each new" in message for message in caplog.messages) == 2


@pytest.mark.parametrize("lifetime", [0.001, 0.01])
def test_tokens_that_hardly_live_cause_ten_requests_a_second_at_most(
    preconfigured: Preconfigured, lifetime: float
) -> None:
    # The pause after a failure is 0.1 s at least, too.
    service, endpoint = preconfigured(
        token_reply(expires_in=lifetime), token_timeout=0.2, base_retry_delay=0.2
    )
    began = time.monotonic()
    while time.monotonic() < began + 1:
        with suppress(IdentityError):  # expired on arrival, or not in time
            service.get_access_token()
    asked = len(endpoint.asked)
    assert asked <= 10 * (time.monotonic() - began) + 3


# --- where the token may go ---


@pytest.mark.parametrize(
    ("hosts", "sent"),
    [
        pytest.param(None, True, id="anywhere"),
        pytest.param(["127.0.0.1"], True, id="this host"),
        pytest.param(["127.0.0.1:{port}"], True, id="this host and port"),
        pytest.param(["127.0.0.1:1"], False, id="another port"),
        pytest.param(["orders.example"], False, id="another host"),
        pytest.param(["*.0.0.1"], True, id="a label of any name"),
        pytest.param(["*.1"], False, id="one label is not three"),
        pytest.param([], False, id="nowhere"),
    ],
)
def test_the_token_goes_to_the_listed_hosts_only(
    preconfigured: Preconfigured, canned: StartCanned, hosts: list[str] | None, sent: bool
) -> None:
    service, _ = preconfigured()
    resource = canned(OK)
    port = resource.url.rpartition(":")[2]
    given = None if hosts is None else [host.format(port=port) for host in hosts]
    with service.session(hosts=given) as session:
        assert session.get(resource.url, timeout=10).ok
    assert ("Authorization" in resource.asked[0].headers) is sent


def test_the_hosts_of_one_auth_object_are_not_those_of_another(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    service, _ = preconfigured()
    resource = canned(OK)
    narrow = service.auth(hosts=["orders.example"])
    for auth in (narrow, service.auth(), narrow):
        assert requests.get(resource.url, auth=auth, timeout=10).ok
    assert ["Authorization" in asked.headers for asked in resource.asked] == [False, True, False]


@pytest.mark.parametrize("host", ["", "http://orders", "orders/path", "user@orders", "orders:x"])
def test_what_is_not_a_host_is_refused(preconfigured: Preconfigured, host: str) -> None:
    service, _ = preconfigured()
    with pytest.raises(ValueError, match="is not a host"):
        service.auth(hosts=[host])


def test_a_url_with_a_password_among_the_hosts_is_refused_without_it(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured()
    with pytest.raises(ValueError, match="an entry with user information is not a host") as caught:
        service.auth(hosts=["https://admin:hunter2@orders"])
    assert "hunter2" not in str(caught.value)


def test_one_string_is_not_a_list_of_hosts(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured()
    with pytest.raises(ValueError, match="must be a list of host names"):
        service.auth(hosts="orders")


def test_a_prepared_request_may_be_sent_twice(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    service, _ = preconfigured()
    resource = canned(OK)
    auth = service.auth()
    with requests.Session() as session:
        request = session.prepare_request(requests.Request("GET", resource.url, auth=auth))
        auth(request)
        assert session.send(request, timeout=10).ok
        assert session.send(request, timeout=10).ok
    assert len(request.hooks["response"]) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_rejection_is_not_read_to_its_end(
    preconfigured: Preconfigured, canned: StartCanned, stream: bool
) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))
    resource = canned(Canned(401, b"x" * 1_000_000), OK)
    response = requests.get(resource.url, auth=service.auth(), stream=stream, timeout=10)
    assert response.text == "done"


def test_a_rejection_without_an_end_is_cut_off(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))
    heads = [
        b"HTTP/1.1 401 Unauthorized\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
    ]
    taken: list[int] = []

    def reject_without_end(connection: socket.socket, stopped: threading.Event) -> None:
        head = heads.pop(0)
        connection.sendall(head)
        while heads and len(taken) < 500:
            connection.sendall(b"x" * 65536)
            taken.append(65536)

    with hostile.HostileServer(reject_without_end) as resource:
        url = f"http://127.0.0.1:{resource.port}"
        assert requests.get(url, auth=service.auth(), stream=True, timeout=10).text == "done"
    assert len(taken) < 500


def test_a_rejection_that_breaks_off_is_an_error_of_requests(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))

    def break_off(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nno")

    with (
        hostile.HostileServer(break_off) as resource,
        pytest.raises(requests.exceptions.ChunkedEncodingError),
    ):
        requests.get(f"http://127.0.0.1:{resource.port}", auth=service.auth(), timeout=10)


def test_the_retry_has_the_cookies_of_the_rejection(
    preconfigured: Preconfigured, canned: StartCanned
) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))
    resource = canned(
        Canned(200, b"", (("Set-Cookie", "visit=old"),)),
        Canned(401, b"", (("Set-Cookie", "visit=new"),)),
        OK,
    )
    with service.session() as session:
        assert session.get(resource.url, timeout=10).ok
        assert session.get(resource.url, timeout=10).ok
        assert session.cookies["visit"] == "new"
    assert [asked.headers.get("Cookie") for asked in resource.asked] == [
        None,
        "visit=old",
        "visit=new",
    ]


def test_the_events_of_a_rejection_are_delivered(preconfigured: Preconfigured) -> None:
    service, _ = preconfigured(token_reply("first"), token_reply("second"))
    recorder = Recorder(service)
    service.invalidate_token(service.get_access_token(), "orders.example")
    event = recorder.wait_for(EventKind.TOKEN_INVALIDATED)
    assert "rejected by orders.example" in event.message


def test_the_first_pause_is_not_shorter_when_the_token_is_about_to_expire(
    preconfigured: Preconfigured,
) -> None:
    clock = FakeClock()
    answers = token_reply(expires_in=20), reply({"error": "x"}, 503)
    service, _ = preconfigured(*answers, clock=clock, base_retry_delay=5.0, max_retry_delay=300.0)
    recorder = Recorder(service)
    service.get_access_token()
    clock.advance(18)  # one second of use is left
    recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED)
    wait_for(service, lambda: service.status().next_attempt_in is not None)
    pause = service.status().next_attempt_in
    assert pause is not None
    assert 0.5 <= pause <= 1.0
