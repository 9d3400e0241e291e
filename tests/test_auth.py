"""The auth object for requests: a bearer header, and one retry after a 401."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from support.canned import Asked, Canned, CannedServer, reply, token_reply
from support.hostile import HostileServer
from support.services import MakeService, StartCanned

from identity_client import ConfigurationError, IdentityBootstrapService, ServiceClosedError
from identity_client._http.hosts import AcceptedTokens, HostAllowlist
from identity_client.server import IdentityServer

StaticCredentialsSource = Callable[..., tuple[IdentityBootstrapService, CannedServer]]

OK = Canned(200, b"done")
UNAUTHORIZED = Canned(401, b"who are you?", (("WWW-Authenticate", "Bearer"),))
LIMIT = 10.0


def tokens_sent(server: CannedServer) -> list[str | None]:
    """Return the Authorization header of each request that a server got."""
    return [asked.headers.get("Authorization") for asked in server.asked]


def redirect_to(url: str, status: int = 302) -> Canned:
    return Canned(status, b"over there", (("Location", url),))


@pytest.fixture
def service(preconfigured: StaticCredentialsSource) -> IdentityBootstrapService:
    """A service whose tokens are "first", "second", and then "third" for ever."""
    made, _ = preconfigured(token_reply("first"), token_reply("second"), token_reply("third"))
    return made


def test_each_request_carries_the_current_token(
    api: IdentityServer, make_service: MakeService, canned: StartCanned
) -> None:
    resource = canned(OK)
    service = make_service(api)
    for _ in range(2):
        assert requests.get(resource.url, auth=service.auth(), timeout=LIMIT).text == "done"
    assert tokens_sent(resource) == [f"Bearer {service.get_access_token()}"] * 2
    assert api.backend.requests["token"] == 1


def test_a_rejected_token_is_replaced_and_the_request_sent_once_more(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    response = requests.post(
        f"{resource.url}/orders?page=2",
        json={"number": 7},
        headers={"X-Trace": "abc"},
        auth=service.auth(),
        timeout=LIMIT,
    )
    assert (response.status_code, response.text) == (200, "done")
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]
    first, again = resource.asked
    assert (again.method, again.path, again.body) == ("POST", "/orders?page=2", b'{"number": 7}')
    assert {**first.headers, "Authorization": ""} == {**again.headers, "Authorization": ""}
    assert [(r.status_code, r.text) for r in response.history] == [(401, "who are you?")]
    assert response.request.headers["Authorization"] == "Bearer second"
    assert service.status().tokens_invalidated == 1


def test_a_second_rejection_is_returned_and_not_retried(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(UNAUTHORIZED)
    response = requests.get(resource.url, auth=service.auth(), timeout=LIMIT)
    assert (response.status_code, response.text) == (401, "who are you?")
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]
    assert service.get_access_token() == "second"


@pytest.mark.parametrize("status", [200, 201, 304, 400, 403, 404, 407, 429, 500, 503])
def test_another_status_is_returned_as_it_is(
    service: IdentityBootstrapService, canned: StartCanned, status: int
) -> None:
    resource = canned(Canned(status))
    response = requests.get(resource.url, auth=service.auth(), timeout=LIMIT)
    assert response.status_code == status
    assert response.history == []
    assert tokens_sent(resource) == ["Bearer first"]
    assert service.get_access_token() == "first"


def test_a_token_that_was_replaced_meanwhile_is_not_replaced_again(
    preconfigured: StaticCredentialsSource, canned: StartCanned
) -> None:
    service, endpoint = preconfigured(token_reply("first"), token_reply("second"))
    resource = canned(UNAUTHORIZED, OK)

    def replace(asked: Asked) -> None:
        if asked.headers["Authorization"] == "Bearer first":
            service.invalidate_token("first")
            service.get_access_token()

    resource.before_answer = replace
    assert requests.get(resource.url, auth=service.auth(), timeout=LIMIT).ok
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]
    assert len(endpoint.asked) == 2


def test_when_no_other_token_can_be_had_the_rejection_is_returned(
    preconfigured: StaticCredentialsSource, canned: StartCanned
) -> None:
    service, _ = preconfigured(token_reply("first"), reply({"error": "server_error"}, 500))
    resource = canned(UNAUTHORIZED, OK)
    response = requests.get(resource.url, auth=service.auth(), timeout=LIMIT)
    assert response.status_code == 401
    assert tokens_sent(resource) == ["Bearer first"]
    assert service.get_access_token() == "first"  # other servers may accept it


def test_the_retry_keeps_to_the_callers_timeout(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    given_up = threading.Event()

    def let_the_retry_wait(asked: Asked) -> None:
        if asked.headers["Authorization"] == "Bearer second":
            given_up.wait(LIMIT)

    resource.before_answer = let_the_retry_wait
    with pytest.raises(requests.Timeout):
        requests.get(resource.url, auth=service.auth(), timeout=3)
    given_up.set()
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]


def test_the_retry_needs_no_second_connection(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(pool_maxsize=1, pool_block=True))
        response = session.get(resource.url, auth=service.auth(), stream=True, timeout=LIMIT)
        assert response.content == b"done"


def _rejects_without_end(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nno")
    stopped.wait(2 * LIMIT)


def test_a_caller_of_streams_does_not_wait_for_the_body_of_a_rejection(
    service: IdentityBootstrapService,
) -> None:
    with HostileServer(_rejects_without_end) as server:
        url = f"http://127.0.0.1:{server.port}/"
        with requests.get(url, auth=service.auth(), stream=True, timeout=LIMIT) as response:
            assert response.status_code == 401
            assert response.request.headers["Authorization"] == "Bearer second"
            assert [rejected.status_code for rejected in response.history] == [401]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_after_a_rejection_leaves_the_connection_to_the_pool(
    service: IdentityBootstrapService, canned: StartCanned, stream: bool
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    resource.before_answer = lambda _: service.close()
    adapter = HTTPAdapter(pool_maxsize=1, pool_block=True)
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.trust_env = False  # a bundle of the environment would make it another pool
        with pytest.raises(ServiceClosedError):
            session.get(resource.url, auth=service.auth(), stream=stream, timeout=LIMIT)
        pool: Any = adapter.get_connection_with_tls_context(
            requests.Request("GET", resource.url).prepare(), verify=True
        )
        assert pool.urlopen("GET", "/", pool_timeout=LIMIT).status == 200


def test_it_serves_a_whole_session(service: IdentityBootstrapService, canned: StartCanned) -> None:
    resource = canned(UNAUTHORIZED, OK, UNAUTHORIZED, OK)
    answered: list[int] = []
    with requests.Session() as session:
        session.auth = service.auth()
        session.hooks["response"] = [lambda response, **_: answered.append(response.status_code)]
        assert session.get(resource.url, timeout=LIMIT).ok
        assert session.get(resource.url, timeout=LIMIT).ok
    assert tokens_sent(resource) == [
        "Bearer first",
        "Bearer second",
        "Bearer second",
        "Bearer third",
    ]
    assert answered == [200, 200]


# --- bodies ---


def _file_at_its_beginning(folder: Path) -> IO[bytes]:
    path = folder / "body"
    path.write_bytes(b"a long body")
    return path.open("rb")


def _file_in_its_middle(folder: Path) -> IO[bytes]:
    file = _file_at_its_beginning(folder)
    file.seek(2)
    return file


@pytest.mark.parametrize(
    ("make", "sent"),
    [
        pytest.param(lambda _: None, b"", id="no body"),
        pytest.param(lambda _: "ein Körper", "ein Körper".encode(), id="text"),
        pytest.param(lambda _: b"\x00\xff", b"\x00\xff", id="bytes"),
        pytest.param(lambda _: {"a": "1", "b": "2"}, b"a=1&b=2", id="a form"),
        pytest.param(lambda _: io.BytesIO(b"a long body"), b"a long body", id="a buffer"),
        pytest.param(_file_at_its_beginning, b"a long body", id="a file"),
        pytest.param(_file_in_its_middle, b"long body", id="a file from where it was"),
    ],
)
def test_the_retry_sends_the_same_body(
    service: IdentityBootstrapService,
    canned: StartCanned,
    tmp_path: Path,
    make: Callable[[Path], Any],
    sent: bytes,
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    body = make(tmp_path)
    try:
        response = requests.post(resource.url, data=body, auth=service.auth(), timeout=LIMIT)
    finally:
        if hasattr(body, "close"):
            body.close()
    assert response.status_code == 200
    assert [asked.body for asked in resource.asked] == [sent, sent]
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]


class Once:
    """A body of known length that can be read once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._parts = iter([content])

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts


def test_what_can_be_read_once_is_sent_once(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(UNAUTHORIZED, OK)
    response = requests.post(
        resource.url, data=Once(b"a long body"), auth=service.auth(), timeout=LIMIT
    )
    assert (response.status_code, response.text) == (401, "who are you?")
    assert [asked.body for asked in resource.asked] == [b"a long body"]
    # The token is replaced all the same, for the next request.
    assert service.get_access_token() == "second"


def _generator() -> Iterator[bytes]:
    yield b"a long "
    yield b"body"


def _pipe() -> IO[bytes]:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(b"a long body")
    return os.fdopen(read_end, "rb")


@pytest.mark.parametrize(
    "make", [pytest.param(_generator, id="a generator"), pytest.param(_pipe, id="a pipe")]
)
def test_a_body_of_unknown_length_is_sent_once(
    service: IdentityBootstrapService, api: IdentityServer, make: Callable[[], Any]
) -> None:
    body = make()
    # identity-api knows no access tokens, and reads what comes in chunks.
    response = requests.post(
        f"{api.url}/internal/organizations/system", data=body, auth=service.auth(), timeout=LIMIT
    )
    body.close()
    assert response.status_code == 401
    assert response.history == []
    assert response.request.headers["Authorization"] == "Bearer first"
    assert service.get_access_token() == "second"


# --- other hosts ---


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("127.0.0.1", id="another port"),
        pytest.param("localhost", id="another name"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_after_a_redirect_the_token_is_not_sent_to_another_host_even_when_that_asks_for_it(
    service: IdentityBootstrapService, canned: StartCanned, name: str, status: int
) -> None:
    other = canned(UNAUTHORIZED)
    resource = canned(redirect_to(other.url.replace("127.0.0.1", name), status))
    response = requests.post(resource.url, data="a body", auth=service.auth(), timeout=LIMIT)
    assert (response.status_code, response.text) == (401, "who are you?")
    assert tokens_sent(resource) == ["Bearer first"]
    assert tokens_sent(other) == [None]
    # Another host's opinion of a request without a token says nothing about the token.
    assert service.get_access_token() == "first"


def test_after_a_redirect_of_the_retry_the_token_is_not_sent_to_another_host_either(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    other = canned(UNAUTHORIZED)
    resource = canned(UNAUTHORIZED, redirect_to(other.url))
    assert requests.get(resource.url, auth=service.auth(), timeout=LIMIT).status_code == 401
    assert tokens_sent(resource) == ["Bearer first", "Bearer second"]
    assert tokens_sent(other) == [None]


def test_after_a_redirect_on_the_same_host_the_token_is_sent_and_replaced_once(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(redirect_to("/there"), UNAUTHORIZED, OK)
    response = requests.get(f"{resource.url}/here", auth=service.auth(), timeout=LIMIT)
    assert response.text == "done"
    assert [asked.path for asked in resource.asked] == ["/here", "/there", "/there"]
    assert tokens_sent(resource) == ["Bearer first", "Bearer first", "Bearer second"]


# --- ~/.netrc ---


@pytest.fixture(params=["HOME", "NETRC"])
def netrc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has a password for every host of these tests."""
    file = tmp_path / ".netrc"
    file.write_text("default login somebody password of-another-system\n")
    file.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv(request.param, str(tmp_path if request.param == "HOME" else file))


@pytest.mark.usefixtures("netrc")
def test_a_netrc_file_does_not_replace_the_token(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(OK, UNAUTHORIZED, OK)
    requests.get(resource.url, timeout=LIMIT)
    requests.get(resource.url, auth=service.auth(), timeout=LIMIT)
    assert [str(sent)[:12] for sent in tokens_sent(resource)] == [
        "Basic c29tZW",
        "Bearer first",
        "Bearer secon",
    ]


@pytest.mark.usefixtures("netrc")
def test_a_netrc_file_that_serves_another_host_does_not_bring_the_token_there(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    other = canned(UNAUTHORIZED)
    resource = canned(redirect_to(other.url))
    assert requests.get(resource.url, auth=service.auth(), timeout=LIMIT).status_code == 401
    [sent] = tokens_sent(other)
    assert sent is not None
    assert sent.startswith("Basic ")
    assert service.get_access_token() == "first"


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("orders.internal.", "http://orders.internal/"),
        ("orders.internal", "http://orders.internal./"),
        ("Orders", "http://ORDERS/"),
        ("b\u00fccher.example", "http://xn--bcher-kva.example/"),
        ("B\u00dcCHER.example", "http://xn--bcher-kva.example/"),
        ("stra\u00dfe.example", "http://xn--strae-oqa.example/"),
        ("*.stra\u00dfe.example:80", "http://a.xn--strae-oqa.example/"),
        ("xn--strae-oqa.example", "http://xn--strae-oqa.example/"),
        ("\u03b2\u03cc\u03bb\u03bf\u03c2.example", "http://xn--nxasmm1c.example/"),
        ("*.example:8080", "http://a.example:8080/"),
        ("[::1]:80", "http://[::1]/"),
        ("[0:0:0:0:0:0:0:1]", "http://[::0001]/"),
        ("[v7.a:b]", "http://[v7.a:b]/"),
        ("my_service", "http://my_service/"),
        ("10.0.0.*", "http://10.0.0.7/"),
    ],
)
def test_a_host_may_be_written_in_several_ways(entry: str, url: str) -> None:
    assert HostAllowlist([entry]).allows(url)


@pytest.mark.parametrize("host", ["stra\u00dfe.example", "fa\u00df.de", "b\u00fccher.example"])
def test_an_international_name_is_the_host_that_requests_connects_to(host: str) -> None:
    url = requests.Request("GET", f"http://{host}/").prepare().url
    assert url is not None
    assert HostAllowlist([host]).allows(url)


def test_the_token_is_not_sent_to_the_host_of_a_similar_name() -> None:
    assert not HostAllowlist(["stra\u00dfe.example"]).allows("http://strasse.example/")


@pytest.mark.parametrize(
    "entry",
    [" orders", "orders ", "orders-*", "*orders", "**.example", ".example", "orders\\x", "a..b",
     "user@orders", "orders/path", "orders:port", "", "http://orders", "a" * 64],
)  # fmt: skip
def test_an_entry_that_would_never_match_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a host; write it as 'orders'"):
        HostAllowlist([entry])


@pytest.mark.parametrize("entry", ["\u2603.example", "\u00fc" * 64, "a.\u0301x"])
def test_a_name_that_clients_cannot_encode_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a host; write it as its ASCII form"):
        HostAllowlist([entry])


def test_the_hosts_that_are_remembered_are_limited() -> None:
    accepted = AcceptedTokens()
    for number in range(5000):
        accepted.note_accepted(f"host-{number}", "a-token")
    assert accepted.has_accepted("host-4999", "a-token")
    assert not accepted.has_accepted("host-0", "a-token")
    assert sum(accepted.has_accepted(f"host-{n}", "a-token") for n in range(5000)) <= 1000


def test_a_host_that_is_remembered_takes_no_place_of_another() -> None:
    accepted = AcceptedTokens()
    for number in (*range(1000), 0):
        accepted.note_accepted(f"host-{number}", "a-token")
    assert all(accepted.has_accepted(f"host-{number}", "a-token") for number in range(1000))
