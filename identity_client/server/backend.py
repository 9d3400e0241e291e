"""What an identity-api keeps services, organizations and memberships in, and one in memory."""

from __future__ import annotations

import secrets
import uuid
from typing import Protocol

from attrs import define, field

from ..models import (
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)
from .switchboard import Settings, Switchboard

ROLES = ("micro-service",)

REALM = "xema"
TOKEN_PATH = f"/realms/{REALM}/protocol/openid-connect/token"


class BackendError(Exception):
    """A call cannot be answered.

    Attributes:
        status: the HTTP status that says so: 409, 502 or 503.
        message: why, without secrets.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Backend(Protocol):
    """What the contract's calls need; everything may raise `BackendError`."""

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Create a client, or find it; a secret is told only when it is new.

        Args:
            request: what to register.
            root_url: the address that the caller knows this server by.
        """
        ...

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        """Say whether a user is a member of an organization, and in which role."""
        ...

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        """Create a system organization unless it exists, and return it."""
        ...

    def organization(self, name: str) -> Organization | None:
        """Return a system organization by its name."""
        ...


@define(eq=False)
class Client:
    """A registered service and its OAuth2 client."""

    id: str
    client_id: str
    secret: str = field(repr=False)
    enabled: bool = True
    roles: tuple[str, ...] = ROLES
    subject: str = field(factory=lambda: str(uuid.uuid4()))


class EmbeddedBackend(Switchboard):
    """An identity-api's memory, with a switchboard for its faults. Thread-safe."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._clients: dict[str, Client] = {}
        self._organizations: dict[str, Organization] = {}
        self._members: dict[VerifyMembershipParams, str] = {}

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Create a client, or find it; a secret is told only when it is new."""
        self.count("register")
        with self._lock:
            client = self._clients.get(request.name)
            existed = client is not None
            if client is None:
                client = Client(str(uuid.uuid4()), request.name, _new_secret())
                self._clients[request.name] = client
            elif request.regenerate_secret:
                client.secret = _new_secret()
            regenerated = existed and request.regenerate_secret
            return RegisterServiceResponse(
                id=client.id,
                client_id=client.client_id,
                client_secret=client.secret if regenerated or not existed else None,
                token_endpoint=root_url + TOKEN_PATH,
                roles=client.roles,
                already_existed=existed,
                secret_regenerated=regenerated,
            )

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret without telling its users; return whether there is such one."""
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
