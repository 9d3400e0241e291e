"""What a setting is: its variable, its check, and what is said of a value that cannot be used.

attrs' own validators are not used: the first one that fails ends the constructor, and all problems
are to be reported at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import attrs
from attrs import field

from .errors import ConfigurationError
from .models import Record

_log = logging.getLogger("identity_client")

AUTH_METHODS = ("client_secret_post", "client_secret_basic")

# Sockets take no timeout above 2**31 milliseconds.
MAX_SECONDS = 1_000_000.0

# A timeout above this was probably meant as milliseconds.
LONG_TIMEOUT = 600.0

MIN_REFRESH_RATIO = 0.1

Settings = Mapping[str, "attrs.Attribute[Any]"]

_Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def config_error(attribute: attrs.Attribute[Any], problem: str) -> ConfigurationError:
    variable = attribute.metadata.get("env")
    name = f"{attribute.name} ({variable})" if variable else attribute.name
    return ConfigurationError(f"{name} {problem}")


def raise_all(problems: Iterable[str]) -> None:
    found = tuple(problems)
    if found:
        raise error_of_all(found)


def error_of_all(problems: tuple[str, ...], *, subject: str = "") -> ConfigurationError:
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    return ConfigurationError(f"{subject}{count}{'; '.join(problems)}", problems=problems)


def check_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise config_error(attribute, "must be a string")
    if not value.strip():
        raise config_error(attribute, "is empty; set it to a value or leave it out")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise config_error(
            attribute, "contains a control character, such as a line break; remove it"
        )
    if re.search(r"[\ud800-\udfff]", value):  # what os.environ makes of other bytes
        raise config_error(attribute, "is not UTF-8 text")


def check_header_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_text(_, attribute, value)
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise config_error(
            attribute,
            "must contain only printable ASCII and no spaces (it is sent in an HTTP header)",
        )


def url_problem(value: str) -> str | None:
    """Say why a string is not the URL of an HTTP server, or return None if it is one."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is not an http:// or https:// URL with a host"
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        return "contains whitespace, a control character or a non-ASCII character"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or a password"
    if "#" in value:
        return "must not have a fragment (#...)"
    if value.endswith("?"):
        return "ends with a question mark that no query follows; remove it"
    return None


def check_url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_text(_, attribute, value)
    problem = url_problem(value)
    if problem is not None:
        raise config_error(attribute, problem)


def check_base_url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_url(_, attribute, value)
    if urlsplit(str(value)).query:
        raise config_error(attribute, "is a base URL and must not have a query (?...)")


def check_seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise config_error(attribute, "must be a number of seconds")
    if not 0 < value <= MAX_SECONDS:
        raise config_error(
            attribute, f"must be a number of seconds above 0, at most {MAX_SECONDS:.0f}"
        )


def check_ratio(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not MIN_REFRESH_RATIO <= value < 1:
        raise config_error(
            attribute, f"must be a number of at least {MIN_REFRESH_RATIO} and below 1, such as 0.9"
        )


def check_count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise config_error(attribute, "must be an integer of at least 1, or unset for no limit")


def check_flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise config_error(attribute, "must be true or false")


def check_auth_method(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in AUTH_METHODS:
        raise config_error(attribute, f"must be one of {', '.join(AUTH_METHODS)}")


def check_store(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_text(_, attribute, value)
    if not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise config_error(
            attribute,
            "is not a credential store URL, such as memory:, file:///path, redis://host",
        )


def check_prefix(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"\w*", value):
        raise config_error(attribute, "must be the beginning of a variable's name, or empty")


def _readable(attribute: attrs.Attribute[Any], file: str) -> None:
    if not os.access(file, os.R_OK):
        raise config_error(
            attribute, f"names the file {file!r}, which does not exist or cannot be read"
        )


def check_bundle(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_text(_, attribute, value)
    _readable(attribute, value)


def check_status_file(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_text(_, attribute, value)
    if os.path.isdir(value):  # noqa: PTH112  # of a path it may raise
        raise config_error(attribute, "is a directory; name a file in it")


def check_certificate(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    files: tuple[Any, ...] = cast(Any, value) if isinstance(value, tuple) else (value, value)
    if len(files) != 2:
        raise config_error(attribute, "must be one file, or a pair of files: certificate and key")
    for file in files:
        check_text(_, attribute, file)
    for file in files:
        _readable(attribute, file)


def setting(
    env: str | None,
    check: _Check,
    default: Any = attrs.NOTHING,
    *,
    read: Callable[[str], Any] = str,
    secret: bool = False,
    alias: str | None = None,
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"env": env, "alias": alias, "read": read, "secret": secret, "check": check},
    )


class ValidatedRecord(Record):
    """A value whose members are settings, which are checked when it is made."""

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        settings = attrs.fields_dict(cast(Any, type(self)))
        values = {name: getattr(self, name) for name in settings}
        raise_all(value_problems(settings, values).values())
        warn_of_milliseconds(values)


def value_problems(settings: Settings, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each of the values that cannot be used, by its name."""
    problems: dict[str, str] = {}
    for name, value in values.items():
        setting = settings[name]
        if value is not setting.default:
            try:
                setting.metadata["check"](None, setting, value)
            except ConfigurationError as error:
                problems[name] = error.message
    return problems


def warn_of_milliseconds(values: Mapping[str, Any]) -> None:
    for name in ("timeout", "request_timeout", "token_timeout"):
        seconds = values.get(name, 0)
        if seconds > LONG_TIMEOUT:
            _log.warning(
                "%s is %g seconds; times are in seconds, not in milliseconds", name, seconds
            )
