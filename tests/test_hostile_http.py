"""What servers, networks and gateways do beside the protocol: a bounded call, a clear error."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import hostile
from support.canned import Canned, CannedServer, reply, token_reply
from support.services import INTERNAL_TOKEN

from identity_client import (
    IdentityApiClient,
    IdentityApiConnectionError,
    IdentityApiError,
    IdentityApiTimeout,
    TokenEndpointError,
)
from identity_client._http.codec import error_text

ORGANIZATION = {"data": {"id": "1", "name": "system", "displayName": "System"}}
SECRET = "p/ä+ss wörd%"


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Make every name resolve to these addresses; the connections are real."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(*kind, address) for address in addresses]
    )


def test_an_address_that_swallows_packets_does_not_hide_the_next(
    canned: Callable[..., CannedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = canned(reply(ORGANIZATION))
    port = int(server.url.rpartition(":")[2])
    with hostile.black_hole() as dead, hostile.closed_port() as closed:
        _resolve_to(monkeypatch, ("127.0.0.1", dead), ("127.0.0.1", closed), ("127.0.0.1", port))
        began = time.perf_counter()
        with IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN, timeout=20) as client:
            assert client.get_system_org("system").name == "system"
        assert time.perf_counter() - began < 5


def test_an_address_of_a_family_that_the_process_may_not_use_is_passed_over(
    canned: Callable[..., CannedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = canned(reply(ORGANIZATION))
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    unknown, known = ((family, socket.SOCK_STREAM, 6, "", address) for family in (9999, 2))
    for addresses in ([unknown, known], [known, unknown]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=addresses, **__: found)
        with IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN) as client:
            assert client.get_system_org("system").name == "system"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [unknown])
    with (
        IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError, match="is unreachable"),
    ):
        client.get_system_org("system")


def test_four_dead_addresses_take_no_longer_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hostile.black_hole() as dead:
        _resolve_to(monkeypatch, *[("127.0.0.1", dead)] * 4)
        began = time.perf_counter()
        with (
            IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN, timeout=1.5) as client,
            pytest.raises(IdentityApiTimeout, match=r"timed out after 1\.5 s"),
        ):
            client.get_system_org("system")
        assert 1.4 < time.perf_counter() - began < 5  # and not 1.5 s for each


def test_an_address_that_cannot_be_connected_to_at_all_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _resolve_to(monkeypatch, ("255.255.255.255", 9))
    with (
        IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN, timeout=5) as client,
        pytest.raises(IdentityApiConnectionError, match="is unreachable: "),
    ):
        client.get_system_org("system")


def test_the_retry_of_a_stale_connection_ends_within_the_same_time() -> None:
    served = threading.Event()

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        if served.is_set():
            stopped.wait(30)
            return
        served.set()
        body = json.dumps(ORGANIZATION).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        connection.recv(65536)  # the second request, which is reset after half of its time
        time.sleep(3)
        hostile.reset_on_close(connection)

    with (
        hostile.HostileServer(behave) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN, timeout=6) as client,
    ):
        client.get_system_org("system")
        began = time.perf_counter()
        with pytest.raises(IdentityApiTimeout):
            client.get_system_org("system")
        assert time.perf_counter() - began < 8.9  # and not 3 s and 6 s
        assert len(server.connections) == 2


@pytest.mark.parametrize("interim", [b"102 Processing", b"103 Early Hints", b"100 Continue"])
def test_no_response_is_taken_for_another_requests(interim: bytes) -> None:
    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        name = "first"
        while True:
            document = {"data": {"id": "1", "name": name, "displayName": name}}
            body = json.dumps(document).encode()
            connection.sendall(
                b"HTTP/1.1 " + interim + b"\r\nLink: </a>\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            name = "second"
            if not connection.recv(65536):
                return

    with (
        hostile.HostileServer(behave) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN) as client,
    ):
        assert client.get_system_org("first").name == "first"
        assert client.get_system_org("second").name == "second"


def test_a_switch_of_protocols_is_an_error() -> None:
    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        stopped.wait(30)

    with (
        hostile.HostileServer(behave) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match="invalid or incomplete HTTP response"),
    ):
        client.get_system_org("system")


def _coded(body: bytes) -> Canned:
    return Canned(200, body, (("Content-Encoding", "gzip"),))


def test_a_compressed_body_is_bounded_as_it_is_decoded(
    canned: Callable[..., CannedServer],
) -> None:
    bomb = gzip.compress(gzip.compress(b" " * 50_000_000))
    server = canned(Canned(200, bomb, (("Content-Encoding", "gzip, gzip"),)))
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError, match="unknown content encoding"),
    ):
        client.get_system_org("system")
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_compressed_body_takes_little_more_memory_than_its_bound(
    canned: Callable[..., CannedServer],
) -> None:
    server = canned(_coded(gzip.compress(b" " * 50_000_000)))
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        tracemalloc.start()
        try:
            with pytest.raises(IdentityApiError, match="larger than 1 MiB"):
                client.get_system_org("system")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 20_000_000


def test_a_body_that_was_compressed_unasked_is_read(canned: Callable[..., CannedServer]) -> None:
    server = canned(_coded(gzip.compress(json.dumps(ORGANIZATION).encode())))
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        assert client.get_system_org("system").name == "system"


def test_a_compressed_body_that_is_cut_off_is_an_error(
    canned: Callable[..., CannedServer],
) -> None:
    server = canned(_coded(gzip.compress(json.dumps(ORGANIZATION).encode())[:-12]))
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match="incomplete HTTP response"),
    ):
        client.get_system_org("system")


def test_a_page_made_of_title_tags_is_read_in_no_time() -> None:
    began = time.thread_time()
    assert error_text(b"<title" * 90_000, SECRET) == (None, None)
    assert error_text(b"<title>" + b"<title" * 90_000, SECRET) == (None, None)
    assert time.thread_time() - began < 2


BASIC = base64.b64encode(f"orders:{quote(SECRET, safe='')}".encode()).decode()
ECHOES = [
    SECRET,
    quote(SECRET, safe=""),
    quote(SECRET, safe="").lower(),
    quote_plus(SECRET),
    json.dumps(SECRET),
    json.dumps(SECRET).replace("/", r"\/"),
    base64.b64encode(SECRET.encode()).decode(),
    f"Basic {BASIC}",
]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("form", ["json", "escaped json", "html"])
def test_a_secret_is_masked_in_whatever_form_it_is_echoed(echo: str, form: str) -> None:
    bodies = {
        "json": json.dumps({"message": f"bad {echo}"}, ensure_ascii=False),
        "escaped json": json.dumps({"message": f"bad {echo}"}).replace("/", r"\/"),
        "html": f"<title>bad {echo}</title>",
    }
    message, _ = error_text(bodies[form].encode(), SECRET, BASIC)
    assert message is None


@pytest.mark.parametrize(
    ("secret", "text", "is_shown"),
    [
        pytest.param("or", "all is well", True, id="it is not there"),
        pytest.param("or", "no error for this order", True, id="a short one in other words"),
        pytest.param("or", "the password 'or' is wrong", False, id="a short one by itself"),
        pytest.param("or", "password=or", False, id="a short one at the end"),
        pytest.param("or", "Basic b3I=", False, id="a short one in base64"),
        pytest.param("p/ss", "bad p%2Fss", False, id="a short one in percent-encoding"),
        pytest.param("hunter2x", "bad myhunter2xyz", False, id="a long one in another word"),
    ],
)
def test_a_text_is_left_out_where_it_shows_the_secret(
    secret: str, text: str, is_shown: bool
) -> None:
    message = error_text(json.dumps({"message": text}).encode(), secret)[0]
    assert message == (text if is_shown else None)


def test_a_text_that_no_encoding_can_write_reaches_the_log(
    preconfigured: Callable[..., Any], tmp_path: Path
) -> None:
    refused = {"error": "invalid_scope", "error_description": "bad \ud800 scope"}
    service, _ = preconfigured(reply(refused, 400))
    log, is_written = tmp_path / "log", threading.Event()

    class Handler(logging.FileHandler):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            is_written.set()

    handler = Handler(log, encoding="utf-8")
    handler.setLevel(logging.WARNING)
    logging.getLogger("identity_client").addHandler(handler)
    try:
        with pytest.raises(TokenEndpointError, match="bad \ufffd scope"):
            service.get_access_token()
        assert is_written.wait(10)
        assert "bad \ufffd scope" in log.read_text(encoding="utf-8")
    finally:
        logging.getLogger("identity_client").removeHandler(handler)
        handler.close()


def test_a_token_endpoints_null_error_is_none(preconfigured: Callable[..., Any]) -> None:
    service, _ = preconfigured(token_reply("fine", error=None))
    assert service.get_access_token() == "fine"


@pytest.mark.parametrize("lifetime", [0, -5, "0", -0.5])
def test_a_token_that_has_expired_when_it_arrives_is_an_error(
    lifetime: object, preconfigured: Callable[..., Any]
) -> None:
    service, _ = preconfigured(token_reply(expires_in=lifetime))
    with pytest.raises(TokenEndpointError, match=r"had expired when it arrived.*gateway"):
        service.get_access_token()


@pytest.mark.parametrize("lifetime", [None, "soon", True, float("nan")])
def test_a_lifetime_that_is_not_told_is_a_minute(
    lifetime: object, preconfigured: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = preconfigured(token_reply(expires_in=lifetime))
    with caplog.at_level(logging.WARNING, "identity_client"):
        service.get_access_token()
        service.close()  # all is logged by then
    assert sum("expires_in" in record.message for record in caplog.records) == 1


def test_a_space_in_a_form_is_percent_encoded(preconfigured: Callable[..., Any]) -> None:
    service, endpoint = preconfigured(token_reply(), scope="read write")
    service.get_access_token()
    assert b"scope=read%20write" in endpoint.asked[0].body


def test_a_space_in_a_secret_is_percent_encoded_within_basic(
    preconfigured: Callable[..., Any],
) -> None:
    service, endpoint = preconfigured(
        token_reply(), client_secret="two words", token_endpoint_auth_method="client_secret_basic"
    )
    service.get_access_token()
    sent = endpoint.asked[0].headers["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"orders:two%20words"


def test_a_space_in_a_query_is_percent_encoded(canned: Callable[..., CannedServer]) -> None:
    server = canned(reply({"data": {"isMember": True, "role": None}}))
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        assert client.verify_membership("a user", "an org").is_member
    assert server.asked[0].path.endswith("?userId=a%20user&orgId=an%20org")


def test_http_against_a_tls_server_is_told(tls_server: str) -> None:
    with (
        IdentityApiClient(tls_server.replace("https:", "http:"), INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match="https:// if it speaks TLS"),
    ):
        client.get_system_org("system")


def test_a_ca_bundle_that_is_not_pem_is_told(tls_server: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("not a certificate")
    with (
        IdentityApiClient(tls_server, INTERNAL_TOKEN, ca_bundle=str(bundle)) as client,
        pytest.raises(IdentityApiConnectionError, match=r"not in PEM format.*IDENTITY_CA_BUNDLE"),
    ):
        client.get_system_org("system")


def test_an_encrypted_client_key_does_not_ask_on_the_terminal(
    tls_server: str, certificate: str, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a passphrase"),
    )
    both = tmp_path / "client.pem"
    both.write_bytes(key + Path(certificate).read_bytes())
    with (
        IdentityApiClient(
            tls_server, INTERNAL_TOKEN, ca_bundle=certificate, client_cert=str(both)
        ) as client,
        pytest.raises(IdentityApiConnectionError, match=r"is encrypted; set IDENTITY_CLIENT_CERT"),
    ):
        client.get_system_org("system")


def test_a_wrong_path_is_shown_without_query_and_user(canned: Callable[..., CannedServer]) -> None:
    server = canned(reply({"message": "Cannot GET"}, 404))
    with (
        IdentityApiClient(f"{server.url}/wrong", INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError) as caught,
    ):
        client.get_system_org("system")
    where = f"{server.url}/wrong/internal/organizations/system/system"
    assert caught.value.message.startswith(
        f"identity-api at {where} returned HTTP 404 (Cannot GET)"
    )


@contextlib.contextmanager
def _slow_proxy() -> Iterator[int]:
    """A proxy that opens a tunnel after a while, to a server that never says a word."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        stopped.wait(3)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        stopped.wait(30)

    with hostile.HostileServer(behave) as server:
        yield server.port


def test_the_proxys_time_is_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with _slow_proxy() as port:
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        began = time.perf_counter()
        with (
            IdentityApiClient("https://identity-api:3053", INTERNAL_TOKEN, timeout=6) as client,
            pytest.raises(IdentityApiTimeout),
        ):
            client.get_system_org("system")
        assert time.perf_counter() - began < 8.9  # and not 3 s and 6 s


def test_a_server_that_refuses_the_handshake_is_told() -> None:
    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # an alert: handshake_failure

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        with (
            IdentityApiClient(
                f"https://127.0.0.1:{listener.getsockname()[1]}", INTERNAL_TOKEN
            ) as client,
            pytest.raises(IdentityApiConnectionError, match=r"the TLS connection failed \(.*ALERT"),
        ):
            client.get_system_org("system")
        thread.join()
