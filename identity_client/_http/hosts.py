"""Which hosts an access token may be sent to, and which of them accepted it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from ..errors import ConfigurationError

_MAX_HOSTS = 1000
_LABEL = re.compile(r"\*|[\w-]{1,63}|[0-9a-f]*:[0-9a-f:]*").fullmatch
_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_of(url: str) -> str:
    """Return the host of a URL with its port, where one is given, in lower case."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


class HostAllowlist:
    """Matches URLs by host, and by port where one is given.

    Args:
        hosts: such as ``"orders"``, ``"orders:8080"`` or ``"*.internal.example"``; an asterisk
            stands for one label. None for every host.

    Raises:
        ConfigurationError: an entry is not a host.
    """

    def __init__(self, hosts: Iterable[str] | None) -> None:
        if isinstance(hosts, str):
            raise ConfigurationError("hosts must be a list of host names, not one string")
        self._patterns = None if hosts is None else [_parsed(host) for host in hosts]

    def allows(self, url: str) -> bool:
        """Return whether the host of ``url`` is one of these."""
        if self._patterns is None:
            return True
        parts = urlsplit(url)
        labels = _labels(parts.hostname or "")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        return any(
            len(pattern) == len(labels)
            and wanted in (None, port)
            and all(label in ("*", found) for label, found in zip(pattern, labels, strict=True))
            for pattern, wanted in self._patterns
        )


class AcceptedTokens:
    """Which token each host accepted last; the auth objects of a service share it.

    A host that rejects a token which it accepted before has not misunderstood it: it was revoked.
    Thread-safe and fork-safe without a lock, as each method does one operation on a dict.
    """

    def __init__(self) -> None:
        self._accepted: dict[str, str] = {}

    def note_response(self, host: str, token: str, status: int) -> None:
        """Remember a host that accepted a token: a gateway's 503 does not say that it did."""
        if 200 <= status < 300:
            self.note_accepted(host, token)

    def note_accepted(self, host: str, token: str) -> None:
        """Remember that a host accepted a token."""
        if len(self._accepted) >= _MAX_HOSTS and host not in self._accepted:
            self._accepted.clear()  # a rejection of a host that was forgotten counts as the first
        self._accepted[host] = token

    def has_accepted(self, host: str, token: str) -> bool:
        """Return whether this is the token that a host accepted last."""
        return self._accepted.get(host) == token


def _parsed(host: str) -> tuple[list[str], int | None]:
    try:
        parts = urlsplit(f"//{host}")
        labels = _labels(".".join(map(_encoded, (parts.hostname or "").split("."))))
        if parts.netloc == host and parts.username is None and all(map(_LABEL, labels)):
            return labels, parts.port
    except ValueError:  # of a port, of an address, or of what IDNA 2008 does not allow
        pass
    is_ascii = str(host).isascii()
    form = "'orders', 'orders:8080' or '*.example'" if is_ascii else "its ASCII form, 'xn--…'"
    shown = "an entry with user information" if "@" in str(host) else repr(host)
    raise ConfigurationError(f"hosts: {shown} is not a host; write it as {form}")


def _encoded(label: str) -> str:
    """Return a label as requests and httpx send it, which is IDNA 2008.

    To IDNA 2003, which Python's codec has, straße.example is strasse.example: another host.
    """
    if label.isascii():  # an asterisk, too, which idna refuses
        return label
    import idna  # a dependency of requests; its tables are not worth loading for other names

    return idna.encode(label, uts46=True).decode()


def _labels(host: str) -> list[str]:
    """Return the labels of a host name; of an IPv6 address the short form, as the only one."""
    if ":" in host:
        with suppress(ValueError):  # of the form of RFC 3986 for addresses of a later version
            return [str(IPv6Address(host))]
    return host.removesuffix(".").split(".")
