"""The interceptors and the call credentials for gRPC, with a real server."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from support.canned import reply, token_reply
from support.services import Preconfigured

from identity_client import IdentityBootstrapService, NotReadyError
from identity_client.integrations.grpc import (
    IdentityInterceptor,
    aio_interceptors,
    call_credentials,
)

LIMIT = 20.0
LONG_PAUSES = {"base_retry_delay": 60.0, "max_retry_delay": 60.0}


class Orders(grpc.GenericRpcHandler):
    """Echoes what it is sent in each of the four ways, to those with a token that holds."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.remaining: list[float] = []
        self.revoked: set[str] = set()
        self.delay = 0.0
        self.release = threading.Event()
        self.waiting = threading.Event()
        self.ended = threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        handlers: dict[str, Any] = {
            "/orders.Orders/Get": grpc.unary_unary_rpc_method_handler(self.get),
            "/orders.Orders/Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "/orders.Orders/List": grpc.unary_stream_rpc_method_handler(self.list),
            "/orders.Orders/Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            "/orders.Orders/Import": grpc.stream_unary_rpc_method_handler(self.load),
            "/orders.Orders/Sync": grpc.stream_stream_rpc_method_handler(self.sync),
        }
        return handlers[handler_call_details.method]

    def get(self, request: bytes, context: Any) -> bytes:
        self._check(context)
        return request

    def wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        context.add_callback(self.ended.set)
        self.release.wait(LIMIT)
        return self.get(request, context)

    def list(self, request: bytes, context: Any) -> Iterator[bytes]:
        self._check(context)
        yield from (request, request)

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        self._check(context)
        context.add_callback(self.release.set)
        yield request
        self.release.wait(LIMIT)

    def load(self, request: Iterator[bytes], context: Any) -> bytes:
        received = b"".join(request)  # a call that ends while it is sent is another failure
        self._check(context)
        return received

    def sync(self, request: Iterator[bytes], context: Any) -> Iterator[bytes]:
        received = list(request)
        self._check(context)
        yield from received

    def _check(self, context: Any) -> None:
        sent = [value for key, value in context.invocation_metadata() if key == "authorization"]
        self.tokens += [value.removeprefix("Bearer ") for value in sent]
        self.remaining.append(context.time_remaining())
        time.sleep(self.delay)
        if len(sent) != 1 or sent[0].removeprefix("Bearer ") in self.revoked:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is rejected")


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture(params=["insecure", "secure"])
def is_secure(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "secure")


@pytest.fixture
def target(orders: Orders, certificate: str, *, is_secure: bool) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[orders])
    if is_secure:
        pem = Path(certificate).read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    orders.release.set()
    server.stop(None).wait()


@pytest.fixture
def service(preconfigured: Preconfigured) -> IdentityBootstrapService:
    """A service whose tokens are "first", "second", and then "third" for ever."""
    made, _ = preconfigured(token_reply("first"), token_reply("second"), token_reply("third"))
    return made


@pytest.fixture
def tls(certificate: str) -> Any:
    return grpc.ssl_channel_credentials(Path(certificate).read_bytes())


@pytest.fixture
def channel(
    service: IdentityBootstrapService, target: str, tls: Any, *, is_secure: bool
) -> Iterator[Any]:
    plain = grpc.secure_channel(target, tls) if is_secure else grpc.insecure_channel(target)
    yield grpc.intercept_channel(plain, IdentityInterceptor(service))
    plain.close()


WAYS: dict[str, Callable[[Any], Any]] = {
    "unary": lambda channel: channel.unary_unary("/orders.Orders/Get")(b"a", timeout=LIMIT),
    "unary-stream": lambda channel: b"".join(
        channel.unary_stream("/orders.Orders/List")(b"a", timeout=LIMIT)
    ),
    "stream-unary": lambda channel: channel.stream_unary("/orders.Orders/Import")(
        iter([b"a", b"a"]), timeout=LIMIT
    ),
    "stream-stream": lambda channel: b"".join(
        channel.stream_stream("/orders.Orders/Sync")(iter([b"a", b"a"]), timeout=LIMIT)
    ),
}
STREAMS = [name for name in WAYS if name != "unary"]


@pytest.mark.parametrize("way", WAYS)
def test_each_call_carries_the_current_token(channel: Any, orders: Orders, way: str) -> None:
    assert WAYS[way](channel) in (b"a", b"aa")
    assert orders.tokens == ["first"]


def test_a_unary_call_whose_token_is_rejected_is_sent_once_more(
    channel: Any, orders: Orders
) -> None:
    get = channel.unary_unary("/orders.Orders/Get")
    own = (("authorization", "of the caller"), ("x-trace", "abc"))
    assert get(b"a", metadata=own, timeout=LIMIT) == b"a"
    for token in ("first", "second"):  # each was accepted, so each is replaced at once
        orders.revoked.add(token)
        assert get(b"a", metadata=own, timeout=LIMIT) == b"a"
    assert orders.tokens == ["first", "first", "second", "second", "third"]


def wait_for_invalidation(service: IdentityBootstrapService) -> None:
    """Wait until a rejection has arrived: gRPC tells the caller first."""
    deadline = time.monotonic() + 60
    while not service.status().tokens_invalidated:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("way", STREAMS)
def test_a_stream_whose_token_is_rejected_fails_and_the_next_has_another(
    channel: Any, orders: Orders, service: IdentityBootstrapService, way: str
) -> None:
    orders.revoked.add("first")
    with pytest.raises(grpc.RpcError) as raised:
        WAYS[way](channel)
    failed: Any = raised.value
    assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "first" not in f"{failed.details()} {failed!r}"
    del raised, failed
    wait_for_invalidation(service)
    assert WAYS[way](channel) == b"aa"
    assert orders.tokens == ["first", "second"]


def test_a_server_that_rejects_each_token_costs_no_token_per_call(
    preconfigured: Preconfigured, target: str, tls: Any, orders: Orders, *, is_secure: bool
) -> None:
    service, endpoint = preconfigured(token_reply("first"), token_reply("second"), **LONG_PAUSES)
    orders.revoked |= {"first", "second"}
    plain = grpc.secure_channel(target, tls) if is_secure else grpc.insecure_channel(target)
    with plain:
        channel: Any = grpc.intercept_channel(plain, IdentityInterceptor(service))
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match="the token is rejected"):
                WAYS["unary"](channel)
    assert orders.tokens == ["first", "second", "second", "second"]
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_a_future_is_not_waited_for(
    channel: Any, orders: Orders, service: IdentityBootstrapService
) -> None:
    orders.revoked.add("first")
    future = channel.unary_unary("/orders.Orders/Wait").future(b"a", timeout=LIMIT)
    assert not future.done()
    orders.release.set()
    assert future.code() is grpc.StatusCode.UNAUTHENTICATED
    wait_for_invalidation(service)
    assert WAYS["unary"](channel) == b"a"
    assert orders.tokens == ["first", "second"]


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_a_stream_that_its_user_drops_is_cancelled(channel: Any, orders: Orders) -> None:
    stream = channel.unary_stream("/orders.Orders/Watch")(b"a", timeout=LIMIT)
    assert next(stream) == b"a"
    del stream
    gc.collect()
    assert orders.release.wait(LIMIT / 2)


def threads_of_the_client() -> int:
    return sum("ThreadPoolExecutor" not in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("way", WAYS)
def test_calls_take_no_threads(channel: Any, way: str) -> None:
    for _ in range(20):
        WAYS[way](channel)
    before = threads_of_the_client()
    for _ in range(250):
        WAYS[way](channel)
    assert threads_of_the_client() <= before + 20  # gRPC's own, of streams that are just ending


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_without_a_token_the_error_of_the_service_reaches_the_caller(
    preconfigured: Preconfigured, target: str, orders: Orders
) -> None:
    service, _ = preconfigured(reply({"error": "server_error"}, 503))
    with grpc.insecure_channel(target) as plain:
        channel: Any = grpc.intercept_channel(plain, IdentityInterceptor(service))
        with pytest.raises(Exception, match="returned HTTP 503"):
            WAYS["unary"](channel)
    assert orders.tokens == []


# --- deadlines ---


@pytest.fixture
def hanging(preconfigured: Preconfigured) -> Iterator[IdentityBootstrapService]:
    """A service whose token endpoint hangs, and that waits 0.5 s for a token by itself."""
    service, endpoint = preconfigured(token_timeout=0.5)
    ended = threading.Event()
    endpoint.before_answer = lambda _: ended.wait(LIMIT)
    yield service
    ended.set()


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
@pytest.mark.parametrize(
    ("timeout", "waited"),
    [
        pytest.param(0.2, r"0\.[12]\d*", id="shorter"),
        pytest.param(LIMIT, r"0\.5", id="longer"),
        pytest.param(None, r"0\.5", id="missing"),
    ],
)
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_call_waits_for_a_token_until_its_deadline_or_token_timeout(
    hanging: IdentityBootstrapService, target: str, timeout: float | None, waited: str, kind: str
) -> None:
    async def main() -> None:
        async with aio_channel(hanging, target, None, is_secure=False) as channel:
            call = getattr(channel, kind)(f"/orders.Orders/{method}")(b"a", timeout=timeout)
            await (call if kind == "unary_unary" else anext(aiter(call)))

    message = f"within {waited} s: an attempt is under way"
    method = "Get" if kind == "unary_unary" else "List"
    with grpc.insecure_channel(target) as plain:
        channel: Any = grpc.intercept_channel(plain, IdentityInterceptor(hanging))
        with pytest.raises(NotReadyError, match=message):
            list(getattr(channel, kind)(f"/orders.Orders/{method}")(b"a", timeout=timeout))
    with pytest.raises(NotReadyError, match=message):
        asyncio.run(main())


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_a_repeated_call_has_what_is_left_of_its_timeout(channel: Any, orders: Orders) -> None:
    orders.revoked.add("first")
    orders.delay = 0.5
    # gRPC sends a longer timeout in whole seconds.
    assert channel.unary_unary("/orders.Orders/Get")(b"a", timeout=9) == b"a"
    first, again = orders.remaining
    assert again <= first - 0.3


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_a_repeated_aio_call_has_what_is_left_of_its_timeout(
    service: IdentityBootstrapService, target: str, tls: Any, orders: Orders
) -> None:
    async def main() -> Any:
        async with aio_channel(service, target, tls, is_secure=False) as channel:
            return await channel.unary_unary("/orders.Orders/Get")(b"a", timeout=9)

    orders.revoked.add("first")
    orders.delay = 0.5
    assert asyncio.run(main()) == b"a"
    first, again = orders.remaining
    assert again <= first - 0.3


class Details(NamedTuple):
    method: str = "/orders.Orders/Get"
    timeout: float | None = None
    metadata: Any = None
    credentials: Any = None
    wait_for_ready: Any = None
    compression: Any = None


class Rejected:
    """A call that ended just before its deadline."""

    def done(self) -> bool:
        return True

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED


class AioRejected:
    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED


def test_a_call_that_is_rejected_at_its_deadline_is_not_repeated(
    service: IdentityBootstrapService,
) -> None:
    sent: list[float] = []

    def late(details: Any, _: bytes) -> Rejected:
        sent.append(details.timeout)
        time.sleep(0.2)
        return Rejected()

    async def late_aio(details: Any, request: bytes) -> AioRejected:
        late(details, request)
        return AioRejected()

    assert service.get_access_token() == "first"  # which need not come within the call's time
    details = Details(timeout=0.1)
    call = IdentityInterceptor(service).intercept_unary_unary(late, details, b"a")
    assert isinstance(call, Rejected)
    assert service.get_access_token() == "second"  # for the next call
    aio: Any = aio_interceptors(service)[0]
    call = asyncio.run(aio.intercept_unary_unary(late_aio, details, b"a"))
    assert isinstance(call, AioRejected)
    assert len(sent) == 2
    assert all(0 <= timeout <= 0.1 for timeout in sent)


class Double:
    """A service that has no timeouts."""

    def __init__(self, service: IdentityBootstrapService) -> None:
        self._service = service
        self.invalidate_token = service.invalidate_token

    def get_access_token(self) -> str:
        return self._service.get_access_token()


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_a_double_without_timeouts_serves_calls_without_deadlines(
    service: IdentityBootstrapService, target: str, orders: Orders
) -> None:
    double: Any = Double(service)
    orders.revoked.add("first")
    with grpc.insecure_channel(target) as plain:
        channel: Any = grpc.intercept_channel(plain, IdentityInterceptor(double))
        assert channel.unary_unary("/orders.Orders/Get")(b"a") == b"a"
    assert orders.tokens == ["first", "second"]


# --- call credentials ---


@pytest.mark.parametrize("is_secure", ["secure"], indirect=True)
def test_call_credentials_put_the_token_into_calls_of_a_secure_channel(
    service: IdentityBootstrapService, target: str, tls: Any, orders: Orders
) -> None:
    both = grpc.composite_channel_credentials(tls, call_credentials(service))
    with grpc.secure_channel(target, both) as channel:
        for way in WAYS.values():
            assert way(channel) in (b"a", b"aa")
    assert orders.tokens == ["first"] * 4


@pytest.mark.parametrize("is_secure", ["secure"], indirect=True)
def test_call_credentials_report_that_there_is_no_token(
    preconfigured: Preconfigured, target: str, tls: Any, orders: Orders
) -> None:
    service, _ = preconfigured(reply({"error": "server_error"}, 503))
    both = grpc.composite_channel_credentials(tls, call_credentials(service))
    with grpc.secure_channel(target, both) as channel:
        with pytest.raises(grpc.RpcError, match="returned HTTP 503") as raised:
            WAYS["unary"](channel)
        assert "a-client-secret" not in str(raised.value)
    assert orders.tokens == []


# --- asyncio ---


async def parts() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"a"


async def in_way(channel: Any, way: str) -> bytes:
    result: bytes
    if way == "unary":
        result = await channel.unary_unary("/orders.Orders/Get")(b"a", timeout=LIMIT)
    elif way == "stream-unary":
        result = await channel.stream_unary("/orders.Orders/Import")(parts(), timeout=LIMIT)
    elif way == "unary-stream":
        stream = channel.unary_stream("/orders.Orders/List")(b"a", timeout=LIMIT)
        result = b"".join([part async for part in stream])
    else:
        stream = channel.stream_stream("/orders.Orders/Sync")(parts(), timeout=LIMIT)
        result = b"".join([part async for part in stream])
    return result


def aio_channel(service: Any, target: str, tls: Any, *, is_secure: bool) -> Any:
    interceptors = aio_interceptors(service)
    if is_secure:
        return grpc.aio.secure_channel(target, tls, interceptors=interceptors)
    return grpc.aio.insecure_channel(target, interceptors=interceptors)


@pytest.mark.parametrize("way", WAYS)
def test_aio_calls_carry_the_token_and_replace_one_that_is_rejected(
    service: IdentityBootstrapService,
    target: str,
    tls: Any,
    orders: Orders,
    way: str,
    *,
    is_secure: bool,
) -> None:
    async def main() -> None:
        async with aio_channel(service, target, tls, is_secure=is_secure) as channel:
            assert await in_way(channel, way) in (b"a", b"aa")
            orders.revoked.add("first")
            if way != "unary":
                with pytest.raises(grpc.aio.AioRpcError, match="the token is rejected"):
                    await in_way(channel, way)
            assert await in_way(channel, way) in (b"a", b"aa")

    asyncio.run(main())
    assert orders.tokens == ["first", "first", "second"]


def test_an_aio_server_that_rejects_each_token_costs_no_token_per_call(
    preconfigured: Preconfigured, target: str, tls: Any, orders: Orders, *, is_secure: bool
) -> None:
    service, endpoint = preconfigured(token_reply("first"), token_reply("second"), **LONG_PAUSES)
    orders.revoked |= {"first", "second"}

    async def main() -> None:
        async with aio_channel(service, target, tls, is_secure=is_secure) as channel:
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError, match="the token is rejected"):
                    await in_way(channel, "unary")

    asyncio.run(main())
    assert orders.tokens == ["first", "second", "second", "second"]
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize("is_secure", ["insecure"], indirect=True)
def test_an_aio_call_that_is_cancelled_ends_on_the_server(
    service: IdentityBootstrapService, target: str, tls: Any, orders: Orders
) -> None:
    async def cancel() -> bool:
        async with aio_channel(service, target, tls, is_secure=False) as channel:
            call = channel.unary_unary("/orders.Orders/Wait")(b"a")
            assert await asyncio.to_thread(orders.waiting.wait, LIMIT)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await asyncio.to_thread(orders.ended.wait, LIMIT / 2)

    assert asyncio.run(cancel())
