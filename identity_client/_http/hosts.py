"""Which hosts an access token may be sent to."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import ConfigurationError

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
        labels = (parts.hostname or "").lower().split(".")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        return any(
            len(pattern) == len(labels)
            and wanted in (None, port)
            and all(label in ("*", found) for label, found in zip(pattern, labels, strict=True))
            for pattern, wanted in self._patterns
        )


def _parsed(host: str) -> tuple[list[str], int | None]:
    try:
        parts = urlsplit(f"//{host}")
        if parts.hostname and parts.netloc == host and parts.username is None:
            return parts.hostname.split("."), parts.port
    except ValueError:
        pass
    raise ConfigurationError(
        f"hosts: {host!r} is not a host; write it as 'orders', 'orders:8080' or '*.example'"
    )
