"""What identity-api keeps: services and their clients, organizations, memberships; in memory."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections import Counter
from typing import Any

from attrs import define, evolve, field, frozen

from ..models import (
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)

ROLES = ("micro-service",)


@frozen(kw_only=True)
class Settings:
    """What can be changed while the server runs: token lifetime and faults.

    Attributes:
        token_lifetime: seconds that a new access token lives.
        api_latency: seconds that every identity-api call takes.
        api_outage: whether every identity-api call answers 503.
        api_error_rate: the part of identity-api calls that answer 500, 0 to 1.
        token_latency: seconds that every token request takes.
        token_outage: whether every token request answers 503.
        token_error_rate: the part of token requests that answer 500, 0 to 1.
    """

    token_lifetime: float = 300.0
    api_latency: float = 0.0
    api_outage: bool = False
    api_error_rate: float = 0.0
    token_latency: float = 0.0
    token_outage: bool = False
    token_error_rate: float = 0.0


@define(eq=False)
class Client:
    """A registered service and its OAuth2 client."""

    id: str
    client_id: str
    secret: str = field(repr=False)
    enabled: bool = True
    roles: tuple[str, ...] = ROLES
    subject: str = field(factory=lambda: str(uuid.uuid4()))


@frozen
class Registration:
    """How a registration went; the secret only when it is new."""

    client: Client
    secret: str | None = field(repr=False)
    already_existed: bool
    secret_regenerated: bool


class EmbeddedBackend:
    """An identity-api's memory. Thread-safe.

    Attributes:
        requests: how often each endpoint was asked, by its name.
        settings: the current settings; replaced as a whole by `change`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.settings: Settings = settings or Settings()
        self._clients: dict[str, Client] = {}
        self._organizations: dict[str, Organization] = {}
        self._members: dict[VerifyMembershipParams, str] = {}
        self._lock = threading.Lock()

    def change(self, **settings: Any) -> Settings:
        """Change some settings and return all."""
        with self._lock:
            self.settings = evolve(self.settings, **settings)
            return self.settings

    def count(self, endpoint: str) -> None:
        """Count one request to an endpoint."""
        with self._lock:
            self.requests[endpoint] += 1

    def register(self, request: RegisterServiceRequest) -> Registration:
        """Create a client, or find it; a secret is told only when it is new."""
        with self._lock:
            client = self._clients.get(request.name)
            if client is None:
                client = Client(str(uuid.uuid4()), request.name, _new_secret())
                self._clients[request.name] = client
                return Registration(client, client.secret, False, False)
            if request.regenerate_secret:
                client.secret = _new_secret()
                return Registration(client, client.secret, True, True)
            return Registration(client, None, True, False)

    def rotate_secret(self, name: str) -> bool:
        """Replace a client's secret behind everybody's back; return whether there is such one."""
        with self._lock:
            client = self._clients.get(name)
            if client is not None:
                client.secret = _new_secret()
            return client is not None

    def client(self, client_id: str) -> Client | None:
        """Return a client by its id."""
        with self._lock:
            return self._clients.get(client_id)

    def delete_client(self, client_id: str) -> None:
        """Forget a client."""
        with self._lock:
            self._clients.pop(client_id, None)

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        """Create a system organization unless it exists, and return it."""
        with self._lock:
            return self._organizations.setdefault(
                request.name,
                Organization(
                    id=str(uuid.uuid4()), name=request.name, display_name=request.display_name
                ),
            )

    def organization(self, name: str) -> Organization | None:
        """Return a system organization by its name."""
        with self._lock:
            return self._organizations.get(name)

    def add_member(self, user_id: str, org_id: str, role: str) -> None:
        """Make a user a member of an organization."""
        with self._lock:
            self._members[VerifyMembershipParams(user_id=user_id, org_id=org_id)] = role

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        """Say whether a user is a member of an organization, and in which role."""
        with self._lock:
            role = self._members.get(params)
        return VerifyMembershipResponse(is_member=role is not None, role=role)


def _new_secret() -> str:
    return secrets.token_urlsafe(32)
