"""Checks of the way to a server: name, proxy, connection."""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from ..._http.failures import system_reason
from .model import Facts, Finding, Target, fail, ok, warn

# Seconds that a name may take: what resolves slowly is looked up again for each connection.
_SLOW_NAME = 1.0


def check_name(facts: Facts, subject: str) -> Finding | None:
    """Resolve the host's name."""
    target = facts.target(subject)
    if target is None:
        return None
    if _proxy(target) is not None:
        return ok(f"{subject}: the proxy resolves {target.host}")
    advice = f"check the name in {target.setting}{resolvers(target.host)}"
    began = time.perf_counter()
    try:
        found = _resolve(target.host, target.port, facts.timeout)
    except OSError as error:
        reason = (error.strerror or "it timed out").lower()
        return fail(
            f"{subject}: the host name {target.host!r} cannot be resolved ({reason})",
            advice,
        )
    facts.addresses[subject] = found
    shown = ", ".join(str(address[4][0]) for address in found)
    seconds = time.perf_counter() - began
    text = f"{subject}: {target.host} resolves to {shown} ({seconds:.3f} s)"
    if seconds < _SLOW_NAME:
        return ok(text)
    return warn(f"{text}, which is slow", advice)


def check_proxy(facts: Facts, subject: str) -> Finding | None:
    """Find out whether a proxy applies, and whether it accepts connections."""
    target = facts.target(subject)
    if target is None or not target.is_http:
        return None
    proxy = _proxy(target)
    if proxy is None:
        return ok(f"{subject}: no proxy applies to {target.host}")
    url, variable = proxy
    place = _host_and_port(url)
    if place is None:
        return fail(
            f"{subject}: the proxy cannot be used (its address is not valid)",
            f"check {variable}, or name {target.host} in NO_PROXY",
        )
    host, port = place
    try:
        for address in _resolve(host, port, facts.timeout)[:1]:
            connect(address, facts.timeout).close()
    except OSError as error:
        return fail(
            f"{subject}: the proxy {host}:{port} cannot be used ({_reason(error)})",
            f"check HTTP_PROXY and HTTPS_PROXY, or name {target.host} in NO_PROXY",
        )
    return ok(f"{subject}: the proxy {host}:{port} applies, and accepts connections")


def check_connection(facts: Facts, subject: str) -> Finding | None:
    """Connect to each address until one accepts."""
    target = facts.target(subject)
    if target is None or subject not in facts.addresses:
        return None
    failures: list[str] = []
    for address in facts.addresses[subject]:
        place = _place(address)
        try:
            connect(address, facts.timeout).close()
        except OSError as error:
            failures.append(f"{place} ({_reason(error)})")
        else:
            facts.addresses[subject] = [address]
            if not failures:
                return ok(f"{subject}: {place} accepts connections")
            return warn(
                f"{subject}: {place} accepts connections, but not the addresses before it: "
                + ", ".join(failures),
                "remove the dead address from DNS, or mend the route (IPv6?)",
            )
    return fail(
        f"{subject}: nothing accepts connections at {', '.join(failures)}",
        f"check that it runs, the port in {target.setting}, and firewalls or a NetworkPolicy "
        "between here and there",
    )


def connect(address: Any, timeout: float) -> socket.socket:
    """Connect to an address as `socket.getaddrinfo` returns it."""
    family, kind, protocol, _, place = address
    connection = socket.socket(family, kind, protocol)
    connection.settimeout(timeout)
    try:
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve(host: str, port: int, timeout: float) -> list[Any]:
    """Resolve a name in a thread of its own: nothing else bounds how long that takes."""
    answers: queue.Queue[list[Any] | OSError] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(0, "not a host name"))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _proxy(target: Target) -> tuple[str, str] | None:
    """Return the proxy that the environment sets for a target, and the variable; or None."""
    if not target.is_http:
        return None
    proxies = requests.utils.get_environ_proxies(target.url)
    proxy = requests.utils.select_proxy(target.url, proxies)
    if not proxy:
        return None
    scheme = target.scheme if target.scheme in proxies else "all"
    return proxy, f"{scheme}_proxy".upper()


def _host_and_port(proxy: str) -> tuple[str, int] | None:
    """Return where a proxy is, or None where its address is not valid."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port or (443 if parts.scheme == "https" else 80)) if host else None


def _place(address: Any) -> str:
    host, port = address[4][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    return "timed out" if isinstance(error, TimeoutError) else system_reason(error) or "refused"


def resolvers(host: str, file: Path = Path("/etc/resolv.conf")) -> str:
    """Return the resolvers of this machine, and where they look for a host, as advice has them."""
    try:
        lines = [line.split() for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    values = [(line[0], line[1:]) for line in lines if len(line) > 1]
    servers = [value[0] for keyword, value in values if keyword == "nameserver"]
    if not servers:
        return ""
    text = f", and the resolver {', '.join(servers)}"
    domains = ([value for keyword, value in values if keyword in ("search", "domain")] or [[]])[-1]
    options = [option for keyword, value in values if keyword == "options" for option in value]
    ndots = ["1", *(option[6:] for option in options if re.fullmatch(r"ndots:\d+", option))][-1]
    if domains and not host.endswith(".") and host.count(".") < int(ndots):
        # The search comes first for such a name; each domain is a question of its own.
        tried = ", ".join(domains)
        text += f"; the name has fewer than {ndots} dots (ndots), so {tried} are tried first"
    return text
