"""The token endpoint, as Keycloak has it: Authlib does the OAuth part, joserfc signs the tokens."""

# pyright: basic
# The types of Authlib and joserfc are partial.

from __future__ import annotations

import base64
import hmac
import json
import logging
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
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64decode

from .._http import codec
from .backend import REALM, TOKEN_PATH, Client, EmbeddedBackend, IssuedToken
from .faults import token_fault
from .request_log import name_client
from .responses import oauth_error

CERTS_PATH = f"/realms/{REALM}/protocol/openid-connect/certs"
ISSUER_PATH = f"/realms/{REALM}"

_PARTS = ("header", "payload")
_SCOPES = ("email", "profile", "openid", "roles", "basic", "service_account")
_INVALID_CLIENT = "Invalid client or Invalid client credentials"
_AUTH_METHOD = "client_secret_basic or client_secret_post"


def add_token_endpoint(app: Flask, backend: EmbeddedBackend) -> None:
    """Add the token endpoint, the keys and the discovery document to an app."""
    # At DEBUG, Authlib logs every token that it issues.
    logging.getLogger(ClientCredentialsGrant.__module__).setLevel(logging.INFO)
    key = _signing_key()
    server = _AuthorizationServer(
        app,
        query_client=lambda client_id: _find_client(backend, client_id),
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
        name_client(_named_client())
        fault = token_fault(backend)
        if fault is not None:
            return fault
        if "grant_type" not in request.form:
            return oauth_error(400, "invalid_request", "Missing form parameter: grant_type")
        if request.form["grant_type"] != "client_credentials":
            return oauth_error(400, "unsupported_grant_type", "Unsupported grant_type")
        response: Any = server.create_token_response()
        del response.headers["WWW-Authenticate"]
        return response

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


class _AuthorizationServer(AuthorizationServer):
    def create_oauth2_request(self, _: object) -> Any:
        # Authlib rejects plain HTTP except on loopback; container networks have nothing else.
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
    """A client with the methods that Authlib calls."""

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


def _find_client(backend: EmbeddedBackend, client_id: str) -> _AuthlibClient | None:
    record = backend.client(client_id)
    return _AuthlibClient(record) if record is not None and record.enabled else None


def _authenticate(query_client: Any, asked: Any) -> _AuthlibClient:
    client_id, secret = _credentials()
    client: _AuthlibClient | None = query_client(client_id)
    if client is None:
        raise InvalidClientError(description=_INVALID_CLIENT, status_code=401)
    if not client.check_client_secret(secret):
        raise UnauthorizedClientError(description=_INVALID_CLIENT, status_code=401)
    if any(len(values) > 1 for _, values in request.form.lists()):
        raise InvalidRequestError(description="duplicated parameter")
    return client


def _credentials() -> tuple[str, str]:
    """Read a client's credentials from the form, or else from the Basic header."""
    user, password = _basic(request.headers.get("Authorization", ""))
    return request.form.get("client_id", user), request.form.get("client_secret", password)


def _named_client() -> str | None:
    try:
        return _credentials()[0] or None
    except UnauthorizedClientError:
        return None


def _basic(header: str) -> tuple[str, str]:
    """Read a Basic header as Keycloak does, form-encoding included (RFC 6749 section 2.3.1).

    Authlib's own reader does not decode; Werkzeug's accepts a value without a colon, and fails on
    one that is not ASCII.
    """
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
    """Return the process's key: making one takes longer than starting a server."""
    key: RSAKey = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
    return key


def _issue(
    client: Client, scope: str | None, key: RSAKey, backend: EmbeddedBackend
) -> dict[str, Any]:
    lifetime = backend.settings.token_lifetime
    now = time.time()
    # As in Keycloak, these two are always granted; of the rest, only openid is listed.
    granted = "openid email profile" if "openid" in (scope or "").split() else "email profile"
    expiry = _expiry(now, lifetime)
    claims = {
        "exp": expiry,
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
    client.last_token = IssuedToken(issued_at=now, expires_at=expiry)
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
    """Return when a token expires; like the time of issue, it is rounded down to whole seconds.

    So tokens expire up to 1 s before ``expires_in`` is over. Those that live for less than 10 s or
    for fractions of a second are for tests alone, and expire up to 1 s after it.
    """
    whole = lifetime >= 10 and lifetime == int(lifetime)
    return int(now) + int(lifetime) if whole else math.ceil(now + lifetime)


def inspect_token(token: str) -> dict[str, Any]:
    """Return header and claims of a token, and whether this server signed it.

    Raises:
        ValueError: it is not a JSON Web Token; the text says why, and holds no part of it.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError(f"it has {len(parts)} parts, separated by dots, and not 3")
    header, claims = (_json_part(name, part) for name, part in zip(_PARTS, parts, strict=False))
    try:
        jwt.decode(token, _signing_key(), ["RS256"])
        signed_here = True
    except (JoseError, ValueError):
        signed_here = False
    return {"header": header, "claims": claims, "signedHere": signed_here}


def _json_part(name: str, part: str) -> dict[str, Any]:
    try:
        document = codec.as_object(json.loads(urlsafe_b64decode(part.encode())))
        json.dumps(document, allow_nan=False)  # browsers read no NaN
    except (ValueError, RecursionError, codec.CodecError):
        raise ValueError(f"its {name} is not a base64url-encoded JSON object") from None
    return document
