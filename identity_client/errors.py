"""The exception tree: everything that leaves this package is one of these.

::

    IdentityError
    ├── ConfigurationError            also ValueError
    ├── IdentityApiError              identity-api did not do what it was asked
    │   ├── IdentityApiConnectionError
    │   ├── IdentityApiTimeout        also TimeoutError
    │   ├── InvalidResponseError
    │   └── SecretNotReturnedError
    ├── TokenEndpointError            the token endpoint did not issue a token
    │   └── InvalidClientError
    ├── CredentialStoreError          the credential store cannot be used
    ├── RegistrationError             all registration attempts are used up
    ├── NotReadyError                 also TimeoutError
    └── ServiceClosedError

Every exception pickles and copies, and holds text and numbers only: no request, no response,
no secret.
"""

from __future__ import annotations

from typing import TypeVar

from ._public import public

_E = TypeVar("_E", bound="IdentityError")


@public
class IdentityError(Exception):
    """The root of all exceptions of this package.

    Attributes:
        message: what failed, against which host, and what to do about it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@public
class ConfigurationError(IdentityError, ValueError):
    """Settings or arguments cannot be used; the message names each and its variable.

    Attributes:
        problems: each thing that is wrong, in a sentence of its own.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[str, ...] = problems or (message,)


@public
class RemoteError(IdentityError):
    """A remote party failed; the common part of `IdentityApiError` and `TokenEndpointError`.

    Attributes:
        status_code: the HTTP status, or None when nothing answered.
        retryable: whether the same request may succeed later without a change.
        retry_after: seconds until the next attempt is worth while, or None when that is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        status = self.status_code
        return status is None or status in (408, 425, 429) or status >= 500


@public
class IdentityApiError(RemoteError):
    """identity-api refused a request or failed at it.

    Attributes:
        code: the error code of the reply, or None where it has none.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, retry_after=retry_after)
        self.code = code


@public
class IdentityApiConnectionError(IdentityApiError):
    """identity-api could not be reached, or the connection broke."""


@public
class IdentityApiTimeout(IdentityApiError, TimeoutError):
    """identity-api did not send a complete response within the timeout."""


@public
class InvalidResponseError(IdentityApiError):
    """identity-api returned success, but the response is not what the contract says."""


@public
class SecretNotReturnedError(IdentityApiError):
    """The service exists already, and identity-api keeps its secret to itself."""

    @property
    def retryable(self) -> bool:
        return False


@public
class TokenEndpointError(RemoteError):
    """The token endpoint issued no token (RFC 6749 section 5.2).

    Attributes:
        error: the OAuth error code, such as ``invalid_scope``, or None where the reply has none.
        error_description: the description that came with it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        error: str | None = None,
        error_description: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, retry_after=retry_after)
        self.error = error
        self.error_description = error_description


@public
class InvalidClientError(TokenEndpointError):
    """The token endpoint rejects the client: unknown, disabled, or with another secret."""


@public
class CredentialStoreError(IdentityError):
    """The credential store cannot be used, or another process holds its lock."""


@public
class RegistrationError(IdentityError):
    """All registration attempts are used up; ``__cause__`` is the last failure."""


@public
class NotReadyError(IdentityError, TimeoutError):
    """No token is available within the timeout; the message says why and what happens next.

    Attributes:
        state: the state of the service, as in the ``state`` of `ServiceStatus`.
        attempts: the registration attempts that failed in a row.
        last_error: the last failure as text, or None when nothing failed yet.
        next_attempt_in: seconds until the next attempt, or None while one is under way.
    """

    def __init__(
        self,
        message: str,
        *,
        state: str = "PENDING",
        attempts: int = 0,
        last_error: str | None = None,
        next_attempt_in: float | None = None,
    ) -> None:
        super().__init__(message)
        self.state = state
        self.attempts = attempts
        self.last_error = last_error
        self.next_attempt_in = next_attempt_in


@public
class ServiceClosedError(IdentityError):
    """The service was closed, and a call needs it; create a new one."""


def copy_for_raise(error: _E) -> _E:
    """Return a copy to raise: one failure reaches many threads, and a traceback belongs to one."""
    kind = type(error)
    copied = kind.__new__(kind, *error.args)  # the __init__ of a store's own class may take others
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied
