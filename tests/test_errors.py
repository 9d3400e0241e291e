"""The exception tree: its shape, copies of it, and what it says about another attempt."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from typing import Any

import pytest

from identity_client import (
    ConfigurationError,
    CredentialStoreError,
    IdentityApiConnectionError,
    IdentityApiError,
    IdentityApiTimeout,
    IdentityError,
    InvalidClientError,
    InvalidResponseError,
    NotReadyError,
    RegistrationError,
    RemoteError,
    SecretNotReturnedError,
    ServiceClosedError,
    TokenEndpointError,
    _frames,
    errors,
)

# The tree of the documentation: each class, what it derives from there, and from Python's own.
TREE: dict[type[IdentityError], tuple[type[Exception], ...]] = {
    IdentityError: (Exception,),
    ConfigurationError: (IdentityError, ValueError),
    IdentityApiError: (IdentityError,),
    IdentityApiConnectionError: (IdentityApiError,),
    IdentityApiTimeout: (IdentityApiError, TimeoutError),
    InvalidResponseError: (IdentityApiError,),
    SecretNotReturnedError: (IdentityApiError,),
    TokenEndpointError: (IdentityError,),
    InvalidClientError: (TokenEndpointError,),
    CredentialStoreError: (IdentityError,),
    RegistrationError: (IdentityError,),
    NotReadyError: (IdentityError, TimeoutError),
    ServiceClosedError: (IdentityError,),
}

_API = {"status_code": 503, "code": "out_of_order", "retry_after": 7.5}
_TOKEN = {
    "status_code": 429,
    "error": "slow_down",
    "error_description": "too many requests",
    "retry_after": 3.25,
}
_NOT_READY = {
    "state": "DEGRADED",
    "attempts": 4,
    "last_error": "connection refused",
    "next_attempt_in": 2.5,
}

# All the arguments beside the message, none of them the default.
ARGUMENTS: dict[type[IdentityError], dict[str, Any]] = {
    IdentityError: {},
    ConfigurationError: {"problems": ("a is empty", "b is empty")},
    RemoteError: {"status_code": 500, "retry_after": 1.5},
    IdentityApiError: _API,
    IdentityApiConnectionError: _API,
    IdentityApiTimeout: _API,
    InvalidResponseError: _API,
    SecretNotReturnedError: _API,
    TokenEndpointError: _TOKEN,
    InvalidClientError: _TOKEN,
    CredentialStoreError: {},
    RegistrationError: {},
    NotReadyError: _NOT_READY,
    ServiceClosedError: {},
}

every_error = pytest.mark.parametrize(
    ("kind", "arguments"), [pytest.param(*row, id=row[0].__name__) for row in ARGUMENTS.items()]
)


@pytest.mark.parametrize(
    ("kind", "bases"), [pytest.param(*row, id=row[0].__name__) for row in TREE.items()]
)
def test_the_tree_is_as_documented(
    kind: type[IdentityError], bases: tuple[type[Exception], ...]
) -> None:
    expected = {kind}.union(*(base.__mro__ for base in bases))
    # RemoteError only keeps what two branches share; the tree is the same without it.
    assert set(kind.__mro__) - {RemoteError} == expected - {RemoteError}


def test_the_tables_of_this_file_name_every_exception() -> None:
    defined = {
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, BaseException)
    }
    assert defined == set(ARGUMENTS) == set(TREE) | {RemoteError}


@every_error
def test_the_table_gives_every_argument_another_value_than_the_default(
    kind: type[IdentityError], arguments: dict[str, Any]
) -> None:
    parameters = dict(inspect.signature(kind).parameters)
    del parameters["message"]
    assert parameters.keys() == arguments.keys()
    for name, parameter in parameters.items():
        assert arguments[name] != parameter.default


def _ways_to_copy() -> list[Any]:
    ways: list[Any] = [
        pytest.param(
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)),
            id=f"pickle protocol {protocol}",
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    return [
        *ways,
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(errors.copy_for_raise, id="replica"),
    ]


@every_error
@pytest.mark.parametrize("way", _ways_to_copy())
def test_a_copy_has_all_that_the_original_has(
    kind: type[IdentityError], arguments: dict[str, Any], way: Any
) -> None:
    error = kind("it failed", **arguments)
    error.message += "; the next attempt follows"
    error.args = (error.message,)
    copied = way(error)
    assert copied is not error
    assert type(copied) is kind
    assert str(copied) == copied.message == "it failed; the next attempt follows"
    assert copied.args == error.args
    assert {name: getattr(copied, name) for name in arguments} == arguments
    assert vars(copied) == vars(error)


@every_error
def test_an_error_that_is_given_nothing_else_has_a_message(
    kind: type[IdentityError], arguments: dict[str, Any]
) -> None:
    error = kind("it failed")
    assert str(error) == error.message == "it failed"
    assert "it failed" in repr(error)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        pytest.param(None, True, id="nothing answered"),
        pytest.param(200, False, id="a success that cannot be used"),
        pytest.param(302, False, id="a redirect"),
        pytest.param(400, False, id="a bad request"),
        pytest.param(401, False, id="unauthorized"),
        pytest.param(403, False, id="forbidden"),
        pytest.param(404, False, id="not found"),
        pytest.param(408, True, id="a request timeout"),
        pytest.param(409, False, id="a conflict"),
        pytest.param(422, False, id="unprocessable"),
        pytest.param(425, True, id="too early"),
        pytest.param(429, True, id="too many requests"),
        pytest.param(499, False, id="the last of the client's errors"),
        pytest.param(500, True, id="an internal error"),
        pytest.param(502, True, id="a bad gateway"),
        pytest.param(503, True, id="unavailable"),
        pytest.param(599, True, id="the last of the server's errors"),
    ],
)
@pytest.mark.parametrize(
    "kind", [kind for kind in ARGUMENTS if issubclass(kind, RemoteError)], ids=lambda k: k.__name__
)
def test_the_status_says_whether_to_try_again(
    kind: type[RemoteError], status: int | None, retryable: bool
) -> None:
    error = kind("it failed", status_code=status)
    # Asking again does not make identity-api tell a secret.
    assert error.retryable is (retryable and kind is not SecretNotReturnedError)


def test_a_timeout_is_caught_as_pythons_own() -> None:
    with pytest.raises(TimeoutError, match="too slow") as caught:
        raise IdentityApiTimeout("too slow", status_code=504)
    assert isinstance(caught.value, IdentityApiError)
    assert caught.value.errno is None
    assert caught.value.status_code == 504


def test_a_replica_keeps_the_cause_and_begins_without_a_traceback() -> None:
    cause = IdentityApiError("refused", status_code=403)
    with pytest.raises(RegistrationError) as caught:
        raise RegistrationError("given up") from cause
    original = caught.value
    copied = errors.copy_for_raise(original)
    assert copied.__cause__ is cause
    assert copied.__traceback__ is None
    assert original.__traceback__ is not None


def test_a_sealed_function_returns_what_it_returns_and_keeps_its_name() -> None:
    @_frames.hide_frames
    def add(one: int, *, other: int) -> int:
        """Add."""
        return one + other

    assert add(1, other=2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")


def test_a_sealed_function_lets_errors_out_without_what_lies_beneath() -> None:
    @_frames.hide_frames
    def refuse(secret: str, *, other: str) -> None:
        try:
            int(secret)
        except ValueError:
            raise ConfigurationError("it is no number") from None

    def call() -> None:
        refuse("hunter" + "2", other="swordfish" + "es")

    with pytest.raises(ConfigurationError, match="it is no number") as caught:
        call()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "call" in frames
    assert "refuse" not in frames
    assert caught.value.__context__ is None
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(report.format())
    assert "hunter2" not in shown
    assert "swordfishes" not in shown


def test_a_sealed_function_leaves_errors_of_others_alone() -> None:
    error = KeyError("a bug")

    @_frames.hide_frames
    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        fail()
    assert caught.value is error
