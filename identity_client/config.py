"""The settings of a service, from keyword arguments or from the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from .errors import ConfigurationError, sealed
from .models import ServiceCredentials, ServiceType, Value

_log = logging.getLogger("identity_client")

AUTH_METHODS = ("client_secret_post", "client_secret_basic")

# Sockets take no timeout above 2**31 milliseconds.
LONGEST_TIME = 1_000_000.0

_Class = TypeVar("_Class", bound=type)
_Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _wrong(attribute: attrs.Attribute[Any], problem: str) -> ConfigurationError:
    variable = attribute.metadata.get("env")
    name = f"{attribute.name} ({variable})" if variable else attribute.name
    return ConfigurationError(f"{name} {problem}")


def _text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(attribute, "must be a string")
    if not value.strip():
        raise _wrong(attribute, "is empty; set it to a value or leave it out")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise _wrong(attribute, "has a control character in it, such as a line break; remove it")
    if re.search(r"[\ud800-\udfff]", value):  # what os.environ makes of other bytes
        raise _wrong(attribute, "is not UTF-8 text")


def _header_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise _wrong(attribute, "may hold visible ASCII characters only: it travels in a header")


def url_problem(value: str) -> str | None:
    """Say why a string is no URL of an HTTP server, or return None if it is one."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is not an http:// or https:// URL with a host"
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        return "has a blank, a control or a non-ASCII character in it"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or a password"
    if parts.fragment:
        return "must not have a fragment (#...)"
    return None


def _url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    problem = url_problem(value)
    if problem is not None:
        raise _wrong(attribute, problem)


def _base_url(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _url(_, attribute, value)
    if urlsplit(str(value)).query:
        raise _wrong(attribute, "is a base URL and must not have a query (?...)")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(attribute, "must be a number of seconds")
    if not 0 < value <= LONGEST_TIME:
        raise _wrong(attribute, f"must be a number of seconds above 0, {LONGEST_TIME:.0f} at most")


def _ratio(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise _wrong(attribute, "must be a number between 0 and 1, such as 0.9")


def _count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(attribute, "must be a whole number of at least 1; leave it out for no limit")


def _flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(attribute, "must be true or false")


def _auth_method(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in AUTH_METHODS:
        raise _wrong(attribute, f"must be one of {', '.join(AUTH_METHODS)}")


def _store(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    if not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise _wrong(attribute, "is no URL of a store, such as memory:, file:///path, redis://host")


def _certificate(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    files: tuple[Any, ...] = cast(Any, value) if isinstance(value, tuple) else (value, value)
    if len(files) != 2:
        raise _wrong(attribute, "must be one file, or a pair of files: certificate and key")
    for file in files:
        _text(_, attribute, file)


def _setting(
    env: str | None,
    check: _Check,
    default: Any = attrs.NOTHING,
    *,
    read: Callable[[str], Any] = str,
    secret: bool = False,
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"env": env, "read": read, "secret": secret, "check": check},
    )


class CheckedValue(Value):
    """A value whose members are settings, which are checked when it is made.

    Not by attrs' validators: to compile the calls of so many shows in the time of the import.
    """

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        for setting in attrs.fields(cast(Any, type(self))):
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                setting.metadata["check"](self, setting, value)


def _read_flag(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
    ]


def _read_certificate(text: str) -> str | tuple[str, ...]:
    parts = tuple(text.split(","))
    return parts if len(parts) == 2 else text


def _sealed_init(cls: _Class) -> _Class:
    """Keep the arguments out of the traceback of a constructor that refuses them."""
    cls.__init__ = sealed(cls.__init__)  # type: ignore[misc]  # of this very class
    return cls


@_sealed_init
@frozen(kw_only=True, eq=False, repr=False)
class IdentityApiClientOptions(CheckedValue):
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

    base_url: str = _setting(None, _base_url)
    internal_token: str = _setting(None, _header_text, secret=True)
    timeout: float = _setting(None, _seconds, 10.0)
    ca_bundle: str | None = _setting(None, _text, None)
    client_cert: str | tuple[str, str] | None = _setting(None, _certificate, None)


@_sealed_init
@frozen(kw_only=True, eq=False, repr=False)
class IdentityBootstrapConfig(CheckedValue):
    """The settings of an `IdentityBootstrapService`; times are in seconds, 1000000 at most.

    Attributes:
        identity_api_url: the address of identity-api. Required unless pre-configured.
        identity_api_internal_token: the bearer token for registration. Required unless
            pre-configured; not part of the repr.
        service_name: the name to register, which becomes the client_id.
        service_display_name: the name that people see; the service name if None.
        service_description: what the service is for.
        service_type: a `ServiceType`, or another string that identity-api knows.
        client_id: with the next two, pre-configured credentials: no registration happens.
        client_secret: not part of the repr.
        client_secret_file: a file to read the secret from, now and when it is rejected.
        token_endpoint: the URL that issues tokens.
        max_registration_attempts: failed attempts in a row before giving up, at least 1;
            None for no limit.
        base_retry_delay: the first pause after a failure, above 0.
        max_retry_delay: the longest pause, not below ``base_retry_delay``.
        request_timeout: what one HTTP request may take in all, above 0.
        token_timeout: what ``get_access_token()`` waits at most unless told otherwise, above 0.
        refresh_ratio: the part of a token's lifetime, between 0 and 1, after which it is replaced;
            by chance somewhat before, so that replicas do not refresh in step.
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
        ConfigurationError: a value cannot be used, or a required one is missing. The message
            names the field and its environment variable, never a secret.
    """

    identity_api_url: str | None = _setting("IDENTITY_API_URL", _base_url, None)
    identity_api_internal_token: str | None = _setting(
        "IDENTITY_API_INTERNAL_TOKEN", _header_text, None, secret=True
    )
    service_name: str = _setting("SERVICE_NAME", _text)
    service_display_name: str | None = _setting("SERVICE_DISPLAY_NAME", _text, None)
    service_description: str | None = _setting("SERVICE_DESCRIPTION", _text, None)
    service_type: str = _setting("SERVICE_TYPE", _text, ServiceType.BACKEND)
    client_id: str | None = _setting("SERVICE_CLIENT_ID", _text, None)
    client_secret: str | None = _setting("SERVICE_CLIENT_SECRET", _text, None, secret=True)
    client_secret_file: str | None = _setting("SERVICE_CLIENT_SECRET_FILE", _text, None)
    token_endpoint: str | None = _setting("SERVICE_TOKEN_ENDPOINT", _url, None)
    max_registration_attempts: int | None = _setting(
        "IDENTITY_MAX_REGISTRATION_ATTEMPTS", _count, None, read=int
    )
    base_retry_delay: float = _setting("IDENTITY_BASE_RETRY_DELAY", _seconds, 5.0, read=float)
    max_retry_delay: float = _setting("IDENTITY_MAX_RETRY_DELAY", _seconds, 300.0, read=float)
    request_timeout: float = _setting("IDENTITY_REQUEST_TIMEOUT", _seconds, 10.0, read=float)
    token_timeout: float = _setting("IDENTITY_TOKEN_TIMEOUT", _seconds, 10.0, read=float)
    refresh_ratio: float = _setting("IDENTITY_REFRESH_RATIO", _ratio, 0.9, read=float)
    allow_secret_regeneration: bool = _setting(
        "IDENTITY_ALLOW_SECRET_REGENERATION", _flag, True, read=_read_flag
    )
    credential_store: str = _setting("IDENTITY_CREDENTIAL_STORE", _store, "memory:", secret=True)
    credential_store_key: str | None = _setting(
        "IDENTITY_CREDENTIAL_STORE_KEY", _text, None, secret=True
    )
    token_endpoint_auth_method: str = _setting(
        "IDENTITY_TOKEN_ENDPOINT_AUTH_METHOD", _auth_method, "client_secret_post"
    )
    scope: str | None = _setting("IDENTITY_SCOPE", _text, None)
    ca_bundle: str | None = _setting("IDENTITY_CA_BUNDLE", _text, None)
    client_cert: str | tuple[str, str] | None = _setting(
        "IDENTITY_CLIENT_CERT", _certificate, None, read=_read_certificate
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        fields = attrs.fields_dict(type(self))
        if self.client_secret is None and self.client_secret_file is not None:
            object.__setattr__(self, "client_secret", self.read_client_secret())
        if self.max_retry_delay < self.base_retry_delay:
            raise _wrong(fields["max_retry_delay"], "must not be below base_retry_delay")
        if self.preconfigured_credentials is not None:
            return
        given = ("client_id", "client_secret", "token_endpoint")
        missing = [name for name in given if getattr(self, name) is None]
        if len(missing) < len(given):
            _log.warning(
                "pre-configured credentials are incomplete: %s is missing, so %r will be "
                "registered with identity-api",
                " and ".join(f"{name} ({fields[name].metadata['env']})" for name in missing),
                self.service_name,
            )
        for name in ("identity_api_url", "identity_api_internal_token"):
            if getattr(self, name) is None:
                raise _wrong(
                    fields[name],
                    "is missing; set it, or client_id, client_secret and token_endpoint together",
                )

    @sealed
    def read_client_secret(self) -> str | None:
        """Read ``client_secret_file``; return None where there is no such setting.

        Raises:
            ConfigurationError: the file cannot be read, or holds no secret.
        """
        if self.client_secret_file is None:
            return None
        setting = attrs.fields_dict(type(self))["client_secret"]
        secret = _read_file(setting, self.client_secret_file)
        _text(self, setting, secret)
        return secret

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
    @sealed
    def from_env(
        cls, environ: Mapping[str, str] = os.environ, **overrides: Any
    ) -> IdentityBootstrapConfig:
        """Read the settings from environment variables.

        A secret's variable may instead be given with the suffix ``_FILE`` and name a file, as
        mounted secrets are; white space at the end of the file is dropped.

        Args:
            environ: the variables to read.
            overrides: settings that win over the variables.

        Raises:
            ConfigurationError: a variable, or the file it names, cannot be used.
        """
        values = dict(overrides)
        unknown = overrides.keys() - attrs.fields_dict(cls).keys()
        if unknown:
            raise ConfigurationError(f"there is no setting {min(unknown)!r}")
        if "client_secret" in overrides:
            values.setdefault("client_secret_file", None)
        for setting in attrs.fields(cls):
            if setting.name not in values:
                text = _variable(setting, environ)
                if text is not None:
                    values[setting.name] = _parsed(setting, text)
        if "service_name" not in values:
            raise _wrong(attrs.fields_dict(cls)["service_name"], "is missing; set it")
        return cls(**values)


def _variable(setting: attrs.Attribute[Any], environ: Mapping[str, str]) -> str | None:
    variable = setting.metadata["env"]
    value = environ.get(variable)
    file = environ.get(f"{variable}_FILE") if setting.metadata["secret"] else None
    if file is None:
        return value
    if value is not None:
        raise _wrong(setting, f"and {variable}_FILE are both set; keep one of them")
    return _read_file(setting, file)


def _read_file(setting: attrs.Attribute[Any], file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise _wrong(
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
        raise _wrong(setting, f"must be {kind}") from None
