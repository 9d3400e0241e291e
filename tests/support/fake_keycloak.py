"""What a registration uses of Keycloak's admin API, with what it answers at busy moments."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask, jsonify, request

REALM = "/realms/xema"
ADMIN = f"/admin{REALM}"
SECRET = "secret-of-the-client"


class FakeKeycloak:
    """A realm in which a client is visible before it has a service account, as in Keycloak.

    The request that creates a client ends once another one has found it without an account, so
    that the gap is seen in every run. The first request that comes too late to create a client
    gets 500, and so does the first one for a role; the first role mapping of an account gets 400.

    Attributes:
        app: the realm as a WSGI application.
        gaps: how many requests found a client without a service account.
    """

    def __init__(self) -> None:
        self.app = Flask("keycloak")
        self.gaps = 0
        self._clients: dict[str, dict[str, Any]] = {}
        self._accounts: set[str] = set()
        self._happened: set[str] = set()
        self._lock = threading.Lock()
        self._gap_was_found = threading.Event()
        self._add_realm()
        self._add_clients()
        self._add_accounts()

    def _add_realm(self) -> None:
        @self.app.post(f"{REALM}/protocol/openid-connect/token")
        def token() -> Any:
            return jsonify(access_token="a-token", token_type="Bearer", expires_in=300)

        @self.app.get(f"{REALM}/.well-known/openid-configuration")
        def discovery() -> Any:
            return jsonify(token_endpoint="http://keycloak/token")

        @self.app.get(f"{ADMIN}/roles/<name>")
        def role(name: str) -> Any:
            if "the role was created" in self._happened:
                return jsonify(id="3", name=name)
            return jsonify(error="Could not find role"), 404

        @self.app.post(f"{ADMIN}/roles")
        def create_role() -> Any:
            self._happened.add("the role was created")
            return jsonify(error="unknown_error"), 500 if self._first("role") else 409

    def _add_clients(self) -> None:
        @self.app.get(f"{ADMIN}/clients")
        def find() -> Any:
            wanted = request.args["clientId"]
            return jsonify([c for c in self._clients.values() if c["clientId"] == wanted])

        @self.app.post(f"{ADMIN}/clients")
        def create() -> Any:
            made = request.get_json()
            with self._lock:
                if any(made["clientId"] == c["clientId"] for c in self._clients.values()):
                    status = 500 if self._first("duplicate") else 409
                    return jsonify(error="it exists"), status
                made["id"] = str(len(self._clients) + 1)
                self._clients[made["id"]] = made
            self._gap_was_found.wait(10)
            self._accounts.add(made["id"])
            return "", 201, {"Location": f"{request.url}/{made['id']}"}

        @self.app.get(f"{ADMIN}/clients/<key>")
        def client(key: str) -> Any:
            return jsonify(self._clients[key])

        @self.app.get(f"{ADMIN}/clients/<key>/client-secret")
        def secret(key: str) -> Any:
            return jsonify(type="secret", value=SECRET)

    def _add_accounts(self) -> None:
        @self.app.get(f"{ADMIN}/clients/<key>/service-account-user")
        def account(key: str) -> Any:
            if key in self._accounts:
                return jsonify(id=f"account-{key}")
            with self._lock:
                self.gaps += 1
            self._gap_was_found.set()
            return jsonify(error="unknown_error"), 400

        @self.app.post(f"{ADMIN}/users/<key>/role-mappings/realm")
        def assign(key: str) -> Any:
            if self._first("mapping"):
                return jsonify(error="invalid_request"), 400
            return "", 204

    def _first(self, event: str) -> bool:
        first = event not in self._happened
        self._happened.add(event)
        return first
