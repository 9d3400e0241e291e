"""The settings of a service, from keyword arguments or from the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from ._frames import hide_frames, hide_init_frames
from ._public import public
from .errors import ConfigurationError
from .models import Record, ServiceCredentials, ServiceType

_log = logging.getLogger("identity_client")

AUTH_METHODS = ("client_secret_post", "client_secret_basic")

# Sockets take no timeout above 2**31 milliseconds.
MAX_SECONDS = 1_000_000.0

# A timeout above this was probably meant as milliseconds.
LONG_TIMEOUT = 600.0

MIN_REFRESH_RATIO = 0.1

_Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _config_error(attribute: attrs.Attribute[Any], problem: str) -> ConfigurationError:
    variable = attribute.metadata.get("env")
    name = f"{attribute.name} ({variable})" if variable else attribute.name
    return ConfigurationError(f"{name} {problem}")


def _raise_all(problems: Iterable[str]) -> None:
    found = tuple(problems)
    if len(found) == 1:
        raise ConfigurationError(found[0])
    if found:
        raise ConfigurationError(f"{len(found)} problems: {'; '.join(found)}", problems=found)


def _text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise _config_error(attribute, "must be a string")
    if not value.strip():
        raise _config_error(attribute, "is empty; set it to a value or leave it out")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise _config_error(
            attribute, "contains a control character, such as a line break; remove it"
        )
    if re.search(r"[\ud800-\udfff]", value):  # what os.environ makes of other bytes
        raise _config_error(attribute, "is not UTF-8 text")


def _header_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise _config_error(
            attribute, "must contain only printable ASCII (it is sent in an HTTP header)"
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


def _url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    problem = url_problem(value)
    if problem is not None:
        raise _config_error(attribute, problem)


def _base_url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _url(_, attribute, value)
    if urlsplit(str(value)).query:
        raise _config_error(attribute, "is a base URL and must not have a query (?...)")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _config_error(attribute, "must be a number of seconds")
    if not 0 < value <= MAX_SECONDS:
        raise _config_error(
            attribute, f"must be a number of seconds above 0, at most {MAX_SECONDS:.0f}"
        )


def _ratio(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not MIN_REFRESH_RATIO <= value < 1:
        raise _config_error(
            attribute, f"must be a number of at least {MIN_REFRESH_RATIO} and below 1, such as 0.9"
        )


def _count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _config_error(attribute, "must be an integer of at least 1, or unset for no limit")


def _flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise _config_error(attribute, "must be true or false")


def _auth_method(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in AUTH_METHODS:
        raise _config_error(attribute, f"must be one of {', '.join(AUTH_METHODS)}")


def _store(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    if not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise _config_error(
            attribute,
            "is not a credential store URL, such as memory:, file:///path, redis://host",
        )


def _readable(attribute: attrs.Attribute[Any], file: str) -> None:
    if not os.access(file, os.R_OK):
        raise _config_error(
            attribute, f"names the file {file!r}, which does not exist or cannot be read"
        )


def _bundle(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    _readable(attribute, value)


def _certificate(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    files: tuple[Any, ...] = cast(Any, value) if isinstance(value, tuple) else (value, value)
    if len(files) != 2:
        raise _config_error(attribute, "must be one file, or a pair of files: certificate and key")
    for file in files:
        _text(_, attribute, file)
    for file in files:
        _readable(attribute, file)


def _field(
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
    """A value whose members are settings, which are checked when it is made.

    Not by attrs' validators: to compile the calls of so many shows in the time of the import.
    """

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        settings = attrs.fields_dict(cast(Any, type(self)))
        values = {name: getattr(self, name) for name in settings}
        _raise_all(_value_problems(settings, values).values())
        _warn_of_milliseconds(values)


_Settings = Mapping[str, "attrs.Attribute[Any]"]


def _value_problems(settings: _Settings, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each of the values that cannot be used, by its name."""
    problems: dict[str, str] = {}
    for name, value in values.items():
        setting = settings[name]
        if value is not None or setting.default is not None:
            try:
                setting.metadata["check"](None, setting, value)
            except ConfigurationError as error:
                problems[name] = error.message
    return problems


def _warn_of_milliseconds(values: Mapping[str, Any]) -> None:
    for name in ("timeout", "request_timeout", "token_timeout"):
        seconds = values.get(name, 0)
        if seconds > LONG_TIMEOUT:
            _log.warning(
                "%s is %g seconds; times are in seconds, not in milliseconds", name, seconds
            )


def _read_flag(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
    ]


def _read_certificate(text: str) -> str | tuple[str, ...]:
    parts = tuple(text.split(","))
    return parts if len(parts) == 2 else text


@public
@hide_init_frames
@frozen(kw_only=True, eq=False, repr=False)
class IdentityApiClientOptions(ValidatedRecord):
    """What an `IdentityApiClient` is made of.

    Attributes:
        base_url: the address of identity-api.
        internal_token: the bearer token that identity-api knows; not part of the repr.
        timeout: seconds that one call may take in all, above 0 and 1000000 at most.
        ca_bundle: a file with the certificates to trust, or None for the system's.
        client_cert: a client certificate: a file with certificate and key, or a pair of files.

    Raises:
        ConfigurationError: a value cannot be used.
    """

    base_url: str = _field(None, _base_url)
    internal_token: str = _field(None, _header_text, secret=True)
    timeout: float = _field(None, _seconds, 10.0)
    ca_bundle: str | None = _field(None, _bundle, None)
    client_cert: str | tuple[str, str] | None = _field(None, _certificate, None)


@public
@hide_init_frames
@frozen(kw_only=True, eq=False, repr=False)
class IdentityBootstrapConfig(ValidatedRecord):
    """The settings of an `IdentityBootstrapService`; times are in seconds, 1000000 at most.

    Attributes:
        identity_api_url: the address of identity-api. Required unless pre-configured.
        identity_api_internal_token: the bearer token for registration. Required unless
            pre-configured; not part of the repr.
        identity_api_internal_token_file: a file to read that token from, now and before each
            registration attempt.
        service_name: the name to register, which becomes the client_id.
        service_display_name: the name that people see; the service name if None.
        service_description: what the service is for.
        service_type: a `ServiceType`, or another string that identity-api knows.
        client_id: with the secret and the endpoint, pre-configured credentials: no registration
            happens. All three are given, or none.
        client_secret: not part of the repr.
        client_secret_file: a file to read the secret from, now and when it is rejected.
        token_endpoint: the URL that issues tokens.
        max_registration_attempts: failed attempts in a row before giving up, at least 1;
            None for no limit.
        base_retry_delay: the first pause after a failure, above 0.
        max_retry_delay: the longest pause, not below ``base_retry_delay``.
        max_token_retry_delay: the longest pause between token requests, above 0.
        request_timeout: what one HTTP request may take in all, above 0.
        token_timeout: what ``get_access_token()`` waits at most unless told otherwise, above 0.
        refresh_ratio: the part of a token's lifetime, at least 0.1 and below 1, after which it is
            replaced; by chance somewhat before, so that replicas do not refresh in step.
        allow_secret_regeneration: whether registration may replace the secret of a service that
            exists when nothing else gives one. The old secret stops working for all replicas.
        credential_store: where processes share credentials, as a URL that `open_store` knows;
            ``memory:`` shares nothing. Not part of the repr, as it may hold a password.
        credential_store_key: a Fernet key to encrypt the stored credentials with, or several with
            commas between, of which the first encrypts and all decrypt; not part of the repr.
        token_endpoint_auth_method: ``client_secret_post`` or ``client_secret_basic``.
        scope: the scope to ask for, or None.
        ca_bundle: a file with the certificates to trust, or None for the system's.
        client_cert: a client certificate: a file with certificate and key, or a pair of files
            (in the environment: two names with a comma between).

    Raises:
        ConfigurationError: values cannot be used, or required ones are missing. The message names
            each field and its environment variable, never a secret.
    """

    identity_api_url: str | None = _field("IDENTITY_API_URL", _base_url, None)
    identity_api_internal_token: str | None = _field(
        "IDENTITY_API_INTERNAL_TOKEN", _header_text, None, secret=True
    )
    identity_api_internal_token_file: str | None = _field(
        "IDENTITY_API_INTERNAL_TOKEN_FILE", _text, None
    )
    service_name: str = _field("SERVICE_NAME", _text, alias="IDENTITY_SERVICE_NAME")
    service_display_name: str | None = _field("SERVICE_DISPLAY_NAME", _text, None)
    service_description: str | None = _field("SERVICE_DESCRIPTION", _text, None)
    service_type: str = _field("SERVICE_TYPE", _text, ServiceType.BACKEND)
    client_id: str | None = _field("SERVICE_CLIENT_ID", _text, None)
    client_secret: str | None = _field("SERVICE_CLIENT_SECRET", _text, None, secret=True)
    client_secret_file: str | None = _field("SERVICE_CLIENT_SECRET_FILE", _text, None)
    token_endpoint: str | None = _field("SERVICE_TOKEN_ENDPOINT", _url, None)
    max_registration_attempts: int | None = _field(
        "IDENTITY_MAX_REGISTRATION_ATTEMPTS", _count, None, read=int
    )
    base_retry_delay: float = _field("IDENTITY_BASE_RETRY_DELAY", _seconds, 5.0, read=float)
    max_retry_delay: float = _field("IDENTITY_MAX_RETRY_DELAY", _seconds, 300.0, read=float)
    max_token_retry_delay: float = _field(
        "IDENTITY_MAX_TOKEN_RETRY_DELAY", _seconds, 30.0, read=float
    )
    request_timeout: float = _field("IDENTITY_REQUEST_TIMEOUT", _seconds, 10.0, read=float)
    token_timeout: float = _field("IDENTITY_TOKEN_TIMEOUT", _seconds, 10.0, read=float)
    refresh_ratio: float = _field("IDENTITY_REFRESH_RATIO", _ratio, 0.9, read=float)
    allow_secret_regeneration: bool = _field(
        "IDENTITY_ALLOW_SECRET_REGENERATION", _flag, True, read=_read_flag
    )
    credential_store: str = _field("IDENTITY_CREDENTIAL_STORE", _store, "memory:", secret=True)
    credential_store_key: str | None = _field(
        "IDENTITY_CREDENTIAL_STORE_KEY", _text, None, secret=True
    )
    token_endpoint_auth_method: str = _field(
        "IDENTITY_TOKEN_ENDPOINT_AUTH_METHOD", _auth_method, "client_secret_post"
    )
    scope: str | None = _field("IDENTITY_SCOPE", _text, None)
    ca_bundle: str | None = _field("IDENTITY_CA_BUNDLE", _bundle, None)
    client_cert: str | tuple[str, str] | None = _field(
        "IDENTITY_CLIENT_CERT", _certificate, None, read=_read_certificate
    )

    def __attrs_post_init__(self) -> None:
        settings = attrs.fields_dict(type(self))
        values = {name: getattr(self, name) for name in settings}
        _raise_all(_config_problems(settings, values))
        for name in _FROM_FILES:
            object.__setattr__(self, name, values[name])
        _warn_of_milliseconds(values)

    @hide_frames
    def read_client_secret(self) -> str | None:
        """Read ``client_secret_file``; return None where there is no such setting.

        Raises:
            ConfigurationError: the file cannot be read, or holds no secret.
        """
        return self._read("client_secret", self.client_secret_file)

    @hide_frames
    def read_internal_token(self) -> str | None:
        """Read ``identity_api_internal_token_file``; return None where there is no such setting.

        Raises:
            ConfigurationError: the file cannot be read, or holds no token.
        """
        return self._read("identity_api_internal_token", self.identity_api_internal_token_file)

    def _read(self, name: str, file: str | None) -> str | None:
        return None if file is None else _read_secret(attrs.fields_dict(type(self))[name], file)

    @property
    def preconfigured_credentials(self) -> ServiceCredentials | None:
        """The pre-configured client, or None when the service has to register."""
        if self.client_id is None or self.client_secret is None or self.token_endpoint is None:
            return None
        return ServiceCredentials(
            client_id=self.client_id,
            client_secret=self.client_secret,
            token_endpoint=self.token_endpoint,
        )

    @classmethod
    @hide_frames
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, prefix: str = "", **overrides: Any
    ) -> IdentityBootstrapConfig:
        """Read the settings from environment variables.

        A secret's variable may instead be given with the suffix ``_FILE`` and name a file, as
        mounted secrets are; white space at the end of the file is dropped. ``SERVICE_NAME`` may
        also be ``IDENTITY_SERVICE_NAME``, which wins. A variable that looks like a misspelt one
        is a warning.

        Args:
            environ: the variables to read; None for those of the process.
            prefix: what the name of each variable begins with, such as ``BILLING_``, where one
                process has several services.
            overrides: settings that win over the variables.

        Raises:
            ConfigurationError: variables, or the files they name, cannot be used.
        """
        environ = os.environ if environ is None else environ
        fields = attrs.fields_dict(cls)
        problems = {name: f"unknown setting {name!r}" for name in sorted(overrides.keys() - fields)}
        values = {name: value for name, value in overrides.items() if name in fields}
        settings = {name: _in_environ(fields[name], environ, prefix) for name in fields}
        _read_variables(settings, environ, values, problems)
        _warn_of_misspelt(fields.values(), environ, prefix)
        _raise_all(_config_problems(settings, values, problems))
        return cls(**values)


# Settings that a file may hold, which the setting with the suffix _file names.
_FROM_FILES = ("identity_api_internal_token", "client_secret")

_PRECONFIGURED = ("client_id", "client_secret", "token_endpoint")


def _config_problems(
    settings: _Settings, values: dict[str, Any], known: Mapping[str, str] | None = None
) -> list[str]:
    """Return all problems, those that are known first, and add what files hold to the values.

    What is already known to be wrong is not part of the values, and nothing more is said of it.
    """
    problems = dict(known or {})
    problems |= _value_problems(settings, values)
    for name in _FROM_FILES:
        file = f"{name}_file"
        if values.get(name) is None and values.get(file) and not {name, file} & problems.keys():
            try:
                values[name] = _read_secret(settings[name], values[file])
            except ConfigurationError as error:
                problems[name] = error.message
    usable = {name: setting.default for name, setting in settings.items()} | values
    for name in problems:
        usable.pop(name, None)
        usable.pop(name.removesuffix("_file"), None)
    return [*problems.values(), *_combination_problems(settings, usable)]


def _combination_problems(settings: _Settings, usable: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []

    def report(name: str, problem: str) -> None:
        problems.append(_config_error(settings[name], problem).message)

    if usable.get("service_name") is attrs.NOTHING:
        report("service_name", "is missing; set it")
    longest, base = usable.get("max_retry_delay"), usable.get("base_retry_delay")
    if longest is not None and base is not None and longest < base:
        report("max_retry_delay", "must not be below base_retry_delay")
    given = [name for name in _PRECONFIGURED if usable.get(name) is not None]
    missing = [name for name in _PRECONFIGURED if usable.get(name, "") is None]
    if given:
        for name in missing:
            report(
                name,
                "is missing; set it, or leave out client_id, client_secret and token_endpoint, "
                "which belong together",
            )
    elif len(missing) == len(_PRECONFIGURED):
        for name in ("identity_api_url", "identity_api_internal_token"):
            if usable.get(name, "") is None:
                report(
                    name,
                    "is missing; set it, or client_id, client_secret and token_endpoint together",
                )
    return problems


def _in_environ(
    setting: attrs.Attribute[Any], environ: Mapping[str, str], prefix: str
) -> attrs.Attribute[Any]:
    """Return the setting with the name that its variable has in this environment."""
    alias = setting.metadata["alias"]
    name = alias if alias and f"{prefix}{alias}" in environ else setting.metadata["env"]
    return setting.evolve(metadata={**setting.metadata, "env": f"{prefix}{name}"})


def _read_variables(
    settings: _Settings,
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


def _warn_of_misspelt(
    settings: Iterable[attrs.Attribute[Any]], environ: Mapping[str, str], prefix: str
) -> None:
    known: set[str] = set()
    for setting in settings:
        variable, alias = setting.metadata["env"], setting.metadata["alias"]
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
    value = environ.get(variable)
    file = environ.get(f"{variable}_FILE") if setting.metadata["secret"] else None
    if file is None:
        return value
    if value is not None:
        raise _config_error(setting, f"and {variable}_FILE are both set; keep one of them")
    return _read_file(setting, file)


def _read_secret(setting: attrs.Attribute[Any], file: str) -> str:
    secret = _read_file(setting, file)
    setting.metadata["check"](None, setting, secret)
    return secret


def _read_file(setting: attrs.Attribute[Any], file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise _config_error(
            setting,
            f"cannot be read from the file that {setting.metadata['env']}_FILE names: {reason}",
        ) from None


def _parsed(setting: attrs.Attribute[Any], text: str) -> Any:
    try:
        return setting.metadata["read"](text)
    except (ValueError, KeyError):
        kind = {int: "a whole number", float: "a number"}.get(
            setting.metadata["read"], "true or false"
        )
        raise _config_error(setting, f"must be {kind}") from None
