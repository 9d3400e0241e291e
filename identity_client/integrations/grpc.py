"""Access tokens for gRPC: interceptors for any channel, and call credentials for those with TLS.

Needs the extra ``grpc``: ``pip install "xemahq-identity-client[grpc]"``. ::

    channel = grpc.intercept_channel(grpc.insecure_channel(target), IdentityInterceptor(service))
    channel = grpc.aio.insecure_channel(target, interceptors=aio_interceptors(service))
"""

# pyright: basic
# gRPC has no types.

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from .._http.hosts import AcceptedTokens
from ._protocol import TokenService, token_timeout_of

__all__ = ["IdentityInterceptor", "aio_interceptors", "call_credentials"]

_HEADER = "authorization"


class _Deadline:
    """When a call has to end; the wait for its token, and its repetition, are parts of it."""

    def __init__(self, details: Any) -> None:
        timeout = details.timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Return the seconds that are left, 0 or more; None for a call without a deadline."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    def of_token(self, service: TokenService) -> dict[str, float]:
        """Return the argument that ends a wait for a token; none where it ends before anyway."""
        left = self.left()
        return {} if left is None or left >= token_timeout_of(service) else {"timeout": left}


class _Rejections:
    """Reports the tokens that the services behind one channel reject.

    A service of gRPC is what a host is in HTTP: the part of a method's name before its last slash.
    Services of that name behind other channels are others, so this shares no memory with them.
    """

    def __init__(self, service: TokenService) -> None:
        self._service = service
        self._accepted = AcceptedTokens()

    def note(self, method: str | bytes, token: str, code: grpc.StatusCode) -> bool:
        """Note how a call ended; return whether its token was rejected."""
        path = method.decode() if isinstance(method, bytes) else method
        host = path.strip("/").rpartition("/")[0]
        if code is grpc.StatusCode.OK:
            self._accepted.note_accepted(host, token)
        if code is not grpc.StatusCode.UNAUTHENTICATED:
            return False
        accepted = self._accepted.has_accepted(host, token)
        self._service.invalidate_token(token, host, was_accepted=accepted)
        return True


class IdentityInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts the current token into each call of a channel, with or without TLS.

    In the caller's thread: gRPC's own call credentials take a thread for each call, and need TLS.
    A unary call that ends with UNAUTHENTICATED is sent once more with another token. Streams are
    not, and neither is a call made with ``future()`` that is still under way; after them, the next
    call has another token.

    A call's timeout holds for all of it: the wait for a token, and both times that it is sent. An
    `IdentityError` that leaves a call is not an ``RpcError``: the call was not sent, or its token
    was rejected, and there is no other.

    Make one for each channel: it remembers which token the services of that channel accepted.

    Args:
        service: the `IdentityBootstrapService`.
    """

    def __init__(self, service: TokenService) -> None:
        self._service = service
        self._rejections = _Rejections(service)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        """Send a unary call, and once more when its token was rejected."""
        method = client_call_details.method
        deadline = _Deadline(client_call_details)
        token = self._service.get_access_token(**deadline.of_token(self._service))
        call = continuation(_WithToken(client_call_details, token, deadline), request)
        if not call.done():  # of future(), which must not wait
            return self._watched(call, method, token)
        if not self._rejections.note(method, token, call.code()) or deadline.left() == 0:
            return call
        new = self._service.get_access_token(**deadline.of_token(self._service))
        if new == token:
            return call
        call = continuation(_WithToken(client_call_details, new, deadline), request)
        return self._watched(call, method, new)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        """Send a call whose response is a stream."""
        return self._send(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send a call whose request is a stream."""
        return self._send(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send a call of two streams."""
        return self._send(continuation, client_call_details, request_iterator)

    def _send(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        deadline = _Deadline(details)
        token = self._service.get_access_token(**deadline.of_token(self._service))
        call = continuation(_WithToken(details, token, deadline), request)
        return self._watched(call, details.method, token)

    def _watched(self, call: Any, method: str, token: str) -> Any:
        # A call that its user has dropped is cancelled when it is collected, so this must not
        # keep it.
        reference = weakref.ref(call)

        def note() -> None:
            ended = reference()
            if ended is not None:
                self._rejections.note(method, token, ended.code())

        if call.done() or not call.add_callback(note):
            note()
        return call


class _WithToken(grpc.ClientCallDetails):
    """The details of a call, with a token in its metadata and what is left of its timeout."""

    def __init__(self, details: Any, token: str, deadline: _Deadline) -> None:
        self.method = details.method
        self.timeout = deadline.left()
        self.metadata = (
            *((key, value) for key, value in details.metadata or () if key != _HEADER),
            (_HEADER, f"Bearer {token}"),
        )
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _AioInterceptor:
    """What the four interceptors for grpc.aio have in common."""

    def __init__(self, service: TokenService, rejections: _Rejections) -> None:
        self._service = service
        self._rejections = rejections

    async def _send(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        deadline = _Deadline(details)
        token = await self._service.aget_access_token(**deadline.of_token(self._service))
        call = await continuation(_with_token(details, token, deadline), request)
        call.add_done_callback(lambda ended: self._note_ended(details, token, ended))
        return call

    def _note_ended(self, details: Any, token: str, call: Any) -> None:
        # The status is known by now, so the coroutine returns it without waiting. A task would
        # see it after the caller, which may have made its next call by then.
        try:
            call.code().send(None)
        except StopIteration as returned:
            self._rejections.note(details.method, token, returned.value)

    async def _note(self, details: Any, token: str, call: Any) -> bool:
        try:
            code = await call.code()
        except asyncio.CancelledError:
            call.cancel()  # gRPC cancels this coroutine only, and the server would go on
            raise
        return self._rejections.note(details.method, token, code)


class _AioUnaryUnary(_AioInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        deadline = _Deadline(client_call_details)
        token = await self._service.aget_access_token(**deadline.of_token(self._service))
        call = await continuation(_with_token(client_call_details, token, deadline), request)
        if not await self._note(client_call_details, token, call) or deadline.left() == 0:
            return call
        new = await self._service.aget_access_token(**deadline.of_token(self._service))
        if new == token:
            return call
        call = await continuation(_with_token(client_call_details, new, deadline), request)
        await self._note(client_call_details, new, call)
        return call


class _AioUnaryStream(_AioInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await self._send(continuation, client_call_details, request)


class _AioStreamUnary(_AioInterceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


class _AioStreamStream(_AioInterceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


def aio_interceptors(service: TokenService) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors for one channel of grpc.aio, which needs one for each kind of call.

    They do what `IdentityInterceptor` does, and never block the event loop.

    Args:
        service: the `IdentityBootstrapService`.
    """
    rejections = _Rejections(service)
    kinds = (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)
    return [kind(service, rejections) for kind in kinds]


def _with_token(details: Any, token: str, deadline: _Deadline) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata[_HEADER] = f"Bearer {token}"
    return details._replace(metadata=metadata, timeout=deadline.left())


class _Plugin(grpc.AuthMetadataPlugin):
    def __init__(self, service: TokenService) -> None:
        self._service = service

    def __call__(self, context: Any, callback: Callable[..., Any]) -> None:
        try:
            metadata = ((_HEADER, f"Bearer {self._service.get_access_token()}"),)
        except Exception as error:  # noqa: BLE001  # gRPC's thread has no other way to report it
            callback((), error)
        else:
            callback(metadata, None)


def call_credentials(service: TokenService) -> grpc.CallCredentials:
    """Return call credentials, for a channel with TLS that other code makes calls on.

    gRPC starts a thread for each call, refuses them on a channel without TLS, and does not report
    rejected tokens: prefer `IdentityInterceptor`. A call ends at its deadline, and without a token
    with an ``RpcError``.

    Args:
        service: the `IdentityBootstrapService`.
    """
    return grpc.metadata_call_credentials(_Plugin(service), name="identity-client")
