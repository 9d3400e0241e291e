"""The errors of sockets, TLS, urllib3 and requests, in an operator's words."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    NameResolutionError,
    ProxyError,
    ReadTimeoutError,
)
from urllib3.exceptions import SSLError as Urllib3SSLError

_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)
_NOT_PEM = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "PEM_LIB", "BAD_BASE64_DECODE")
_TLS_ALERT = "\x15\x03"


class HttpError(Exception):
    """There was no complete response; the text says why, and what to do where that is known."""

    def __init__(self, reason: str, *, timed_out: bool = False, advice: str | None = None) -> None:
        super().__init__(f"{reason}; {advice}" if advice else reason)
        self.timed_out = timed_out


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it was made from."""
    pending, seen = [error], set[int]()
    while pending:
        link = pending.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            related = (*link.args, getattr(link, "reason", None), link.__cause__, link.__context__)
            pending.extend(item for item in related if isinstance(item, BaseException))


def _first(error: BaseException, *kinds: type[BaseException]) -> Any:
    return next((link for link in chain(error) if isinstance(link, kinds)), None)


def system_reason(error: BaseException) -> str | None:
    """Say what the operating system or TLS found, for any client's error; None for another one."""
    if _first(error, NameResolutionError, socket.gaierror):
        return "the host name cannot be resolved"
    if tls := _tls_error(error):
        detail = getattr(tls, "verify_message", None) or tls.reason or "handshake failed"
        return f"the TLS connection failed ({detail})"
    texts = (getattr(link, "strerror", None) for link in chain(error))
    text: str = next(filter(None, texts), "")
    return text[0].lower() + text[1:] if text else None


def http_error(
    error: BaseException, limit: float, url: str, proxies: Mapping[str, str]
) -> HttpError:
    """Translate whatever an exchange raised."""
    return (
        _tls_failure(error)
        or _time_out(error, limit)
        or _proxy_failure(error, url, proxies)
        or _broken_off(error, url)
        or HttpError(_other_reason(error))
    )


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    found: ssl.SSLError | None = _first(error, ssl.SSLError)
    return None if isinstance(found, TimeoutError) else found


def _tls_failure(error: BaseException) -> HttpError | None:
    if any("key is encrypted" in str(link) for link in chain(error) if _is_tls(link)):
        return HttpError(
            "the private key of the client certificate is encrypted",
            advice="set IDENTITY_CLIENT_CERT to files with a key that is not encrypted",
        )
    tls = _tls_error(error)
    if tls is None:
        return None
    if tls.reason in _NOT_TLS:
        return HttpError("the server speaks no TLS there: http:// instead of https://?")
    if tls.reason in _NOT_PEM:
        return HttpError(
            f"a certificate file is not in PEM format ({tls.reason})",
            advice="check the files of IDENTITY_CA_BUNDLE and IDENTITY_CLIENT_CERT",
        )
    if isinstance(tls, ssl.SSLCertVerificationError):
        return HttpError(
            f"the certificate is not trusted ({tls.verify_message})",
            advice="set IDENTITY_CA_BUNDLE to the certificate authority's file, or correct the URL",
        )
    return HttpError(system_reason(error) or "the TLS connection failed")


def _is_tls(link: BaseException) -> bool:
    return isinstance(link, Urllib3SSLError)


def _time_out(error: BaseException, limit: float) -> HttpError | None:
    if _first(error, requests.Timeout, TimeoutError, ReadTimeoutError):
        return HttpError(f"timed out after {limit:.3g} s", timed_out=True)
    return None


def _proxy_failure(error: BaseException, url: str, proxies: Mapping[str, str]) -> HttpError | None:
    if not _first(error, ProxyError):
        return None
    proxy = requests.utils.select_proxy(url, dict(proxies)) or ""
    host = urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
    cause = system_reason(error)
    return HttpError(
        f"the proxy {host} cannot be used" + (f" ({cause})" if cause else ""),
        advice="check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY",
    )


def _broken_off(error: BaseException, url: str) -> HttpError | None:
    hint = ": https:// instead of http://?" if url.lower().startswith("http:") else ""
    bad = _first(error, http.client.BadStatusLine)
    if _first(error, http.client.RemoteDisconnected):
        return HttpError(f"the connection was closed before a response{hint}")
    if bad is not None and _TLS_ALERT in str(bad):
        return HttpError(f"the server speaks TLS{hint}")
    if _first(error, ConnectionResetError, BrokenPipeError):
        return HttpError(f"connection reset by peer{hint}")
    return None


def _other_reason(error: BaseException) -> str:
    if type(error) is OSError:  # requests itself, of a certificate file
        return f"{error} (IDENTITY_CA_BUNDLE, IDENTITY_CLIENT_CERT)"
    reason = system_reason(error)
    if reason is not None:
        return reason
    if _first(error, http.client.HTTPException, HTTPError) and not _first(
        error, LocationParseError
    ):
        return "invalid or incomplete HTTP response"
    return f"the request could not be sent ({type(error).__name__})"
