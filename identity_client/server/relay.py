"""A way to Keycloak's token endpoint that can be made slow or closed, for the demo."""

from __future__ import annotations

from typing import Any, Self

import requests
from attrs import evolve
from flask import Flask, Response, request

from ..models import (
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)
from .app import create_app
from .keycloak import KeycloakBackend
from .replies import oauth_error
from .runner import AppServer
from .switchboard import Settings, Switchboard, add_switchboard, token_fault

_PASSED_ON = ("Authorization", "Content-Type", "Host")


class RelayedBackend(Switchboard):
    """A realm of Keycloak, whose token endpoint is this server's own relay.

    Args:
        keycloak: the realm's backend.
        settings: faults to begin with.
    """

    def __init__(self, keycloak: KeycloakBackend, settings: Settings) -> None:
        super().__init__(settings)
        self.keycloak: KeycloakBackend = keycloak

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Register, and name the relay in place of the token endpoint."""
        self.count("register")
        answer = self.keycloak.register(request, root_url)
        path = answer.token_endpoint.partition("/realms/")[2]
        return evolve(answer, token_endpoint=f"{root_url}/realms/{path}")

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        """Say whether a user is a member of an organization, and in which role."""
        return self.keycloak.membership(params)

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        """Create a system organization unless it exists, and return it."""
        return self.keycloak.ensure_organization(request)

    def organization(self, name: str) -> Organization | None:
        """Return a system organization by its name."""
        return self.keycloak.organization(name)

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret without telling its users; return whether there is such one."""
        return self.keycloak.rotate_secret(name)


def _add_relay(app: Flask, backend: RelayedBackend) -> None:
    @app.route("/realms/<path:rest>", methods=["GET", "POST"])
    def relay(rest: str) -> Any:
        if request.method == "POST":
            fault = token_fault(backend)
            if fault is not None:
                return fault
        try:
            answer = requests.request(
                request.method,
                f"{backend.keycloak.url}realms/{rest}",
                data=request.get_data(),
                headers={name: value for name, value in request.headers if name in _PASSED_ON},
                timeout=10,
            )
        except requests.RequestException:
            return oauth_error(503, "temporarily_unavailable", "Keycloak cannot be reached")
        return Response(
            answer.content, answer.status_code, content_type=answer.headers.get("Content-Type")
        )


class RelayServer(AppServer):
    """An identity-api in front of Keycloak with a relay and a switchboard; a context manager.

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
        add_switchboard(app, backend)
        _add_relay(app, backend)
        super().__init__(app, port=port)

    def __enter__(self) -> Self:
        self.start()
        return self
