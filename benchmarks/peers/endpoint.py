"""The token endpoint that all libraries are measured against, with faults on request.

The first segment of a path names a realm; each realm has its own faults and counters, so that
measurements that run side by side do not disturb each other.

    POST /<realm>/…token             a token (so does GET /<realm>/credentials, as botocore asks)
    GET  /<realm>/….well-known/…     the metadata that MSAL wants
    GET  /<realm>/resource           a resource server that answers 401 to each token
    POST /<realm>/control            {"latency": 0.2, "lifetime": 300, "outage": true}
    GET  /<realm>/counters           {"requests": 3, "resource": 0}

Run as a program, it prints its ports as JSON and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

_BACKLOG = 4096


class Realm:
    """What one measurement does to the endpoint, and what it made of it."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.lifetime = 3600
        self.outage = False
        self.requests = 0
        self.resource = 0

    def counters(self) -> dict[str, Any]:
        return {"requests": self.requests, "resource": self.resource}

    def issue(self) -> tuple[str, float]:
        """Return a token in the form and of the size of Keycloak's, and when it expires."""
        expires_at = time.time() + self.lifetime
        claims = {"exp": expires_at, "jti": self.requests, "realm_access": "x" * 600}
        parts = ({"alg": "none"}, claims, {"signature": "x" * 200})
        encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
        return ".".join(part.decode().rstrip("=") for part in encoded), expires_at


def expiry_of(token: str) -> float:
    """Return when a token of this endpoint expires, in seconds of `time.time`."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["exp"])


class Exchange(asyncio.Protocol):
    """One connection: as much of HTTP/1.1 as the clients of the benchmark speak."""

    def __init__(self, realms: defaultdict[str, Realm]) -> None:
        self._realms = realms
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        length = _content_length(head)
        if not separator or len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        self._handle(method, path, rest[:length])

    def _handle(self, method: str, path: str, body: bytes) -> None:
        name, _, rest = path.lstrip("/").partition("/")
        realm = self._realms[name]
        if rest == "control":
            vars(realm).update(json.loads(body))
            self._answer(200, {})
        elif rest == "counters":
            self._answer(200, realm.counters())
        elif rest == "resource":
            realm.resource += 1
            self._answer(401, {})
        else:
            realm.requests += 1
            loop = asyncio.get_running_loop()
            loop.call_later(realm.latency, self._answer_of_issuer, realm, name, method, rest)

    def _answer_of_issuer(self, realm: Realm, name: str, method: str, rest: str) -> None:
        if self._transport.is_closing():
            return
        if realm.outage:
            self._answer(503, {"error": "temporarily_unavailable"})
        elif ".well-known" in rest:
            self._answer(200, self._metadata(name))
        elif rest == "credentials":
            token, expires_at = realm.issue()
            end = datetime.fromtimestamp(expires_at, UTC).isoformat()
            self._answer(
                200,
                {"AccessKeyId": "x", "SecretAccessKey": "x", "Token": token, "Expiration": end},
            )
        elif method == "POST" and rest.endswith("token"):
            token, _ = realm.issue()
            self._answer(
                200, {"access_token": token, "token_type": "Bearer", "expires_in": realm.lifetime}
            )
        else:
            self._answer(404, {})

    def _metadata(self, name: str) -> dict[str, str]:
        scheme = "https" if self._transport.get_extra_info("ssl_object") else "http"
        host, port = self._transport.get_extra_info("sockname")
        base = f"{scheme}://{host}:{port}/{name}"
        return {
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
        }

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length":
            return int(value)
    return 0


async def serve(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    realms: defaultdict[str, Realm] = defaultdict(Realm)
    loop = asyncio.get_running_loop()
    ports = []
    for tls in (None, context):
        server = await loop.create_server(
            lambda: Exchange(realms), "127.0.0.1", 0, ssl=tls, backlog=_BACKLOG
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps({"http": ports[0], "https": ports[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:3]))
