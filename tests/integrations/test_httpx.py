"""The auth object for httpx and httpx2: the same tests for both, with sync and async clients."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

import httpx
import httpx2
import pytest
import trio
from support.canned import Canned, reply, token_reply
from support.revoking import RevokingResource
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured, StartCanned

from identity_client import (
    ConfigurationError,
    IdentityBootstrapService,
    ServiceClosedError,
    TokenEndpointError,
)
from identity_client.integrations import httpx as for_httpx
from identity_client.integrations import httpx2 as for_httpx2
from identity_client.server import IdentityServer

LIMIT = 20.0
CONTENT = b"x" * 100_000

BOTH = pytest.mark.parametrize(
    ("library", "module"), [(httpx, for_httpx), (httpx2, for_httpx2)], ids=["httpx", "httpx2"]
)
Library = Any  # httpx or httpx2
Integration = Any  # its module of this package


@pytest.fixture
def service(preconfigured: Preconfigured) -> IdentityBootstrapService:
    """A service whose tokens are "first", "second", and then "third" for ever."""
    made, _ = preconfigured(token_reply("first"), token_reply("second"), token_reply("third"))
    return made


@pytest.fixture
def resource() -> Iterator[RevokingResource]:
    with RevokingResource() as server:
        yield server


def in_parts() -> Iterator[bytes]:
    yield CONTENT[:1000]
    yield CONTENT[1000:]


async def in_parts_async() -> AsyncIterator[bytes]:
    for part in in_parts():
        yield part


class Parts:
    """An asynchronous collection: each iteration starts from its beginning."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return in_parts_async()


# Seven, which 100 is not a multiple of: each of them meets a revocation.
SYNC_BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing": dict,
    "bytes": lambda: {"content": CONTENT},
    "form": lambda: {"data": {"number": "7"}},
    "json": lambda: {"json": {"number": 7}},
    "multipart": lambda: {"data": {"number": "7"}, "files": {"scan": io.BytesIO(CONTENT)}},
    "file": lambda: {"content": io.BytesIO(CONTENT)},
    "generator": lambda: {"content": in_parts()},
}
ASYNC_BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: body for name, body in SYNC_BODIES.items() if name not in ("file", "generator")},
    "collection": lambda: {"content": Parts()},
    "generator": lambda: {"content": in_parts_async()},
}
REQUESTS_BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    **SYNC_BODIES,
    "bytes": lambda: {"data": CONTENT},
    "multipart": lambda: {"data": {"number": "7"}, "files": {"scan": io.BytesIO(CONTENT)}},
    "file": lambda: {"data": io.BytesIO(CONTENT)},
    "generator": lambda: {"data": in_parts()},
}


class Thousand:
    """1,000 requests that have to succeed, and how those went that did not at first."""

    def __init__(self, bodies: dict[str, Callable[[], dict[str, Any]]]) -> None:
        self.rejected: list[str] = []
        self._kinds = itertools.islice(itertools.cycle(bodies.items()), 1000)

    def __iter__(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        return self._kinds

    def check(self, resource: RevokingResource, api: IdentityServer) -> None:
        """Only generators were rejected; each revocation has cost one token request."""
        assert set(self.rejected) == {"generator"}
        # The last revocation came with the last request: no request has noticed it.
        assert resource.revocations == 10
        assert api.backend.requests["token"] == 10
        accepted = [received for received in resource.received if received.status == 200]
        assert len(accepted) == 1000
        assert len(resource.received) == 1000 + 9
        assert {len(r.body) for r in accepted if r.path in ("/bytes", "/generator")} == {100_000}


@pytest.fixture
def revoking() -> Iterator[RevokingResource]:
    """Revokes the token every 100 requests."""
    with RevokingResource(every=100) as server:
        yield server


def test_requests_follows_a_token_that_is_revoked_every_100_requests(
    api: IdentityServer, make_service: MakeService, revoking: RevokingResource
) -> None:
    thousand = Thousand(REQUESTS_BODIES)
    with make_service(api).session() as session:
        for kind, body in thousand:
            while (
                session.post(f"{revoking.url}/{kind}", timeout=LIMIT, **body()).status_code != 200
            ):
                thousand.rejected.append(kind)
    thousand.check(revoking, api)


@BOTH
def test_a_client_follows_a_token_that_is_revoked_every_100_requests(
    library: Library,
    module: Integration,
    api: IdentityServer,
    make_service: MakeService,
    revoking: RevokingResource,
) -> None:
    thousand = Thousand(SYNC_BODIES)
    with library.Client(auth=module.IdentityAuth(make_service(api)), timeout=LIMIT) as client:
        for kind, body in thousand:
            while client.post(f"{revoking.url}/{kind}", **body()).status_code != 200:
                thousand.rejected.append(kind)
    thousand.check(revoking, api)


@BOTH
@pytest.mark.parametrize("mode", ["asyncio", "trio"])
def test_an_async_client_follows_a_token_that_is_revoked_every_100_requests(
    library: Library,
    module: Integration,
    api: IdentityServer,
    make_service: MakeService,
    revoking: RevokingResource,
    *,
    mode: str,
) -> None:
    thousand = Thousand(ASYNC_BODIES)
    auth = module.IdentityAuth(make_service(api))

    async def main() -> None:
        async with library.AsyncClient(auth=auth, timeout=LIMIT) as client:
            for kind, body in thousand:
                while (await client.post(f"{revoking.url}/{kind}", **body())).status_code != 200:
                    thousand.rejected.append(kind)

    run_in(mode, main)
    thousand.check(revoking, api)


# --- one request, with each library and with each kind of client ---


class Caller:
    """Sends one request with a client of one library, sync or async.

    Args:
        library: httpx or httpx2.
        module: its module of this package.
        mode: sync, or the event loop of an AsyncClient: asyncio or trio.
    """

    def __init__(self, library: Library, module: Integration, mode: str) -> None:
        self.auth = module.IdentityAuth
        self._library = library
        self._mode = mode

    def __call__(self, auth: Any, method: str, url: str, **options: Any) -> Any:
        if self._mode == "sync":
            with self._library.Client(auth=auth, timeout=LIMIT, follow_redirects=True) as client:
                return client.request(method, url, **options)

        async def main() -> Any:
            client = self._library.AsyncClient(auth=auth, timeout=LIMIT, follow_redirects=True)
            async with client:
                return await client.request(method, url, **options)

        return run_in(self._mode, main)


def run_in(mode: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return trio.run(main) if mode == "trio" else asyncio.run(main())


@pytest.fixture(params=["sync", "asyncio", "trio"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(httpx, for_httpx), (httpx2, for_httpx2)], ids=["httpx", "httpx2"])
def call(request: pytest.FixtureRequest, mode: str) -> Caller:
    library, module = request.param
    return Caller(library, module, mode)


def test_a_rejected_token_is_replaced_and_the_request_sent_once_more(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    resource.revoke("first")
    response = call(call.auth(service), "POST", f"{resource.url}/orders", json={"number": 7})
    assert response.status_code == 200
    assert resource.tokens() == ["first", "second"]
    assert [received.body for received in resource.received] == [response.request.content] * 2
    assert [r.status_code for r in response.history] == [401]


def test_a_second_rejection_is_returned_and_not_retried(
    call: Caller, preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, _ = preconfigured(
        token_reply("first"), token_reply("second"), base_retry_delay=60.0, max_retry_delay=60.0
    )
    resource.revoked |= {"first", "second"}
    auth = call.auth(service)
    assert call(auth, "GET", resource.url).status_code == 401
    assert resource.tokens() == ["first", "second"]
    # A server that rejects each token is at fault: it costs no token per request.
    assert call(auth, "GET", resource.url).status_code == 401
    assert resource.tokens() == ["first", "second", "second"]
    assert service.status().tokens_issued == 2


def test_the_401_of_a_redirects_target_neither_invalidates_nor_resends(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    with RevokingResource() as other:
        response = call(call.auth(service), "POST", f"{resource.url}/to/{other.port}", content=b"x")
        assert response.status_code == 401
        assert other.tokens() == [None]
    assert resource.tokens() == ["first"]
    assert service.get_access_token() == "first"


@pytest.mark.parametrize("kind", ["to", "see"])
def test_after_a_redirect_of_the_same_host_only_the_last_request_is_sent_again(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource, kind: str
) -> None:
    resource.revoke("first")
    url = f"{resource.url}/{kind}/{resource.port}"
    assert call(call.auth(service), "POST", url, content=b"x").status_code == 200
    assert resource.tokens() == ["first", "first", "second"]
    assert [received.path for received in resource.received] == [
        f"/{kind}/{resource.port}",
        "/",
        "/",
    ]


def test_a_redirect_that_drops_a_generator_leaves_a_request_that_can_be_sent_again(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource, mode: str
) -> None:
    resource.revoke("first")
    content = in_parts() if mode == "sync" else in_parts_async()
    url = f"{resource.url}/see/{resource.port}"
    assert call(call.auth(service), "POST", url, content=content).status_code == 200
    assert resource.tokens() == ["first", "first", "second"]


def test_the_token_goes_to_the_allowed_hosts_only(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    with RevokingResource() as other:
        auth = call.auth(service, hosts=[f"127.0.0.1:{resource.port}"])
        assert call(auth, "GET", resource.url).status_code == 200
        assert call(auth, "GET", other.url).status_code == 401
        assert other.tokens() == [None]
    assert service.get_access_token() == "first"


def test_a_host_that_is_not_one_is_refused(call: Caller, service: IdentityBootstrapService) -> None:
    with pytest.raises(ConfigurationError, match="is not a host"):
        call.auth(service, hosts=["https://orders/"])


def test_without_a_token_no_request_is_sent(
    call: Caller, preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, _ = preconfigured(reply({"error": "server_error"}, 503))
    with pytest.raises(TokenEndpointError):
        call(call.auth(service), "GET", resource.url)
    assert resource.received == []


def test_when_no_other_token_can_be_had_the_rejection_is_returned(
    call: Caller, preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, _ = preconfigured(token_reply("first"), reply({"error": "server_error"}, 503))
    resource.revoke("first")
    assert call(call.auth(service), "GET", resource.url).status_code == 401
    assert resource.tokens() == ["first"]


def test_an_error_after_a_rejection_shows_no_token_in_the_frames(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    resource.revoke("first")

    def close_and_invalidate(*_: object, **__: object) -> None:
        service.close()

    cast(Any, service).invalidate_token = close_and_invalidate
    with pytest.raises(ServiceClosedError) as caught:
        call(call.auth(service), "GET", resource.url)
    ours = str(Path(for_httpx.__file__).parents[1])
    frames = [frame for frame, _ in walk_tb(caught.value.__traceback__)]
    shown = [frame.f_locals for frame in frames if frame.f_code.co_filename.startswith(ours)]
    assert shown
    assert not any("first" in map(str, each.values()) for each in shown)


def test_the_auth_objects_of_a_service_remember_together_which_token_a_host_accepted(
    call: Caller, preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    pauses = {"base_retry_delay": 60.0, "max_retry_delay": 60.0}
    names = [f"token-{number}" for number in range(6)]
    service, endpoint = preconfigured(*map(token_reply, names), **pauses)
    with service.session() as session:
        assert session.get(resource.url, timeout=LIMIT).status_code == 200
    for name in names[:4]:
        resource.revoke(name)
        assert call(call.auth(service), "GET", resource.url).status_code == 200
    assert len(endpoint.asked) == 5


class Double:
    """A service with nothing but what an auth object calls."""

    def __init__(self, service: IdentityBootstrapService) -> None:
        self.get_access_token = service.get_access_token
        self.aget_access_token = service.aget_access_token
        self.invalidate_token = service.invalidate_token


def test_a_double_of_the_service_needs_no_memory_of_its_own(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    auth = call.auth(Double(service))
    for name in ("first", "second"):
        assert call(auth, "GET", resource.url).status_code == 200
        resource.revoke(name)
    assert call(auth, "GET", resource.url).status_code == 200
    assert resource.tokens() == ["first", "first", "second", "second", "third"]


# --- bodies ---


class Unseekable(io.BytesIO):
    """Knows its position, and cannot go back to it, as the body of a response."""

    def seek(self, *args: Any) -> int:
        raise io.UnsupportedOperation


class Pipe(Unseekable):
    """Does not even know its position."""

    def tell(self) -> int:
        raise io.UnsupportedOperation


class ReadOnly:
    """An iterable with nothing but `read`."""

    def __init__(self) -> None:
        self._file = io.BytesIO(CONTENT)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


class AsyncFile:
    """A file whose methods are coroutines, as those of trio and anyio."""

    def __init__(self) -> None:
        self._file = io.BytesIO(CONTENT)

    async def aread(self, size: int = -1) -> bytes:
        return self._file.read(size)

    async def tell(self) -> int:
        return self._file.tell()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return in_parts_async()


ONCE_ONLY: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "generator": ("sync", lambda: {"content": in_parts()}),
    "iterator": ("sync", lambda: {"content": map(bytes, [b"a", b"b"])}),
    "unseekable": ("sync", lambda: {"content": Unseekable(CONTENT)}),
    "pipe": ("sync", lambda: {"content": Pipe(CONTENT)}),
    "read-only": ("sync", lambda: {"content": ReadOnly()}),
    "async-generator": ("asyncio", lambda: {"content": in_parts_async()}),
    "async-file": ("asyncio", lambda: {"content": AsyncFile()}),
}


@BOTH
@pytest.mark.parametrize("kind", ONCE_ONLY)
def test_a_body_that_cannot_be_sent_again_gets_its_401_and_the_next_request_another_token(
    library: Library,
    module: Integration,
    kind: str,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    mode, body = ONCE_ONLY[kind]
    caller = Caller(library, module, mode)
    resource.revoke("first")
    auth = module.IdentityAuth(service)
    assert caller(auth, "POST", resource.url, **body()).status_code == 401
    assert resource.tokens() == ["first"]
    assert caller(auth, "POST", resource.url, content=b"x").status_code == 200
    assert resource.tokens() == ["first", "second"]


def test_a_multipart_file_that_cannot_be_rewound_gets_its_401(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    resource.revoke("first")
    files = {"text": ("a.txt", "text"), "scan": Pipe(CONTENT)}
    assert call(call.auth(service), "POST", resource.url, files=files).status_code == 401
    assert resource.tokens() == ["first"]
    assert CONTENT in resource.received[0].body


def test_a_multipart_file_is_sent_again_from_its_beginning(
    call: Caller, service: IdentityBootstrapService, resource: RevokingResource, tmp_path: Path
) -> None:
    (tmp_path / "scan").write_bytes(CONTENT)
    resource.revoke("first")
    with (tmp_path / "scan").open("rb") as scan:
        files = {"text": ("a.txt", "text"), "scan": scan}
        assert call(call.auth(service), "POST", resource.url, files=files).status_code == 200
    first, again = resource.received
    assert CONTENT in first.body
    assert first.body == again.body


@BOTH
def test_a_file_is_sent_again_from_where_it_was(
    library: Library,
    module: Integration,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    resource.revoke("first")
    file = io.BytesIO(CONTENT + b"end")
    file.seek(len(CONTENT))
    headers = {"Content-Length": "3"}  # httpx and the first httpx2 count the whole file
    caller = Caller(library, module, "sync")
    auth = module.IdentityAuth(service)
    response = caller(auth, "POST", resource.url, content=file, headers=headers)
    assert response.status_code == 200
    assert [received.body for received in resource.received] == [b"end", b"end"]


def test_a_list_of_parts_is_sent_again(
    service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    resource.revoke("first")
    caller = Caller(httpx2, for_httpx2, "sync")
    response = caller(for_httpx2.IdentityAuth(service), "POST", resource.url, content=[b"a", b"b"])
    assert response.status_code == 200
    assert [received.body for received in resource.received] == [b"ab", b"ab"]


# --- event loops ---


@BOTH
def test_coroutines_on_a_cold_cache_cause_one_token_request_and_leave_the_loop_free(
    library: Library, module: Integration, preconfigured: Preconfigured, canned: StartCanned
) -> None:
    service, endpoint = preconfigured()
    resource = canned(Canned(200))
    ticks_while_waiting = 0
    asked, issued = threading.Event(), threading.Event()

    def issue_after_twenty_ticks(_: object) -> None:
        asked.set()
        issued.wait(LIMIT)

    endpoint.before_answer = issue_after_twenty_ticks
    threads = threading.active_count()

    async def main() -> list[int]:
        nonlocal ticks_while_waiting
        limits = library.Limits(max_connections=10)
        auth = module.IdentityAuth(service)
        async with library.AsyncClient(auth=auth, timeout=LIMIT, limits=limits) as client:
            tasks = [asyncio.create_task(client.get(resource.url)) for _ in range(200)]
            while ticks_while_waiting < 20:
                await asyncio.sleep(0.005)
                ticks_while_waiting += asked.is_set()
            threads_while_waiting.append(threading.active_count())
            issued.set()
            return [response.status_code for response in await asyncio.gather(*tasks)]

    threads_while_waiting: list[int] = []
    assert asyncio.run(main()) == [200] * 200
    assert len(endpoint.asked) == 1
    assert threads_while_waiting[0] <= threads + 2  # the worker, and the token endpoint's


@BOTH
def test_one_auth_object_works_in_event_loops_one_after_the_other(
    library: Library,
    module: Integration,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    auth = module.IdentityAuth(service)
    for mode in ("asyncio", "asyncio", "trio"):
        assert Caller(library, module, mode)(auth, "GET", resource.url).status_code == 200
        resource.revoke(service.get_access_token())
    assert resource.tokens() == ["first", "first", "second", "second", "third"]


@BOTH
def test_a_request_that_is_cancelled_leaves_nothing_behind(
    library: Library,
    module: Integration,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    auth = module.IdentityAuth(service)
    arrived, cancelled = threading.Event(), threading.Event()

    def wait() -> None:
        arrived.set()
        cancelled.wait(LIMIT)

    async def main() -> int:
        async with library.AsyncClient(auth=auth, timeout=LIMIT) as client:
            resource.before_answer = wait
            task = asyncio.create_task(client.post(resource.url, content=in_parts_async()))
            await asyncio.to_thread(arrived.wait, LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()
            response = await client.get(resource.url)
            status: int = response.status_code
            return status

    assert asyncio.run(main()) == 200
    assert resource.tokens() == ["first", "first"]


@BOTH
def test_a_request_that_is_cancelled_while_it_waits_for_a_token_is_not_sent(
    library: Library, module: Integration, preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, endpoint = preconfigured()
    asked, cancelled = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        asked.set()
        cancelled.wait(LIMIT)

    endpoint.before_answer = wait

    async def main() -> int:
        auth = module.IdentityAuth(service)
        async with library.AsyncClient(auth=auth, timeout=LIMIT) as client:
            task = asyncio.create_task(client.get(resource.url))
            await asyncio.to_thread(asked.wait, LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()
            response = await client.get(f"{resource.url}/next")
            status: int = response.status_code
            return status

    assert asyncio.run(main()) == 200
    assert [received.path for received in resource.received] == ["/next"]


@BOTH
def test_an_open_stream_of_events_lets_other_requests_through(
    library: Library,
    module: Integration,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    async def main() -> list[str]:
        auth = module.IdentityAuth(service)
        client = library.AsyncClient(auth=auth, timeout=LIMIT)
        async with client, client.stream("GET", f"{resource.url}/stream") as stream:
            lines = stream.aiter_lines()
            seen = [await anext(lines)]
            for number in range(50):
                if number == 25:
                    resource.revoke("first")
                assert (await client.get(resource.url)).status_code == 200
            resource.finish_streams()
            return seen + [line async for line in lines if line]

    assert asyncio.run(main()) == ["data: first", "data: last"]
    assert resource.tokens() == ["first"] * 27 + ["second"] * 25


@BOTH
def test_an_open_stream_of_a_sync_client_lets_other_threads_through(
    library: Library,
    module: Integration,
    service: IdentityBootstrapService,
    resource: RevokingResource,
) -> None:
    auth = module.IdentityAuth(service)
    statuses: list[int] = []
    client = library.Client(auth=auth, timeout=LIMIT)
    with client, client.stream("GET", f"{resource.url}/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "data: first"

        def get() -> None:
            statuses.append(client.get(resource.url).status_code)

        threads = [threading.Thread(target=get) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        resource.finish_streams()
        assert [line for line in lines if line] == ["data: last"]
    assert statuses == [200] * 10


# --- the example ---

EXAMPLE = Path(__file__).parents[2] / "examples" / "httpx" / "stock.py"


def test_the_example_sends_its_token_with_each_request(
    api: IdentityServer, resource: RevokingResource
) -> None:
    environment = {
        **os.environ,
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "SERVICE_NAME": "orders",
        "INVENTORY_URL": resource.url,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE, "book", "pen"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[200, 200] [200, 200]\n", "")
    assert len(resource.received) == 4
    assert len(set(resource.tokens())) == 1


def test_a_user_writes_one_line_of_glue() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    glue = [line for line in lines if "IdentityAuth" in line and not line.startswith("from ")]
    assert glue == ["auth = IdentityAuth(service)"]
