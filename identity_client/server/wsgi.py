"""identity-api in front of Keycloak, for a WSGI server.

::

    gunicorn 'identity_client.server.wsgi:create_keycloak_app()'
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from attrs import frozen
from flask import Flask

from .._frames import hide_frames
from ..config import (
    ValidatedRecord,
    _base_url,
    _config_error,
    _field,
    _header_text,
    _text,
    _variable,
)
from .app import create_app

if TYPE_CHECKING:
    from .keycloak import KeycloakBackend

_T = TypeVar("_T", bound="KeycloakSettings")


@frozen(kw_only=True, eq=False, repr=False)
class KeycloakSettings(ValidatedRecord):
    """Where Keycloak is, and the client of identity-api there.

    Attributes:
        url: the address of Keycloak.
        realm: the realm that services are registered in.
        client_id: the confidential client of that realm that identity-api acts as.
        client_secret: its secret; not part of the repr.
    """

    url: str = _field("IDENTITY_KEYCLOAK_URL", _base_url)
    realm: str = _field("IDENTITY_KEYCLOAK_REALM", _text)
    client_id: str = _field("IDENTITY_KEYCLOAK_CLIENT_ID", _text)
    client_secret: str = _field("IDENTITY_KEYCLOAK_CLIENT_SECRET", _text, secret=True)

    @classmethod
    @hide_frames
    def from_env(  # noqa: PYI019  # Self is not in Python 3.10
        cls: type[_T], environ: Mapping[str, str], **overrides: str | None
    ) -> _T:
        """Read the settings from environment variables; each secret may come from a ``_FILE``.

        Args:
            environ: the variables to read.
            overrides: settings that win over the variables, unless they are None.

        Raises:
            ConfigurationError: a setting is missing or cannot be used.
        """
        values: dict[str, Any] = {}
        for setting in attrs.fields(cls):
            value = overrides.get(setting.name) or _variable(setting, environ)
            if value is None:
                raise _config_error(setting, "is missing; set it")
            values[setting.name] = value
        return cls(**values)

    def backend(self, token_lifetime: float | None) -> KeycloakBackend:
        """Make what stands between the app and Keycloak; see `create_keycloak_app`."""
        from .keycloak import KeycloakBackend  # needs an extra of its own

        return KeycloakBackend(
            self.url,
            self.realm,
            self.client_id,
            self.client_secret,
            token_lifetime=None if token_lifetime is None else math.ceil(token_lifetime),
        )


@frozen(kw_only=True, eq=False, repr=False)
class ServerSettings(KeycloakSettings):
    """The same, and the internal token.

    Attributes:
        internal_token: the bearer token that callers must have; not part of the repr.
    """

    internal_token: str = _field("IDENTITY_API_INTERNAL_TOKEN", _header_text, secret=True)


def create_keycloak_app(
    environ: Mapping[str, str] = os.environ,
    *,
    token_lifetime: float | None = None,
    **overrides: str | None,
) -> Flask:
    """Make the app; see `ServerSettings`.

    Args:
        environ: the variables to read.
        token_lifetime: seconds that tokens of newly registered services live, rounded up; None for
            what the realm says.
        overrides: settings that win over the variables, unless they are None.
    """
    settings = ServerSettings.from_env(environ, **overrides)
    return create_app(settings.internal_token, settings.backend(token_lifetime))
