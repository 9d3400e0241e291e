"""Looks into an access token that is a JWT (RFC 7519), without verifying it."""

from __future__ import annotations

import base64
import json
from typing import Any, cast


def decode(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the header and the claims of a JWT, or None for another kind of token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (json.loads(_bytes(part)) for part in parts[:2])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return None
    return cast("dict[str, Any]", header), cast("dict[str, Any]", claims)


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def roles_of(claims: dict[str, Any]) -> tuple[str, ...]:
    """Return the realm roles that Keycloak puts into its tokens."""
    access: Any = claims.get("realm_access")
    roles: Any = cast("dict[str, Any]", access).get("roles") if isinstance(access, dict) else None
    if not isinstance(roles, list):
        return ()
    return tuple(role for role in cast(Any, roles) if isinstance(role, str))
