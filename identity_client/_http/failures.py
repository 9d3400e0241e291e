"""The errors of sockets, TLS, urllib3 and requests, in an operator's words."""

from __future__ import annotations

import http.client
import re
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
_NOT_NOW = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED

_CHECK_ADDRESS = "check that it is running and that {address} is correct"
_CHECK_FILES = (
    "check the files of IDENTITY_CA_BUNDLE (or REQUESTS_CA_BUNDLE) and IDENTITY_CLIENT_CERT"
)
_CHECK_PROXY = "check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
_NO_PROXY_ADDRESS = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)


class HttpError(Exception):
    """There was no complete response; the text says why.

    Args:
        reason: why.
        timed_out: whether the time was up.
        advice: the one thing to do about it; ``{address}`` stands for the setting of the address.
    """

    def __init__(
        self, reason: str, *, timed_out: bool = False, advice: str = _CHECK_ADDRESS
    ) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self._advice = advice

    def explain(self, address: str) -> str:
        """Return the reason and what to do, where ``address`` names the setting of the address."""
        return f"{self}; {self._advice.format(address=address)}"


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
        if speaks_no_tls(error):
            return "the server speaks no TLS at this port"
        detail = getattr(tls, "verify_message", None) or tls.reason or "handshake failed"
        return f"the TLS connection failed ({detail.rstrip('.')})"
    texts = (getattr(link, "strerror", None) for link in chain(error))
    text: str = next(filter(None, texts), "")
    return text[0].lower() + text[1:] if text else None


def speaks_no_tls(error: BaseException) -> bool:
    """Whether the other side of a TLS connection answered in another protocol."""
    tls = _tls_error(error)
    return tls is not None and tls.reason in _NOT_TLS


def http_error(
    error: BaseException, limit: float, url: str, proxies: Mapping[str, str]
) -> HttpError:
    """Translate whatever an exchange raised."""
    return (
        _proxy_failure(error, limit, url, proxies)
        or _tls_failure(error)
        or _time_out(error, limit)
        or _broken_off(error, url)
        or _other_failure(error)
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
    reason = system_reason(error) or ""
    if speaks_no_tls(error):
        return HttpError(reason, advice="use http:// instead of https:// in {address}")
    if tls.reason in _NOT_PEM:
        return HttpError(
            f"a certificate file is not in PEM format ({tls.reason})", advice=_CHECK_FILES
        )
    if isinstance(tls, ssl.SSLCertVerificationError):
        return _not_trusted(tls)
    return HttpError(reason)


def _not_trusted(tls: ssl.SSLCertVerificationError) -> HttpError:
    detail = tls.verify_message.rstrip(".")
    if tls.verify_code in _NOT_NOW:
        return HttpError(
            f"the certificate is not valid now ({detail})",
            advice="renew the server's certificate, or correct the clock of this machine",
        )
    return HttpError(
        f"the certificate is not trusted ({detail})",
        advice="set IDENTITY_CA_BUNDLE to the certificate authority's file, or correct {address}",
    )


def _is_tls(link: BaseException) -> bool:
    return isinstance(link, Urllib3SSLError)


def _time_out(error: BaseException, limit: float) -> HttpError | None:
    if _first(error, requests.Timeout, TimeoutError, ReadTimeoutError):
        return HttpError(f"timed out after {limit:.3g} s", timed_out=True)
    return None


def _proxy_failure(
    error: BaseException, limit: float, url: str, proxies: Mapping[str, str]
) -> HttpError | None:
    proxy = requests.utils.select_proxy(url, dict(proxies)) or ""
    # The address that is requested was found to be one; that of the proxy may not be.
    found = _first(error, ProxyError) or (proxy and _first(error, *_NO_PROXY_ADDRESS))
    if not found:
        return None
    if not isinstance(found, ProxyError):
        no_socks = "SOCKS" in str(found)
        return HttpError(
            "the proxy cannot be used "
            f"({'SOCKS needs the package PySocks' if no_socks else 'its address is not valid'})",
            advice=_CHECK_PROXY,
        )
    host = urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
    refused = re.search(r"Tunnel connection failed: (\d+)", str(found))
    time_out = _time_out(error, limit)
    cause = f"it returned HTTP {refused[1]}" if refused else time_out or system_reason(error)
    return HttpError(
        f"the proxy {host} cannot be used" + (f" ({cause})" if cause else ""),
        timed_out=time_out is not None,
        advice=_CHECK_PROXY,
    )


def _broken_off(error: BaseException, url: str) -> HttpError | None:
    is_plain = url.lower().startswith("http:")
    bad = _first(error, http.client.BadStatusLine)
    if bad is not None and _TLS_ALERT in str(bad):
        return HttpError(
            "the server speaks TLS at this port",
            advice="use https:// instead of http:// in {address}",
        )
    advice = f"{_CHECK_ADDRESS}: https:// if it speaks TLS" if is_plain else _CHECK_ADDRESS
    if _first(error, http.client.RemoteDisconnected):
        return HttpError("the connection was closed before a response", advice=advice)
    if _first(error, ConnectionResetError, BrokenPipeError):
        return HttpError("connection reset by peer", advice=advice)
    return None


def _other_failure(error: BaseException) -> HttpError:
    if type(error) is OSError:  # requests itself, of a certificate file
        text = str(error)
        return HttpError(text[0].lower() + text[1:], advice=_CHECK_FILES)
    reason = system_reason(error)
    if reason is not None:
        return HttpError(reason)
    if _first(error, http.client.HTTPException, HTTPError) and not _first(
        error, LocationParseError
    ):
        return HttpError("invalid or incomplete HTTP response")
    return HttpError(f"the request could not be sent ({type(error).__name__})")
