"""What an identity-api keeps services, organizations and memberships in, and one in memory."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Protocol

from attrs import define, field, frozen

from ..models import (
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)
from .faults import FaultInjector, ServerSettings

ROLES = ("micro-service",)

REALM = "xema"
TOKEN_PATH = f"/realms/{REALM}/protocol/openid-connect/token"


class BackendError(Exception):
    """The backend cannot carry out a call.

    Attributes:
        status: the HTTP status to respond with: 409, 502 or 503.
        message: why, without secrets.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Backend(Protocol):
    """What the contract's calls need; each may raise `BackendError`."""

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Create a client, or find it; the secret is returned only if it is new.

        Args:
            request: what to register.
            root_url: the address under which the caller reached this server.
        """
        ...

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        """Return whether a user is a member of an organization, and in which role."""
        ...

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        """Create a system organization unless it exists, and return it."""
        ...

    def organization(self, name: str) -> Organization | None:
        """Return a system organization by its name, or None when it does not exist."""
        ...


@frozen
class IssuedToken:
    """When an access token was issued, and when it expires; in seconds since the epoch."""

    issued_at: float
    expires_at: float


@define(eq=False)
class Client:
    """A registered service and its OAuth2 client; times are in seconds since the epoch."""

    id: str
    client_id: str
    secret: str = field(repr=False)
    enabled: bool = True
    roles: tuple[str, ...] = ROLES
    subject: str = field(factory=lambda: str(uuid.uuid4()))
    registered_at: float = field(factory=time.time)
    secret_changed_at: float = field(factory=time.time)
    last_token: IssuedToken | None = None

    def rotate_secret(self) -> None:
        """Replace the secret; the old one is rejected from now on."""
        self.secret = _new_secret()
        self.secret_changed_at = time.time()


class EmbeddedBackend(FaultInjector):
    """An identity-api's memory, and the faults of its server. Thread-safe."""

    def __init__(self, settings: ServerSettings | None = None) -> None:
        super().__init__(settings)
        self._clients: dict[str, Client] = {}
        self._organizations: dict[str, Organization] = {}
        self._members: dict[VerifyMembershipParams, str] = {}

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        self.count("register")
        with self._lock:
            client = self._clients.get(request.name)
            existed = client is not None
            if client is None:
                client = Client(str(uuid.uuid4()), request.name, _new_secret())
                self._clients[request.name] = client
            elif request.regenerate_secret:
                client.rotate_secret()
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

    def clients(self) -> list[Client]:
        """Return all clients, in the order of their registration."""
        with self._lock:
            return list(self._clients.values())

    def client(self, client_id: str) -> Client | None:
        """Return a client by its client_id, or None when it is not registered."""
        with self._lock:
            return self._clients.get(client_id)

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret, as an administrator would.

        Args:
            name: the name of its service, which is its client_id.

        Returns:
            Whether the client exists.
        """
        with self._lock:
            client = self._clients.get(name)
            if client is not None:
                client.rotate_secret()
            return client is not None

    def disable_client(self, name: str) -> bool:
        """Reject a client's token requests; return whether the client exists."""
        return self._set_enabled(name, False)

    def enable_client(self, name: str) -> bool:
        """Undo `disable_client`; return whether the client exists."""
        return self._set_enabled(name, True)

    def delete_client(self, name: str) -> bool:
        """Delete a client; return whether it existed."""
        with self._lock:
            return self._clients.pop(name, None) is not None

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        with self._lock:
            return self._organizations.setdefault(
                request.name,
                Organization(
                    id=str(uuid.uuid4()), name=request.name, display_name=request.display_name
                ),
            )

    def organization(self, name: str) -> Organization | None:
        with self._lock:
            return self._organizations.get(name)

    def add_member(self, user_id: str, org_id: str, role: str) -> None:
        """Make a user a member of an organization.

        Args:
            user_id: the user's id.
            org_id: the organization's id.
            role: the role of the user there; it replaces an earlier one.
        """
        with self._lock:
            self._members[VerifyMembershipParams(user_id=user_id, org_id=org_id)] = role

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        with self._lock:
            role = self._members.get(params)
        return VerifyMembershipResponse(is_member=role is not None, role=role)

    def _set_enabled(self, name: str, enabled: bool) -> bool:
        with self._lock:
            client = self._clients.get(name)
            if client is not None:
                client.enabled = enabled
            return client is not None


def _new_secret() -> str:
    return secrets.token_urlsafe(32)
