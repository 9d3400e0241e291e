"""The settings of services under test, as keyword arguments and as environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs

from ..config import IdentityBootstrapConfig

SERVICE_NAME = "test-service"
INTERNAL_TOKEN = "test-internal-token"  # noqa: S105  # of a server that a test starts
IDENTITY_API = "http://identity-api.invalid"


def service_settings(url: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with what a service needs that registers at ``url``."""
    return {
        "service_name": SERVICE_NAME,
        "identity_api_url": url,
        "identity_api_internal_token": INTERNAL_TOKEN,
        **settings,
    }


def make_config(url: str, settings: Mapping[str, Any]) -> IdentityBootstrapConfig:
    """Make the configuration of a service that registers at ``url``.

    Raises:
        ConfigurationError: a setting is unknown, or its value cannot be used.
    """
    return IdentityBootstrapConfig.from_env({}, **service_settings(url, settings))


def make_environment(url: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that `IdentityBootstrapConfig.from_env` reads them from."""
    fields = attrs.fields_dict(IdentityBootstrapConfig)
    config = make_config(url, settings)  # checks them
    return {
        fields[name].metadata["env"]: _as_text(getattr(config, name))
        for name, value in service_settings(url, settings).items()
        if value is not None
    }


def is_variable(name: str) -> bool:
    """Whether an environment variable is a setting of a service, or names its file."""
    variables = {
        variable
        for setting in attrs.fields(IdentityBootstrapConfig)
        for variable in (setting.metadata["env"], setting.metadata["alias"])
    }
    return name in variables or name.removesuffix("_FILE") in variables


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(cast("tuple[str, str]", value)) if isinstance(value, tuple) else str(value)
