"""The service of the process, and the settings that it is made of."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.management.base import CommandError
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ...config import IdentityBootstrapConfig
from ...errors import ConfigurationError, IdentityError
from .._commands import command_service, exit_code
from .._shared import config_from_settings, release_service, setting_names, shared_service

if TYPE_CHECKING:
    from ...service import IdentityBootstrapService

SETTING = "IDENTITY_CLIENT"

# At most one: the service that get_identity returns. A dictionary, as setdefault is atomic.
_services: dict[str, IdentityBootstrapService] = {}


def get_identity() -> IdentityBootstrapService:
    """Return the `IdentityBootstrapService` of this process; the first call makes and starts it.

    Never waits and makes no request itself. The settings are ``settings.IDENTITY_CLIENT``, a
    dictionary whose keys are the names of the environment variables or of the fields in upper case
    (``CREDENTIAL_STORE``), and the environment for all others. ``"SERVICE"`` is an object to use
    instead, such as a fake in tests, or something that returns it: a callable or its dotted path.
    Where the setting changes, as with ``override_settings``, the next call makes another service.

    Raises:
        ConfigurationError: settings cannot be used, or required ones are missing.
    """
    service = _services.get(SETTING)
    if service is None:
        # Threads that come at the same time make the same service, or keep the first that is given.
        service = _services.setdefault(SETTING, injected() or _shared())
        service.start(validate=False)
    return service


def _shared() -> IdentityBootstrapService:
    return shared_service(read_config(), get_identity)  # the function stands for this application


def given_settings() -> Mapping[str, Any]:
    """Return ``settings.IDENTITY_CLIENT``.

    Raises:
        ConfigurationError: it is not a dictionary.
    """
    given: object = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"settings.{SETTING} must be a dictionary")
    return cast("Mapping[str, Any]", given)


def given_service() -> object:
    """Return what ``"SERVICE"`` is or names, which may be a callable; None where it is not set.

    Raises:
        ConfigurationError: it names nothing that can be imported.
    """
    given = given_settings().get("SERVICE")
    if not isinstance(given, str):
        return given
    try:
        return import_string(given)
    except ImportError as error:
        problem = f"settings.{SETTING}['SERVICE'] cannot be imported: {error}"
    raise ConfigurationError(problem)


def injected() -> IdentityBootstrapService | None:
    """Return the service that ``"SERVICE"`` gives, or None."""
    given: Any = given_service()
    return cast("IdentityBootstrapService | None", given() if callable(given) else given)


def read_config() -> IdentityBootstrapConfig:
    """Return the configuration that the settings and the environment make.

    Raises:
        ConfigurationError: settings cannot be used, are not known, or are missing.
    """
    given = given_settings()
    unknown = sorted(given.keys() - setting_names(short=True).keys() - {"SERVICE"}, key=str)
    if unknown:
        problems = tuple(f"settings.{SETTING} has the unknown key {key!r}" for key in unknown)
        raise ConfigurationError("; ".join(problems), problems=problems)
    return config_from_settings(given, where=f"settings.{SETTING}", short=True)


@contextmanager
def service_of_command() -> Generator[IdentityBootstrapService, None, None]:
    """Yield a service for a management command; its errors become those of commands."""
    try:
        yield injected() or command_service(read_config())
    except IdentityError as error:
        failure = CommandError(error.message, returncode=exit_code(error))
    else:
        return
    raise failure


def _forget_service(*, setting: str, **_: object) -> None:
    if setting == SETTING:
        service = _services.pop(SETTING, None)
        if service is not None:
            release_service(service, get_identity)


setting_changed.connect(_forget_service)
