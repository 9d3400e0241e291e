"""A protected resource: it lets in who brings a valid token, and keeps count."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from identity_client.server import IdentityServer
from identity_client.server.oauth import CERTS_PATH, ISSUER_PATH


class ProtectedResource:
    """Checks the signature, the issuer and the end of each token, as other services would.

    Attributes:
        accepted: how many requests had a valid token.
        rejected: why the others were turned away.
        url: its address.
    """

    def __init__(self, api: IdentityServer) -> None:
        self.accepted = 0
        self.rejected: list[str] = []
        self._keys = KeySet.import_key_set(requests.get(api.url + CERTS_PATH, timeout=5).json())
        self._claims = jwt.JWTClaimsRegistry(
            exp={"essential": True}, iss={"essential": True, "value": api.url + ISSUER_PATH}
        )
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                problem = outer._problem(self.headers.get("Authorization", ""))
                with lock:
                    if problem is None:
                        outer.accepted += 1
                    else:
                        outer.rejected.append(problem)
                self.send_response(204 if problem is None else 401)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def _problem(self, authorization: str) -> str | None:
        scheme, _, value = authorization.partition(" ")
        try:
            self._claims.validate(jwt.decode(value, self._keys).claims)
        except (JoseError, ValueError) as error:
            return repr(error)
        return None if scheme == "Bearer" else f"the scheme is {scheme!r}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
