"""What the adapters need of a service: `IdentityBootstrapService` and its doubles have it."""

from __future__ import annotations

from typing import Protocol

from ..models import AccessToken


class TokenService(Protocol):
    """Returns tokens to threads and coroutines, and takes those that were rejected."""

    def get_access_token(self) -> str: ...

    async def aget_access_token(self) -> str: ...

    def get_token(self) -> AccessToken: ...

    async def aget_token(self) -> AccessToken: ...

    def peek_token(self) -> AccessToken | None: ...

    def invalidate_token(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None: ...
