"""Access tokens for clients that take an azure-core credential.

Needs the extra ``azure``: ``pip install "xemahq-identity-client[azure]"``.

azure-core refuses to send a token to an address without TLS: pass ``enforce_https=False`` to a call
inside a cluster. It keeps a token while that has more than four to five minutes to live, drops it
after a 401 without a word to its credential, and asks for the next: report such a token to
`invalidate_token` of the service.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from azure.core.credentials import AccessToken

from .. import models
from ._protocol import TokenService

__all__ = ["AsyncIdentityCredential", "IdentityCredential"]


class _HiddenToken(AccessToken):
    """An azure-core token whose repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"AccessToken(token=<hidden>, expires_on={self.expires_on})"


class _Credential:
    """What both credentials have in common.

    Args:
        service: the `IdentityBootstrapService`.
    """

    # No get_token_info: azure-core prefers it, and takes the moment of a refresh from it, with up
    # to a minute of jitter, which is longer than some tokens live.

    def __init__(self, service: TokenService) -> None:
        self._service = service
        self._returned: str | None = None

    def _returning(self, token: models.AccessToken) -> AccessToken:
        self._returned = token.value
        return _HiddenToken(token.value, int(token.expires_at))

    def _reject(self, claims: str | None) -> None:
        """Take a challenge for claims as the rejection of the token that was returned last."""
        if claims and self._returned is not None:
            self._service.invalidate_token(self._returned)


class IdentityCredential(_Credential):
    """A ``TokenCredential`` of azure-core; thread-safe, and never waits for a token in hand.

    The scopes and the tenant of a request are ignored: there is one token per service. Claims,
    which azure-core passes on after a challenge, make the service fetch another token.

    Args:
        service: the `IdentityBootstrapService`.
    """

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """Return the current token with its ``expires_on``, in seconds since the epoch.

        Raises:
            IdentityError: as `IdentityBootstrapService.get_access_token` does.
        """
        self._reject(claims)
        return self._returning(self._service.get_token())


class AsyncIdentityCredential(_Credential):
    """An ``AsyncTokenCredential`` of azure-core, which never blocks the event loop.

    The service stays open when azure-core closes its credential. Otherwise the same as
    `IdentityCredential`.

    Args:
        service: the `IdentityBootstrapService`.
    """

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """Return the current token with its ``expires_on``, in seconds since the epoch.

        Raises:
            IdentityError: as `IdentityBootstrapService.aget_access_token` does.
        """
        self._reject(claims)
        return self._returning(await self._service.aget_token())

    async def close(self) -> None:
        """Do nothing: the service is the caller's."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()
