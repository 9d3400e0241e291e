"""identity-api in front of Keycloak, for a WSGI server.

::

    gunicorn 'identity_client.server.wsgi:create_keycloak_app()'
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs
from attrs import frozen
from flask import Flask

from .._environment import _variable
from .._frames import hide_frames
from .._settings import (
    ValidatedRecord,
    check_base_url,
    check_header_text,
    check_text,
    config_error,
    setting,
)
from .app import create_app

if TYPE_CHECKING:
    from .keycloak import KeycloakBackend

_Backend = TypeVar("_Backend", bound="KeycloakBackend")


@frozen(kw_only=True, eq=False, repr=False)
class _EnvironmentSettings(ValidatedRecord):
    @classmethod
    @hide_frames
    def from_env(cls, environ: Mapping[str, str], **overrides: str | None) -> Self:
        """Read the settings from environment variables; each secret may come from a ``_FILE``.

        Args:
            environ: the variables to read.
            overrides: settings that win over the variables, unless they are None.

        Raises:
            ConfigurationError: a setting is missing or invalid.
        """
        values: dict[str, Any] = {}
        for item in attrs.fields(cls):
            value = overrides.get(item.name) or _variable(item, environ)
            if value is None:
                raise config_error(item, "is missing; set it")
            values[item.name] = value
        return cls(**values)


@frozen(kw_only=True, eq=False, repr=False)
class AccessSettings(_EnvironmentSettings):
    """The secret of the callers.

    Attributes:
        internal_token: the bearer token that callers must have; not part of the repr.
    """

    internal_token: str = setting("IDENTITY_API_INTERNAL_TOKEN", check_header_text, secret=True)


@frozen(kw_only=True, eq=False, repr=False)
class KeycloakSettings(_EnvironmentSettings):
    """Where Keycloak is, and the client that identity-api uses there.

    Attributes:
        url: the address of Keycloak.
        realm: the realm that services are registered in.
        client_id: the confidential client of that realm that identity-api acts as.
        client_secret: its secret; not part of the repr.
    """

    url: str = setting("IDENTITY_KEYCLOAK_URL", check_base_url)
    realm: str = setting("IDENTITY_KEYCLOAK_REALM", check_text)
    client_id: str = setting("IDENTITY_KEYCLOAK_CLIENT_ID", check_text)
    client_secret: str = setting("IDENTITY_KEYCLOAK_CLIENT_SECRET", check_text, secret=True)

    def backend(self, kind: type[_Backend], token_lifetime: float | None = None) -> _Backend:
        """Make a backend of a kind; the token lifetime is rounded up to whole seconds."""
        return kind(
            self.url,
            self.realm,
            self.client_id,
            self.client_secret,
            token_lifetime=None if token_lifetime is None else math.ceil(token_lifetime),
        )


def create_keycloak_app(
    environ: Mapping[str, str] = os.environ,
    *,
    token_lifetime: float | None = None,
    **overrides: str | None,
) -> Flask:
    """Make the app; see `AccessSettings` and `KeycloakSettings`.

    Args:
        environ: the variables to read.
        token_lifetime: seconds until tokens of newly registered services expire, rounded up; None
            for the realm's default.
        overrides: settings of Keycloak that win over the variables, unless they are None.
    """
    from .keycloak import KeycloakBackend  # needs an extra of its own

    access = AccessSettings.from_env(environ)
    keycloak = KeycloakSettings.from_env(environ, **overrides)
    return create_app(access.internal_token, keycloak.backend(KeycloakBackend, token_lifetime))
