"""Where the demo runs: on the embedded server, or on a Keycloak."""

from __future__ import annotations

import math
import os
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from ..server import BackendError, IdentityServer, ServerSettings


class FaultControls(Protocol):
    """What the demo changes and reads on its identity-api."""

    requests: Counter[str]

    def change(self, **settings: Any) -> ServerSettings:
        """Change some settings."""
        ...

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret, as an administrator would."""
        ...


class RunningServer(Protocol):
    """An identity-api that runs."""

    url: str

    @property
    def backend(self) -> FaultControls:
        """Its faults and clients."""
        ...


class DemoEnvironment(Protocol):
    """What the demo needs to know of where it runs.

    Attributes:
        title: what it is, in a few words.
        service: the name of the service to register.
        realm: the realm of the token endpoint.
        lifetime: seconds until its tokens expire.
    """

    title: str
    service: str
    realm: str
    lifetime: float

    def serve(self, internal_token: str, port: int) -> AbstractContextManager[RunningServer]:
        """Run an identity-api on a port of this machine."""
        ...


class EmbeddedEnvironment:
    """The embedded server; it keeps everything in memory.

    Args:
        lifetime: seconds until its tokens expire.
    """

    title: str = "One microservice, one identity-api, real HTTP on loopback."
    service: str = "order-service"
    realm: str = "xema"

    def __init__(self, lifetime: float) -> None:
        self.lifetime: float = lifetime

    def serve(self, internal_token: str, port: int) -> IdentityServer:
        settings = ServerSettings(token_lifetime=self.lifetime)
        return IdentityServer(internal_token, port=port, settings=settings)


class KeycloakEnvironment:
    """A realm of a Keycloak, in which a client exists for the time of the demo.

    Args:
        url: the address of Keycloak.
        realm: the realm.
        lifetime: seconds until tokens expire, rounded up.
        environ: the variables with the client that identity-api uses there.
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
        self._backend = settings.backend(relay.RelayedBackend, lifetime)
        self._relay = relay

    @contextmanager
    def serve(self, internal_token: str, port: int) -> Generator[RunningServer, None, None]:
        """Run it, with a relay to Keycloak; the client is deleted at the end."""
        with self._relay.RelayServer(internal_token, self._backend, port=port) as server:
            try:
                yield server
            finally:
                with suppress(BackendError):  # the demo has reported it
                    self._backend.delete_client(self.service)
