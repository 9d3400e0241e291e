"""The settings of a service, from keyword arguments or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from ._environment import named, read_secret, read_variables, warn_of_misspelt
from ._frames import hide_frames, hide_init_frames
from ._public import public
from ._settings import (
    Settings,
    ValidatedRecord,
    check_auth_method,
    check_base_url,
    check_bundle,
    check_certificate,
    check_count,
    check_flag,
    check_header_text,
    check_prefix,
    check_ratio,
    check_seconds,
    check_status_file,
    check_store,
    check_text,
    check_url,
    config_error,
    raise_all,
    setting,
    value_problems,
    warn_of_milliseconds,
)
from .errors import ConfigurationError
from .models import ServiceCredentials, ServiceType


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

    base_url: str = setting(None, check_base_url)
    internal_token: str = setting(None, check_header_text, secret=True)
    timeout: float = setting(None, check_seconds, 10.0)
    ca_bundle: str | None = setting(None, check_bundle, None)
    client_cert: str | tuple[str, str] | None = setting(None, check_certificate, None)


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
        client_secret: the secret of that client; not part of the repr.
        client_secret_file: a file to read the secret from, now and when it is rejected.
        token_endpoint: the URL of the token endpoint, where tokens are requested.
        max_registration_attempts: failed attempts in a row after which registration ends, at
            least 1; None for no limit.
        base_retry_delay: seconds of the first pause after a failed registration, above 0; each
            pause doubles the one before, and half of it is random.
        max_retry_delay: seconds of the longest pause, not below ``base_retry_delay``.
        max_token_retry_delay: seconds of the longest pause between token requests, above 0; the
            first one is 1 s.
        request_timeout: seconds that one HTTP request may take in all, above 0.
        token_timeout: seconds that ``get_access_token()`` waits when it is called without a
            timeout, above 0.
        refresh_ratio: the part of a token's lifetime after which it is refreshed, at least 0.1
            and below 1. The moment is random, up to a tenth earlier, so that replicas do not
            refresh in step.
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
        status_file: a file to write the status to with each event, for probes and
            ``identity-client status``; ``{pid}`` in it stands for the process id. It is removed on
            ``close()``.
        env_prefix: what the names of its environment variables begin with, for error messages;
            `from_env` sets it.

    Raises:
        ConfigurationError: values cannot be used, or required ones are missing. The message names
            each field and its environment variable, never a secret.
    """

    identity_api_url: str | None = setting("IDENTITY_API_URL", check_base_url, None)
    identity_api_internal_token: str | None = setting(
        "IDENTITY_API_INTERNAL_TOKEN", check_header_text, None, secret=True
    )
    identity_api_internal_token_file: str | None = setting(
        "IDENTITY_API_INTERNAL_TOKEN_FILE", check_text, None
    )
    service_name: str = setting("SERVICE_NAME", check_text, alias="IDENTITY_SERVICE_NAME")
    service_display_name: str | None = setting("SERVICE_DISPLAY_NAME", check_text, None)
    service_description: str | None = setting("SERVICE_DESCRIPTION", check_text, None)
    service_type: str = setting("SERVICE_TYPE", check_text, ServiceType.BACKEND)
    client_id: str | None = setting("SERVICE_CLIENT_ID", check_text, None)
    client_secret: str | None = setting("SERVICE_CLIENT_SECRET", check_text, None, secret=True)
    client_secret_file: str | None = setting("SERVICE_CLIENT_SECRET_FILE", check_text, None)
    token_endpoint: str | None = setting("SERVICE_TOKEN_ENDPOINT", check_url, None)
    max_registration_attempts: int | None = setting(
        "IDENTITY_MAX_REGISTRATION_ATTEMPTS", check_count, None, read=int
    )
    base_retry_delay: float = setting("IDENTITY_BASE_RETRY_DELAY", check_seconds, 5.0, read=float)
    max_retry_delay: float = setting("IDENTITY_MAX_RETRY_DELAY", check_seconds, 300.0, read=float)
    max_token_retry_delay: float = setting(
        "IDENTITY_MAX_TOKEN_RETRY_DELAY", check_seconds, 30.0, read=float
    )
    request_timeout: float = setting("IDENTITY_REQUEST_TIMEOUT", check_seconds, 10.0, read=float)
    token_timeout: float = setting("IDENTITY_TOKEN_TIMEOUT", check_seconds, 10.0, read=float)
    refresh_ratio: float = setting("IDENTITY_REFRESH_RATIO", check_ratio, 0.9, read=float)
    allow_secret_regeneration: bool = setting(
        "IDENTITY_ALLOW_SECRET_REGENERATION", check_flag, True, read=_read_flag
    )
    credential_store: str = setting(
        "IDENTITY_CREDENTIAL_STORE", check_store, "memory:", secret=True
    )
    credential_store_key: str | None = setting(
        "IDENTITY_CREDENTIAL_STORE_KEY", check_text, None, secret=True
    )
    token_endpoint_auth_method: str = setting(
        "IDENTITY_TOKEN_ENDPOINT_AUTH_METHOD", check_auth_method, "client_secret_post"
    )
    scope: str | None = setting("IDENTITY_SCOPE", check_text, None)
    ca_bundle: str | None = setting("IDENTITY_CA_BUNDLE", check_bundle, None)
    client_cert: str | tuple[str, str] | None = setting(
        "IDENTITY_CLIENT_CERT", check_certificate, None, read=_read_certificate
    )
    status_file: str | None = setting("IDENTITY_STATUS_FILE", check_status_file, None)
    env_prefix: str = setting(None, check_prefix, "")

    def __attrs_post_init__(self) -> None:
        settings = self._settings()
        values = {name: getattr(self, name) for name in settings}
        raise_all(_config_problems(settings, values))
        for name in _FROM_FILES:
            object.__setattr__(self, name, values[name])
        warn_of_milliseconds(values)

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
        return None if file is None else read_secret(self._settings()[name], file)

    def _settings(self) -> Settings:
        return named(attrs.fields_dict(type(self)), str(self.env_prefix))

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
        settings = named(fields, prefix, environ)
        read_variables(settings, environ, values, problems)
        warn_of_misspelt(fields.values(), environ, prefix)
        raise_all(_config_problems(settings, values, problems))
        known: dict[str, Any] = {"env_prefix": prefix, **values}
        return cls(**known)


# Settings that a file may hold, which the setting with the suffix _file names.
_FROM_FILES = ("identity_api_internal_token", "client_secret")

_PRECONFIGURED = ("client_id", "client_secret", "token_endpoint")


def _config_problems(
    settings: Settings, values: dict[str, Any], known: Mapping[str, str] | None = None
) -> list[str]:
    """Return all problems, those that are known first, and add what files hold to the values.

    What is already known to be wrong is not part of the values, and nothing more is said of it.
    """
    problems = dict(known or {})
    problems |= value_problems(settings, values)
    for name in _FROM_FILES:
        file = f"{name}_file"
        if values.get(name) is None and values.get(file) and not {name, file} & problems.keys():
            try:
                values[name] = read_secret(settings[name], values[file])
            except ConfigurationError as error:
                problems[name] = error.message
    usable = {name: setting.default for name, setting in settings.items()} | values
    for name in problems:
        usable.pop(name, None)
        usable.pop(name.removesuffix("_file"), None)
    return [*problems.values(), *_combination_problems(settings, usable)]


def _combination_problems(settings: Settings, usable: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []

    def report(name: str, problem: str) -> None:
        problems.append(config_error(settings[name], problem).message)

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
