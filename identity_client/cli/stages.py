"""Where the demo plays: on the embedded server, or on a Keycloak."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from ..server import IdentityServer, Settings


class Board(Protocol):
    """What the demo turns and reads."""

    requests: Counter[str]

    def change(self, **settings: Any) -> Settings:
        """Change some settings."""
        ...

    def rotate_secret(self, name: str) -> bool:
        """Replace a client's secret behind everybody's back."""
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
    """

    title: str
    service: str
    realm: str

    def serve(
        self, internal_token: str, port: int, lifetime: float
    ) -> AbstractContextManager[Server]:
        """Run an identity-api on a port of this machine, whose tokens live so many seconds."""
        ...


class Embedded:
    """The embedded server."""

    title: str = "One microservice, one identity-api, real HTTP on loopback."
    service: str = "order-service"
    realm: str = "xema"

    def serve(self, internal_token: str, port: int, lifetime: float) -> IdentityServer:
        """Run it; it keeps everything in memory."""
        settings = Settings(token_lifetime=lifetime)
        return IdentityServer(internal_token, port=port, settings=settings)


class OnKeycloak:
    """A realm of a Keycloak, in which a client is made for the time of the demo.

    Args:
        url: the address of Keycloak.
        realm: the realm.
    """

    def __init__(self, url: str, realm: str) -> None:
        self.title: str = f"One microservice, one identity-api, the realm {realm!r} of {url}."
        self.service: str = f"order-service-{uuid.uuid4().hex[:8]}"
        self.realm: str = realm
        self._url = url

    @contextmanager
    def serve(
        self, internal_token: str, port: int, lifetime: float
    ) -> Generator[Server, None, None]:
        """Run it, with a relay to Keycloak; in the end the client is deleted."""
        from ..server.relay import RelayedBackend, RelayServer  # these need an extra of their own
        from ..server.wsgi import KeycloakSettings, keycloak_backend

        settings = KeycloakSettings.from_env(
            os.environ, internal_token=internal_token, url=self._url, realm=self.realm
        )
        backend = RelayedBackend(keycloak_backend(settings, lifetime), Settings())
        with RelayServer(internal_token, backend, port=port) as server:
            try:
                yield server
            finally:
                backend.keycloak.delete_client(self.service)
