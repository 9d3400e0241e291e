"""Which hosts an access token may be sent to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from ..errors import ConfigurationError

_MAX_HOSTS = 1000
_LABEL = re.compile(r"\*|[\w-]+|[0-9a-f:]+").fullmatch
_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_of(url: str) -> str:
    """Return the host of a URL with its port, where one is given, in lower case."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


class HostAllowlist:
    """Matches URLs by host, and by port where one is given.

    Args:
        hosts: such as ``"orders"``, ``"orders:8080"`` or ``"*.internal.example"``; an asterisk
            stands for one label.

    Raises:
        ConfigurationError: an entry is not a host.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        if isinstance(hosts, str):
            raise ConfigurationError("hosts must be a list of host names, not one string")
        self._patterns = [_parsed(host) for host in hosts]

    def allows(self, url: str) -> bool:
        """Return whether the host of ``url`` is one of these."""
        parts = urlsplit(url)
        labels = _labels(parts.hostname or "")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        return any(
            len(pattern) == len(labels)
            and wanted in (None, port)
            and all(label in ("*", found) for label, found in zip(pattern, labels, strict=True))
            for pattern, wanted in self._patterns
        )


class TokenRecipients:
    """The hosts that the token of one auth object may be sent to, and what each accepted last.

    A host that rejects a token which it accepted before has not misunderstood it: it was revoked.
    Thread-safe, as each method does one operation on a dict.

    Args:
        hosts: see `HostAllowlist`; None for every host.
    """

    def __init__(self, hosts: Iterable[str] | None) -> None:
        self._allowlist = None if hosts is None else HostAllowlist(hosts)
        self._accepted: dict[str, str] = {}

    def allows(self, url: str) -> bool:
        """Return whether the token may be sent to ``url``."""
        return self._allowlist is None or self._allowlist.allows(url)

    def note_response(self, host: str, token: str, status: int) -> None:
        """Remember a host that accepted a token: a gateway's 503 does not say that it did."""
        if 200 <= status < 300:
            self.note_accepted(host, token)

    def note_accepted(self, host: str, token: str) -> None:
        """Remember that a host accepted a token."""
        if len(self._accepted) >= _MAX_HOSTS:
            self._accepted.clear()  # a rejection of a host that was forgotten counts as the first
        self._accepted[host] = token

    def has_accepted(self, host: str, token: str) -> bool:
        """Return whether this is the token that a host accepted last."""
        return self._accepted.get(host) == token


def _parsed(host: str) -> tuple[list[str], int | None]:
    try:
        parts = urlsplit(f"//{host}")
        labels = _labels((parts.hostname or "").encode("idna").decode())
        if parts.netloc == host and parts.username is None and all(map(_LABEL, labels)):
            return labels, parts.port
    except ValueError:
        pass
    raise ConfigurationError(
        f"hosts: {host!r} is not a host; write it as 'orders', 'orders:8080' or '*.example'"
    )


def _labels(host: str) -> list[str]:
    """Return the labels of a host name; of an IPv6 address the short form, as the only one."""
    if ":" in host:
        with suppress(ValueError):  # of the form of RFC 3986 for addresses of a later version
            return [str(IPv6Address(host))]
    return host.removesuffix(".").split(".")
