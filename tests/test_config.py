"""Settings: where they come from, what they become, and what cannot be used."""

from __future__ import annotations

import copy
import inspect
import logging
import math
import os
import pickle
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from identity_client import (
    ConfigurationError,
    IdentityApiClientOptions,
    IdentityBootstrapConfig,
    ServiceCredentials,
)

REQUIRED: dict[str, Any] = {
    "service_name": "orders",
    "identity_api_url": "http://identity-api:3053",
    "identity_api_internal_token": "internal-token",
}
ENVIRON = {
    "SERVICE_NAME": "orders",
    "IDENTITY_API_URL": "http://identity-api:3053",
    "IDENTITY_API_INTERNAL_TOKEN": "internal-token",
}
PRECONFIGURED: dict[str, Any] = {
    "client_id": "orders-client",
    "client_secret": "a-client-secret",
    "token_endpoint": "http://keycloak/token",
}
WITH_CREDENTIALS = {
    **ENVIRON,
    "SERVICE_CLIENT_ID": "orders-client",
    "SERVICE_CLIENT_SECRET": "a-client-secret",
    "SERVICE_TOKEN_ENDPOINT": "http://keycloak/token",
}
OPTIONS: dict[str, Any] = {"base_url": "http://identity-api", "internal_token": "internal-token"}

VARIABLES = {
    "identity_api_url": "IDENTITY_API_URL",
    "identity_api_internal_token": "IDENTITY_API_INTERNAL_TOKEN",
    "identity_api_internal_token_file": "IDENTITY_API_INTERNAL_TOKEN_FILE",
    "service_name": "SERVICE_NAME",
    "service_display_name": "SERVICE_DISPLAY_NAME",
    "service_description": "SERVICE_DESCRIPTION",
    "service_type": "SERVICE_TYPE",
    "client_id": "SERVICE_CLIENT_ID",
    "client_secret": "SERVICE_CLIENT_SECRET",
    "client_secret_file": "SERVICE_CLIENT_SECRET_FILE",
    "token_endpoint": "SERVICE_TOKEN_ENDPOINT",
    "max_registration_attempts": "IDENTITY_MAX_REGISTRATION_ATTEMPTS",
    "base_retry_delay": "IDENTITY_BASE_RETRY_DELAY",
    "max_retry_delay": "IDENTITY_MAX_RETRY_DELAY",
    "max_token_retry_delay": "IDENTITY_MAX_TOKEN_RETRY_DELAY",
    "request_timeout": "IDENTITY_REQUEST_TIMEOUT",
    "token_timeout": "IDENTITY_TOKEN_TIMEOUT",
    "refresh_ratio": "IDENTITY_REFRESH_RATIO",
    "allow_secret_regeneration": "IDENTITY_ALLOW_SECRET_REGENERATION",
    "credential_store": "IDENTITY_CREDENTIAL_STORE",
    "credential_store_key": "IDENTITY_CREDENTIAL_STORE_KEY",
    "token_endpoint_auth_method": "IDENTITY_TOKEN_ENDPOINT_AUTH_METHOD",
    "scope": "IDENTITY_SCOPE",
    "ca_bundle": "IDENTITY_CA_BUNDLE",
    "client_cert": "IDENTITY_CLIENT_CERT",
    "status_file": "IDENTITY_STATUS_FILE",
}
SECRETS = ("identity_api_internal_token", "client_secret", "credential_store_key")

Raise = Callable[[], object]


def refusal(call: Raise) -> ConfigurationError:
    """Return the error that a call ends with."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    return caught.value


def everything_shown(error: BaseException) -> str:
    """Return what error reporters see: messages, and locals of all frames but this file's."""
    told: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None:
            continue
        pending += [link.__cause__, link.__context__]
        report = traceback.TracebackException.from_exception(link, capture_locals=True)
        told += report.format_exception_only()
        told.append(repr(vars(link)))
        for frame in report.stack:
            if frame.filename != __file__:
                told.append(f"{frame.name}: {frame.locals}")
    return "\n".join(told)


# --- values that can be used ---


def test_the_defaults_are_as_documented() -> None:
    config = IdentityBootstrapConfig(**REQUIRED)
    assert attrs.asdict(config) == {
        **REQUIRED,
        "identity_api_internal_token_file": None,
        "service_display_name": None,
        "service_description": None,
        "service_type": "BACKEND",
        "client_id": None,
        "client_secret": None,
        "client_secret_file": None,
        "token_endpoint": None,
        "max_registration_attempts": None,
        "base_retry_delay": 5.0,
        "max_retry_delay": 300.0,
        "max_token_retry_delay": 30.0,
        "request_timeout": 10.0,
        "token_timeout": 10.0,
        "refresh_ratio": 0.9,
        "allow_secret_regeneration": True,
        "credential_store": "memory:",
        "credential_store_key": None,
        "token_endpoint_auth_method": "client_secret_post",
        "scope": None,
        "ca_bundle": None,
        "client_cert": None,
        "status_file": None,
        "env_prefix": "",
    }
    assert IdentityBootstrapConfig.from_env(ENVIRON) == config


def test_every_setting_has_the_documented_variable() -> None:
    fields = attrs.fields_dict(IdentityBootstrapConfig)
    variables = {name: setting.metadata["env"] for name, setting in fields.items()}
    assert variables.pop("env_prefix") is None
    assert variables == VARIABLES


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        pytest.param("identity_api_url", "https://[::1]:8443/base/", None, id="a URL"),
        pytest.param("identity_api_internal_token", "a.b-c_d~+/=!", None, id="visible ASCII"),
        pytest.param("service_name", "billing service", None, id="a name with a blank"),
        pytest.param("service_display_name", "Zahlungen für Ålesund ✓", None, id="any language"),
        pytest.param("service_description", " pays ", None, id="blanks at the ends are kept"),
        pytest.param("service_type", "BACKEND", None, id="the type that is known"),
        pytest.param("service_type", "FRONTEND", None, id="a type that only identity-api knows"),
        pytest.param("client_id", "client:1", None, id="a client_id with a colon"),
        pytest.param("client_secret", "+ / % : & ü", None, id="a secret of any characters"),
        pytest.param(
            "token_endpoint", "http://keycloak/t?a=b", None, id="an endpoint with a query"
        ),
        pytest.param("max_registration_attempts", "1", 1, id="the least attempts"),
        pytest.param("base_retry_delay", "0.25", 0.25, id="a fraction of a second"),
        pytest.param("base_retry_delay", "300", 300.0, id="base and longest delay may be equal"),
        pytest.param("max_retry_delay", "1e3", 1000.0, id="an exponent"),
        pytest.param("request_timeout", " 3 ", 3.0, id="a number with blanks around"),
        pytest.param("request_timeout", "1000000", 1e6, id="the longest time"),
        pytest.param("token_timeout", "2.5", 2.5, id="a token timeout"),
        pytest.param("refresh_ratio", "0.5", 0.5, id="a ratio"),
        pytest.param("allow_secret_regeneration", "true", True, id="true"),
        pytest.param("allow_secret_regeneration", "YES", True, id="YES"),
        pytest.param("allow_secret_regeneration", "1", True, id="1"),
        pytest.param("allow_secret_regeneration", "False", False, id="False"),
        pytest.param("allow_secret_regeneration", "no", False, id="no"),
        pytest.param("allow_secret_regeneration", "0", False, id="0"),
        pytest.param("credential_store", "memory:", None, id="a store"),
        pytest.param("token_endpoint_auth_method", "client_secret_post", None, id="post"),
        pytest.param("token_endpoint_auth_method", "client_secret_basic", None, id="basic"),
        pytest.param("scope", "openid profile", None, id="two scopes"),
        pytest.param("ca_bundle", __file__, None, id="a bundle"),
        pytest.param("client_cert", __file__, None, id="a certificate with its key"),
        pytest.param("client_cert", f"{__file__},{__file__}", (__file__, __file__), id="two files"),
    ],
)
def test_a_variable_and_an_argument_give_the_same(name: str, text: str, value: Any) -> None:
    expected = text if value is None else value
    from_env = IdentityBootstrapConfig.from_env({**WITH_CREDENTIALS, VARIABLES[name]: text})
    given = IdentityBootstrapConfig(**{**REQUIRED, **PRECONFIGURED, name: expected})
    assert getattr(from_env, name) == expected
    assert type(getattr(from_env, name)) is type(expected)
    assert from_env == given


def test_whole_numbers_pass_for_seconds() -> None:
    config = IdentityBootstrapConfig(**REQUIRED, base_retry_delay=1, max_retry_delay=2)
    assert (config.base_retry_delay, config.max_retry_delay) == (1, 2)


def test_the_environment_of_the_process_is_read_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable, value)
    assert IdentityBootstrapConfig.from_env() == IdentityBootstrapConfig(**REQUIRED)
    assert IdentityBootstrapConfig.from_env(os.environ) == IdentityBootstrapConfig(**REQUIRED)


def test_overrides_win_over_variables_even_over_those_that_cannot_be_used() -> None:
    environ = {
        **ENVIRON,
        "IDENTITY_API_INTERNAL_TOKEN_FILE": "/there/is/none",
        "IDENTITY_REQUEST_TIMEOUT": "soon",
        "IDENTITY_SCOPE": "a",
    }
    config = IdentityBootstrapConfig.from_env(
        environ,
        service_name="billing",
        identity_api_internal_token="another",
        request_timeout=3.0,
        scope=None,
    )
    assert config.service_name == "billing"
    assert config.identity_api_internal_token == "another"
    assert config.request_timeout == 3.0
    assert config.scope is None
    assert config.identity_api_url == "http://identity-api:3053"


def test_a_configuration_cannot_be_changed() -> None:
    config = IdentityBootstrapConfig(**REQUIRED)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.scope = "a"  # type: ignore[misc]  # what is shown here


# --- pre-configured credentials ---


def test_pre_configured_credentials_need_no_identity_api() -> None:
    config = IdentityBootstrapConfig(service_name="orders", **PRECONFIGURED)
    assert config.preconfigured_credentials == ServiceCredentials(**PRECONFIGURED)
    environ = {"SERVICE_NAME": "orders", **{VARIABLES[k]: v for k, v in PRECONFIGURED.items()}}
    assert IdentityBootstrapConfig.from_env(environ) == config


def test_without_any_of_them_there_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert IdentityBootstrapConfig(**REQUIRED).preconfigured_credentials is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        pytest.param(["client_id"], ["client_secret", "token_endpoint"], id="only the id"),
        pytest.param(["client_secret"], ["client_id", "token_endpoint"], id="only the secret"),
        pytest.param(["token_endpoint"], ["client_id", "client_secret"], id="only the endpoint"),
        pytest.param(["client_id", "client_secret"], ["token_endpoint"], id="no endpoint"),
        pytest.param(["client_id", "token_endpoint"], ["client_secret"], id="no secret"),
        pytest.param(["client_secret", "token_endpoint"], ["client_id"], id="no id"),
    ],
)
def test_incomplete_pre_configured_credentials_are_refused(
    given: list[str], missing: list[str]
) -> None:
    parts = {name: PRECONFIGURED[name] for name in given}
    for required in (REQUIRED, {"service_name": "orders"}):
        error = refusal(partial(IdentityBootstrapConfig, **required, **parts))
        assert error.problems == tuple(
            f"{name} ({VARIABLES[name]}) is missing; set it, or leave out client_id, "
            "client_secret and token_endpoint, which belong together"
            for name in missing
        )
        assert PRECONFIGURED["client_secret"] not in everything_shown(error)


# --- what is missing ---


@pytest.mark.parametrize("name", ["identity_api_url", "identity_api_internal_token"])
def test_identity_api_is_required_without_pre_configured_credentials(name: str) -> None:
    error = refusal(partial(IdentityBootstrapConfig, **{**REQUIRED, name: None}))
    assert error.message.startswith(f"{name} ({VARIABLES[name]}) is missing; set it")
    assert "client_id, client_secret and token_endpoint" in error.message
    environ = {**ENVIRON}
    del environ[VARIABLES[name]]
    assert f"({VARIABLES[name]}) is missing" in str(
        refusal(lambda: IdentityBootstrapConfig.from_env(environ))
    )


def test_a_name_is_required_in_the_environment() -> None:
    error = refusal(
        lambda: IdentityBootstrapConfig.from_env({"SERVICE_CLIENT_SECRET": "a-client-secret"})
    )
    assert "service_name (SERVICE_NAME) is missing; set it" in error.problems
    assert "a-client-secret" not in everything_shown(error)


def test_a_setting_that_there_is_not_is_named() -> None:
    error = refusal(
        lambda: IdentityBootstrapConfig.from_env(
            ENVIRON, token_timeuot=3, identity_api_internal_token="internal-" + "override"
        )
    )
    assert error.message == "unknown setting 'token_timeuot'"
    shown = everything_shown(error)
    assert "internal-override" not in shown
    assert ENVIRON["IDENTITY_API_INTERNAL_TOKEN"] not in shown


# --- values that cannot be used ---

_EMPTY = "is empty; set it to a value or leave it out"
_NOT_HTTP = "is not an http:// or https:// URL with a host"
_CHARACTER = "contains whitespace, a control character or a non-ASCII character"
_ASCII = "must contain only printable ASCII and no spaces"
_SECONDS = "must be a number of seconds above 0, at most 1000000"
_RATIO = "must be a number of at least 0.1 and below 1"
_FILE = "names the file '/there/is/none', which does not exist or cannot be read"
_WHOLE = "must be an integer of at least 1, or unset for no limit"
_DIRECTORY = "is a directory; name a file in it"
_PAIR = "must be one file, or a pair of files"


def _texts(*names: str) -> list[Any]:
    """Rows for what no text may be."""
    return [
        pytest.param(name, value, problem, id=f"{name} {what}")
        for name in names
        for value, problem, what in (
            ("", _EMPTY, "is empty"),
            (" \t", _EMPTY, "is blank"),
            ("hunter2\n", "contains a control character", "has a line break"),
            ("hunter2\x00", "contains a control character", "has a NUL"),
            ("hunter2\x7f", "contains a control character", "has a DEL"),
            ("hunter2\udcff", "is not UTF-8 text", "is other bytes"),
            (b"hunter2", "must be a string", "is bytes"),
            (["hunter2"], "must be a string", "is a list"),
        )
    ]


def _urls(*names: str) -> list[Any]:
    """Rows for what no URL may be."""
    return [
        pytest.param(name, value, problem, id=f"{name} {what}")
        for name in names
        for value, problem, what in (
            ("identity-api", _NOT_HTTP, "has no scheme"),
            ("identity-api:3053", _NOT_HTTP, "has a host for a scheme"),
            ("ftp://identity-api", _NOT_HTTP, "is of another protocol"),
            ("http://", _NOT_HTTP, "has no host"),
            ("http:///path", _NOT_HTTP, "has a path only"),
            ("http://host:0", _NOT_HTTP, "has port 0"),
            ("http://host:port", "is not a URL", "has a port that is no number"),
            ("http://host:65536", "is not a URL", "has a port that is too high"),
            ("http://[::1", "is not a URL", "has half a bracket"),
            ("http://a host", _CHARACTER, "has a blank"),
            ("http://höst", _CHARACTER, "has an umlaut"),
            (
                "http://user:hunter2@host",
                "must not hold a user name or a password",
                "has a password",
            ),
            ("http://user@host", "must not hold a user name or a password", "has a user"),
            ("http://host/#here", "must not have a fragment", "has a fragment"),
            ("http://host/#", "must not have a fragment", "has an empty fragment"),
            ("http://host/?", "ends with a question mark", "has an empty query"),
        )
    ]


def _times(*names: str) -> list[Any]:
    """Rows for what no time may be."""
    return [
        pytest.param(name, value, problem, id=f"{name} {what}")
        for name in names
        for value, problem, what in (
            (0, _SECONDS, "is zero"),
            (-1.5, _SECONDS, "is negative"),
            (math.nan, _SECONDS, "is not a number"),
            (math.inf, _SECONDS, "is infinite"),
            (1_000_001, _SECONDS, "is longer than sockets can wait"),
            (10**400, _SECONDS, "is larger than a float"),
            (True, "must be a number of seconds", "is a boolean"),
            ("5", "must be a number of seconds", "is text"),
            (None, "must be a number of seconds", "is None"),
        )
    ]


UNUSABLE = [
    *_texts(
        "identity_api_url",
        "identity_api_internal_token",
        "service_name",
        "service_display_name",
        "service_description",
        "service_type",
        "client_id",
        "client_secret",
        "token_endpoint",
        "credential_store",
        "scope",
        "ca_bundle",
        "client_cert",
    ),
    *_urls("identity_api_url", "token_endpoint"),
    *_times("base_retry_delay", "max_retry_delay", "request_timeout", "token_timeout"),
    pytest.param("service_name", None, "must be a string", id="service_name is None"),
    pytest.param("credential_store", None, "must be a string", id="credential_store is None"),
    pytest.param(
        "credential_store", "a/b", "is not a credential store URL", id="a store without scheme"
    ),
    pytest.param("identity_api_url", "http://a?b=c", "is a base URL and must not", id="a query"),
    pytest.param("identity_api_internal_token", "hunter2 b", _ASCII, id="a token with a blank"),
    pytest.param("identity_api_internal_token", "hünter2", _ASCII, id="a token with an umlaut"),
    pytest.param("max_retry_delay", 4.9, "must not be below base_retry_delay", id="max below base"),
    pytest.param("refresh_ratio", 0, _RATIO, id="a ratio of 0"),
    pytest.param("refresh_ratio", 1, _RATIO, id="a ratio of 1"),
    pytest.param("refresh_ratio", -0.1, _RATIO, id="a negative ratio"),
    pytest.param("refresh_ratio", 0.09, _RATIO, id="a ratio that refreshes all the time"),
    pytest.param("refresh_ratio", 90, _RATIO, id="a ratio in per cent"),
    pytest.param("refresh_ratio", math.nan, _RATIO, id="a ratio that is not a number"),
    pytest.param("refresh_ratio", True, _RATIO, id="a ratio that is a boolean"),
    pytest.param("refresh_ratio", "0.9", _RATIO, id="a ratio that is text"),
    pytest.param("max_registration_attempts", 0, _WHOLE, id="no attempts"),
    pytest.param("max_registration_attempts", -1, _WHOLE, id="fewer than no attempts"),
    pytest.param("max_registration_attempts", 1.0, _WHOLE, id="attempts as a float"),
    pytest.param("max_registration_attempts", True, _WHOLE, id="attempts as a boolean"),
    pytest.param("allow_secret_regeneration", 1, "must be true or false", id="a flag of 1"),
    pytest.param("allow_secret_regeneration", "no", "must be true or false", id="a flag of text"),
    pytest.param("allow_secret_regeneration", None, "must be true or false", id="a flag of None"),
    pytest.param(
        "token_endpoint_auth_method",
        "private_key_jwt",
        "must be one of client_secret_post, client_secret_basic",
        id="an auth method that is not supported",
    ),
    pytest.param("client_cert", (), _PAIR, id="no file"),
    pytest.param("client_cert", ("a",), _PAIR, id="a tuple of one file"),
    pytest.param("client_cert", ("a", "b", "c"), _PAIR, id="three files"),
    pytest.param("client_cert", ("a", ""), _EMPTY, id="a pair without its key"),
    pytest.param("client_cert", ["a", "b"], "must be a string", id="a list of files"),
    pytest.param("client_cert", "/there/is/none", _FILE, id="a certificate that is not there"),
    pytest.param("client_cert", (__file__, "/there/is/none"), _FILE, id="a key that is not there"),
    pytest.param("ca_bundle", "/there/is/none", _FILE, id="a bundle that is not there"),
    pytest.param("status_file", "/", _DIRECTORY, id="a status file that is the root"),
    pytest.param("status_file", ".", _DIRECTORY, id="a status file that is the directory"),
]


@pytest.mark.parametrize(("name", "value", "problem"), UNUSABLE)
def test_a_value_that_cannot_be_used_is_refused(name: str, value: Any, problem: str) -> None:
    values = {**REQUIRED, name: value}
    for call in (
        lambda: IdentityBootstrapConfig(**values),
        lambda: IdentityBootstrapConfig.from_env(ENVIRON, **values),
    ):
        error = refusal(call)
        assert error.message.startswith(f"{name} ({VARIABLES[name]}) {problem}")
        assert "None" not in error.message
        shown = everything_shown(error)
        assert REQUIRED["identity_api_internal_token"] not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        pytest.param(name, text, problem, id=f"{name} {what}")
        for name, text, problem, what in (
            ("max_registration_attempts", "many", "must be a whole number", "is a word"),
            ("max_registration_attempts", "2.5", "must be a whole number", "is a fraction"),
            ("max_registration_attempts", "", "must be a whole number", "is empty"),
            ("max_registration_attempts", "0", _WHOLE, "is 0"),
            ("base_retry_delay", "soon", "must be a number", "is a word"),
            ("base_retry_delay", "-1", _SECONDS, "is negative"),
            ("max_retry_delay", "5 min", "must be a number", "has a unit"),
            ("max_retry_delay", "1", "must not be below base_retry_delay", "is below the base"),
            ("request_timeout", "", "must be a number", "is empty"),
            ("request_timeout", "nan", _SECONDS, "is nan"),
            ("token_timeout", "inf", _SECONDS, "is inf"),
            ("refresh_ratio", "90%", "must be a number", "is in per cent"),
            ("refresh_ratio", "1", _RATIO, "is 1"),
            ("allow_secret_regeneration", "maybe", "must be true or false", "is maybe"),
            ("allow_secret_regeneration", "", "must be true or false", "is empty"),
            ("client_cert", "a,", _EMPTY, "has no key"),
            ("client_cert", "", _EMPTY, "is empty"),
            ("service_description", "", _EMPTY, "is empty"),
            ("client_secret", "", _EMPTY, "is empty"),
            ("client_secret", "hunter2\n", "contains a control character", "has a line break"),
            ("client_secret", "hunter2\udcff", "is not UTF-8 text", "is other bytes"),
            (
                "identity_api_internal_token",
                "hunter2\r\n",
                "contains a control",
                "has a line break",
            ),
            ("identity_api_internal_token", "hunter2 ", _ASCII, "has a blank"),
        )
    ],
)
def test_a_variable_that_cannot_be_used_is_refused(name: str, text: str, problem: str) -> None:
    environ = {**WITH_CREDENTIALS, VARIABLES[name]: text}
    error = refusal(lambda: IdentityBootstrapConfig.from_env(environ))
    assert error.message.startswith(f"{name} ({VARIABLES[name]}) {problem}")
    shown = everything_shown(error)
    for secret in ("internal-token", "a-client-secret", "hunter2"):
        assert secret not in shown


# --- secrets in files ---


def test_the_store_is_a_secret_too_as_its_url_may_hold_a_password(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("redis://:hunter2@redis/0\n")
    environ = {**ENVIRON, "IDENTITY_CREDENTIAL_STORE_FILE": str(file)}
    config = IdentityBootstrapConfig.from_env(environ)
    assert config.credential_store == "redis://:hunter2@redis/0"
    assert "hunter2" not in repr(config)


def test_a_secret_that_is_given_wins_over_the_file(secret_file: Callable[[bytes], str]) -> None:
    environ = {**WITH_CREDENTIALS, "IDENTITY_API_INTERNAL_TOKEN_FILE": secret_file(b"in the file")}
    del environ["SERVICE_CLIENT_SECRET"], environ["IDENTITY_API_INTERNAL_TOKEN"]
    environ["SERVICE_CLIENT_SECRET_FILE"] = environ["IDENTITY_API_INTERNAL_TOKEN_FILE"]
    config = IdentityBootstrapConfig.from_env(
        environ, client_secret="given", identity_api_internal_token="given-too"
    )
    assert config.client_secret == "given"
    assert config.identity_api_internal_token == "given-too"
    assert config.read_client_secret() is None
    assert config.read_internal_token() is None


@pytest.mark.parametrize("name", ["client_secret", "identity_api_internal_token"])
def test_a_file_that_is_given_wins_over_the_variables(
    secret_file: Callable[[bytes], str], name: str
) -> None:
    given: dict[str, Any] = {f"{name}_file": secret_file(b"in-the-file")}
    for environ in (
        WITH_CREDENTIALS,
        {**WITH_CREDENTIALS, VARIABLES[f"{name}_file"]: "/there/is/none"},
    ):
        config = IdentityBootstrapConfig.from_env(environ, **given)
        assert getattr(config, name) == "in-the-file"


def test_a_client_secret_file_is_read_when_it_is_named_and_whenever_it_is_asked_for(
    secret_file: Callable[[bytes], str],
) -> None:
    file = secret_file(b"first\n")
    config = IdentityBootstrapConfig(
        **REQUIRED, client_id="a", token_endpoint="http://keycloak/token", client_secret_file=file
    )
    assert config.client_secret == "first"
    secret_file(b"second\n")
    assert config.read_client_secret() == "second"
    secret_file(b"\n")
    error = refusal(config.read_client_secret)
    assert error.message.startswith(f"client_secret (SERVICE_CLIENT_SECRET) {_EMPTY}")


@pytest.mark.parametrize("name", ["client_secret", "identity_api_internal_token"])
def test_a_pipe_is_read_once_and_its_secret_is_kept(name: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from-a-pipe\n")
    os.close(writer)
    environ = {**WITH_CREDENTIALS, f"{VARIABLES[name]}_FILE": f"/dev/fd/{reader}"}
    del environ[VARIABLES[name]]
    try:
        for _ in range(2):
            assert getattr(IdentityBootstrapConfig.from_env(environ), name) == "from-a-pipe"
        del environ[f"{VARIABLES[name]}_FILE"]
        given: dict[str, Any] = {f"{name}_file": f"/dev/fd/{reader}"}
        config = IdentityBootstrapConfig.from_env(environ, **given)
        read_again = {
            "client_secret": config.read_client_secret,
            "identity_api_internal_token": config.read_internal_token,
        }
        assert getattr(config, name) == read_again[name]() == "from-a-pipe"
    finally:
        os.close(reader)


def test_an_internal_token_file_is_read_when_it_is_named_and_whenever_it_is_asked_for(
    secret_file: Callable[[bytes], str],
) -> None:
    file = secret_file(b"first\n")
    config = IdentityBootstrapConfig(
        service_name="orders",
        identity_api_url="http://identity-api",
        identity_api_internal_token_file=file,
    )
    assert config.identity_api_internal_token == "first"
    secret_file(b"second\n")
    assert config.read_internal_token() == "second"
    secret_file(b"hunter2 hunter3\n")
    error = refusal(config.read_internal_token)
    token = "identity_api_internal_token (IDENTITY_API_INTERNAL_TOKEN)"
    assert error.message.startswith(f"{token} {_ASCII}")
    assert "hunter" not in everything_shown(error)
    Path(file).unlink()
    error = refusal(config.read_internal_token)
    assert error.message == (
        f"{token} cannot be read from the file that IDENTITY_API_INTERNAL_TOKEN_FILE names: "
        "No such file or directory"
    )


@pytest.mark.parametrize("name", ["client_secret", "identity_api_internal_token"])
def test_a_file_of_an_argument_that_holds_no_secret_is_refused(
    secret_file: Callable[[bytes], str], name: str
) -> None:
    values = {**REQUIRED, **PRECONFIGURED, name: None, f"{name}_file": secret_file(b"\n")}
    error = refusal(partial(IdentityBootstrapConfig, **values))
    assert error.message == f"{name} ({VARIABLES[name]}) {_EMPTY}"


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        path = tmp_path / "secret"
        path.write_bytes(content)
        return str(path)

    return write


def _environ_with_file(name: str, file: str) -> dict[str, str]:
    environ = {**WITH_CREDENTIALS, f"{VARIABLES[name]}_FILE": file}
    environ.pop(VARIABLES[name], None)
    return environ


@pytest.mark.parametrize(
    ("content", "value"),
    [
        pytest.param(b"s3cret", "s3cret", id="nothing else in it"),
        pytest.param(b"s3cret\n", "s3cret", id="a line break at the end"),
        pytest.param(b"s3cret \t\r\n\n", "s3cret", id="all kinds of white space at the end"),
    ],
)
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_read_from_the_file_that_its_variable_names(
    secret_file: Callable[[bytes], str], name: str, content: bytes, value: str
) -> None:
    config = IdentityBootstrapConfig.from_env(_environ_with_file(name, secret_file(content)))
    assert getattr(config, name) == value


def test_white_space_in_front_of_a_secret_belongs_to_it(
    secret_file: Callable[[bytes], str],
) -> None:
    environ = _environ_with_file("client_secret", secret_file(" für dich ".encode()))
    assert IdentityBootstrapConfig.from_env(environ).client_secret == " für dich"


@pytest.mark.parametrize(
    "name",
    sorted(VARIABLES.keys() - {*SECRETS, "credential_store"}),
)
def test_other_settings_have_no_file(name: str) -> None:
    environ = {**ENVIRON, f"{VARIABLES[name]}_FILE": "/there/is/none"}
    assert IdentityBootstrapConfig.from_env(environ) == IdentityBootstrapConfig(**REQUIRED)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", _EMPTY, id="empty"),
        pytest.param(b" \n", _EMPTY, id="white space only"),
        pytest.param(b"hunter2\nhunter3", "contains a control character", id="two lines"),
        pytest.param(
            b"hunter2\xff",
            "cannot be read from the file that {}_FILE names: it is not UTF-8 text",
            id="not UTF-8",
        ),
    ],
)
@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_holds_no_secret_is_refused(
    secret_file: Callable[[bytes], str], name: str, content: bytes, problem: str
) -> None:
    environ = _environ_with_file(name, secret_file(content))
    error = refusal(lambda: IdentityBootstrapConfig.from_env(environ))
    variable = VARIABLES[name]
    assert error.message.startswith(f"{name} ({variable}) {problem.format(variable)}")
    assert "hunter" not in everything_shown(error)


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_cannot_be_read_is_refused_and_the_system_says_why(
    name: str, tmp_path: Path
) -> None:
    for file, reason in (
        (str(tmp_path / "none"), "No such file or directory"),
        (str(tmp_path), "Is a directory"),
        ("", "Is a directory"),
    ):
        environ = _environ_with_file(name, file)
        error = refusal(partial(IdentityBootstrapConfig.from_env, environ))
        variable = VARIABLES[name]
        assert error.message == (
            f"{name} ({variable}) cannot be read from the file that {variable}_FILE names: {reason}"
        )


def test_a_secret_in_the_place_of_a_files_name_is_not_told() -> None:
    environ = _environ_with_file("client_secret", "hunter2")
    error = refusal(lambda: IdentityBootstrapConfig.from_env(environ))
    assert "hunter2" not in everything_shown(error)


@pytest.mark.parametrize("name", SECRETS)
def test_a_variable_and_its_file_exclude_each_other(
    secret_file: Callable[[bytes], str], name: str
) -> None:
    variable = VARIABLES[name]
    environ = {**WITH_CREDENTIALS, variable: "hunter2", f"{variable}_FILE": secret_file(b"hunter3")}
    error = refusal(lambda: IdentityBootstrapConfig.from_env(environ))
    assert error.message == (
        f"{name} ({variable}) and {variable}_FILE are both set; keep one of them"
    )
    assert "hunter" not in everything_shown(error)


@pytest.mark.parametrize("name", ["client_secret", "identity_api_internal_token"])
def test_a_secret_whose_file_cannot_be_used_is_not_also_called_missing(name: str) -> None:
    others = PRECONFIGURED if name in PRECONFIGURED else {}
    values = {**REQUIRED, **others, name: None, f"{name}_file": ""}
    error = refusal(partial(IdentityBootstrapConfig, **values))
    assert error.problems == (f"{name}_file ({VARIABLES[name]}_FILE) {_EMPTY}",)


# --- all problems at once ---


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    environ = {
        "IDENTITY_API_URL": "identity-api",
        "IDENTITY_API_INTERNAL_TOKEN_FILE": str(tmp_path / "none"),
        "IDENTITY_REQUEST_TIMEOUT": "10s",
        "IDENTITY_MAX_RETRY_DELAY": "1",
        "SERVICE_CLIENT_ID": "orders",
    }
    error = refusal(partial(IdentityBootstrapConfig.from_env, environ, scpoe="a"))
    token = (
        "identity_api_internal_token (IDENTITY_API_INTERNAL_TOKEN) cannot be read from the file "
        "that IDENTITY_API_INTERNAL_TOKEN_FILE"
    )
    parts = (
        "set it, or leave out client_id, client_secret and token_endpoint, which belong together"
    )
    assert set(error.problems) == {
        "unknown setting 'scpoe'",
        f"{token} names: No such file or directory",
        "request_timeout (IDENTITY_REQUEST_TIMEOUT) must be a number of seconds",
        f"identity_api_url (IDENTITY_API_URL) {_NOT_HTTP}",
        "service_name (SERVICE_NAME) is missing; set it",
        "max_retry_delay (IDENTITY_MAX_RETRY_DELAY) must not be below base_retry_delay",
        f"client_secret (SERVICE_CLIENT_SECRET) is missing; {parts}",
        f"token_endpoint (SERVICE_TOKEN_ENDPOINT) is missing; {parts}",
    }
    assert error.message == f"8 problems: {'; '.join(error.problems)}"


def test_one_problem_is_the_message() -> None:
    error = refusal(partial(IdentityBootstrapConfig, **{**REQUIRED, "scope": ""}))
    assert error.problems == (error.message,)
    assert ConfigurationError("a").problems == ("a",)


def test_the_problems_of_options_are_reported_at_once() -> None:
    error = refusal(partial(IdentityApiClientOptions, base_url="a", internal_token=""))
    assert [problem.split()[0] for problem in error.problems] == ["base_url", "internal_token"]


def test_the_problems_are_part_of_copies_and_pickles() -> None:
    error = refusal(partial(IdentityBootstrapConfig, service_name="", scope=""))
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (other.message, other.problems) == (error.message, error.problems)
        assert str(other) == error.message


# --- the names of variables ---


def test_the_help_does_not_show_the_environment() -> None:
    parameter = inspect.signature(IdentityBootstrapConfig.from_env).parameters["environ"]
    assert parameter.default is None


def test_the_name_has_a_second_variable_which_wins() -> None:
    environ = {**ENVIRON, "IDENTITY_SERVICE_NAME": "billing"}
    assert IdentityBootstrapConfig.from_env(environ).service_name == "billing"
    del environ["SERVICE_NAME"]
    assert IdentityBootstrapConfig.from_env(environ).service_name == "billing"
    environ["IDENTITY_SERVICE_NAME"] = ""
    error = refusal(partial(IdentityBootstrapConfig.from_env, environ))
    assert error.message == f"service_name (IDENTITY_SERVICE_NAME) {_EMPTY}"


def test_two_services_of_one_process_have_variables_of_their_own(
    secret_file: Callable[[bytes], str],
) -> None:
    environ = {
        **ENVIRON,
        "BILLING_IDENTITY_SERVICE_NAME": "billing",
        "BILLING_IDENTITY_API_URL": "http://another-api",
        "BILLING_IDENTITY_API_INTERNAL_TOKEN_FILE": secret_file(b"another-token"),
    }
    orders = IdentityBootstrapConfig.from_env(environ)
    billing = IdentityBootstrapConfig.from_env(environ, prefix="BILLING_")
    assert (orders.service_name, billing.service_name) == ("orders", "billing")
    assert billing.identity_api_url == "http://another-api"
    assert billing.identity_api_internal_token == "another-token"
    environ |= {"BILLING_IDENTITY_SCOPE": "", "BILLING_IDENTITY_TOKEN_TIMEOUT": "soon"}
    error = refusal(partial(IdentityBootstrapConfig.from_env, environ, prefix="BILLING_"))
    assert set(error.problems) == {
        "token_timeout (BILLING_IDENTITY_TOKEN_TIMEOUT) must be a number of seconds",
        f"scope (BILLING_IDENTITY_SCOPE) {_EMPTY}",
    }


def test_errors_at_run_time_name_the_variable_with_its_prefix(
    secret_file: Callable[[bytes], str],
) -> None:
    names = ("IDENTITY_API_INTERNAL_TOKEN_FILE", "SERVICE_NAME", "IDENTITY_API_URL")
    file = secret_file(b"a-token")
    values = (file, "billing", "http://another-api")
    environ = {f"BILLING_{name}": value for name, value in zip(names, values, strict=True)}
    config = IdentityBootstrapConfig.from_env(environ, prefix="BILLING_")
    assert config.read_internal_token() == "a-token"
    Path(file).unlink()
    for each in (config, attrs.evolve(config, service_description="copied")):
        error = refusal(each.read_internal_token)
        assert error.message.startswith(
            "identity_api_internal_token (BILLING_IDENTITY_API_INTERNAL_TOKEN) cannot be read from "
            "the file that BILLING_IDENTITY_API_INTERNAL_TOKEN_FILE names: "
        )
    error = refusal(partial(attrs.evolve, config, scope=""))
    assert error.message == f"scope (BILLING_IDENTITY_SCOPE) {_EMPTY}"


@pytest.mark.parametrize("prefix", ["MY SERVICE_", None])
def test_a_prefix_that_begins_no_name_is_refused(prefix: Any) -> None:
    error = refusal(partial(IdentityBootstrapConfig, **REQUIRED, env_prefix=prefix))
    assert error.message == "env_prefix must be the beginning of a variable's name, or empty"


@pytest.mark.parametrize("prefix", ["", "BILLING_"])
@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        pytest.param("IDENTITY_TOKEN_TIMEUOT", "IDENTITY_TOKEN_TIMEOUT", id="swapped letters"),
        pytest.param("SERVICE_DISPLAYNAME", "SERVICE_DISPLAY_NAME", id="a missing underscore"),
        pytest.param("SERVICE_TOKEN_ENDPOINT_URL", "SERVICE_TOKEN_ENDPOINT", id="a suffix"),
    ],
)
def test_a_variable_that_looks_misspelt_is_one_warning(
    prefix: str, variable: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {f"{prefix}{name}": value for name, value in ENVIRON.items()}
    environ[f"{prefix}{variable}"] = "hunter2"
    IdentityBootstrapConfig.from_env(environ, prefix=prefix)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("identity_client", logging.WARNING)
    assert record.getMessage() == f"{prefix}{variable} is not a setting; is {prefix}{meant} meant?"


def test_variables_of_other_programs_are_no_cause_for_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    others = (
        "PATH",
        "SERVICE_PORT",
        "IDENTITY_API_PORT",
        "IDENTITY_API_SERVICE_HOST",
        "IDENTITY_API_UR",  # what it looks like is set
        "IDENTITY_KEYCLOAK_CLIENT_SECRET",
        "IDENTITY_KEYCLOAK_CLIENT_ID",
    )
    IdentityBootstrapConfig.from_env({**ENVIRON, **dict.fromkeys(others, "a")})
    assert not caplog.records


# --- times in milliseconds ---


@pytest.mark.parametrize("name", ["request_timeout", "token_timeout"])
def test_a_timeout_that_looks_like_milliseconds_is_one_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    IdentityBootstrapConfig(**{**REQUIRED, name: 600})
    assert not caplog.records
    IdentityBootstrapConfig.from_env({**ENVIRON, VARIABLES[name]: "5000"})
    [record] = caplog.records
    assert (record.name, record.levelno) == ("identity_client", logging.WARNING)
    assert record.getMessage() == (
        f"{name} is 5000 seconds; times are in seconds, not in milliseconds"
    )


# --- what a configuration shows of itself ---


def test_the_repr_shows_all_but_the_secrets() -> None:
    config = IdentityBootstrapConfig(**REQUIRED, **PRECONFIGURED, credential_store_key="hunter3")
    for shown in (repr(config), str(config), f"{config}"):
        for secret in SECRETS:
            assert getattr(config, secret) not in shown
            assert f"{secret}=" not in shown
        assert "service_name='orders'" in shown
        assert "client_id='orders-client'" in shown
        assert re.match(r"IdentityBootstrapConfig\(identity_api_url='http", shown)


# --- the options of a client ---


def test_the_options_of_a_client_have_defaults() -> None:
    options = IdentityApiClientOptions(**OPTIONS)
    assert attrs.asdict(options) == {
        **OPTIONS,
        "timeout": 10.0,
        "ca_bundle": None,
        "client_cert": None,
    }


def test_the_options_of_a_client_can_all_be_given() -> None:
    given = {**OPTIONS, "timeout": 3, "ca_bundle": __file__, "client_cert": (__file__, __file__)}
    assert attrs.asdict(IdentityApiClientOptions(**given)) == given


def test_the_options_of_a_client_do_not_show_the_token() -> None:
    assert repr(IdentityApiClientOptions(**OPTIONS)) == (
        "IdentityApiClientOptions(base_url='http://identity-api', timeout=10.0, "
        "ca_bundle=None, client_cert=None)"
    )


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *_texts("base_url", "internal_token", "ca_bundle", "client_cert"),
        *_urls("base_url"),
        *_times("timeout"),
        pytest.param("base_url", None, "must be a string", id="no URL"),
        pytest.param("base_url", "http://a?b=c", "must not have a query", id="a query"),
        pytest.param("base_url", "http://a?", "ends with a question mark", id="a bare ?"),
        pytest.param("base_url", "http://a/b#", "must not have a fragment", id="a bare #"),
        pytest.param("internal_token", None, "must be a string", id="no token"),
        pytest.param("internal_token", "hunter2 b", _ASCII, id="a blank"),
        pytest.param("client_cert", ("a", "b", "c"), _PAIR, id="three files"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(name: str, value: Any, problem: str) -> None:
    error = refusal(lambda: IdentityApiClientOptions(**{**OPTIONS, name: value}))
    assert error.message.startswith(f"{name} ")
    assert problem in error.message
    shown = everything_shown(error)
    assert OPTIONS["internal_token"] not in shown
    assert "hunter2" not in shown
