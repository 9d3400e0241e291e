"""Access tokens for clients that take google-auth credentials.

Needs the extra ``google``: ``pip install "xemahq-identity-client[google]"``.
"""

# pyright: basic
# google-auth has no types.

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from google.auth.credentials import Credentials, TokenState

from .. import models
from ._protocol import TokenService

__all__ = ["IdentityCredentials"]


class IdentityCredentials(Credentials):
    """Credentials of google-auth that take each token from a service; thread-safe.

    Each request gets the current token. google-auth by itself would refresh before each request:
    to it, a token has expired 225 s before its end, and many live for no longer.

    Args:
        service: the `IdentityBootstrapService`.

    Attributes:
        token: the token that was used last, by any thread.
        expiry: when it expires, in UTC and without a time zone, as google-auth has it.
    """

    def __init__(self, service: TokenService) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth has no types
        self._service = service
        self._applied = threading.local()

    @property
    def expired(self) -> bool:
        """Whether the service has no usable token now."""
        return self._service.peek_token() is None

    @property
    def valid(self) -> bool:
        """Whether the service has a usable token now."""
        return not self.expired

    @property
    def token_state(self) -> TokenState:
        """FRESH with a usable token, INVALID without."""
        return TokenState.INVALID if self.expired else TokenState.FRESH

    def before_request(self, request: Any, method: str, url: str, headers: Any) -> None:
        """Put the current token into the headers of a request.

        Raises:
            IdentityError: as `IdentityBootstrapService.get_access_token` does.
        """
        token = self._take()
        self._applied.token = token.value
        self.apply(headers, token.value)  # type: ignore[no-untyped-call]  # google-auth has no types

    def refresh(self, request: Any) -> None:
        """Get a token; another one than this thread has sent last, as it was rejected.

        google-auth calls this after a 401 without saying which token that was about, and an
        application may call it to get a first token.

        Raises:
            IdentityError: as `IdentityBootstrapService.get_access_token` does.
        """
        rejected = self._applied.__dict__.pop("token", None)
        if rejected is not None:
            self._service.invalidate_token(rejected)
        self._take()

    def _take(self) -> models.AccessToken:
        token = self._service.get_token()
        self.token: str = token.value
        self.expiry: datetime = datetime.fromtimestamp(token.expires_at, UTC).replace(tzinfo=None)
        return token
