"""What the adapters need of a service: `IdentityBootstrapService` and its doubles have it."""

from __future__ import annotations

import math
from typing import Protocol

from .._http.hosts import AcceptedTokens
from ..config import IdentityBootstrapConfig
from ..models import AccessToken


class TokenService(Protocol):
    """Returns tokens to threads and coroutines, and takes those that were rejected."""

    def get_access_token(self, timeout: float | None = None) -> str: ...

    async def aget_access_token(self, timeout: float | None = None) -> str: ...

    def get_token(self) -> AccessToken: ...

    async def aget_token(self) -> AccessToken: ...

    def peek_token(self) -> AccessToken | None: ...

    def invalidate_token(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None: ...


# Both look for what is private to the service, so that a double may do without.


def accepted_tokens_of(service: TokenService) -> AcceptedTokens:
    """Return what the auth objects of a service share; of a double, what is one object's own."""
    shared = getattr(service, "_accepted_tokens", None)
    return shared if isinstance(shared, AcceptedTokens) else AcceptedTokens()


def token_timeout_of(service: TokenService) -> float:
    """Return the seconds that a service waits for a token by itself; of a double, no limit."""
    config = getattr(service, "_config", None)
    return config.token_timeout if isinstance(config, IdentityBootstrapConfig) else math.inf
