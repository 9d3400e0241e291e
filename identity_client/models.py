"""The values that travel: requests to identity-api, its replies, credentials and tokens."""

from __future__ import annotations

from enum import Enum
from typing import Any, Generic, TypeVar, cast

import attrs
from attrs import field, frozen

from ._public import public

_T = TypeVar("_T")


class Record:
    """What all values have: equality by members, and a repr without what is marked as secret.

    One for all: attrs would compile them for each class, which shows in the time of the import.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        members = (f for f in attrs.fields(cast(Any, type(self))) if f.repr)
        shown = (f"{member.name}={getattr(self, member.name)!r}" for member in members)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _members(other) == _members(self)

    def __hash__(self) -> int:
        return hash(_members(self))


def _members(value: object) -> tuple[Any, ...]:
    return tuple(getattr(value, member.name) for member in attrs.fields(cast(Any, type(value))))


@public
class ServiceType(str, Enum):
    """The kind of a registered service; identity-api may know more, which pass as plain strings."""

    BACKEND = "BACKEND"


@public
@frozen(eq=False, repr=False)
class ApiEnvelope(Record, Generic[_T]):
    """What identity-api puts around every reply.

    Attributes:
        data: the reply itself.
    """

    data: _T


@public
@frozen(kw_only=True, eq=False, repr=False)
class RegisterServiceRequest(Record):
    """A request to create a service's OAuth2 client, or to find it.

    Attributes:
        name: the service's name, which becomes the client_id.
        display_name: the name that people see.
        description: what the service is for, or None.
        service_type: a `ServiceType`, or another string that identity-api knows.
        regenerate_secret: whether a service that exists gets a new secret. The old one stops
            working at once, for every replica that uses it.
    """

    name: str
    display_name: str
    description: str | None = None
    service_type: str = ServiceType.BACKEND
    regenerate_secret: bool = False


@public
@frozen(kw_only=True, eq=False, repr=False)
class RegisterServiceResponse(Record):
    """The reply to a registration, in full.

    Attributes:
        id: identity-api's own id of the service.
        client_id: the OAuth2 client's id, or None where it is the registered name.
        client_secret: the secret, or None when the service existed and keeps the one it has.
        token_endpoint: the URL that issues tokens.
        roles: the roles of the service account.
        already_existed: whether the service was registered before.
        secret_regenerated: whether this request replaced the secret.
    """

    id: str
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    token_endpoint: str
    roles: tuple[str, ...]
    already_existed: bool
    secret_regenerated: bool


@public
@frozen(kw_only=True, eq=False, repr=False)
class ServiceCredentials(Record):
    """An OAuth2 client that can ask for tokens.

    Attributes:
        client_id: the client's id.
        client_secret: the client's secret; not part of the repr.
        token_endpoint: the URL that issues tokens.
        roles: the roles of the service account.
    """

    client_id: str
    client_secret: str = field(repr=False)
    token_endpoint: str
    roles: tuple[str, ...] = ()


@public
@frozen(kw_only=True, eq=False, repr=False)
class StoredCredentials(Record):
    """What a credential store keeps for a service.

    Attributes:
        version: 0 when nothing is stored, and one more each time that it is replaced.
        credentials: the credentials, or None when there are none.
        regenerations: secrets that were regenerated in a row, each soon after the one before.
        no_regeneration_before: the wall clock, in seconds since the epoch, from which on the
            secret may be regenerated again.
    """

    version: int = 0
    credentials: ServiceCredentials | None = None
    regenerations: int = 0
    no_regeneration_before: float = 0.0


@public
@frozen(kw_only=True, eq=False, repr=False)
class VerifyMembershipParams(Record):
    """A question: is this user a member of this organization?

    Attributes:
        user_id: the user's id.
        org_id: the organization's id.
    """

    user_id: str
    org_id: str


@public
@frozen(kw_only=True, eq=False, repr=False)
class VerifyMembershipResponse(Record):
    """The answer to `VerifyMembershipParams`.

    Attributes:
        is_member: whether the user is a member.
        role: the user's role in the organization, or None where there is none.
    """

    is_member: bool
    role: str | None = None


@public
@frozen(kw_only=True, eq=False, repr=False)
class EnsureSystemOrgRequest(Record):
    """A request to create a system organization unless it exists.

    Attributes:
        name: the organization's unique name.
        display_name: the name that people see.
    """

    name: str
    display_name: str


@public
@frozen(kw_only=True, eq=False, repr=False)
class Organization(Record):
    """An organization.

    Attributes:
        id: identity-api's id of the organization.
        name: its unique name.
        display_name: the name that people see.
    """

    id: str
    name: str
    display_name: str


@public
@frozen(kw_only=True, eq=False, repr=False)
class AccessToken(Record):
    """An access token as the token endpoint issued it (RFC 6749 section 5.1).

    Attributes:
        value: the token itself; not part of the repr.
        expires_in: the lifetime in seconds, as this package counts it: above 0, 86400 at most.
        scope: the scope that was granted, or None where the reply has none.
        requested_at: the monotonic clock, in seconds, before the request was sent; the lifetime
            runs from here.
        requested_at_wall: the wall clock at the same moment, in seconds since the epoch.
    """

    value: str = field(repr=False)
    expires_in: float
    scope: str | None = None
    requested_at: float
    requested_at_wall: float

    @property
    def expires_at(self) -> float:
        """When the token expires by the wall clock, in seconds since the epoch."""
        return self.requested_at_wall + self.expires_in
