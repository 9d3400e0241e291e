"""An identity-api and a token endpoint in the process of a test, reached by real HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs

from .. import server
from ..config import IdentityBootstrapConfig
from ..service import IdentityBootstrapService
from ._settings import INTERNAL_TOKEN, SERVICE_NAME, make_config, make_environment

# Seconds; a test that waits for the recovery from an outage should not wait for long.
_RETRY_DELAYS = {"base_retry_delay": 0.05, "max_retry_delay": 0.5, "max_token_retry_delay": 0.5}


class IdentityServer(server.IdentityServer):
    """An identity-api with a token endpoint on a free port of loopback; a context manager.

    It answers real HTTP requests in threads of its own, keeps everything in memory, and issues
    signed JSON Web Tokens. It begins without any service registered. Use `config`, `service` or
    `environment` to connect to it.

    Args:
        settings: token lifetime and faults to begin with, as `change` takes them.

    Attributes:
        url: its address.
        internal_token: the bearer token that it expects from services.

    Raises:
        OSError: it cannot listen.
    """

    internal_token: str = INTERNAL_TOKEN

    def __init__(self, **settings: Any) -> None:
        super().__init__(self.internal_token, settings=server.ServerSettings(**settings))

    @staticmethod
    def setting_names() -> frozenset[str]:
        """Return the names of the settings that `change` takes."""
        return frozenset(attrs.fields_dict(server.ServerSettings))

    # --- services that use it ---

    def config(self, **settings: Any) -> IdentityBootstrapConfig:
        """Make the configuration of a service that registers here.

        The service is called ``test-service`` and repeats failed attempts after half a second at
        most, unless the settings say otherwise.

        Args:
            settings: settings of `IdentityBootstrapConfig`.

        Raises:
            ConfigurationError: a setting is unknown, or its value cannot be used.
        """
        return make_config(self.url, {**_RETRY_DELAYS, **settings})

    def service(self, **settings: Any) -> IdentityBootstrapService:
        """Make a service that registers here; start and close it, or use it in a ``with`` block.

        Args:
            settings: as for `config`.

        Raises:
            ConfigurationError: as for `config`.
        """
        return IdentityBootstrapService(self.config(**settings))

    def environment(self, **settings: Any) -> dict[str, str]:
        """Return the environment variables of an application that registers here.

        Args:
            settings: as for `config`.

        Raises:
            ConfigurationError: as for `config`.
        """
        return make_environment(self.url, {**_RETRY_DELAYS, **settings})

    # --- faults ---

    def change(self, **settings: Any) -> None:
        """Change the token lifetime or faults from now on.

        Args:
            settings: ``token_lifetime`` in seconds; ``api_outage`` and ``token_outage``, whether
                all requests get a 503; ``api_latency`` and ``token_latency`` in seconds;
                ``api_error_rate`` and ``token_error_rate``, the share of requests, 0 to 1, that
                get a 500.

        Raises:
            TypeError: a setting is unknown.
            ValueError: its value is out of its range.
        """
        self.backend.change(**settings)

    @contextmanager
    def changed(self, **settings: Any) -> Generator[None, None, None]:
        """Change settings for the time of a ``with`` block.

        Args:
            settings: as for `change`.

        Raises:
            TypeError: as for `change`.
            ValueError: as for `change`.
        """
        with self.backend.changed(**settings):
            yield

    @contextmanager
    def outage(self) -> Generator[None, None, None]:
        """Let all requests fail with a 503 for the time of a ``with`` block."""
        with self.changed(api_outage=True, token_outage=True):
            yield

    def rotate_secret(self, service_name: str = SERVICE_NAME) -> None:
        """Replace the client secret of a service, as an administrator would.

        Args:
            service_name: the name that the service has registered with.

        Raises:
            LookupError: no service of that name has registered.
        """
        if not self.backend.rotate_secret(service_name):
            raise LookupError(f"no service {service_name!r} has registered")

    # --- what was requested ---

    @property
    def requests(self) -> Counter[str]:
        """The requests to ``token``, to ``register``, and to the ``api`` in all."""
        return Counter(self.backend.requests)

    @property
    def log(self) -> server.RequestLog:
        """The last 1000 requests, with their paths, clients, statuses and errors."""
        return self.backend.log

    def wait_for(
        self, endpoint: str, count: int = 1, timeout: float = 10.0
    ) -> server.LoggedRequest:
        """Wait until there were ``count`` requests to an endpoint, and return that one.

        Args:
            endpoint: ``token``, ``register``, or ``api`` for the other calls of identity-api.
            count: how many requests to wait for, counted from the start of the server.
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: there were fewer in that time.
        """
        return self.log.wait_for(lambda request: request.endpoint == endpoint, timeout, count=count)
