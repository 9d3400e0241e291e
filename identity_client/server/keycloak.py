"""identity-api in front of Keycloak: services are clients of a realm, organizations are its own.

Needs the extra ``keycloak``: ``pip install "xemahq-identity-client[server,keycloak]"``. Nothing is
kept here, so any number of these can stand behind a load balancer.
"""

# pyright: basic
# The types of python-keycloak are partial.

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from keycloak import KeycloakAdmin, KeycloakOpenIDConnection
from keycloak.exceptions import (
    KeycloakConnectionError,
    KeycloakError,
    KeycloakGetError,
    KeycloakPostError,
    raise_error_from_response,
)

from .._http import codec
from .._http.transport import shown_url
from ..models import (
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)
from .backend import ROLES, BackendError

# Attributes in Keycloak. A client without the first was not registered here, and is left alone:
# it may be an administrator's, whose secret the internal token must not give access to.
SERVICE_TYPE = "identity-api.service-type"
DISPLAY_NAME = "displayName"

# The user name of a service account is this and the client's, in a column of 255 UTF-16 units.
_PREFIX = "service-account-"
_COLUMN = 255

# Keycloak's responses while another request is still creating the client's service account.
_UNFINISHED = (400, 404, 409)
_PAUSE = 0.1

_HINTS = {
    401: "check IDENTITY_KEYCLOAK_CLIENT_ID and IDENTITY_KEYCLOAK_CLIENT_SECRET",
    403: "give the client of identity-api the roles that docs/keycloak.rst lists",
    404: "check IDENTITY_KEYCLOAK_URL, the realm, and that organizations are enabled in it",
}


class KeycloakBackend:
    """Services, organizations and memberships of a Keycloak realm. Thread-safe.

    Args:
        url: the address of Keycloak.
        realm: the realm.
        client_id: a confidential client of that realm with a service account, to act as.
        client_secret: its secret.
        timeout: seconds that each request to Keycloak may take.
        token_lifetime: seconds that access tokens of newly made clients live; the realm's default
            if None.

    Attributes:
        url: the address of Keycloak, with a slash at its end.
        realm: the realm's name.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        client_id: str,
        client_secret: str,
        *,
        timeout: int = 5,
        token_lifetime: int | None = None,
    ) -> None:
        self.url: str = url.rstrip("/") + "/"
        self.realm: str = realm
        self._realm = quote(realm, safe="")
        self._client_id = client_id
        self._client_secret = client_secret
        self._timeout = timeout
        self._token_lifetime = token_lifetime
        self._thread_local = threading.local()

    def register(self, request: RegisterServiceRequest, root_url: str) -> RegisterServiceResponse:
        """Create a client with a service account, or find it; return its secret if it is new."""
        with self._translate_errors() as admin:
            _check_length(request.name, _COLUMN - len(_PREFIX))
            _check_length(request.display_name, _COLUMN)
            _check_length(request.description or "", _COLUMN)
            client_id, existed = self._ensure_client(admin, request)
            self._assign_roles(admin, client_id)
            secret: str | None = None
            if existed and request.regenerate_secret:
                secret = admin.generate_client_secrets(client_id)["value"]
            elif not existed:
                secret = admin.get_client_secrets(client_id)["value"]
            return RegisterServiceResponse(
                id=client_id,
                client_id=request.name,
                client_secret=secret,
                token_endpoint=admin.connection.keycloak_openid.well_known()["token_endpoint"],
                roles=ROLES,
                already_existed=existed,
                secret_regenerated=existed and request.regenerate_secret,
            )

    def membership(self, params: VerifyMembershipParams) -> VerifyMembershipResponse:
        """Return whether a user is a member; the role is its first group in the organization."""
        with self._translate_errors() as admin:
            member = f"{quote(params.org_id, safe='')}/members/{quote(params.user_id, safe='')}"
            # Everything on the way would resolve dots as steps in the path.
            dots = {params.org_id, params.user_id} & {".", ".."}
            found = None if dots else self._get(admin, f"organizations/{member}")
            if found is None or found["id"] != params.user_id:
                # A missing realm has no members either; this raises then.
                admin.get_organizations({"first": 0, "max": 1})
                return VerifyMembershipResponse(is_member=False)
            groups = self._get(admin, f"organizations/{member}/groups") or []
            roles = sorted(group["name"] for group in groups)
            return VerifyMembershipResponse(is_member=True, role=roles[0] if roles else None)

    def ensure_organization(self, request: EnsureSystemOrgRequest) -> Organization:
        """Create an organization unless it exists, and return it."""
        _check_length(request.name, _COLUMN)
        with self._translate_errors() as admin:
            found = _find_organization(admin, request.name)
            if found is None:
                plain = re.fullmatch(r"[\w.-]+", request.name, re.ASCII)
                wanted = {
                    "name": request.name,
                    "alias": request.name if plain else str(uuid.uuid4()),
                    "attributes": {DISPLAY_NAME: [request.display_name]},
                }
                _created(
                    lambda: admin.create_organization(wanted),
                    lambda: _find_organization(admin, request.name) is not None,
                )
                found = _find_organization(admin, request.name)
            if found is None:
                raise BackendError(
                    409, f"the name {request.name!r} is already the alias of another organization"
                )
            return found

    def organization(self, name: str) -> Organization | None:
        """Return an organization by its name."""
        with self._translate_errors() as admin:
            return _find_organization(admin, name)

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret, as an administrator would; return whether the client exists."""
        with self._translate_errors() as admin:
            client_id = self._find_client(admin, name)
            if client_id is not None:
                admin.generate_client_secrets(client_id)
            return client_id is not None

    def delete_client(self, name: str) -> None:
        """Delete a client that was registered here, if it exists."""
        with self._translate_errors() as admin:
            client_id = self._find_client(admin, name)
            if client_id is not None:
                admin.delete_client(client_id)

    def _ensure_client(
        self, admin: KeycloakAdmin, request: RegisterServiceRequest
    ) -> tuple[str, bool]:
        """Return a client's id in Keycloak, and whether it existed before."""
        client_id = self._find_client(admin, request.name)
        existed = client_id is not None or not self._create_client(admin, request)
        client_id = client_id or self._find_client(admin, request.name)
        if client_id is None:
            raise BackendError(
                409,
                f"the name {request.name!r} conflicts with another client's: their service "
                "accounts would have the same name in Keycloak, which ignores case",
            )
        return client_id, existed

    def _assign_roles(self, admin: KeycloakAdmin, client_id: str) -> None:
        """Give a client's service account its roles, also while another request is making it.

        A client is visible before its service account: a request that finds the client of a
        simultaneous registration, perhaps one of another instance, comes in between.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                account = admin.get_client_service_account_user(client_id)
                roles = [_ensure_role(admin, name) for name in ROLES]
                admin.assign_realm_roles(account["id"], roles)
            except KeycloakError as error:
                if error.response_code not in _UNFINISHED or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _create_client(self, admin: KeycloakAdmin, request: RegisterServiceRequest) -> bool:
        """Create a client; return False if it exists by now."""
        attributes: dict[str, Any] = {SERVICE_TYPE: request.service_type}
        if self._token_lifetime is not None:
            attributes["access.token.lifespan"] = self._token_lifetime
        wanted = {
            "clientId": request.name,
            "name": request.display_name,
            "description": request.description,
            "protocol": "openid-connect",
            "publicClient": False,
            "clientAuthenticatorType": "client-secret",
            "serviceAccountsEnabled": True,
            "standardFlowEnabled": False,
            "implicitFlowEnabled": False,
            "directAccessGrantsEnabled": False,
            "attributes": attributes,
        }
        return _created(
            lambda: admin.create_client(wanted),
            lambda: self._find_client(admin, request.name) is not None,
        )

    def _find_client(self, admin: KeycloakAdmin, name: str) -> str | None:
        client_id = admin.get_client_id(name)
        if client_id is None:
            return None
        if SERVICE_TYPE not in admin.get_client(client_id).get("attributes", {}):
            raise BackendError(
                409,
                f"the client {name!r} was not registered here; to allow that it is used, give it "
                f"the attribute {SERVICE_TYPE} in Keycloak",
            )
        return client_id

    def _get(self, admin: KeycloakAdmin, path: str) -> Any:
        response = admin.connection.raw_get(f"admin/realms/{self._realm}/{path}")
        if response.status_code in (400, 404):
            return None
        return raise_error_from_response(response, KeycloakGetError)

    @contextmanager
    def _translate_errors(self) -> Generator[KeycloakAdmin, None, None]:
        """Raise what fails with Keycloak as a `BackendError`."""
        keycloak = f"Keycloak at {shown_url(self.url)}"
        try:
            yield self._admin()
        except KeycloakConnectionError:
            message = f"{keycloak} is unreachable or timed out; check IDENTITY_KEYCLOAK_URL"
            raise BackendError(503, message) from None
        except KeycloakError as error:
            raise _backend_error(keycloak, error) from None
        except (AttributeError, LookupError, TypeError, ValueError):
            # The library's own messages quote the response, which may contain a secret.
            raise BackendError(502, f"{keycloak} returned an invalid response") from None

    def _admin(self) -> KeycloakAdmin:
        """Return this thread's own: the library's connections are not thread-safe."""
        admin: KeycloakAdmin | None = getattr(self._thread_local, "admin", None)
        if admin is None:
            connection = KeycloakOpenIDConnection(
                server_url=self.url,
                realm_name=self._realm,
                client_id=self._client_id,
                client_secret_key=self._client_secret,
                grant_type="client_credentials",
                timeout=self._timeout,
            )
            admin = self._thread_local.admin = KeycloakAdmin(connection=connection)
        return admin


def _ensure_role(admin: KeycloakAdmin, name: str) -> dict[str, Any]:
    """Return a realm role; create it if it is missing."""
    role = _find_role(admin, name)
    if role is None:
        _created(
            lambda: admin.create_realm_role({"name": name}),
            lambda: _find_role(admin, name) is not None,
        )
    return role or admin.get_realm_role(name)


def _find_role(admin: KeycloakAdmin, name: str) -> dict[str, Any] | None:
    try:
        return admin.get_realm_role(name)
    except KeycloakGetError as error:
        if error.response_code != 404:
            raise
        return None


def _find_organization(admin: KeycloakAdmin, name: str) -> Organization | None:
    query = {"search": name, "exact": "true", "briefRepresentation": "false"}
    for found in admin.get_organizations(query):
        if found["name"] == name:
            shown = found.get("attributes", {}).get(DISPLAY_NAME, [name])
            return Organization(id=found["id"], name=name, display_name=shown[0])
    return None


def _created(create: Callable[[], Any], exists: Callable[[], bool]) -> bool:
    """Create something; return False if it exists already.

    Keycloak returns 409, and 500 to some of the requests that come in the same moment: there it
    is the database that rejects all but the first.
    """
    try:
        create()
    except KeycloakPostError as error:
        status = error.response_code or 500
        if status != 409 and not (status >= 500 and exists()):
            raise
        return False
    return True


def _check_length(text: str, limit: int) -> None:
    if len(text.encode("utf-16-le")) > 2 * limit:
        raise codec.CodecError(f"a text has more than {limit} UTF-16 units, Keycloak's limit there")


def _backend_error(keycloak: str, error: KeycloakError) -> BackendError:
    status = error.response_code or 500
    if status >= 500:
        return BackendError(503, f"{keycloak} returned HTTP {status}")
    hint = _HINTS.get(status, "see its log")
    return BackendError(502, f"{keycloak} returned HTTP {status}; {hint}")
