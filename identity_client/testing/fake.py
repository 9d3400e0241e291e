"""A service whose servers are in memory: no network, no thread, and time that stands still."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import asdict, evolve

from .._tokens.cache import MIN_REFRESH_INTERVAL
from .._tokens.clock import Clock
from .._tokens.sources import TokenSource
from .._tokens.worker import Worker
from ..config import IdentityBootstrapConfig
from ..errors import IdentityApiError, RemoteError, TokenEndpointError
from ..service import IdentityBootstrapService
from ._engine import FakeServers, InlineWorker, make_source
from ._settings import IDENTITY_API, make_config
from .clock import FakeClock


class FakeIdentityService(IdentityBootstrapService):
    """A service to test an application with: no network, no thread, and time that stands still.

    It is the real service, with its cache, states, errors and events. Only the servers, the thread
    and the clock are replaced: responses come from memory, and what the worker's thread would do
    is done in the calls themselves and in ``clock.advance()``. So a test controls when a token
    expires. Time stands still, so no call waits: where a real service would wait for a server to
    recover, the call fails at once.

    Its tokens are JSON Web Tokens like Keycloak's, valid at the real time, and signed with
    `SIGNING_KEY`. A refresh is due when ``refresh_ratio`` of the lifetime is over, and not by
    chance before.

    Args:
        config: the settings; None for those of a service that is called ``test-service``. Its
            addresses and its credential store are not used.
        clock: the time, which several services may share; None for a clock of its own.
        token_lifetime: seconds that tokens live, at least 1 and 86400 at most.
        claims: claims that tokens have beside the usual ones, or instead of them.
        settings: settings of `IdentityBootstrapConfig`, which win over those of ``config``.

    Attributes:
        clock: the time: ``clock.advance(seconds)`` lets it pass.

    Raises:
        ConfigurationError: a setting is unknown, or its value cannot be used.
        ValueError: ``token_lifetime`` is out of its range.
    """

    _worker_class: type[Worker] = InlineWorker

    def __init__(
        self,
        config: IdentityBootstrapConfig | None = None,
        *,
        clock: FakeClock | None = None,
        token_lifetime: float = 300.0,
        claims: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not 1 <= token_lifetime <= 86400:
            raise ValueError(f"token_lifetime must be from 1 to 86400 s, not {token_lifetime!r}")
        config = (
            make_config(IDENTITY_API, settings)
            if config is None
            else IdentityBootstrapConfig.from_env(
                {}, **{**asdict(config, recurse=False), **settings}
            )
        )
        self.clock: FakeClock = clock or FakeClock()
        self._servers = FakeServers(self.clock, token_lifetime, claims or {}, config.scope)
        super().__init__(
            evolve(config, credential_store="memory:", credential_store_key=None), clock=self.clock
        )

    @property
    def tokens(self) -> list[str]:
        """The access tokens that were issued, oldest first."""
        return list(self._servers.tokens)

    def expire(self) -> None:
        """Let the current token expire before it is refreshed, as when a machine has slept.

        This moves the clock to the moment from which on the token may not be served.
        """
        self.clock.jump(self._cache.usable_seconds())

    def fail_with(
        self, error: IdentityApiError | TokenEndpointError, *, times: int | None = None
    ) -> None:
        """Let requests fail from now on: an outage. The current token is served until it expires.

        Args:
            error: an `IdentityApiError` for registrations, or a `TokenEndpointError` for token
                requests; requests to the other server succeed.
            times: how many requests fail, at least 1; None for all, until `recover`.

        Raises:
            TypeError: ``error`` is of another class.
            ValueError: ``times`` is less than 1.
        """
        if not isinstance(error, RemoteError):
            raise TypeError(
                f"requests fail with an IdentityApiError or a TokenEndpointError, not {error!r}"
            )
        if times is not None and times < 1:
            raise ValueError(f"times must be at least 1, or None, not {times!r}")
        self._servers.fail_with(error, math.inf if times is None else times)

    def recover(self) -> None:
        """End what `fail_with` began, and move the clock to the next attempt, if one is due later.

        A service that has failed for good stays so until ``start()``.
        """
        self._servers.recover()
        failure = self._cache.failure
        if failure is not None and not failure.final:
            self.clock.advance(max(failure.retry_at - self.clock.monotonic(), 0.0))

    def invalidate_token(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None:
        super().invalidate_token(token, host, was_accepted=was_accepted)
        if self._started:
            self._worker.ensure_running()

    def force_reregistration(self) -> None:
        super().force_reregistration()
        self.clock.advance(MIN_REFRESH_INTERVAL)

    def _make_source(self, config: IdentityBootstrapConfig, clock: Clock) -> TokenSource:
        return make_source(config, clock, self._events, self._servers)
