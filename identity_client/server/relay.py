"""A relay to Keycloak's token endpoint that can be made slow or closed, for the demo."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import requests
from attrs import evolve
from flask import Flask, Response, request

from ..models import RegisterServiceRequest, RegisterServiceResponse
from .app import create_app
from .faults import FaultInjector, token_fault
from .keycloak import KeycloakBackend
from .responses import oauth_error
from .runner import AppServer

_FORWARDED_HEADERS = ("Authorization", "Content-Type", "Host")

# Of plain characters only: dots and their encodings are resolved at different times by clients,
# proxies and Keycloak, some after decoding once more, and would lead to its admin API.
_PROTOCOL_PATH = re.compile(r"[\w-]+(/[\w-]+)*", re.ASCII)


class RelayedBackend(FaultInjector, KeycloakBackend):
    """A realm of Keycloak whose token endpoint is the relay of this server.

    Args:
        arguments: those of `KeycloakBackend`.
        options: the same.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        FaultInjector.__init__(self)
        KeycloakBackend.__init__(self, *arguments, **options)

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Register, and replace the token endpoint's address with the relay's."""
        self.count("register")
        registered = super().register(request, root_url)
        path = registered.token_endpoint.partition("/realms/")[2]
        return evolve(registered, token_endpoint=f"{root_url}/realms/{path}")


def _add_relay(app: Flask, backend: RelayedBackend) -> None:
    @app.route("/realms/<path:path>", methods=["GET", "POST"])
    def relay(path: str) -> Any:
        realm, _, protocol = path.partition("/protocol/")
        if realm != backend.realm or not _PROTOCOL_PATH.fullmatch(protocol):
            return oauth_error(404, "not_found", f"Not below /realms/{backend.realm}/protocol/")
        if request.method == "POST":
            fault = token_fault(backend)
            if fault is not None:
                return fault
        try:
            response = requests.request(
                request.method,
                f"{backend.url}realms/{quote(realm, safe='')}/protocol/{protocol}",
                data=request.get_data(),
                headers={n: value for n, value in request.headers if n in _FORWARDED_HEADERS},
                timeout=10,
                allow_redirects=False,
            )
        except requests.RequestException:
            return oauth_error(503, "temporarily_unavailable", "Keycloak is unreachable")
        return Response(
            response.content,
            response.status_code,
            content_type=response.headers.get("Content-Type"),
        )


class RelayServer(AppServer):
    """An identity-api in front of Keycloak with a relay and faults; a context manager.

    Args:
        internal_token: the bearer token that callers must have.
        backend: the realm, and the faults on the way to it.
        port: the port, 0 for a free one.

    Attributes:
        backend: the same.
    """

    def __init__(self, internal_token: str, backend: RelayedBackend, *, port: int = 0) -> None:
        self.backend: RelayedBackend = backend
        app = create_app(internal_token, backend)
        _add_relay(app, backend)
        super().__init__(app, port=port)
