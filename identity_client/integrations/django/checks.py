"""System checks of the settings: fast, and without any request.

A missing setting is a warning, because an error would stop ``migrate`` where only the secrets of
the database are available; ``check --deploy`` makes it an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's name

from ...config import IdentityBootstrapConfig
from ...errors import ConfigurationError
from .._shared import setting_names
from ._identity import SETTING, given_service, given_settings, read_config

_SECRETS = (
    "IDENTITY_API_INTERNAL_TOKEN",
    "IDENTITY_CREDENTIAL_STORE_KEY",
    "SERVICE_CLIENT_SECRET",
)
_PRIVATE_NAMES = (".local", ".localhost", ".internal", ".svc")


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001: a value cannot be used; W001: a setting is missing; W002: half of the credentials."""
    return [_message(problem) for problem in _problems()]


def check_deployment(**_: Any) -> list[CheckMessage]:
    """E002, and W003 to W005: what is fit for a development machine only."""
    if _problems():
        text = "The settings of identity_client do not suffice to get an access token."
        hint = "Correct what identity_client.E001, W001 and W002 show."
        return [Error(text, hint, id="identity_client.E002")]
    if given_service() is not None:
        return []
    config = read_config()
    return [*_plain_http(config), *_unshared_credentials(config), *_literal_secrets()]


def _problems() -> tuple[str, ...]:
    try:
        if given_service() is None:
            read_config()
    except ConfigurationError as error:
        return error.problems
    return ()


def _message(problem: str) -> CheckMessage:
    text, _, hint = problem.partition("; ")
    if " is missing" not in text:
        return Error(problem, id="identity_client.E001")
    number = "W002" if "belong together" in hint else "W001"
    hint = f"{hint[:1].upper()}{hint[1:]}; in settings.{SETTING} or in the environment."
    return Warning(f"{text}.", hint, id=f"identity_client.{number}")


def _plain_http(config: IdentityBootstrapConfig) -> Iterator[CheckMessage]:
    for name in ("identity_api_url", "token_endpoint"):
        parts = urlsplit(getattr(config, name) or "")
        if parts.scheme == "http" and not _is_private(parts.hostname or ""):
            text = f"{name} sends secrets to {parts.hostname} without TLS."
            yield Warning(text, "Use https://.", id="identity_client.W003")


def _is_private(host: str) -> bool:
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)


def _unshared_credentials(config: IdentityBootstrapConfig) -> Iterator[CheckMessage]:
    is_unshared = config.credential_store.startswith("memory:")
    if is_unshared and config.preconfigured_credentials is None and _workers() > 1:
        yield Warning(
            f"{_workers()} worker processes share no credentials: each regenerates the secret of "
            "the others.",
            "Set IDENTITY_CREDENTIAL_STORE to a file: or redis: store.",
            id="identity_client.W004",
        )


def _workers() -> int:
    options = os.environ.get("GUNICORN_CMD_ARGS", "")
    found = re.search(r"(?:^|\s)(?:--workers[= ]|-w[= ]?)(\d+)", options)
    text = found[1] if found else os.environ.get("WEB_CONCURRENCY", "")
    return int(text) if text.isdecimal() else 1


def _literal_secrets() -> Iterator[CheckMessage]:
    names = setting_names(short=True)
    for key, value in given_settings().items():
        variable = names.get(key, "")
        if _is_secret(variable, value) and value not in os.environ.values():
            text = f"settings.{SETTING}[{key!r}] is a secret in the source."
            hint = f"Set the environment variable {variable}_FILE to the path of a file instead."
            yield Warning(text, hint, id="identity_client.W005")


def _is_secret(variable: str, value: object) -> bool:
    if variable == "IDENTITY_CREDENTIAL_STORE":
        # Not parsed: an address that is not valid may hold a password, too.
        return isinstance(value, str) and "@" in value and not value.startswith("file:")
    return variable in _SECRETS and value is not None
