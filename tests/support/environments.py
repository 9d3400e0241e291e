"""Two identity-apis with their token endpoints, which a test can treat alike."""

from __future__ import annotations

from typing import Any, Protocol

from identity_client.server import AppServer, IdentityServer

from .keycloak import Realm, claims


class IdentityEnvironment(Protocol):
    """An identity-api, its token endpoint, and what an administrator can change there."""

    url: str
    issuer: str

    @property
    def token_endpoint(self) -> str: ...
    def add_member(self, organization_id: str, role: str) -> str:
        """Make a user, who is a member of an organization, and return its id."""
        ...

    def disable(self, name: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def rotate(self, name: str) -> None: ...
    def set_secret(self, name: str, secret: str) -> None: ...
    def set_lifetime(self, seconds: int) -> None: ...
    def claims(self, token: str) -> dict[str, Any]:
        """Verify a token with the published keys, and return its claims."""
        ...


class EmbeddedEnvironment:
    """The embedded server."""

    def __init__(self, server: IdentityServer) -> None:
        self._backend = server.backend
        self.url: str = server.url
        self.issuer: str = f"{server.url}/realms/xema"

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/protocol/openid-connect/token"

    def add_member(self, organization_id: str, role: str) -> str:
        self._backend.add_member("alice", organization_id, role)
        return "alice"

    def disable(self, name: str) -> None:
        assert self._backend.disable_client(name)

    def delete(self, name: str) -> None:
        self._backend.delete_client(name)

    def rotate(self, name: str) -> None:
        self._backend.rotate_secret(name)

    def set_secret(self, name: str, secret: str) -> None:
        self._client(name).secret = secret

    def set_lifetime(self, seconds: int) -> None:
        self._backend.change(token_lifetime=float(seconds))

    def claims(self, token: str) -> dict[str, Any]:
        return claims(f"{self.issuer}/protocol/openid-connect/certs", token)

    def _client(self, name: str) -> Any:
        client = self._backend.client(name)
        assert client is not None
        return client


class KeycloakEnvironment:
    """An identity-api in front of a realm of Keycloak."""

    def __init__(self, server: AppServer, realm: Realm) -> None:
        self._realm = realm
        self.url: str = server.url
        self.issuer: str = realm.issuer

    @property
    def token_endpoint(self) -> str:
        return self._realm.token_endpoint

    def add_member(self, organization_id: str, role: str) -> str:
        realm = self._realm
        user = realm.add_user("alice")
        path = f"/{realm.name}/organizations/{organization_id}"
        realm.admin.call("POST", f"{path}/members", user)
        group = realm.admin.call("POST", f"{path}/groups", {"name": role}).json()
        realm.admin.call("PUT", f"{path}/groups/{group['id']}/members/{user}")
        return user

    def disable(self, name: str) -> None:
        self._realm.change_client(name, enabled=False)

    def delete(self, name: str) -> None:
        self._realm.delete_client(name)

    def rotate(self, name: str) -> None:
        self._realm.rotate_secret(name)

    def set_secret(self, name: str, secret: str) -> None:
        self._realm.change_client(name, secret=secret)

    def set_lifetime(self, seconds: int) -> None:
        self._realm.change(accessTokenLifespan=seconds)

    def claims(self, token: str) -> dict[str, Any]:
        return self._realm.claims(token)
