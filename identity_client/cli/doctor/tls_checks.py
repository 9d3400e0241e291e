"""Checks of TLS: that server and URL agree on it, and that the certificate is trusted."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import requests

from ..._http.failures import HttpError, http_error
from ..._http.transport import NoAuth
from .model import Facts, Finding, Target, fail, ok, warn
from .network_checks import connect

_DAYS_BEFORE_EXPIRY = 14
_WRONG_NAME = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def check_tls(facts: Facts, subject: str) -> Finding | None:
    """Shake hands as the service does; where it uses plain HTTP, see that the server does, too."""
    target = facts.target(subject)
    if target is None or subject not in facts.addresses:
        return None
    if target.is_tls:
        return _check_handshake(facts, subject, target)
    return _check_plain(facts, subject, target) if target.is_http else None


def _check_plain(facts: Facts, subject: str, target: Target) -> Finding:
    if not _speaks_http(facts, target.url) and _speaks_tls(facts, subject):
        return fail(
            f"{subject}: port {target.port} speaks TLS, and the URL begins with http://",
            f"write https:// in {target.setting}",
        )
    return ok(f"{subject}: plain HTTP, without TLS")


def _check_handshake(facts: Facts, subject: str, target: Target) -> Finding:
    address = facts.addresses[subject][0]
    try:
        context = _trusting(facts, target)
        with _shake_hands(context, address, target.host, facts.timeout) as connection:
            version, certificate = connection.version(), cast("Any", connection.getpeercert())
    except (OSError, ValueError) as error:
        return _failure(facts, error, subject, target)
    if not certificate:  # ssl_cert_reqs=none
        return ok(f"{subject}: {version}; the certificate is not verified, as set")
    return _judge_certificate(subject, version, certificate)


def _judge_certificate(subject: str, version: str | None, certificate: dict[str, Any]) -> Finding:
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ()))
    issuer = ", ".join(value for part in certificate["issuer"] for _, value in part[:1])
    text = f"{subject}: {version}; certificate for {names} by {issuer}, {days:.0f} days left"
    if days < _DAYS_BEFORE_EXPIRY:
        return warn(text, "renew the server's certificate")
    return ok(text)


def _failure(facts: Facts, error: Exception, subject: str, target: Target) -> Finding:
    code = getattr(error, "verify_code", None)
    explained = http_error(error, facts.timeout, target.url, {}).explain(target.setting)
    found, _, advice = explained.partition("; ")
    may_be_plain = isinstance(error, (ssl.SSLError, TimeoutError, ConnectionError)) and not code
    if may_be_plain and not target.is_http:
        return fail(
            f"{subject}: the server speaks no TLS there ({found})",
            f"write redis:// instead of rediss:// in {target.setting}, or the TLS port",
        )
    if may_be_plain and _speaks_http(facts, f"http{target.url[5:]}"):
        return fail(
            f"{subject}: the server speaks no TLS at this port",
            f"write http:// in {target.setting}, or the port that speaks TLS",
        )
    if code in _WRONG_NAME:
        advice = f"write a name of the certificate in {target.setting}"
    return fail(f"{subject}: {found}", advice)


def _trusting(facts: Facts, target: Target) -> ssl.SSLContext:
    """Return a context that trusts what the service trusts: as requests does, or redis-py."""
    if target.is_http:
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        given = facts.settings.ca_bundle or next(filter(None, map(os.environ.get, names)), None)
        place = Path(given or requests.utils.DEFAULT_CA_BUNDLE_PATH)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(**{"capath" if place.is_dir() else "cafile": str(place)})
        return context
    options = parse_qs(urlsplit(target.url).query)
    context = ssl.create_default_context(cafile=next(iter(options.get("ssl_ca_certs", ())), None))
    if "none" in options.get("ssl_cert_reqs", ()):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _speaks_http(facts: Facts, url: str) -> bool:
    transport = facts.transport()
    try:
        transport.send("GET", url, auth=NoAuth())
    except HttpError:
        return False
    finally:
        transport.close()
    return True


def _speaks_tls(facts: Facts, subject: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _shake_hands(context, facts.addresses[subject][0], None, facts.timeout).close()
    except OSError:
        return False
    return True


def _shake_hands(
    context: ssl.SSLContext, address: Any, host: str | None, timeout: float
) -> ssl.SSLSocket:
    connection = connect(address, timeout)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
