"""What the commands of the frameworks share; the exit codes are those of ``identity-client``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError, IdentityError, NotReadyError

if TYPE_CHECKING:
    from ..service import IdentityBootstrapService

FAILED, MISCONFIGURED, TIMED_OUT = 1, 2, 3


def exit_code(error: IdentityError) -> int:
    """Return the exit code of a command that ends with an error."""
    if isinstance(error, ConfigurationError):
        return MISCONFIGURED
    if isinstance(error, NotReadyError) and error.next_attempt_in is None:
        return TIMED_OUT
    return FAILED


def command_service(config: IdentityBootstrapConfig) -> IdentityBootstrapService:
    """Return a service for one command, beside one that runs.

    It does not regenerate a secret that replicas use, nor replace the file of their status.

    Raises:
        ConfigurationError: the command would lose a secret that may not be regenerated.
    """
    from ..service import IdentityBootstrapService  # frameworks load commands to list them

    if not config.allow_secret_regeneration:
        refuse_to_lose_secret(config)
    return IdentityBootstrapService(
        attrs.evolve(config, allow_secret_regeneration=False, status_file=None)
    )


def refuse_to_lose_secret(config: IdentityBootstrapConfig) -> None:
    """Refuse to register for one command where its secret would be lost.

    Raises:
        ConfigurationError: the service registers, and the store ends with the command.
    """
    if config.preconfigured_credentials is None and config.credential_store.startswith("memory:"):
        raise ConfigurationError(
            "credential_store (IDENTITY_CREDENTIAL_STORE) is memory:, so this command would "
            "register the service and lose its secret; set it to a store that the service uses"
        )


def status_text(
    service: IdentityBootstrapService, timeout: float, *, as_json: bool
) -> tuple[str, bool]:
    """Request a token, and return how the service stands and whether there is a token.

    Args:
        service: what to look at.
        timeout: seconds to wait for a token at most, 0 or more.
        as_json: whether to return a JSON document, not lines.
    """
    ready = service.wait_for_token(timeout)
    status = service.status().to_dict()
    if as_json:
        return json.dumps(status), ready
    lines = (f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in status.items())
    return "\n".join(lines), ready


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
