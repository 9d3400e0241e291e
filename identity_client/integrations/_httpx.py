"""The flows of `IdentityAuth` for httpx and httpx2, and what they need to send a body again.

The two libraries have one interface, but each accepts only its own ``Auth``; so this imports
neither, and the requests and responses are of either.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Any

from .._http.hosts import HostAllowlist, host_of
from ._protocol import TokenService, accepted_tokens_of


class IdentityAuthFlows:
    """Puts the current token into each request, and another one when the first is rejected.

    For ``Client`` and ``AsyncClient``, whose event loop it does not block; one object may be shared
    by clients, threads and event loops. Streams stay streams. A request is sent again once after a
    401, if its body is in memory, a file that can be rewound, or a collection; with another one,
    such as a generator, the 401 is returned, and the next request has a new token.

    An `IdentityError` that leaves a call of the client is not an ``HTTPError`` of its library: no
    request was sent, and an application should respond with a 503.

    Args:
        service: the `IdentityBootstrapService`.
        hosts: where the token may be sent, such as ``"orders"``, ``"orders:8080"`` or
            ``"*.internal.example"``; None for every host that is called with it.

    Raises:
        ConfigurationError: an entry of ``hosts`` is not a host.
    """

    # It holds no lock while a request is under way, binds to no event loop, and has nothing to
    # clean up: a client closes a flow at any ``yield``.

    def __init__(self, service: TokenService, hosts: Iterable[str] | None = None) -> None:
        self._service = service
        self._allowlist = HostAllowlist(hosts)
        self._accepted = accepted_tokens_of(service)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Let a ``Client`` send a request, and once more when its token was rejected."""
        if not self._allowlist.allows(str(request.url)):
            yield request
            return
        body = _Body(request)
        token = self._service.get_access_token()
        response = yield _with_token(request, token)
        if self._was_rejected(response, token):
            del token  # what this raises shows the frame
            new = self._service.get_access_token()
            if not _has_token(response.request, new) and body.rewind(response.request):
                self._note((yield _with_token(response.request, new)), new)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Let an ``AsyncClient`` do the same, without blocking the event loop."""
        if not self._allowlist.allows(str(request.url)):
            yield request
            return
        body = _Body(request)
        token = await self._service.aget_access_token()
        response = yield _with_token(request, token)
        if self._was_rejected(response, token):
            del token  # what this raises shows the frame
            new = await self._service.aget_access_token()
            if not _has_token(response.request, new) and body.rewind(response.request):
                self._note((yield _with_token(response.request, new)), new)

    def _was_rejected(self, response: Any, token: str) -> bool:
        host = self._note(response, token)
        if host is not None:
            accepted = self._accepted.has_accepted(host, token)
            self._service.invalidate_token(token, host, was_accepted=accepted)
        return host is not None

    def _note(self, response: Any, token: str) -> str | None:
        """Remember a host that accepted the token, or return the one that rejected it."""
        # After a redirect to another origin the client has taken the header away: that host did
        # not get the token, and its 401 is not about it.
        if not _has_token(response.request, token):
            return None
        host = host_of(str(response.url))
        if response.status_code == 401:
            return host
        self._accepted.note_response(host, token, response.status_code)
        return None


def _with_token(request: Any, token: str) -> Any:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _has_token(request: Any, token: str) -> bool:
    return bool(request.headers.get("Authorization") == f"Bearer {token}")


class _Body:
    """The body of a request, and where its files were before it was sent."""

    def __init__(self, request: Any) -> None:
        self._stream = request.stream
        self._files = [] if _is_in_memory(request) else _files_of(request.stream)

    def rewind(self, request: Any) -> bool:
        """Make the request, or the one that a redirect has made of it, ready to be sent again.

        Returns:
            Whether the body is the same again. A generator's is not, and neither is that of a
            file that cannot be rewound.
        """
        if request.stream is not self._stream:
            return _is_in_memory(request)
        if self._files is None:
            return False
        try:
            for file, position in self._files:
                file.seek(position)
        except (AttributeError, OSError, ValueError):
            return False
        return True


def _is_in_memory(request: Any) -> bool:
    try:
        return request.content is not None
    except RuntimeError:  # RequestNotRead, of either library
        return False


def _files_of(stream: Any) -> list[tuple[Any, int]] | None:
    """Return the files of a body with their positions; None if it cannot be sent again."""
    fields = getattr(stream, "fields", None)
    if fields is not None:  # multipart, where each file is sent from its beginning
        files = [getattr(field, "file", b"") for field in fields]
        return [(file, 0) for file in files if not isinstance(file, (str, bytes))]
    # What `content=` got. There is no public way to it; without it, a request is not sent again.
    content = getattr(stream, "_stream", None)
    if hasattr(content, "read") or hasattr(content, "aread"):
        position = _position(content)
        return None if position is None else [(content, position)]
    is_iterator = hasattr(content, "__next__") or hasattr(content, "__anext__")
    return None if content is None or is_iterator else []


def _position(file: Any) -> int | None:
    tell = getattr(file, "tell", None)
    if tell is None or inspect.iscoroutinefunction(tell):
        return None
    try:
        position: int = tell()
    except (OSError, ValueError):
        return None
    return position
