"""Whatever the network does, callers and calls end in time, with an error that says why."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support import hostile
from support.canned import CannedServer, reply
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured, StartCanned

from identity_client import (
    IdentityApiClient,
    IdentityApiConnectionError,
    IdentityApiError,
    IdentityApiTimeout,
    IdentityError,
    NotReadyError,
)

Where = Callable[[], AbstractContextManager[str]]

# Seconds that a slow machine may add to a time limit; one that is not kept costs 8 s or more.
SLACK = 4.0


def _hostile(behaviour: hostile.Behaviour, scheme: str = "http") -> Where:
    @contextmanager
    def where() -> Iterator[str]:
        with hostile.HostileServer(behaviour) as server:
            yield f"{scheme}://127.0.0.1:{server.port}"

    return where


@contextmanager
def _closed_port() -> Iterator[str]:
    with hostile.closed_port() as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _black_hole() -> Iterator[str]:
    with hostile.black_hole() as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _no_such_host() -> Iterator[str]:
    yield "http://identity-api.invalid:3053"


@contextmanager
def _no_tls() -> Iterator[str]:
    with CannedServer(reply({})) as server:
        yield server.url.replace("http:", "https:")


PEERS = [
    pytest.param(_closed_port, IdentityApiConnectionError, "connection refused", id="closed port"),
    pytest.param(_black_hole, IdentityApiTimeout, "timed out after", id="black hole"),
    pytest.param(
        _hostile(hostile.says_nothing), IdentityApiTimeout, "timed out after", id="silence"
    ),
    pytest.param(
        _hostile(hostile.drips_headers), IdentityApiTimeout, "timed out after", id="slow headers"
    ),
    pytest.param(
        _hostile(hostile.drips_body), IdentityApiTimeout, "timed out after", id="slow body"
    ),
    pytest.param(
        _hostile(hostile.sends_without_end), IdentityApiError, "1 MiB", id="an endless body"
    ),
    pytest.param(
        _hostile(hostile.resets_in_the_middle),
        IdentityApiConnectionError,
        "connection reset",
        id="a reset in the middle",
    ),
    pytest.param(
        _hostile(hostile.breaks_off),
        IdentityApiConnectionError,
        "invalid or incomplete HTTP response",
        id="a broken body",
    ),
    pytest.param(
        _hostile(hostile.closes_unanswered),
        IdentityApiConnectionError,
        "closed before a response",
        id="no answer",
    ),
    pytest.param(
        _hostile(hostile.speaks_no_http),
        IdentityApiConnectionError,
        "invalid or incomplete HTTP response",
        id="not HTTP",
    ),
    pytest.param(
        _hostile(hostile.sends_bad_gzip),
        IdentityApiConnectionError,
        "not encoded as its headers say",
        id="a broken encoding",
    ),
    pytest.param(
        _hostile(hostile.says_nothing, "https"),
        IdentityApiTimeout,
        "timed out after",
        id="a TLS handshake without end",
    ),
    pytest.param(_no_tls, IdentityApiConnectionError, r"speaks no TLS", id="a TLS failure"),
    pytest.param(
        _no_such_host, IdentityApiConnectionError, "cannot be resolved", id="a DNS failure"
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "kind", "says"), PEERS)
def test_get_access_token_ends_in_time(
    where: Where, kind: type[IdentityError], says: str, make_service: MakeService
) -> None:
    with where() as url:
        service = make_service(url)
        service.start()
        began = time.perf_counter()
        with pytest.raises(IdentityError):
            service.get_access_token(timeout=2)
        assert time.perf_counter() - began < 2 + SLACK
        began = time.perf_counter()
        service.close()
        assert time.perf_counter() - began < 1 + SLACK


@pytest.mark.parametrize(("where", "kind", "says"), PEERS)
def test_a_call_of_identity_api_ends_in_time_and_says_why(
    where: Where, kind: type[IdentityError], says: str
) -> None:
    timeout = 1.5 if kind is IdentityApiTimeout else 6.0  # those that fail at once may be slow
    with where() as url, IdentityApiClient(url, INTERNAL_TOKEN, timeout=timeout) as client:
        began = time.perf_counter()
        with pytest.raises(kind, match=says):
            client.get_system_org("system")
        assert time.perf_counter() - began < timeout + SLACK


def test_the_body_of_a_redirect_is_not_read_to_its_end() -> None:
    with (
        hostile.HostileServer(hostile.redirects_without_end) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError, match="redirects are not followed") as caught,
    ):
        client.get_system_org("system")
    assert caught.value.status_code == 302


def test_the_time_ends_though_every_read_finds_something() -> None:
    with (
        hostile.HostileServer(hostile.trickles_fast) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN, timeout=0.1) as client,
        pytest.raises(IdentityApiTimeout, match=r"timed out after 0\.1 s"),
    ):
        client.get_system_org("system")


def test_a_host_that_cannot_be_a_host_is_told() -> None:
    with (
        IdentityApiClient("http://a..b", INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match="the request could not be sent"),
    ):
        client.get_system_org("system")


def test_a_caller_is_told_of_the_last_failure_while_the_next_attempt_is_under_way(
    make_service: MakeService,
) -> None:
    behaviours = [hostile.closes_unanswered, hostile.says_nothing]

    def one_after_the_other(connection: socket.socket, stopped: threading.Event) -> None:
        behaviours.pop(0)(connection, stopped)

    with hostile.HostileServer(one_after_the_other) as server:
        service = make_service(f"http://127.0.0.1:{server.port}")
        service.start()
        until = time.monotonic() + 30
        while len(server.connections) < 2:
            assert time.monotonic() < until
            time.sleep(0.001)
        with pytest.raises(
            NotReadyError,
            match=r"an attempt is under way; last error: .* closed before a response",
        ) as caught:
            service.get_access_token(0.5)
    assert caught.value.next_attempt_in is None
    assert (caught.value.state, caught.value.attempts) == ("PENDING", 1)


def test_a_certificate_that_is_not_trusted_is_told(tls_server: str) -> None:
    with (
        IdentityApiClient(tls_server, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match=r"is not trusted \(self.signed"),
    ):
        client.get_system_org("system")


def test_our_ca_bundle_wins_over_the_environments(
    tls_server: str, certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
    with IdentityApiClient(tls_server, INTERNAL_TOKEN, ca_bundle=certificate) as client:
        assert client.get_system_org("system").name == "system"


@pytest.mark.parametrize("setting", ["ca_bundle", "client_cert"])
def test_a_certificate_file_that_is_removed_later_is_told(
    setting: str, tls_server: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.pem"
    file.touch()
    with IdentityApiClient(tls_server, INTERNAL_TOKEN, **{setting: str(file)}) as client:  # type: ignore[arg-type]  # by name
        file.unlink()
        with pytest.raises(IdentityApiConnectionError, match=r"file\.pem"):
            client.get_system_org("system")


def test_a_proxy_that_is_down_is_told(canned: StartCanned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    with hostile.closed_port() as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        with (
            IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN) as client,
            pytest.raises(
                IdentityApiConnectionError,
                match=r"the proxy .* cannot be used .*NO_PROXY",
            ),
        ):
            client.get_system_org("system")


@pytest.mark.parametrize("value", [float("nan"), "5", True])
def test_a_timeout_that_is_none_is_refused(value: object, make_service: MakeService) -> None:
    service = make_service("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        service.get_access_token(value)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        service.wait_for_ready(value)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("value", [float("nan"), "5", True])
def test_a_timeout_that_is_none_is_refused_while_the_token_is_fresh(
    value: object, preconfigured: Preconfigured
) -> None:
    service, _ = preconfigured()
    service.start()
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        service.get_access_token(value)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        asyncio.run(service.aget_access_token(value))  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("timeout", [0, -1.5])
def test_a_timeout_of_zero_or_less_asks_without_waiting(
    timeout: float, make_service: MakeService
) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        service = make_service(f"http://127.0.0.1:{server.port}")
        began = time.perf_counter()
        with pytest.raises(TimeoutError, match="an attempt is under way"):
            service.get_access_token(timeout)
        assert service.wait_for_ready(timeout) is False
        assert time.perf_counter() - began < SLACK
