"""Each cause of a failed exchange: one text, and one thing to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from requests.exceptions import InvalidSchema
from support import hostile
from support.canned import CannedServer, reply
from support.services import INTERNAL_TOKEN, MakeService
from support.starts import failure_of_start

from identity_client import IdentityApiClient, IdentityApiError

RUNNING = "check that it is running and that {setting} is correct"
TRUST = "set IDENTITY_CA_BUNDLE to the certificate authority's file, or correct {setting}"
PROXY = "check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
FILES = "check the files of IDENTITY_CA_BUNDLE (or REQUESTS_CA_BUNDLE) and IDENTITY_CLIENT_CERT"


class Case(NamedTuple):
    """What is asked, and what the error has to say after ``is unreachable: ``."""

    url: str
    says: str
    ca_bundle: str | None = None
    timeout: float = 20.0


class Tools(NamedTuple):
    monkeypatch: pytest.MonkeyPatch
    certificate: str
    folder: Path


def _answering(certificate: str | None = None) -> CannedServer:
    return CannedServer(reply({}), certificate=certificate)


@contextmanager
def https_against_http(tools: Tools) -> Iterator[Case]:
    with _answering() as server:
        yield Case(
            server.url.replace("http:", "https:"),
            "the server speaks no TLS at this port; use http:// instead of https:// in {setting}",
        )


@contextmanager
def http_against_a_server_that_resets(tools: Tools) -> Iterator[Case]:
    def reset(connection: socket.socket, _: threading.Event) -> None:
        hostile.reset_on_close(connection)

    with hostile.HostileServer(reset) as server:
        yield Case(
            f"http://127.0.0.1:{server.port}",
            f"connection reset by peer; {RUNNING}: https:// if it speaks TLS",
        )


@contextmanager
def http_against_a_server_that_hangs_up(tools: Tools) -> Iterator[Case]:
    with hostile.HostileServer(hostile.closes_unanswered) as server:
        yield Case(
            f"http://127.0.0.1:{server.port}",
            f"the connection was closed before a response; {RUNNING}: https:// if it speaks TLS",
        )


@contextmanager
def http_against_https_that_says_so(tools: Tools) -> Iterator[Case]:
    def alert(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

    with hostile.HostileServer(alert) as server:
        yield Case(
            f"http://127.0.0.1:{server.port}",
            "the server speaks TLS at this port; use https:// instead of http:// in {setting}",
        )


@contextmanager
def a_foreign_authority(tools: Tools) -> Iterator[Case]:
    certificate, other = tools.folder / "server.pem", tools.folder / "other.pem"
    leaf = trustme.CA().issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(certificate)
    trustme.CA().cert_pem.write_to_path(other)
    with _answering(str(certificate)) as server:
        yield Case(
            server.url,
            "the certificate is not trusted (unable to get local issuer certificate); " + TRUST,
            str(other),
        )


@contextmanager
def another_name(tools: Tools) -> Iterator[Case]:
    with _answering(tools.certificate) as server:
        yield Case(
            server.url.replace("127.0.0.1", "localhost"),
            "the certificate is not trusted (Hostname mismatch, certificate is not valid for "
            "'localhost'); " + TRUST,
            tools.certificate,
        )


@contextmanager
def an_expired_certificate(tools: Tools) -> Iterator[Case]:
    authority = trustme.CA()
    past = datetime(2020, 1, 1, tzinfo=UTC)
    server_file, trusted = tools.folder / "expired.pem", tools.folder / "trusted.pem"
    certificate = authority.issue_cert("127.0.0.1", not_before=past, not_after=past)
    certificate.private_key_and_cert_chain_pem.write_to_path(server_file)
    authority.cert_pem.write_to_path(trusted)
    with _answering(str(server_file)) as server:
        yield Case(
            server.url,
            "the certificate is not valid now (certificate has expired); renew the server's "
            "certificate, or correct the clock of this machine",
            str(trusted),
        )


@contextmanager
def a_missing_ca_bundle(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    yield Case(
        "https://127.0.0.1:9",
        "could not find a suitable TLS CA certificate bundle, invalid path: /nowhere.pem; " + FILES,
    )


@contextmanager
def a_ca_bundle_that_is_not_pem(tools: Tools) -> Iterator[Case]:
    bundle = tools.folder / "bundle.pem"
    bundle.write_text("not a certificate")
    with _answering(tools.certificate) as server:
        yield Case(
            server.url,
            "a certificate file is not in PEM format (NO_CERTIFICATE_OR_CRL_FOUND); " + FILES,
            str(bundle),
        )


@contextmanager
def a_proxy_that_refuses(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("NO_PROXY", "")
    with hostile.closed_port() as port:
        tools.monkeypatch.setenv("HTTP_PROXY", f"http://user:password@127.0.0.1:{port}")
        yield Case(
            "http://identity-api:3053",
            f"the proxy 127.0.0.1:{port} cannot be used (connection refused); {PROXY}",
        )


@contextmanager
def a_proxy_that_refuses_a_tunnel(tools: Tools) -> Iterator[Case]:
    def respond(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    tools.monkeypatch.setenv("NO_PROXY", "")
    with hostile.HostileServer(respond) as server:
        tools.monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{server.port}")
        yield Case(
            "https://identity-api:3053",
            f"the proxy 127.0.0.1:{server.port} cannot be used (it returned HTTP 407); {PROXY}",
        )


@contextmanager
def a_proxy_that_says_nothing(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("NO_PROXY", "")
    with hostile.black_hole() as port:
        tools.monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
        yield Case(
            "https://identity-api:3053",
            f"the proxy 127.0.0.1:{port} cannot be used (timed out after 0.7 s); {PROXY}",
            timeout=0.7,
        )


@contextmanager
def a_proxy_without_tls(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("NO_PROXY", "")
    with _answering() as server:
        address = server.url.removeprefix("http://")
        tools.monkeypatch.setenv("HTTPS_PROXY", f"https://{address}")
        yield Case(
            "https://identity-api:3053",
            f"the proxy {address} cannot be used (the server speaks no TLS at this port); {PROXY}",
        )


@contextmanager
def a_proxy_whose_address_is_none(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("NO_PROXY", "")
    tools.monkeypatch.setenv("HTTP_PROXY", "http://user:password@proxy:99999")
    yield Case(
        "http://identity-api:3053",
        f"the proxy cannot be used (its address is not valid); {PROXY}",
    )


@contextmanager
def a_proxy_that_needs_a_package(tools: Tools) -> Iterator[Case]:
    tools.monkeypatch.setenv("NO_PROXY", "")

    def refuse(*_: object, **__: object) -> None:  # as requests does without PySocks
        raise InvalidSchema("Missing dependencies for SOCKS support.")

    tools.monkeypatch.setattr("requests.adapters.SOCKSProxyManager", refuse)
    tools.monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1080")
    yield Case(
        "http://identity-api:3053",
        f"the proxy cannot be used (SOCKS needs the package PySocks); {PROXY}",
    )


@contextmanager
def an_unknown_name(tools: Tools) -> Iterator[Case]:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    tools.monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield Case("http://identity-api:3053", "the host name cannot be resolved; " + RUNNING)


@contextmanager
def a_closed_port(tools: Tools) -> Iterator[Case]:
    with hostile.closed_port() as port:
        yield Case(f"http://127.0.0.1:{port}", "connection refused; " + RUNNING)


@contextmanager
def a_silent_server(tools: Tools) -> Iterator[Case]:
    with hostile.HostileServer(hostile.says_nothing) as server:
        yield Case(
            f"http://127.0.0.1:{server.port}", "timed out after 0.7 s; " + RUNNING, timeout=0.7
        )


CASES: list[Callable[[Tools], object]] = [
    https_against_http,
    http_against_a_server_that_resets,
    http_against_a_server_that_hangs_up,
    http_against_https_that_says_so,
    a_foreign_authority,
    another_name,
    an_expired_certificate,
    a_missing_ca_bundle,
    a_ca_bundle_that_is_not_pem,
    a_proxy_that_refuses,
    a_proxy_that_refuses_a_tunnel,
    a_proxy_that_says_nothing,
    a_proxy_without_tls,
    a_proxy_whose_address_is_none,
    a_proxy_that_needs_a_package,
    an_unknown_name,
    a_closed_port,
    a_silent_server,
]


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    certificate: str,
    tmp_path: Path,
) -> Iterator[Case]:
    with request.param(Tools(monkeypatch, certificate, tmp_path)) as made:
        yield made


each_cause = pytest.mark.parametrize("case", CASES, indirect=True, ids=lambda case: case.__name__)


@each_cause
def test_a_call_of_identity_api_that_fails_says_why_and_one_thing_to_do(case: Case) -> None:
    with (
        IdentityApiClient(
            case.url, INTERNAL_TOKEN, timeout=case.timeout, ca_bundle=case.ca_bundle
        ) as client,
        pytest.raises(IdentityApiError) as caught,
    ):
        client.get_system_org("system")
    expected = case.says.format(setting="IDENTITY_API_URL")
    assert caught.value.message == f"identity-api at {case.url} is unreachable: {expected}"


@each_cause
def test_a_token_request_that_fails_says_why_and_one_thing_to_do(
    case: Case, make_service: MakeService
) -> None:
    service = make_service(
        "http://127.0.0.1:9",
        client_id="orders",
        client_secret="a-client-secret",
        token_endpoint=f"{case.url}/token",
        request_timeout=case.timeout,
        ca_bundle=case.ca_bundle,
    )
    failure = failure_of_start(service)
    setting = "its address (SERVICE_TOKEN_ENDPOINT, or what identity-api returned)"
    expected = case.says.format(setting=setting)
    assert failure.message == (f"the token endpoint at {case.url}/token is unreachable: {expected}")
