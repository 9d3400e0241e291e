"""toxiproxy: a TCP proxy whose faults a test can switch on and off."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from support import cache
from support.ports import reserve_port

Toxics = Mapping[str, Mapping[str, float]]

# What a schedule is made of: the toxics of each fault, with their attributes; None means no
# connection at all. Milliseconds and KB/s are toxiproxy's.
FAULTS: Mapping[str, Toxics | None] = MappingProxyType(
    {
        "nothing": {},
        "latency": {"latency": {"latency": 300, "jitter": 200}},
        "bandwidth": {"bandwidth": {"rate": 2}},
        "slow close": {"slow_close": {"delay": 1500}},
        "reset": {"reset_peer": {"timeout": 0}},
        "timeout": {"timeout": {"timeout": 0}},
        "down": None,
    }
)


class Proxy:
    """One way to one server.

    Attributes:
        url: where it listens.
    """

    def __init__(self, api: str, name: str, target: str) -> None:
        self._api = f"{api}/proxies/{name}"
        self._target = urlsplit(target).netloc
        made = requests.post(
            f"{api}/proxies",
            json={"name": name, "listen": "127.0.0.1:0", "upstream": self._target},
            timeout=10,
        )
        made.raise_for_status()
        self.url: str = f"http://{made.json()['listen']}"

    def infect(self, fault: str) -> None:
        """Let one fault of `FAULTS` begin, and end all others."""
        toxics = FAULTS[fault]
        for toxic in self._call("GET", "/toxics"):
            self._call("DELETE", f"/toxics/{toxic['name']}")
        self._call("POST", "", {"enabled": toxics is not None})
        for kind, attributes in (toxics or {}).items():
            self._call("POST", "/toxics", {"type": kind, "attributes": attributes})

    def _call(self, method: str, path: str, document: object = None) -> Any:
        answer = requests.request(method, self._api + path, json=document, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None


class Toxiproxy:
    """toxiproxy's server on a free port; a context manager."""

    def __init__(self) -> None:
        port = str(reserve_port())
        self._api = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [cache.toxiproxy_server(), "-host", "127.0.0.1", "-port", port],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=Retry(12, backoff_factor=0.01)))
            session.get(f"{self._api}/version", timeout=10)

    def between(self, name: str, target: str) -> Proxy:
        """Make a way to a server."""
        return Proxy(self._api, name, target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
