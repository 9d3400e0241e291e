"""The types of the fixtures that make services and servers, and the token that they share."""

from __future__ import annotations

from typing import Any, Protocol

from identity_client import IdentityBootstrapService
from identity_client._tokens.clock import Clock
from identity_client.server import IdentityServer
from support.canned import Canned, CannedServer

INTERNAL_TOKEN = "internal-token-of-the-tests"


class MakeService(Protocol):
    """Makes a service from a server or a URL; it is closed after the test."""

    def __call__(
        self, where: IdentityServer | str, *, clock: Clock | None = None, **settings: Any
    ) -> IdentityBootstrapService: ...


class StartCanned(Protocol):
    """Starts a server that returns the given replies in turn; it is stopped after the test."""

    def __call__(self, *answers: Canned) -> CannedServer: ...


class Preconfigured(Protocol):
    """Makes a service with pre-configured credentials, and the token endpoint that it uses."""

    def __call__(
        self, *answers: Canned, **settings: Any
    ) -> tuple[IdentityBootstrapService, CannedServer]: ...
