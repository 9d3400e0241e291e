"""The log of requests: what it holds, what it leaves out, and how a test waits for it."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
import requests
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import IdentityApiClient, IdentityApiError
from identity_client.server import IdentityServer, LoggedRequest, RequestLog
from identity_client.server.request_log import KEPT

TOKEN = "/realms/xema/protocol/openid-connect/token"


def entry(**members: Any) -> dict[str, Any]:
    logged = {"time": 0.0, "method": "GET", "path": "/", "endpoint": "other", "status": 200}
    return {**logged, "duration": 0.0, **members}


def test_a_request_is_logged_with_its_client_and_without_secrets(
    api: IdentityServer, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    before = time.time()
    with caplog.at_level(logging.INFO, "identity_client.server"):
        token = make_service(api).get_access_token()
    registered, issued = api.backend.log.since()
    assert (registered.number, registered.endpoint, registered.client_id) == (
        1,
        "register",
        "orders",
    )
    assert (issued.method, issued.path, issued.endpoint) == ("POST", TOKEN, "token")
    assert (issued.status, issued.client_id, issued.error) == (200, "orders", None)
    assert before <= registered.time <= issued.time <= time.time()
    assert 0 < issued.duration < 10
    client = api.backend.client("orders")
    assert client is not None
    shown = f"{api.backend.log.since()} {caplog.text} {[r.__dict__ for r in caplog.records]}"
    for secret in (client.secret, token, INTERNAL_TOKEN):
        assert secret not in shown


def test_access_records_have_a_constant_template_and_fields(
    api: IdentityServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "identity_client.server.access"):
        requests.get(f"{api.url}/health?a=b", timeout=10)
    (record,) = caplog.records
    assert record.msg == "%s %s returned HTTP %d"
    assert record.getMessage() == "GET /health returned HTTP 200"
    assert record.__dict__["identity_request_path"] == "/health"


def test_an_error_is_logged_with_its_reason(api: IdentityServer) -> None:
    api.backend.change(api_outage=True, token_outage=True)
    with (
        IdentityApiClient(api.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError, match="simulated outage"),
    ):
        client.register_service(name="orders", display_name="Orders")
    form = {"grant_type": "client_credentials", "client_id": "orders"}
    requests.post(api.url + TOKEN, data=form, timeout=10)
    requests.post(api.url + TOKEN, data=form, auth=("100%", "x"), timeout=10)
    requests.post(api.url + TOKEN, auth=("billing", "x"), timeout=10)
    requests.post(f"{api.url}/health", timeout=10)
    assert [
        (logged.status, logged.client_id, logged.error) for logged in api.backend.log.since()
    ] == [
        (503, None, "simulated outage"),
        (503, "orders", "temporarily_unavailable"),
        (503, None, "temporarily_unavailable"),
        (503, "billing", "temporarily_unavailable"),
        (405, None, "Method Not Allowed"),
    ]


def test_a_response_that_is_not_an_error_is_logged_without_a_reason(api: IdentityServer) -> None:
    requests.request("OPTIONS", f"{api.url}/health", timeout=10)
    assert [logged.error for logged in api.backend.log.since()] == [None]


def test_what_a_client_chose_cannot_break_a_line(api: IdentityServer) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.register_service(name="a\u2028b\u202e", display_name="A")
    requests.get(f"{api.url}/a%0A%1B[31m", timeout=10)
    first, second = api.backend.log.since()
    assert first.client_id == "a?b?"
    assert second.path == "/a%0A%1B%5B31m"


def test_the_page_s_own_requests_are_not_logged(api: IdentityServer) -> None:
    requests.get(f"{api.url}/dev/settings", timeout=10)
    assert api.backend.log.since() == []


class TestWaiting:
    def test_a_request_that_is_there_is_returned_at_once(self) -> None:
        log = RequestLog()
        first, second = log.add(**entry(status=503)), log.add(**entry(status=503))
        assert log.wait_for(lambda logged: logged.status == 503, 0) == first
        assert log.wait_for(lambda logged: logged.status == 503, 0, count=2) == second

    def test_a_request_that_arrives_meanwhile_is_returned(self) -> None:
        log = RequestLog()
        seen: list[LoggedRequest] = []
        waiting = threading.Thread(
            target=lambda: seen.append(log.wait_for(lambda logged: logged.path == "/b"))
        )
        waiting.start()
        log.add(**entry(path="/a"))
        log.add(**entry(path="/b"))
        waiting.join()
        assert [logged.number for logged in seen] == [2]

    def test_too_few_are_a_timeout(self) -> None:
        log = RequestLog()
        log.add(**entry())
        with pytest.raises(TimeoutError, match=r"1 of 2 matching requests within 0\.01 s"):
            log.wait_for(lambda logged: True, 0.01, count=2)

    def test_what_was_cleared_does_not_count(self) -> None:
        log = RequestLog()
        log.add(**entry())
        log.clear()
        assert log.add(**entry()).number == 2
        assert log.wait_for(lambda logged: True, 0).number == 2

    def test_the_last_thousand_are_kept(self) -> None:
        log = RequestLog()
        for _ in range(KEPT + 5):
            log.add(**entry())
        assert [logged.number for logged in (log.since()[0], log.since()[-1])] == [6, KEPT + 5]
        assert len(log.since(KEPT)) == 5
