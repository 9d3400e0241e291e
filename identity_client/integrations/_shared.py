"""What the integrations have in common: settings of a framework, one service each, readiness.

Importing it loads neither requests nor the worker, so that commands which need no token, such as
a migration, do not pay for them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import attrs

from .. import _fork
from .._frames import hide_frames
from .._settings import error_of_all
from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError
from ..events import ServiceState

if TYPE_CHECKING:
    from ..service import IdentityBootstrapService

_FILE = "_FILE"


class ServiceRegistry:
    """Keeps one service per configuration in a process, as long as it is in use.

    The services of one configuration would each register and request tokens for the same client.
    Each holder is remembered, weakly: what one has done with may still be in use by another.
    """

    def __init__(self) -> None:
        self._services: weakref.WeakValueDictionary[tuple[Any, ...], IdentityBootstrapService] = (
            weakref.WeakValueDictionary()
        )
        self._holders: weakref.WeakKeyDictionary[IdentityBootstrapService, weakref.WeakSet[Any]] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = _fork.ForkSafeLock()

    @hide_frames
    def acquire(self, config: IdentityBootstrapConfig, holder: object) -> IdentityBootstrapService:
        """Return the service of a configuration, compared by value; a closed one is replaced.

        Starts nothing and makes no request.

        Args:
            config: the settings.
            holder: the application, lifespan or extension that uses it until it is collected, or
                `release` is called; again for the same one changes nothing.

        Raises:
            ConfigurationError: the credential store, or its key, cannot be used.
        """
        from ..service import IdentityBootstrapService  # commands without tokens do not need it

        key = attrs.astuple(config, recurse=False)
        with self._lock.of_this_process():
            service = self._services.get(key)
            if service is None or service.status().state is ServiceState.CLOSED:
                service = self._services[key] = IdentityBootstrapService(config)
            self._holders.setdefault(service, weakref.WeakSet()).add(holder)
            return service

    def release(self, service: IdentityBootstrapService, holder: object) -> None:
        """Close a service when its last holder is done with it, if it was acquired here."""
        with self._lock.of_this_process():
            holders = self._holders.get(service)
            if holders is None:
                return
            holders.discard(holder)
            if holders:
                return
            for key in [key for key, each in self._services.items() if each is service]:
                del self._services[key]  # no other may acquire what is about to be closed
        # Without the lock: it calls listeners and log handlers, which may acquire a service.
        service.close()


_registry = ServiceRegistry()
shared_service = _registry.acquire
release_service = _registry.release


def setting_names(*, short: bool = False) -> dict[str, str]:
    """Map the keys that a framework's settings may use to environment variables.

    Args:
        short: whether the names of the fields in upper case, such as ``CREDENTIAL_STORE``, are
            keys, too; for a mapping that holds nothing else.
    """
    names: dict[str, str] = {}
    for setting in attrs.fields(IdentityBootstrapConfig):
        variable, alias = setting.metadata["env"], setting.metadata["alias"]
        if variable is None:
            continue
        keys = [setting.name.upper()] if short else []
        keys += [variable, alias] if alias else [variable]
        names |= dict.fromkeys(keys, variable)
        if setting.metadata["secret"]:
            names |= {f"{key}{_FILE}": f"{variable}{_FILE}" for key in keys}
    return names


@hide_frames
def config_from_settings(
    settings: Mapping[str, Any],
    *,
    where: str,
    short: bool = False,
    environ: Mapping[str, str] | None = None,
) -> IdentityBootstrapConfig:
    """Make a configuration of a framework's settings, and of the environment for the others.

    A key is the name of an environment variable, and wins over that variable and over the file
    that its twin ``…_FILE`` names. A value is a string as in the environment, or of the field's
    type; None counts as not set.

    Args:
        settings: the framework's settings; keys that are not known are ignored, with a warning
            where one looks like a misspelt name.
        where: what to call these settings in an error, such as ``app.config``.
        short: see `setting_names`.
        environ: the environment; None for that of the process, read now.

    Raises:
        ConfigurationError: values cannot be used, or required ones are missing.
    """
    names = setting_names(short=short)
    given = {names[key]: settings[key] for key in names if settings.get(key) is not None}
    values = {**settings, **given}  # of unknown keys, too: a misspelt one gets its warning
    texts = {name: text for name in values if (text := _as_text(values[name])) is not None}
    fields = {field.metadata["env"]: field.name for field in attrs.fields(IdentityBootstrapConfig)}
    objects = {fields[name]: given[name] for name in fields.keys() & given.keys() - texts.keys()}
    hidden = {name.removesuffix(_FILE) for name in given}
    inherited = {
        name: text
        for name, text in (os.environ if environ is None else environ).items()
        if names.get(name, name).removesuffix(_FILE) not in hidden
    }
    problems = tuple(
        f"{name} must be the path of a file, as text or a path object"
        for name in given
        if name.endswith(_FILE) and name not in texts
    )
    try:
        config = IdentityBootstrapConfig.from_env(inherited | texts, **objects)
    except ConfigurationError as error:
        problems += error.problems
    else:
        if not problems:
            return config
    subject = f"identity_client is not configured, by {where} and the environment: "
    raise error_of_all(problems, subject=subject)


def _as_text(value: object) -> str | None:
    """Return what the environment would hold, or None for a value of the field's own type."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(cast("os.PathLike[str]", value))
    return value if isinstance(value, str) and not isinstance(value, Enum) else None


def readiness(
    service: IdentityBootstrapService, *, strict: bool = False
) -> tuple[int, dict[str, str | float | bool | None]]:
    """Return the HTTP status and the JSON document for a readiness probe.

    503 before the first token, and when the service has failed for good or was closed; 200
    otherwise, also in an outage: it would take all replicas out of service at once, while what
    needs no token still works. The document has no secret and no address. Makes no request and
    never waits; starts a service that was not started, as no traffic comes before it is ready.

    Args:
        service: the service.
        strict: whether it is 503 as well when there is no usable token, as after a long outage.
    """
    service.is_ready()  # starts it
    status = service.status()
    ready = status.token_expires_in > 0 if strict else status.state in _SERVING
    document: dict[str, str | float | bool | None] = {
        "service": status.service_name,
        "ready": ready,
        "state": status.state.value,
        "token_expires_in": round(status.token_expires_in, 1),
        "next_attempt_in": status.next_attempt_in and round(status.next_attempt_in, 1),
    }
    return 200 if ready else 503, document


_SERVING = (ServiceState.READY, ServiceState.DEGRADED, ServiceState.UNAVAILABLE)
