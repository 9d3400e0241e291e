"""The calls below /dev/ and the page's files; tests/page drives the page itself."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Self
from urllib.parse import quote

import pytest
import requests
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import IdentityApiClient
from identity_client.server import IdentityServer
from identity_client.server.dev_api import MAX_STREAMS

PAGE_KEY = "key-of-the-page"
NAN = '{"exp": NaN}'
INFINITE = '{"exp": 1e999}'


@pytest.fixture
def api() -> Iterator[IdentityServer]:
    with IdentityServer(INTERNAL_TOKEN, page_key=PAGE_KEY) as server:
        yield server


def call(
    api: IdentityServer, method: str, path: str, key: str = PAGE_KEY, **request: Any
) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}", **request.pop("headers", {})}
    return requests.request(method, api.url + path, headers=headers, timeout=10, **request)


def register(api: IdentityServer, name: str) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.register_service(name=name, display_name=name)


def token_part(document: object) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


class TestKeys:
    @pytest.mark.parametrize("key", [PAGE_KEY, INTERNAL_TOKEN])
    def test_the_page_s_key_and_the_internal_token_open_dev(
        self, api: IdentityServer, key: str
    ) -> None:
        assert call(api, "GET", "/dev/settings", key).status_code == 200

    def test_the_page_s_key_opens_nothing_else(self, api: IdentityServer) -> None:
        assert call(api, "GET", "/internal/organizations/system/a").status_code == 401

    @pytest.mark.parametrize("key", ["", "wrong", f"{PAGE_KEY}x"])
    def test_nothing_is_open_without_a_key(self, api: IdentityServer, key: str) -> None:
        for method, path in (
            ("GET", "/dev/services"),
            ("GET", "/dev/requests"),
            ("GET", "/dev/events"),
            ("POST", "/dev/decode"),
            ("POST", "/dev/services/a/disable"),
            ("POST", "/dev/"),
            ("GET", "/dev/../dev/settings"),
            ("GET", "/dev/page.css/../settings"),
        ):
            assert call(api, method, path, key).status_code in (400, 401), path

    def test_without_a_page_key_the_internal_token_alone_opens_dev(self) -> None:
        with IdentityServer(INTERNAL_TOKEN) as api:
            assert call(api, "GET", "/dev/settings", INTERNAL_TOKEN).status_code == 200
            assert call(api, "GET", "/dev/settings", "None").status_code == 401


class TestPage:
    def test_each_file_is_served_with_its_type_and_a_strict_policy(
        self, api: IdentityServer
    ) -> None:
        page = requests.get(f"{api.url}/dev", timeout=10)
        assert page.url == f"{api.url}/dev/"
        names = set(re.findall(r'/dev/([\w.]+)"', page.text))
        for file in (files("identity_client.server") / "page").iterdir():
            name = "" if file.name == "index.html" else file.name
            served = requests.get(f"{api.url}/dev/{name}", timeout=10)
            assert served.content == file.read_bytes()
            policy = served.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert served.headers["X-Content-Type-Options"] == "nosniff"
            assert served.headers["Cache-Control"] == "no-store"
        types = {
            name: requests.get(f"{api.url}/dev/{name}", timeout=10).headers["Content-Type"]
            for name in names
        }
        assert types == {
            "page.css": "text/css; charset=utf-8",
            "page.js": "text/javascript; charset=utf-8",
            "icon.svg": "image/svg+xml; charset=utf-8",
        }

    def test_it_names_no_other_host_and_has_no_inline_code(self) -> None:
        for file in (files("identity_client.server") / "page").iterdir():
            text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?:|[\"'(]//", text), file
            assert "innerHTML" not in text
            assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|style=", text), file


class TestServices:
    def test_they_are_listed_with_their_state_and_last_token(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        began = time.time()
        make_service(api).get_access_token()
        register(api, "billing")
        api.backend.disable_client("billing")
        orders, billing = call(api, "GET", "/dev/services").json()["data"]
        token = orders.pop("lastToken")
        assert began <= orders.pop("registeredAt") <= token["issuedAt"] <= time.time()
        assert token["expiresAt"] == pytest.approx(token["issuedAt"] + 300, abs=1)
        assert orders.pop("secretChangedAt") >= began
        assert orders == {"name": "orders", "enabled": True, "roles": ["micro-service"]}
        assert (billing["enabled"], billing["lastToken"]) == (False, None)

    @pytest.mark.parametrize("name", ["orders", "a/b", "/a//", "größe ?#%2F"])
    def test_they_can_be_disabled_and_enabled(self, api: IdentityServer, name: str) -> None:
        register(api, name)
        client = api.backend.client(name)
        assert client is not None
        secret = client.secret
        path = f"/dev/services/{quote(name, safe='')}"
        for action, enabled in (("disable", False), ("enable", True), ("rotate-secret", True)):
            assert call(api, "POST", f"{path}/{action}").status_code == 204
            assert client.enabled is enabled
        assert client.secret != secret

    @pytest.mark.parametrize("action", ["disable", "enable", "rotate-secret"])
    def test_one_that_does_not_exist_is_not_found(self, api: IdentityServer, action: str) -> None:
        answer = call(api, "POST", f"/dev/services/orders/{action}")
        assert (answer.status_code, answer.json()["message"]) == (404, "no service named 'orders'")


class TestDecoding:
    def test_a_token_of_this_server_is_recognized(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        token = make_service(api).get_access_token()
        data = call(api, "POST", "/dev/decode", json={"token": f" {token}\n"}).json()["data"]
        assert data["signedHere"] is True
        assert data["claims"]["azp"] == "orders"
        assert data["header"]["alg"] == "RS256"

    @pytest.mark.parametrize(
        "header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS256"}, {"alg": 7}, {}]
    )
    def test_a_token_of_anothers_is_decoded_and_not_trusted(
        self, api: IdentityServer, header: dict[str, Any]
    ) -> None:
        token = f"{token_part(header)}.{token_part({'sub': 'x'})}.c2ln"
        data = call(api, "POST", "/dev/decode", json={"token": token}).json()["data"]
        assert data == {"header": header, "claims": {"sub": "x"}, "signedHere": False}

    @pytest.mark.parametrize(
        ("token", "problem"),
        [
            ("", "it has 1 parts, separated by dots, and not 3"),
            ("a.b.c.d", "it has 4 parts"),
            ("a.b.c", "its header is not"),
            ("ü.b.c", "its header is not"),
            (f"{token_part({})}.{token_part([])}.", "its payload is not"),
            (f"{token_part({})}.{token_part('[' * 9000)}.", "its payload is not"),
            (f"{token_part({})}.{token_part(NAN)}.", "its payload is not"),
            (f"{token_part({})}.{token_part(INFINITE)}.", "its payload is not"),
        ],
    )
    def test_what_is_not_a_token_is_refused_with_the_reason(
        self, api: IdentityServer, token: str, problem: str
    ) -> None:
        answer = call(api, "POST", "/dev/decode", json={"token": token})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(f"not a JSON Web Token: {problem}")

    @pytest.mark.parametrize("body", [{}, {"token": 7}])
    def test_a_body_without_a_token_is_refused(
        self, api: IdentityServer, body: dict[str, Any]
    ) -> None:
        answer = call(api, "POST", "/dev/decode", json=body)
        assert answer.status_code == 400
        assert "'token' must be a string" in answer.json()["message"]


def test_requests_are_listed_from_a_number_on(api: IdentityServer) -> None:
    for name in ("a", "b"):
        register(api, name)
    assert [r["clientId"] for r in call(api, "GET", "/dev/requests").json()["data"]] == ["a", "b"]
    (second,) = call(api, "GET", "/dev/requests?since=1").json()["data"]
    assert (second["number"], second["path"]) == (2, "/internal/services/register")


class Stream:
    """Reads server-sent events."""

    def __init__(self, api: IdentityServer, since: int = 0) -> None:
        self.response = call(
            api, "GET", "/dev/events", stream=True, headers={"Last-Event-ID": str(since)}
        )
        self._lines = self.response.iter_lines(chunk_size=1)

    def next(self) -> tuple[str, Any]:
        """Return the next event and its data; a comment is the event ''."""
        kind, data = "", "null"
        for line in self._lines:
            name, _, value = line.decode().partition(": ")
            kind = value if name == "event" else kind
            data = value if name == "data" else data
            if not line:
                return kind, json.loads(data)
        raise EOFError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()


class TestEvents:
    def test_the_state_comes_first_and_then_what_happens(self, api: IdentityServer) -> None:
        with Stream(api) as stream:
            assert stream.response.headers["Content-Type"].startswith("text/event-stream")
            kind, state = stream.next()
            assert (kind, state["services"]) == ("state", [])
            assert state["settings"]["tokenOutage"] is False
            register(api, "orders")
            kind, state = stream.next()
            assert (kind, state["services"][0]["name"]) == ("state", "orders")
            kind, logged = stream.next()
            assert (kind, logged["number"], logged["clientId"]) == ("request", 1, "orders")
            api.backend.change(token_outage=True)
            kind, state = stream.next()
            assert (kind, state["settings"]["tokenOutage"]) == ("state", True)

    def test_a_stream_goes_on_where_the_last_one_ended(self, api: IdentityServer) -> None:
        for name in ("a", "b"):
            register(api, name)
        with Stream(api, since=1) as stream:
            assert stream.next()[0] == "state"
            assert stream.next()[1]["clientId"] == "b"

    def test_a_quiet_stream_shows_that_it_is_alive(
        self, api: IdentityServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("identity_client.server.dev_api.HEARTBEAT", 2)
        with Stream(api) as stream:
            assert [stream.next()[0] for _ in range(3)] == ["state", "", ""]

    def test_streams_leave_threads_for_the_services(
        self, api: IdentityServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("identity_client.server.dev_api.HEARTBEAT", 1)
        streams = [Stream(api) for _ in range(MAX_STREAMS)]
        refused = Stream(api).response
        assert refused.status_code == 503
        assert refused.json()["message"] == f"{MAX_STREAMS} pages are open already; close one"
        register(api, "orders")
        for stream in streams:
            stream.response.close()
        deadline = time.monotonic() + 10
        while Stream(api).response.status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_open_streams_do_not_delay_the_stop(
        self, api: IdentityServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("identity_client.server.dev_api.HEARTBEAT", 400)  # 100 s
        streams = [Stream(api) for _ in range(MAX_STREAMS)]
        for stream in streams:
            stream.next()
        threads = {t for t in threading.enumerate() if t.name.startswith("CP Server")}
        began = time.monotonic()
        api.stop()
        assert time.monotonic() - began < 10
        assert not [thread for thread in threads if thread.is_alive()]
