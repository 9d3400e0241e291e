"""Where the demo plays: on the embedded server, or on a Keycloak."""

from __future__ import annotations

import math
import os
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from ..server import BackendError, IdentityServer, Settings


class Board(Protocol):
    """What the demo turns and reads."""

    requests: Counter[str]

    def change(self, **settings: Any) -> Settings:
        """Change some settings."""
        ...

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret without telling its users."""
        ...


class Server(Protocol):
    """An identity-api that runs."""

    url: str

    @property
    def backend(self) -> Board:
        """What it keeps."""
        ...


class Stage(Protocol):
    """What the demo needs to know of where it plays.

    Attributes:
        title: what it is, in a few words.
        service: the name of the service to register.
        realm: the realm of the token endpoint.
        lifetime: seconds that its tokens live.
    """

    title: str
    service: str
    realm: str
    lifetime: float

    def serve(self, internal_token: str, port: int) -> AbstractContextManager[Server]:
        """Run an identity-api on a port of this machine."""
        ...


class Embedded:
    """The embedded server.

    Args:
        lifetime: seconds that its tokens live.
    """

    title: str = "One microservice, one identity-api, real HTTP on loopback."
    service: str = "order-service"
    realm: str = "xema"

    def __init__(self, lifetime: float) -> None:
        self.lifetime: float = lifetime

    def serve(self, internal_token: str, port: int) -> IdentityServer:
        """Run it; it keeps everything in memory."""
        settings = Settings(token_lifetime=self.lifetime)
        return IdentityServer(internal_token, port=port, settings=settings)


class OnKeycloak:
    """A realm of a Keycloak, in which a client is made for the time of the demo.

    Args:
        url: the address of Keycloak.
        realm: the realm.
        lifetime: seconds that tokens live, rounded up.
        environ: the variables with the client of identity-api there.
    """

    def __init__(
        self, url: str, realm: str, lifetime: float, environ: Mapping[str, str] = os.environ
    ) -> None:
        # These need an extra of their own.
        from ..server import relay, wsgi

        self.title: str = f"One microservice, one identity-api, the realm {realm!r} of {url}."
        self.service: str = f"order-service-{uuid.uuid4().hex[:8]}"
        self.realm: str = realm
        self.lifetime: float = math.ceil(lifetime)
        settings = wsgi.KeycloakSettings.from_env(environ, url=url, realm=realm)
        self._keycloak = settings.backend(lifetime)
        self._relay = relay

    @contextmanager
    def serve(self, internal_token: str, port: int) -> Generator[Server, None, None]:
        """Run it, with a relay to Keycloak; in the end the client is deleted."""
        backend = self._relay.RelayedBackend(self._keycloak, Settings())
        with self._relay.RelayServer(internal_token, backend, port=port) as server:
            try:
                yield server
            finally:
                with suppress(BackendError):  # of which the story has told
                    self._keycloak.delete_client(self.service)
