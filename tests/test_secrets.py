"""The canary: no secret shows anywhere, in success or in failure (design: HTTP and secrets)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import pytest
import requests
from cryptography.fernet import Fernet
from support import hostile
from support.canned import Canned, reply, token_reply
from support.cli import command, invoke
from support.recorder import Recorder
from support.scripted import registered
from support.services import MakeService, StartCanned

from identity_client import (
    EventKind,
    IdentityApiClient,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    IdentityError,
    ServiceCredentials,
    StoredCredentials,
    open_store,
)
from identity_client.server import IdentityServer, Scenario

INTERNAL = "canary-internal-token"
CLIENT = "canary-client-secret"
ACCESS = "canary-access-token"
PAGE_KEY = "canary-page-key"
PHASES: tuple[Literal["setup", "call"], ...] = ("setup", "call")
CANARIES = (INTERNAL, CLIENT, ACCESS, PAGE_KEY)


def _forms(secret: str) -> set[str]:
    """A secret as it is, and as headers, forms, URLs and dumps have it."""
    basic = base64.b64encode(f"orders:{secret}".encode()).decode()
    plain = secret.encode()
    return {secret, quote(secret, safe=""), basic, base64.b64encode(plain).decode(), plain.hex()}


class Watch:
    """Gathers all that could be printed, and looks for the secrets in it."""

    def __init__(self) -> None:
        self.canaries = list(CANARIES)
        self._seen: list[tuple[str, str]] = []

    def see(self, where: str, text: object) -> None:
        self._seen.append((where, repr(text) if not isinstance(text, str) else text))

    def see_error(self, error: BaseException) -> None:
        """An exception as error reporters show it: text, attributes, causes, frames with locals."""
        self.see("its text", f"{error} {error!r} {error.args!r} {vars(error)!r}")
        self.see("its pickle", repr(pickle.dumps(error)))
        frames = error.__traceback__
        while frames is not None:
            if "/identity_client/" in frames.tb_frame.f_code.co_filename:
                self._see_frame(frames.tb_frame)
            frames = frames.tb_next
        # A foreign exception in the chain brings frames of its own.
        assert error.__context__ is None or isinstance(error.__context__, IdentityError)
        if error.__cause__ is not None:
            self.see_error(error.__cause__)
        self.see("its traceback", "".join(traceback.format_exception(error)))

    def _see_frame(self, frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            self.see(f"the local {name} of {frame.f_code.co_name}", repr(value))

    def clean(self) -> None:
        for where, text in self._seen:
            for canary in self.canaries:
                for form in _forms(canary):
                    assert form not in text, f"{canary} in {where}: {text}"
        assert self._seen


@pytest.fixture
def watch(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Watch]:
    watch = Watch()
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with caplog.at_level(logging.DEBUG):
        yield watch
    # Those of this phase alone are in caplog.records.
    for record in (record for when in PHASES for record in caplog.get_records(when)):
        watch.see("a log record", f"{record.getMessage()} {record.args!r} {record.exc_text}")
    out, err = capfd.readouterr()
    watch.see("standard output", out)
    watch.see("standard error", err)
    watch.clean()


def _service(url: str, **settings: Any) -> IdentityBootstrapService:
    return IdentityBootstrapService(
        IdentityBootstrapConfig(
            service_name="orders",
            identity_api_url=url,
            identity_api_internal_token=INTERNAL,
            base_retry_delay=0.05,
            max_retry_delay=0.1,
            **settings,
        )
    )


def test_a_store_shows_no_secret(tmp_path: Path, watch: Watch) -> None:
    url = f"file://{tmp_path}/store"
    places: dict[str, Any] = {"service_name": "orders", "identity_api_url": "http://api"}
    store = open_store(url, **places, key=None)
    known = ServiceCredentials(client_id="orders", client_secret=CLIENT, token_endpoint="http://t")
    with store.lock(1):
        stored = store.save(StoredCredentials(credentials=known))
    encrypting = open_store(url, **places, key=Fernet.generate_key().decode())
    calls: list[Callable[[], object]] = [
        open_store(url, service_name="billing", identity_api_url="http://api").load,
        lambda: store.save(stored),
        encrypting.load,
        lambda: open_store(f"vault://:{INTERNAL}@host", **places),
        lambda: open_store(f"redis://:{INTERNAL}@host:port", **places),
        lambda: open_store(url, **places, key=INTERNAL),
    ]
    for call in calls:
        with pytest.raises(IdentityError) as caught:
            call()
        watch.see_error(caught.value)
    encrypting.clear()
    with encrypting.lock(1):
        encrypting.save(StoredCredentials(credentials=known))
    with pytest.raises(IdentityError) as caught:
        store.load()
    watch.see_error(caught.value)
    watch.see("what is shown of it", f"{store!r} {store} {stored!r}")
    watch.see("an encrypted file", (tmp_path / "store").read_text())


@pytest.mark.parametrize("auth_method", ["client_secret_post", "client_secret_basic"])
def test_the_whole_flow_shows_no_secret(
    auth_method: str, canned: StartCanned, watch: Watch
) -> None:
    server = canned(Canned(404))
    rejection = reply({"error": "invalid_client"}, 401)
    tokens = [token_reply(ACCESS), rejection, token_reply(f"{ACCESS}-2")]

    def prepare(asked: Any) -> None:
        if asked.path != "/token":
            server.answers[0] = registered(server.url, clientSecret=f"{CLIENT}-{len(tokens)}")
        else:
            server.answers[0] = tokens.pop(0) if len(tokens) > 1 else tokens[0]

    server.before_answer = prepare
    service = _service(server.url, token_endpoint_auth_method=auth_method)
    service.on_event(lambda event: watch.see("an event", event))
    try:
        token = service.get_access_token()
        assert token == ACCESS
        watch.see("a status", service.status())
        service.invalidate_token(token)
        assert service.get_access_token() == f"{ACCESS}-2"
        watch.see("a service", service)
        watch.see("its parts", [vars(service), vars(service._cache), service._cache.snapshot])
        watch.see("its configuration", service._config)
        watch.see("its credentials", service._source.credentials)
        watch.see("its authentication", service.auth())
        with pytest.raises(TypeError) as caught:
            pickle.dumps(service)
        watch.see_error(caught.value)
    finally:
        service.close()


BAD = [
    Canned(401, INTERNAL.encode() + CLIENT.encode()),
    reply({"message": [INTERNAL], "error": INTERNAL}, 403),
    reply({"data": {"id": 1, "clientSecret": CLIENT}}),
    reply({"data": {"clientSecret": [CLIENT], "access_token": ACCESS}}),
    Canned(200, f'{{"clientSecret": "{CLIENT}", '.encode()),
    Canned(302, b"", (("Location", f"http://127.0.0.1:9/?{CLIENT}"),)),
    Canned(200, CLIENT.encode() * 100_000),
]


@pytest.mark.parametrize("answer", BAD, ids=range(len(BAD)))
def test_failures_of_identity_api_show_no_secret(
    answer: Canned, canned: StartCanned, watch: Watch
) -> None:
    server = canned(answer)
    with IdentityApiClient(server.url, INTERNAL) as client:
        watch.see("a client", [client, vars(client)])
        for call in (
            lambda: client.register_service(name="orders", display_name="Orders"),
            lambda: client.verify_membership("user", "org"),
            lambda: client.ensure_system_org(name="system", display_name="System"),
            lambda: client.get_system_org("system"),
        ):
            with pytest.raises(IdentityError) as caught:
                call()
            watch.see_error(caught.value)
    with contextlib.closing(_service(server.url)) as service:
        with pytest.raises(IdentityError) as caught:
            service.get_access_token(0.01)
        watch.see_error(caught.value)


@pytest.mark.parametrize("auth_method", ["client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize(
    "answer",
    [
        reply({"error": "invalid_client", "error_description": CLIENT}, 401),
        reply({"error": CLIENT, "access_token": ACCESS}),
        reply({"access_token": f"{ACCESS}\n", "token_type": "Bearer"}),
        reply({"access_token": ACCESS, "token_type": ACCESS}),
        Canned(200, f"{{{ACCESS}".encode()),
        Canned(500, CLIENT.encode()),
    ],
    ids=range(6),
)
def test_failures_of_the_token_endpoint_show_no_secret(
    answer: Canned,
    auth_method: str,
    canned: StartCanned,
    watch: Watch,
) -> None:
    server = canned(answer)
    settings = {"client_id": "orders", "client_secret": CLIENT, "token_endpoint": server.url}
    service = _service(server.url, **settings, token_endpoint_auth_method=auth_method)
    with contextlib.closing(service):
        for call in (service.start, service.get_access_token):
            with pytest.raises(IdentityError) as caught:
                call()
            watch.see_error(caught.value)
        watch.see("a status", service.status())


@pytest.mark.parametrize(
    "behaviour", [hostile.resets_in_the_middle, hostile.closes_unanswered, hostile.speaks_no_http]
)
def test_broken_connections_show_no_secret(behaviour: hostile.Behaviour, watch: Watch) -> None:
    with hostile.HostileServer(behaviour) as server:
        url = f"http://127.0.0.1:{server.port}"
        with IdentityApiClient(url, INTERNAL) as client, pytest.raises(IdentityError) as caught:
            client.get_system_org("system")
        watch.see_error(caught.value)
        with contextlib.closing(_service(url)) as service:
            with pytest.raises(IdentityError) as caught:
                service.get_access_token(0.01)
            watch.see_error(caught.value)


def test_a_rejection_that_no_token_follows_shows_no_secret(
    canned: StartCanned, watch: Watch
) -> None:
    url = canned(token_reply(ACCESS)).url
    service = _service(url, client_id="orders", client_secret=CLIENT, token_endpoint=url)
    with contextlib.closing(service):
        request = requests.Request("GET", "http://stock/", auth=service.auth()).prepare()
    response = requests.Response()
    response.status_code, response.url, response.request = 401, "http://stock/", request
    response.raw = io.BytesIO()
    with pytest.raises(IdentityError) as caught:
        request.hooks["response"][0](response)
    watch.see_error(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IdentityApiClient("no URL", INTERNAL),
        lambda: IdentityApiClient("http://host", f"{INTERNAL}\n"),
        lambda: IdentityApiClient(f"http://user:{INTERNAL}@host", INTERNAL),
        lambda: IdentityBootstrapConfig(
            service_name="", identity_api_url="x", identity_api_internal_token=INTERNAL
        ),
        lambda: IdentityBootstrapConfig(
            service_name="a", client_id="a", client_secret=f"{CLIENT}\n", token_endpoint="http://h"
        ),
        lambda: IdentityBootstrapConfig.from_env(
            {"SERVICE_NAME": "a", "IDENTITY_API_INTERNAL_TOKEN": INTERNAL, "IDENTITY_API_URL": "x"}
        ),
    ],
    ids=range(6),
)
def test_refused_settings_show_no_secret(make: Callable[[], object], watch: Watch) -> None:
    with pytest.raises(IdentityError) as caught:
        make()
    watch.see_error(caught.value)


def test_reprs_show_no_secret(watch: Watch) -> None:
    credentials = ServiceCredentials(
        client_id="orders", client_secret=CLIENT, token_endpoint="http://host/token"
    )
    assert repr(credentials) == (
        "ServiceCredentials(client_id='orders', token_endpoint='http://host/token', roles=())"
    )
    watch.see("credentials", credentials)


def test_an_exception_in_a_thread_shows_no_secret(
    make_service: MakeService, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    service = _service("http://127.0.0.1:9")
    with contextlib.closing(service):
        thread = threading.Thread(target=service.get_access_token, args=(0.01,))
        thread.start()
        thread.join()
    assert "NotReadyError" in printed.getvalue()
    watch.see("standard error", printed.getvalue())


def _environ(url: str, folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("IDENTITY_")},
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL,
        "IDENTITY_CREDENTIAL_STORE": f"file://{folder}/store",
    }


@pytest.mark.parametrize("answer", [reply({"message": "fine"}), *BAD], ids=range(len(BAD) + 1))
def test_the_doctor_shows_no_secret(
    answer: Canned, canned: StartCanned, tmp_path: Path, watch: Watch
) -> None:
    server = canned(answer)
    rejection = reply({"error": "invalid_client", "error_description": CLIENT}, 401)
    environ = _environ(server.url, tmp_path)
    preconfigured = {
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": CLIENT,
        "SERVICE_TOKEN_ENDPOINT": f"{canned(rejection).url}/token",
    }
    redis = {"IDENTITY_CREDENTIAL_STORE": f"redis://:{CLIENT}@127.0.0.1:9/0"}
    proxy = {"HTTP_PROXY": f"http://user:{CLIENT}@127.0.0.1:9"}
    broken = {"IDENTITY_API_INTERNAL_TOKEN": f"{INTERNAL} {INTERNAL}", "SERVICE_CLIENT_ID": "x"}
    for variables in ({}, preconfigured, redis, proxy, broken):
        for arguments in (["doctor"], ["doctor", "--json"], ["check"], ["check", "--json"]):
            result = invoke({**environ, **variables}, *arguments)
            watch.see(" ".join(arguments), result.output)
    assert not any("register" in asked.path for asked in server.asked)


def test_the_status_file_and_the_commands_show_no_secret(
    canned: StartCanned, tmp_path: Path, watch: Watch
) -> None:
    server = canned(token_reply(ACCESS), reply({"error": CLIENT, "access_token": ACCESS}))
    path = tmp_path / "status.json"
    service = _service(
        server.url,
        status_file=str(path),
        client_id="orders",
        client_secret=CLIENT,
        token_endpoint=server.url,
    )
    recorder = Recorder(service)
    with contextlib.closing(service):
        service.invalidate_token(service.get_access_token())
        recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED)
        recorder.wait_for(EventKind.STATE_CHANGED, 2)
        watch.see("the status file", path.read_text())
        environ = _environ(server.url, tmp_path)
        for arguments in (["status", "--json"], ["status"], ["credentials", "show"], ["try"]):
            result = invoke({**environ, "IDENTITY_STATUS_FILE": str(path)}, *arguments)
            watch.see(" ".join(arguments), result.output)
    for shell in ("bash", "zsh", "fish"):
        watch.see("completion", invoke(environ, "completion", shell).output)


@pytest.mark.parametrize("mode", [(), ("--token-file", "token")], ids=["replaced", "supervised"])
def test_a_command_gets_no_secret_of_the_service(
    canned: StartCanned, tmp_path: Path, watch: Watch, mode: tuple[str, ...]
) -> None:
    environ = _environ("http://127.0.0.1:9", tmp_path) | {
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": CLIENT,
        "SERVICE_TOKEN_ENDPOINT": canned(token_reply("a-token")).url,
    }
    show = "tr '\\0' '\\n' < /proc/self/environ; tr '\\0' ' ' < /proc/self/cmdline"
    done = subprocess.run(
        command("exec", *mode, "--", "sh", "-c", show),
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "IDENTITY_ACCESS_TOKEN" in done.stdout
    watch.see("the command's environment and arguments", done.stdout + done.stderr)


@pytest.fixture
def development_server(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[IdentityServer, str]]:
    """A development server with a client that has a token, and that token."""
    # What this test itself sends has secrets in it.
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 0)
    with IdentityServer(INTERNAL, page_key=PAGE_KEY) as server:
        with contextlib.closing(_service(server.url)) as service:
            token = service.get_access_token()
        client = server.backend.client("orders")
        assert client is not None
        watch.canaries += [token, client.secret]
        yield server, token


def test_the_development_page_and_its_calls_show_no_secret(
    development_server: tuple[IdentityServer, str], watch: Watch
) -> None:
    server, token = development_server
    page = {"Authorization": f"Bearer {PAGE_KEY}"}
    for path in ("", "page.js", "settings", "services", "requests", "nothing"):
        response = requests.get(f"{server.url}/dev/{path}", headers=page, timeout=10)
        watch.see(f"/dev/{path}", f"{response.headers} {response.text}")
    for given in (token, f"{token}.", "x"):
        response = requests.post(
            f"{server.url}/dev/decode", json={"token": given}, headers=page, timeout=10
        )
        watch.see("a decoded token", response.text)
    # Not with requests: urllib3 would log what this test asks for.
    address = urlsplit(server.url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=10)) as connection:
        connection.request("GET", f"/dev/services?key={PAGE_KEY}")
        assert connection.getresponse().status == 401
    events = requests.get(f"{server.url}/dev/events", headers=page, stream=True, timeout=10)
    with contextlib.closing(events):
        lines = events.iter_lines(decode_unicode=True)
        shown = [next(lines) for _ in range(10)]  # the state, and the two requests of the service
    assert "event: request" in shown
    watch.see("the events", "\n".join(shown))


def test_a_scenario_and_the_server_s_values_show_no_secret(
    development_server: tuple[IdentityServer, str], watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = development_server
    names = ("rotate_secret", "disable_client", "enable_client", "delete_client")
    client = server.backend.client("orders")
    assert client is not None
    Scenario.parse({"steps": [{"at": 0, name: "orders"} for name in names]}).play(
        server.backend, threading.Event()
    )
    watch.canaries.append(client.secret)
    assert "scenario: at 0 s: rotate_secret = orders" in caplog.text
    watch.see("its client", client)
    watch.see("its log", server.backend.log.since())
    watch.see("its backend", [server.backend, server])


def test_authlib_does_not_log_the_tokens_that_it_issues(
    development_server: tuple[IdentityServer, str], caplog: pytest.LogCaptureFixture
) -> None:
    records = [record for when in PHASES for record in caplog.get_records(when)]
    assert [record for record in records if record.name.startswith("authlib")] == []
    assert [record for record in records if record.name == "identity_client.server.access"]
