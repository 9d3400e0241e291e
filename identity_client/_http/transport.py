"""One HTTP exchange: bounded in time and size, without redirects, and with errors of our own."""

from __future__ import annotations

import http.client
import os
import time
import zlib
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from .._version import __version__
from .connection import POOLS, Deadline, StaleConnection
from .failures import HttpError, chain, http_error

MAX_BODY = 1024 * 1024

# Seconds without a request after which a connection is not used again. Load balancers and firewalls
# forget an idle connection after a few minutes, and some tell neither end: a request that is sent
# on it waits out its whole timeout.
MAX_IDLE = 60.0

USER_AGENT = f"identity-client/{__version__} {requests.utils.default_user_agent()}"


class HttpResponse:
    """What a server answered; without a repr, since it may hold secrets."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, *, truncated: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.truncated = truncated

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class NoAuth(AuthBase):
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


def shown_url(url: str) -> str:
    """Return a URL as error messages name it: without query and user info."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class HttpTransport:
    """The connections of one process; a forked child gets connections of its own.

    requests' adapter is used without a session, which would bring cookies, redirects and ~/.netrc,
    and a tenth of what a request costs.

    Args:
        timeout: seconds that one exchange may take in all, from the first connection, through
            proxy, TLS, all addresses and the retry of a stale connection, to the last byte.
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
        # urllib3 looks for an encrypted key, which asks on the terminal, in a key file only.
        self._client_cert = (
            (client_cert, client_cert) if isinstance(client_cert, str) else client_cert
        )
        self._adapter: _Adapter | None = None

    def send(
        self,
        method: str,
        url: str,
        *,
        auth: AuthBase,
        timeout: float | None = None,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        form: str | None = None,
    ) -> HttpResponse:
        """Send one request and read the answer, whatever its status.

        Raises:
            HttpError: there was no complete response.
        """
        limit = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            request = requests.Request(
                method,
                url,
                headers=_headers(form),
                auth=auth,
                params=_encoded(params),
                json=json,
                data=form,
            ).prepare()
            return self._exchange(request, Deadline(limit))
        except HttpError as error:
            failure = error
        except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
            failure = http_error(error, limit, url, self._proxies(url))
        raise failure

    def close(self) -> None:
        """Close all connections; the next request opens others."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _exchange(self, request: requests.PreparedRequest, deadline: Deadline) -> HttpResponse:
        try:
            return self._attempt(request, deadline)
        except requests.ConnectionError as error:
            if not any(isinstance(link, StaleConnection) for link in chain(error)):
                raise
        return self._attempt(request, deadline)

    def _attempt(self, request: requests.PreparedRequest, deadline: Deadline) -> HttpResponse:
        with self._current_adapter().send(
            request,
            stream=True,
            timeout=cast(Any, deadline),
            verify=self._trusted(),
            cert=self._client_cert,
            proxies=self._proxies(cast(str, request.url)),
        ) as response:
            return _read(response)

    def _trusted(self) -> str | bool:
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        return self._ca_bundle or next(filter(None, map(os.environ.get, names)), True)

    def _proxies(self, url: str) -> dict[str, str]:
        return requests.utils.get_environ_proxies(url)

    def _current_adapter(self) -> _Adapter:
        adapter = self._adapter
        if adapter is not None and adapter.pid == os.getpid() and adapter.idle_seconds() > MAX_IDLE:
            adapter.close()
            adapter = None
        if adapter is None or adapter.pid != os.getpid():
            self._adapter = adapter = _Adapter()
        adapter.used_at = _now()
        return adapter


def _now() -> tuple[float, float]:
    """Return the time of both clocks: one of them stands still while the machine sleeps."""
    return time.monotonic(), time.time()


def _headers(form: str | None) -> dict[str, str]:
    # A compressed body would have to be decoded within bounds: it is not asked for.
    headers = {
        "User-Agent": USER_AGENT,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    return headers


def _encoded(fields: Mapping[str, str] | None) -> str | None:
    """Encode a form; a space becomes %20, which every server reads, where some do not read a +."""
    return None if fields is None else urlencode(fields, quote_via=quote)


def _read(response: requests.Response) -> HttpResponse:
    body = bytearray()
    for chunk in response.raw.stream(64 * 1024, decode_content=False):
        body += chunk
        if len(body) > MAX_BODY:
            return HttpResponse(response.status_code, response.headers, b"", truncated=True)
    decoded = _decoded(bytes(body), response.headers.get("Content-Encoding", ""))
    if len(decoded) > MAX_BODY:
        return HttpResponse(response.status_code, response.headers, b"", truncated=True)
    return HttpResponse(response.status_code, response.headers, decoded)


def _decoded(body: bytes, encoding: str) -> bytes:
    """Decode a body that came compressed, unasked for, to one byte past the limit at most."""
    encoding = encoding.strip().lower()
    if not body or encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise HttpError("the response has an unknown content encoding")
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says
    try:
        decoded = decoder.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise HttpError("the body of the response is not encoded as its headers say") from None
    if len(decoded) <= MAX_BODY and not decoder.eof:
        raise HttpError("invalid or incomplete HTTP response")
    return decoded


class _Adapter(HTTPAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()
        self.used_at = _now()

    def idle_seconds(self) -> float:
        return max(now - then for now, then in zip(_now(), self.used_at, strict=True))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager: Any = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def close(self) -> None:
        """Close all connections; urllib3 leaves it to finalizers, which do nothing at exit."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  # it is no dict and does not iterate
                manager.pools[key].close()
        super().close()
