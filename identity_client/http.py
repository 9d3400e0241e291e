"""One HTTP exchange: bounded in time and size, without redirects, and with errors of our own."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, NameResolutionError, ProxyError

from ._version import __version__

MAX_BODY = 1024 * 1024

USER_AGENT = f"identity-client/{__version__} {requests.utils.default_user_agent()}"


class Answer:
    """What a server answered; without a repr, since it may hold secrets."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, *, oversized: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.oversized = oversized

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class HttpError(Exception):
    """No complete answer was had; the text says why."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Unauthenticated(AuthBase):
    """Adds nothing. Where requests gets no auth object, it sends what ~/.netrc holds."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class BearerAuth(AuthBase):
    """Adds a bearer token (RFC 6750 section 2.1)."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def host_of(url: str) -> str:
    """Return the scheme, host and port of a URL, as error messages name it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class HttpTransport:
    """The requests session of one process; a forked child gets a session of its own.

    Args:
        timeout: seconds that one exchange may take in all, from the connection to the last byte.
            Resolving the host name is the operating system's and not bounded by this.
        ca_bundle: a file with the certificates to trust, which wins over the environment's.
        client_cert: a client certificate, as requests takes it.
    """

    def __init__(
        self,
        timeout: float,
        ca_bundle: str | None = None,
        client_cert: str | tuple[str, str] | None = None,
    ) -> None:
        self._timeout = timeout
        self._ca_bundle = ca_bundle
        self._client_cert = client_cert
        self._session: _Session | None = None

    def send(
        self,
        method: str,
        url: str,
        *,
        auth: AuthBase,
        timeout: float | None = None,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read the answer, whatever its status.

        Raises:
            HttpError: there was no complete answer.
        """
        limit = self._timeout if timeout is None else min(timeout, self._timeout)

        def attempt() -> Answer:
            with self._current_session().request(
                method,
                url,
                auth=auth,
                params=params,
                json=json,
                data=form,
                timeout=cast(Any, Timeout(total=limit)),
                allow_redirects=False,
                stream=True,
                verify=self._ca_bundle,
                cert=self._client_cert,
            ) as response:
                return _read(response)

        try:
            try:
                return attempt()
            except requests.ConnectionError as error:
                if not any(isinstance(link, _StaleConnection) for link in _chain(error)):
                    raise
                return attempt()
        except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
            failure = _http_error(error, limit)
        raise failure

    def close(self) -> None:
        """Close the session; the next request opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _current_session(self) -> _Session:
        session = self._session
        if session is None or session.pid != os.getpid():
            self._session = session = _Session()
        return session


def _read(response: requests.Response) -> Answer:
    body = bytearray()
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY:
            return Answer(response.status_code, response.headers, b"", oversized=True)
    return Answer(response.status_code, response.headers, bytes(body))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it was made from."""
    pending, seen = [error], set[int]()
    while pending:
        link = pending.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            related = (*link.args, getattr(link, "reason", None), link.__cause__, link.__context__)
            pending.extend(item for item in related if isinstance(item, BaseException))


def _http_error(error: BaseException, limit: float) -> HttpError:
    links = list(_chain(error))

    def first(*kinds: type[BaseException]) -> Any:
        return next((link for link in links if isinstance(link, kinds)), None)

    if first(NameResolutionError, socket.gaierror):
        return HttpError("the host name cannot be resolved")
    if (tls := first(ssl.SSLError)) and not isinstance(tls, TimeoutError):
        detail = getattr(tls, "verify_message", None) or tls.reason or "handshake failed"
        return HttpError(f"the TLS connection failed ({detail})")
    if first(requests.Timeout, TimeoutError):
        return HttpError(f"there was no complete answer within {limit:.3g} s", timed_out=True)
    if first(ProxyError):
        return HttpError("the proxy cannot be used")
    if first(_StaleConnection, http.client.RemoteDisconnected):
        return HttpError("the connection was closed before an answer")
    if type(error) is OSError:  # requests itself, of a certificate file
        return HttpError(str(error))
    system: str = next(filter(None, (getattr(link, "strerror", None) for link in links)), "")
    if system:
        return HttpError(system[0].lower() + system[1:])
    if first(requests.exceptions.ContentDecodingError):
        return HttpError("the answer's body is not encoded as its headers say")
    if first(http.client.HTTPException, HTTPError) and not first(LocationParseError):
        return HttpError("the answer is not HTTP, or broke off in the middle")
    return HttpError(f"the request could not be sent ({type(error).__name__})")


class _Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()
        self.headers["User-Agent"] = USER_AGENT
        self.headers["Accept"] = "application/json"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter()
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Know no redirects: requests would read the body of one without any limit."""


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager: Any = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def close(self) -> None:
        """Close all connections; urllib3 leaves it to finalizers, which do nothing at exit."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  # it is no dict and does not iterate
                manager.pools[key].close()
        super().close()


class _StaleConnection(ConnectionError):
    """A connection that had served before was closed by the other side before it answered."""


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment, where a socket's own timeout starts anew with every byte.

    The deadline is the timeout that the socket has when the answer begins; urllib3 sets it to what
    is left of the total.
    """

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(remaining)
        return cast("int | None", cast(Any, self._raw).readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach()))


class _BoundedConnection(HTTPConnection):
    response_class = _DeadlineResponse
    debuglevel = 0  # http.client's switch prints headers, and so secrets
    _has_answered = False

    def connect(self) -> None:
        self._has_answered = False
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        with self._telling_stale():
            super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        with self._telling_stale():
            response = super().getresponse()
        self._has_answered = True
        return response

    @contextmanager
    def _telling_stale(self) -> Generator[None, None, None]:
        try:
            yield
        except (ConnectionResetError, BrokenPipeError) as error:
            if self._has_answered:
                raise _StaleConnection from error
            raise


class _BoundedTlsConnection(_BoundedConnection, HTTPSConnection):
    pass


class _BoundedPool(HTTPConnectionPool):
    ConnectionCls = cast(Any, _BoundedConnection)


class _BoundedTlsPool(HTTPSConnectionPool):
    ConnectionCls = cast(Any, _BoundedTlsConnection)


_POOLS = {"http": _BoundedPool, "https": _BoundedTlsPool}
