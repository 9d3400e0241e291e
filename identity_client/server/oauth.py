"""The token endpoint, as Keycloak has it: Authlib does the OAuth part, joserfc signs the tokens."""

# pyright: basic
# The types of Authlib and joserfc are partial.

from __future__ import annotations

import base64
import hmac
import math
import re
import time
import uuid
from functools import cache
from typing import Any
from urllib.parse import unquote_plus

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    ClientMixin,
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Request,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from flask import Blueprint, Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import RSAKey

from .backend import REALM, TOKEN_PATH, Client, EmbeddedBackend
from .replies import oauth_error
from .switchboard import token_fault

CERTS_PATH = f"/realms/{REALM}/protocol/openid-connect/certs"
ISSUER_PATH = f"/realms/{REALM}"

_SCOPES = ("email", "profile", "openid", "roles", "basic", "service_account")
_REFUSED = "Invalid client or Invalid client credentials"
_AUTH_METHOD = "client_secret_basic or client_secret_post"


def add_token_endpoint(app: Flask, backend: EmbeddedBackend) -> None:
    """Add the token endpoint, the keys and the discovery document to an app."""
    key = _signing_key()
    server = _Server(
        app,
        query_client=lambda client_id: _find(backend, client_id),
        save_token=lambda token, request: None,
    )
    server.scopes_supported = _SCOPES
    server.register_token_generator(
        "default",
        lambda client, scope, **_: _issue(client.record, scope, key, backend),  # type: ignore[arg-type]  # any callable does
    )
    server.register_client_auth_method(_AUTH_METHOD, _authenticate)
    server.register_grant(_Grant)
    routes = Blueprint("token-endpoint", __name__)

    @routes.post(TOKEN_PATH)
    def token() -> Any:
        fault = token_fault(backend)
        if fault is not None:
            return fault
        if "grant_type" not in request.form:
            return oauth_error(400, "invalid_request", "Missing form parameter: grant_type")
        if request.form["grant_type"] != "client_credentials":
            return oauth_error(400, "unsupported_grant_type", "Unsupported grant_type")
        answer: Any = server.create_token_response()
        del answer.headers["WWW-Authenticate"]
        return answer

    @routes.get(TOKEN_PATH)
    def no_token() -> Any:
        return jsonify(error="HTTP 405 Method Not Allowed"), 405

    @routes.get(CERTS_PATH)
    def certs() -> Response:
        return jsonify(keys=[key.as_dict(private=False)])

    @routes.get(f"{ISSUER_PATH}/.well-known/openid-configuration")
    def discovery() -> Response:
        root = request.host_url.rstrip("/")
        return jsonify(
            issuer=root + ISSUER_PATH,
            token_endpoint=root + TOKEN_PATH,
            jwks_uri=root + CERTS_PATH,
            grant_types_supported=["client_credentials"],
            token_endpoint_auth_methods_supported=["client_secret_basic", "client_secret_post"],
            response_types_supported=["none"],
            subject_types_supported=["public"],
            scopes_supported=list(_SCOPES),
        )

    @routes.before_app_request
    def other_realm() -> Any:
        path = f"{request.path}/"
        if path.startswith("/realms/") and not path.startswith(f"{ISSUER_PATH}/"):
            return jsonify(error="Realm does not exist"), 404
        return None

    app.register_blueprint(routes)


class _Server(AuthorizationServer):
    def create_oauth2_request(self, _: object) -> Any:
        # Authlib refuses plain HTTP except on loopback; in a container network there is no other.
        made = OAuth2Request(request.method, "https://identity-api", headers=dict(request.headers))
        made.payload = BasicOAuth2Payload(request.form)
        return made

    def validate_requested_scope(self, scope: Any) -> None:
        try:
            super().validate_requested_scope(scope)
        except InvalidScopeError as error:
            error.description = f"Invalid scopes: {scope}"
            raise


class _AuthlibClient(ClientMixin):
    """A client as Authlib wants to ask it."""

    def __init__(self, record: Client) -> None:
        self.record = record

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(client_secret.encode(), self.record.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return True

    def check_grant_type(self, grant_type: str) -> bool:
        return True


class _Grant(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = (_AUTH_METHOD,)


def _find(backend: EmbeddedBackend, client_id: str) -> _AuthlibClient | None:
    record = backend.client(client_id)
    return _AuthlibClient(record) if record is not None and record.enabled else None


def _authenticate(query_client: Any, asked: Any) -> _AuthlibClient:
    client_id, secret = _credentials(asked)
    client: _AuthlibClient | None = query_client(client_id)
    if client is None:
        raise InvalidClientError(description=_REFUSED, status_code=401)
    if not client.check_client_secret(secret):
        raise UnauthorizedClientError(description=_REFUSED, status_code=401)
    if any(len(values) > 1 for _, values in request.form.lists()):
        raise InvalidRequestError(description="duplicated parameter")
    return client


def _credentials(asked: Any) -> tuple[str, str]:
    """Read them; Authlib's own reader of Basic knows no form-encoding (RFC 6749 section 2.3.1)."""
    form = asked.payload.data
    user, password = _basic(asked.headers.get("Authorization", ""))
    return form.get("client_id", user), form.get("client_secret", password)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    if scheme.lower() != "basic" or not colon:
        return "", ""
    if re.search(r"%(?![0-9a-fA-F]{2})", user + password):
        raise UnauthorizedClientError(
            description="Unexpected error when authenticating client", status_code=400
        )
    return unquote_plus(user), unquote_plus(password)


@cache
def _signing_key() -> RSAKey:
    """One for the process, as making it takes longer than starting a server."""
    key: RSAKey = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
    return key


def _issue(
    client: Client, scope: str | None, key: RSAKey, backend: EmbeddedBackend
) -> dict[str, Any]:
    lifetime = backend.settings.token_lifetime
    now = time.time()
    # These two are granted always; of the rest, only openid is shown.
    granted = "openid email profile" if "openid" in (scope or "").split() else "email profile"
    claims = {
        "exp": _expiry(now, lifetime),
        "iat": int(now),
        "jti": f"trrtcc:{uuid.uuid4()}",
        "iss": request.host_url.rstrip("/") + ISSUER_PATH,
        "aud": "account",
        "sub": client.subject,
        "typ": "Bearer",
        "azp": client.client_id,
        "acr": "1",
        "realm_access": {"roles": list(client.roles)},
        "scope": granted,
        "preferred_username": f"service-account-{client.client_id}",
        "client_id": client.client_id,
    }
    header = {"alg": "RS256", "typ": "JWT", "kid": key.kid}
    return {
        "access_token": jwt.encode(header, claims, key),
        "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
        "refresh_expires_in": 0,
        "token_type": "Bearer",
        "not-before-policy": 0,
        "scope": granted,
    }


def _expiry(now: float, lifetime: float) -> int:
    """Return the end of a token; like the time of issue, in whole seconds that have begun.

    So tokens end up to 1 s before ``expires_in`` is over. Those that live for a few seconds or for
    parts of one are for tests alone, and end up to 1 s after.
    """
    whole = lifetime >= 10 and lifetime == int(lifetime)
    return int(now) + int(lifetime) if whole else math.ceil(now + lifetime)
