"""The forms of bad answers, on each of the six requests: always a clear error of ours."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from support import hostile
from support.canned import Canned, CannedServer, reply, token_reply
from support.processes import run
from support.scripted import Scripted, registered
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured, StartCanned

from identity_client import (
    IdentityApiClient,
    IdentityApiError,
    IdentityError,
    InvalidClientError,
    InvalidResponseError,
    NotReadyError,
    StoredCredentials,
    TokenEndpointError,
)
from identity_client._http.codec import CodecError, from_wire, parse_json

JSON = (("Content-Type", "application/json"),)
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
SECRET = "never-shown"
ELSEWHERE = "elsewhere"  # replaced by the address of the other host


class Bad(NamedTuple):
    name: str
    answer: Canned
    status: int
    says: str
    retryable: bool


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


UNUSABLE = [
    Bad("empty", Canned(200, b""), 200, "it is empty", False),
    Bad("blank", Canned(200, b"  \r\n", JSON), 200, "it is empty", False),
    Bad("HTML", Canned(200, HTML, (("Content-Type", "text/html"),)), 200, "HTML page", False),
    Bad("broken JSON", Canned(200, b'{"data": ', JSON), 200, "it is not JSON", False),
    Bad("null", Canned(200, b"null", JSON), 200, "it is", False),
    Bad("a list", Canned(200, b"[1, 2]", JSON), 200, "it is", False),
    Bad("a number", Canned(200, b"42", JSON), 200, "it is", False),
    Bad("a string", Canned(200, b'"text"', JSON), 200, "it is", False),
    Bad("missing members", Canned(200, b"{}", JSON), 200, "its member", False),
    Bad("deep nesting", Canned(200, _nested(170_000), JSON), 200, "nested too deeply", False),
    Bad("10 MB", Canned(200, b" " * 10_000_000, JSON), 200, "larger than 1 MiB", False),
    Bad(
        "10 MB in a few bytes",
        Canned(200, gzip.compress(b" " * 10_000_000), (*JSON, ("Content-Encoding", "gzip"))),
        200,
        "larger than 1 MiB",
        False,
    ),
    Bad("wrong charset", Canned(200, b'{"data": "\xff\xfe"}', JSON), 200, "it is not JSON", False),
    Bad("204", Canned(204), 204, "it is empty", False),
]
REFUSED = [
    Bad("301 to another host", Canned(301, b"", (("Location", ELSEWHERE),)), 301, "301", False),
    Bad("302 to another host", Canned(302, b"", (("Location", ELSEWHERE),)), 302, "302", False),
    Bad("307 to another host", Canned(307, b"", (("Location", ELSEWHERE),)), 307, "307", False),
    Bad("308 to another host", Canned(308, b"", (("Location", ELSEWHERE),)), 308, "308", False),
    Bad("401", reply({"statusCode": 401, "message": "Unauthorized"}, 401), 401, "401", False),
    Bad("403", reply({"statusCode": 403, "message": ["a", "b"]}, 403), 403, "(a; b)", False),
    Bad("404", reply({"detail": "not here", "title": "x"}, 404), 404, "(not here)", False),
    Bad("409", reply({"error": {"code": "C1", "message": "taken"}}, 409), 409, "taken)", False),
    Bad("422", reply({"message": ["a is bad"], "error": "U"}, 422), 422, "a is bad)", False),
    Bad("429 with Retry-After", reply({}, 429, Retry_After="7"), 429, "429", True),
    Bad("429", Canned(429), 429, "429", True),
    Bad("500 with HTML", Canned(500, HTML), 500, "(502 Bad Gateway)", True),
    Bad("500 empty", Canned(500), 500, "500", True),
    Bad("500 with a list", Canned(500, b"[]", JSON), 500, "500", True),
    Bad("500 with 10 MB", Canned(500, b" " * 10_000_000), 500, "500", True),
    Bad("502", Canned(502, b"\x00\x01 no text"), 502, "502", True),
    Bad("503", reply({"message": "later"}, 503, Retry_After="nonsense"), 503, "(later)", True),
]
IDS = [bad.name for bad in UNUSABLE + REFUSED]

CALLS: dict[str, Callable[[IdentityApiClient], object]] = {
    "register_service": lambda c: c.register_service(name="orders", display_name="Orders"),
    "register_service_full": lambda c: c.register_service_full(name="o", display_name="O"),
    "verify_membership": lambda c: c.verify_membership("user", "org"),
    "ensure_system_org": lambda c: c.ensure_system_org(name="system", display_name="System"),
    "get_system_org": lambda c: c.get_system_org("system"),
}

MISTYPED: dict[str, dict[str, Any]] = {
    "register_service": {"id": 1},
    "register_service_full": {"id": "1", "tokenEndpoint": "http://h/t", "roles": "admin"},
    "verify_membership": {"isMember": "yes"},
    "ensure_system_org": {"id": "1", "name": None, "displayName": "S"},
    "get_system_org": {"id": "1", "name": "system", "displayName": ["S"]},
}


@contextmanager
def _other_host() -> Iterator[CannedServer]:
    with CannedServer(reply({})) as other:
        yield other


def _aimed(answer: Canned, other: CannedServer) -> Canned:
    headers = tuple(
        (name, f"{other.url}/stolen" if value == ELSEWHERE else value)
        for name, value in answer.headers
    )
    return answer._replace(headers=headers)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", UNUSABLE + REFUSED, ids=IDS)
def test_identity_api_calls_turn_it_into_a_clear_error(
    bad: Bad, call: str, canned: StartCanned
) -> None:
    with _other_host() as other:
        server = canned(_aimed(bad.answer, other))
        with (
            IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
            pytest.raises(IdentityApiError) as caught,
        ):
            CALLS[call](client)
    error = caught.value
    assert isinstance(error, InvalidResponseError) is (bad in UNUSABLE)
    assert bad.says in error.message
    assert f"identity-api at {server.url}" in error.message
    assert (error.status_code, error.retryable) == (bad.status, bad.retryable)
    assert error.retry_after == (7.0 if "Retry-After" in bad.name else None)
    assert len(server.asked) == 1
    assert other.asked == []


@pytest.mark.parametrize("call", CALLS)
def test_a_member_of_the_wrong_type_is_named_and_not_shown(call: str, canned: StartCanned) -> None:
    document = {**MISTYPED[call], "secret": SECRET}
    server = canned(reply({"data": document}))
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(InvalidResponseError, match=r"its member '.*' must be") as caught,
    ):
        CALLS[call](client)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("member", ["clientId", "clientSecret", "tokenEndpoint"])
def test_a_credential_that_no_encoding_can_write_is_named_and_not_shown(
    member: str, scripted: Scripted, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.registrations.insert(0, registered(scripted.url, **{member: f"\ud800{SECRET}"}))
    with (
        IdentityApiClient(scripted.url, INTERNAL_TOKEN) as client,
        pytest.raises(
            InvalidResponseError, match=f"its member '{member}' is not Unicode text; check"
        ) as caught,
    ):
        client.register_service(name="orders", display_name="Orders")
    assert SECRET not in repr(vars(caught.value))
    scripted.registrations.insert(0, registered(scripted.url, **{member: f"\ud800{SECRET}"}))
    service = make_service(scripted.url)
    assert service.wait_for_ready(10)
    service.close()
    assert "is not Unicode text" in caplog.text
    assert "this is a bug" not in caplog.text


TOKEN_ONLY = [
    Bad("an error with 200", reply({"error": "invalid_scope"}, 200), 200, "invalid_scope", False),
    Bad("no token", reply({"token_type": "Bearer"}), 200, "'access_token'", False),
    Bad("null token", token_reply(None), 200, "'access_token'", False),  # type: ignore[arg-type]  # on purpose
    Bad("empty token", token_reply(""), 200, "'access_token'", False),
    Bad("a token with a line break", token_reply("a\r\nX-Evil: 1"), 200, "'access_token'", False),
    Bad("a token that is not ASCII", token_reply("tökén"), 200, "'access_token'", False),
    Bad("no token_type", reply({"access_token": "t"}), 200, "'token_type'", False),
    Bad("a MAC token", token_reply(token_type="mac"), 200, "'token_type'", False),
    Bad("a numeric token_type", token_reply(token_type=1), 200, "'token_type'", False),
    Bad("invalid_client, 403", reply({"error": "invalid_client"}, 403), 403, "client", False),
]


@pytest.mark.parametrize("bad", UNUSABLE + REFUSED + TOKEN_ONLY, ids=lambda bad: bad.name)
def test_the_token_request_turns_it_into_a_clear_error_and_the_worker_lives_on(
    bad: Bad, preconfigured: Preconfigured
) -> None:
    with _other_host() as other:
        service, endpoint = preconfigured(_aimed(bad.answer, other))
        with pytest.raises(TokenEndpointError) as caught:
            service.get_access_token()
        error = caught.value
        assert not isinstance(error, InvalidClientError)
        # A missing member has a name of its own here; all else is told alike.
        assert bad.says in error.message or bad.name == "missing members"
        assert f"the token endpoint at {endpoint.url}" in error.message
        assert (error.status_code, error.retryable) == (bad.status, bad.retryable)
        assert other.asked == []
        endpoint.answers.append(token_reply("in-the-end"))
        assert service.wait_for_ready(10 if "Retry" not in bad.name else 20)
    assert service.get_access_token() == "in-the-end"


@pytest.mark.parametrize("error", ["", False, 0, {}, [], None], ids=repr)
def test_an_error_that_says_nothing_does_not_hide_the_token(
    error: object, preconfigured: Preconfigured
) -> None:
    service, _ = preconfigured(token_reply(error=error))
    assert service.get_access_token() == "a-token"


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_of_the_token_endpoint_says_what_to_do(
    status: int, preconfigured: Preconfigured
) -> None:
    service, _ = preconfigured(Canned(status, b"", (("Location", "http://elsewhere/"),)))
    with pytest.raises(TokenEndpointError, match=f"returned HTTP {status}; redirects are not foll"):
        service.get_access_token()


class _SlowHandler(logging.Handler):
    """Waits until the token has arrived, or for too long."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()
        self.was_in_time: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "no usable expires_in" in record.getMessage():
            self.was_in_time.append(self.arrived.wait(10))


class _BrokenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the log server is down")


@contextmanager
def _logged_by(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("identity_client")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_a_token_without_a_lifetime_does_not_wait_for_the_log(preconfigured: Preconfigured) -> None:
    handler = _SlowHandler()
    service, _ = preconfigured(reply({"access_token": "a-token", "token_type": "Bearer"}))
    with _logged_by(handler):
        service.start(validate=False)
        assert service.get_access_token() == "a-token"
        handler.arrived.set()
        service.close()  # all is logged by then
    assert handler.was_in_time == [True]


def test_a_log_handler_that_fails_does_not_lose_a_token_without_a_lifetime(
    preconfigured: Preconfigured,
) -> None:
    service, _ = preconfigured(reply({"access_token": "a-token", "token_type": "Bearer"}))
    with _logged_by(_BrokenHandler()):
        assert service.get_access_token() == "a-token"


def test_nesting_does_not_end_a_process_whose_threads_have_a_small_stack() -> None:
    done = run(
        """
        from identity_client._http.codec import CodecError, parse_json

        def parse():
            print(len(parse_json(b'[' * 200 + b']' * 200)))
            wide = ('["\\u2200",' * 100_000).encode("utf-16")  # a quotation mark as a byte of it
            for body in (b'[' * 1_000_000, b'{"a":' * 200_000, wide):
                try:
                    parse_json(body)
                except CodecError as error:
                    print(error)

        threading.stack_size(128 * 1024)
        thread = threading.Thread(target=parse)
        thread.start()
        thread.join()
    """,
        "",
    )
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == ["1", *["it is nested too deeply"] * 3]


@pytest.mark.parametrize(
    "document",
    [
        [["text"]] * 1000,
        ["[" * 1000, '"' + "{" * 1000, "\\" + "[" * 1000],
        {"[" * 1000: {"a": '\\"' + "{" * 1000}},
    ],
    ids=["side by side", "in strings", "after quotes in strings"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_many_brackets_that_do_not_nest_are_read(document: object, encoding: str) -> None:
    assert parse_json(json.dumps(document).encode(encoding)) == document


@pytest.mark.parametrize("start", [b"[],", b'"', b'["\\"', b'"\\'], ids=range(4))
def test_the_depth_is_found_in_a_time_that_grows_with_the_length_alone(start: bytes) -> None:
    body = b"[" * 200 + b'""' + start * (1024 * 1024 // len(start))
    began = time.process_time()
    with pytest.raises(CodecError):
        parse_json(body)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
def test_both_codes_and_both_statuses_mean_that_the_client_is_rejected(
    code: str, status: int, preconfigured: Preconfigured
) -> None:
    answer = reply({"error": code, "error_description": "Invalid client credentials"}, status)
    service, _ = preconfigured(answer)
    with pytest.raises(InvalidClientError) as caught:
        service.get_access_token()
    error = caught.value
    assert (error.error, error.error_description) == (code, "Invalid client credentials")
    assert "check the client 'orders' and its secret" in error.message


@pytest.mark.parametrize("bad", UNUSABLE + REFUSED, ids=IDS)
def test_a_service_survives_it_on_registration(
    bad: Bad, canned: StartCanned, make_service: MakeService
) -> None:
    with _other_host() as other:
        server = canned(_aimed(bad.answer, other))
        service = make_service(server.url)
        with pytest.raises(NotReadyError) as caught:
            service.get_access_token(0.01 if bad.retryable else 5)
        assert bad.retryable or bad.says in str(caught.value)
        while service.status().attempts == 0:
            service.wait_for_ready(0.01)
        server.answers.append(registered(server.url))
        server.answers.append(token_reply("in-the-end"))
        assert service.wait_for_ready(20)
        assert other.asked == []
    assert service.get_access_token() == "in-the-end"


def test_a_secret_that_the_server_echoes_stays_out_of_the_message(
    canned: StartCanned, preconfigured: Preconfigured
) -> None:
    body = json.dumps({"message": f"bad token {INTERNAL_TOKEN}", "error": INTERNAL_TOKEN})
    server = canned(Canned(401, body.encode(), JSON))
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError) as caught,
    ):
        client.get_system_org("system")
    assert "returned HTTP 401; check the internal token" in str(caught.value)
    assert INTERNAL_TOKEN not in repr(vars(caught.value))
    service, _ = preconfigured(
        reply({"error": "e", "error_description": "not a-client-secret"}, 400)
    )
    with pytest.raises(IdentityError, match=r"returned HTTP 400 \(e\)"):
        service.get_access_token()


@pytest.mark.parametrize(
    "echo",
    [
        pytest.param('"p\\u00e4ss/w rd+%"', id="escaped JSON"),
        pytest.param('"p\\u00e4ss\\/w rd+%"', id="JSON with escaped slashes"),
        pytest.param('"p%C3%A4ss%2Fw%20rd%2B%25"', id="percent-encoding"),
        pytest.param('"p%C3%A4ss%2Fw+rd%2B%25"', id="form encoding"),
        pytest.param('"Basic b3JkZXJzOnAlQzMlQTRzcyUyRnclMjByZCUyQiUyNQ=="', id="Basic"),
    ],
)
def test_a_secret_that_the_server_echoes_in_another_encoding_is_not_shown(
    echo: str, preconfigured: Preconfigured
) -> None:
    body = f'{{"error": "e", "error_description": {echo}}}'.encode()
    service, _ = preconfigured(Canned(400, body, JSON), client_secret="päss/w rd+%")
    with pytest.raises(IdentityError) as caught:
        service.get_access_token()
    assert "returned HTTP 400 (e);" in str(caught.value)
    assert "rd" not in str(caught.value).partition("(e)")[2].replace("retrying", "")


def test_a_title_that_never_ends_takes_no_time(canned: StartCanned) -> None:
    server = canned(Canned(500, b"<title" * 87_000, (("Content-Type", "text/html"),)))
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        began = time.perf_counter()
        with pytest.raises(IdentityApiError, match="returned HTTP 500"):
            client.get_system_org("system")
        assert time.perf_counter() - began < 3


def test_a_compressed_body_is_bounded_as_decoded(canned: StartCanned) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    small = gzip.compress(b'{"id": "1", "name": "system", "displayName": "System"}')
    server = canned(
        Canned(200, bomb, (*JSON, ("Content-Encoding", "gzip"))),
        Canned(200, small, (*JSON, ("Content-Encoding", "gzip"))),
        Canned(200, small, (*JSON, ("Content-Encoding", "br"))),
    )
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        with pytest.raises(IdentityApiError, match="larger than 1 MiB"):
            client.get_system_org("system")
        assert client.get_system_org("system").name == "system"
        with pytest.raises(IdentityApiError, match="unknown content encoding"):
            client.get_system_org("system")


@pytest.mark.parametrize(
    ("interim", "name"),
    [(b"102 Processing", "system"), (b"103 Early Hints", "system"), (b"101 Upgrade", None)],
)
def test_an_informational_response_is_not_taken_for_the_response(
    interim: bytes, name: str | None
) -> None:
    def respond(connection: socket.socket, stopped: threading.Event) -> None:
        body = b'{"id": "1", "name": "system", "displayName": "System"}'
        final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        connection.sendall(b"HTTP/1.1 " + interim + b"\r\nLink: </x>\r\n\r\n" + final)

    with (
        hostile.HostileServer(respond) as server,
        IdentityApiClient(f"http://127.0.0.1:{server.port}", INTERNAL_TOKEN) as client,
    ):
        if name is None:
            with pytest.raises(IdentityApiError, match="invalid or incomplete"):
                client.get_system_org("system")
        else:
            assert client.get_system_org("system").name == name


def test_an_address_that_swallows_packets_hides_no_other(
    canned: StartCanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = canned(reply({"id": "1", "name": "system", "displayName": "System"}))
    port = int(server.url.rpartition(":")[2])
    with hostile.black_hole() as hole:
        addresses = [("127.0.0.1", hole), ("127.0.0.1", port)]

        def resolve(*_: object, **__: object) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN) as client:
            began = time.perf_counter()
            assert client.get_system_org("system").name == "system"
            assert time.perf_counter() - began < 5
        addresses[1:] = [("127.0.0.1", hole)] * 3
        with (
            IdentityApiClient("http://identity-api:1", INTERNAL_TOKEN, timeout=1.0) as client,
            pytest.raises(IdentityApiError),
        ):
            client.get_system_org("system")
        assert time.perf_counter() - began < 8  # with the first one
        addresses.clear()
        with (
            IdentityApiClient("http://identity-api:1", INTERNAL_TOKEN) as client,
            pytest.raises(IdentityApiError, match="unreachable"),
        ):
            client.get_system_org("system")


def test_long_and_multi_line_messages_are_cut_and_flattened(
    canned: StartCanned,
) -> None:
    server = canned(reply({"message": "line\nbreak \x1b[31m" + "x" * 5000}, 400))
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiError) as caught,
    ):
        client.get_system_org("system")
    message = caught.value.message
    assert "line break [31m" in message
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize(
    ("member", "says"),
    [("regenerations", "must be a whole number"), ("noRegenerationBefore", "must be a number")],
)
def test_a_number_of_another_type_is_refused(member: str, says: str) -> None:
    with pytest.raises(CodecError, match=f"'{member}' {says}"):
        from_wire({"version": 1, member: "1"}, StoredCredentials)
