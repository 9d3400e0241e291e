"""The canary: no secret shows anywhere, in success or in failure (design: HTTP and secrets)."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.fernet import Fernet
from support import hostile
from support.canned import Canned, reply, token_reply
from support.scripted import registered
from support.services import MakeService, StartCanned

from identity_client import (
    IdentityApiClient,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    IdentityError,
    ServiceCredentials,
    StoredCredentials,
    open_store,
)

INTERNAL = "canary-internal-token"
CLIENT = "canary-client-secret"
ACCESS = "canary-access-token"
CANARIES = (INTERNAL, CLIENT, ACCESS)


class Watch:
    """Gathers all that could be printed, and looks for the secrets in it."""

    def __init__(self) -> None:
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
            for canary in CANARIES:
                assert canary not in text, f"{canary} in {where}: {text}"
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
    for record in caplog.records:
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
        lambda: open_store(f"vault://:{INTERNAL}@host", **places),
        lambda: open_store(f"redis://:{INTERNAL}@host:port", **places),
        lambda: open_store(url, **places, key=INTERNAL),
    ]
    for call in calls:
        with pytest.raises(IdentityError) as caught:
            call()
        watch.see_error(caught.value)
    with encrypting.lock(1):
        encrypting.save(encrypting.load())
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
