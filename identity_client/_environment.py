"""How the settings of a service are read from environment variables and secret files."""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ._settings import Settings, config_error
from .errors import ConfigurationError

_log = logging.getLogger("identity_client")


def named(
    fields: Settings, prefix: str, environ: Mapping[str, str] | None = None
) -> dict[str, attrs.Attribute[Any]]:
    """Return the settings with the names that their variables have, as errors say them.

    Args:
        fields: the settings.
        prefix: what the name of each variable begins with.
        environ: where a second name of a variable may be in use.
    """
    return {
        name: _with_variable(setting, prefix, environ or {}) for name, setting in fields.items()
    }


def _with_variable(
    setting: attrs.Attribute[Any], prefix: str, environ: Mapping[str, str]
) -> attrs.Attribute[Any]:
    alias, variable = setting.metadata["alias"], setting.metadata["env"]
    name = alias if alias and f"{prefix}{alias}" in environ else variable
    if variable is None or (name == variable and not prefix):
        return setting  # a copy of each would take most of the time that a configuration takes
    return setting.evolve(metadata={**setting.metadata, "env": f"{prefix}{name}"})


def read_variables(
    settings: Settings,
    environ: Mapping[str, str],
    values: dict[str, Any],
    problems: dict[str, str],
) -> None:
    given = set(values)
    for name, setting in settings.items():
        secret = name.removesuffix("_file")
        if {name, secret} & given or values.get(f"{name}_file") is not None or secret in problems:
            continue
        try:
            text = _variable(setting, environ)
            if text is not None:
                values[name] = _parsed(setting, text)
        except ConfigurationError as error:
            problems[name] = error.message


# The settings of the server in front of Keycloak are not the service's.
_OURS = re.compile(r"(IDENTITY_(?!KEYCLOAK_)|SERVICE_)")


def warn_of_misspelt(
    settings: Iterable[attrs.Attribute[Any]], environ: Mapping[str, str], prefix: str
) -> None:
    known: set[str] = set()
    for setting in settings:
        variable, alias = setting.metadata["env"] or "", setting.metadata["alias"]
        known |= {variable, alias or variable}
        known |= {f"{variable}_FILE"} if setting.metadata["secret"] else set()
    unset = sorted(name for name in known if f"{prefix}{name}" not in environ)
    for variable in environ:
        name = variable.removeprefix(prefix)
        if not variable.startswith(prefix) or name in known or not _OURS.match(name):
            continue
        from difflib import get_close_matches  # most environments do not need it

        for meant in get_close_matches(name, unset, 1, 0.9):
            _log.warning("%s is not a setting; is %s%s meant?", variable, prefix, meant)


def _variable(setting: attrs.Attribute[Any], environ: Mapping[str, str]) -> str | None:
    variable = setting.metadata["env"]
    if variable is None:
        return None
    value = environ.get(variable)
    file = environ.get(f"{variable}_FILE") if setting.metadata["secret"] else None
    if file is None:
        return value
    if value is not None:
        raise config_error(setting, f"and {variable}_FILE are both set; keep one of them")
    return _read_file(setting, file)


def read_secret(setting: attrs.Attribute[Any], file: str) -> str:
    secret = _read_file(setting, file)
    setting.metadata["check"](None, setting, secret)
    return secret


# What pipes held: they can be read only once. By name and inode, as a number of /dev/fd returns.
_PIPES: dict[tuple[str, int, int], str] = {}


def _content(file: str) -> str:
    """Return what is in a file now; what is in a pipe or device, as it was first read."""
    path = Path(file)
    status = path.stat()
    if stat.S_ISREG(status.st_mode):  # read again each time: a mounted secret rotates
        return path.read_text(encoding="utf-8")
    key = (file, status.st_dev, status.st_ino)
    if key not in _PIPES:
        _PIPES[key] = path.read_text(encoding="utf-8")
    return _PIPES[key]


def _read_file(setting: attrs.Attribute[Any], file: str) -> str:
    try:
        return _content(file).rstrip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise config_error(
            setting,
            f"cannot be read from the file that {setting.metadata['env']}_FILE names: {reason}",
        ) from None


def _parsed(setting: attrs.Attribute[Any], text: str) -> Any:
    try:
        return setting.metadata["read"](text)
    except (ValueError, KeyError):
        read = setting.metadata["read"]
        if read is float:
            setting.metadata["check"](None, setting, text)  # raises, and says which numbers
        kind = "a whole number" if read is int else "true or false"
        raise config_error(setting, f"must be {kind}") from None
