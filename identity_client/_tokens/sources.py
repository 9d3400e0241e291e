"""Where the worker gets tokens from, and the source that is given its credentials."""

from __future__ import annotations

import logging
import math
from enum import Enum, auto
from typing import Protocol

from attrs import evolve

from .._http.token_endpoint import TokenEndpoint
from .._http.transport import HttpTransport
from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError, InvalidClientError, TokenEndpointError
from ..events import EventEmitter, EventKind
from ..models import AccessToken, ServiceCredentials
from .clock import Clock


class Step(Enum):
    """What a source was doing last, which decides how its failure is handled."""

    REGISTRATION = auto()
    """Obtaining credentials: pauses of minutes, a limit of attempts, callers wait."""

    TOKEN = auto()
    """Requesting a token with credentials: short pauses, callers get the failure at once."""


class TokenSource(Protocol):
    """Obtains tokens for one service. Used by one thread at a time, but for its properties.

    Attributes:
        step: what `obtain` was doing when it failed.
    """

    step: Step

    @property
    def credentials(self) -> ServiceCredentials | None:
        """The credentials that the token endpoint accepted last, or None."""
        ...

    @property
    def has_known_credentials(self) -> bool:
        """Whether there are credentials to try, be they rejected."""
        ...

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        """Obtain a token by the least that it takes.

        Args:
            deadline: the monotonic moment at which all requests are over.

        Raises:
            IdentityError: whatever went wrong.
        """
        ...

    def follow_up(self) -> None:
        """Do what can wait until the outcome of `obtain` is published: whatever needs a store."""
        ...

    def register_again(self) -> None:
        """Ask for new credentials with the next token; from any thread."""
        ...

    def next_registration_in(self) -> float | None:
        """Return seconds until a registration that was asked for and failed is due, or None."""
        ...

    def at_fork_reinit(self) -> None:
        """In a child: make locks anew that other threads of the parent may have held."""
        ...

    def close(self) -> None:
        """Close the connections; `obtain` opens them again."""
        ...


class _TokenSourceBase:
    """What all sources share: a token endpoint to ask, and time that runs out."""

    def __init__(self, config: IdentityBootstrapConfig, clock: Clock, events: EventEmitter) -> None:
        self.step = Step.TOKEN
        self._config = config
        self._clock = clock
        self._events = events
        self._transport = HttpTransport(
            config.request_timeout, config.ca_bundle, config.client_cert
        )
        self._endpoint = TokenEndpoint(
            self._transport,
            clock,
            config.token_endpoint_auth_method,
            config.scope,
            events.log,
        )

    def _remaining(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        return min(max(left, 0.001), self._config.request_timeout)

    def _fetch(self, credentials: ServiceCredentials, deadline: float) -> AccessToken:
        self.step = Step.TOKEN
        began = self._clock.monotonic()
        try:
            token = self._endpoint.fetch(credentials, self._remaining(deadline))
        except TokenEndpointError as error:
            self._events.emit_failure(
                EventKind.TOKEN_REQUEST_FAILED,
                "token request failed: %s",
                error.message,
                error=error,
                url=credentials.token_endpoint,
                duration=self._clock.monotonic() - began,
            )
            raise
        self._events.emit(
            EventKind.TOKEN_ISSUED,
            "access token issued for %g s",
            token.expires_in,
            url=credentials.token_endpoint,
            duration=self._clock.monotonic() - began,
        )
        return token

    def at_fork_reinit(self) -> None:
        pass

    def next_registration_in(self) -> float | None:
        return None

    def close(self) -> None:
        self._transport.close()


class StaticCredentialsSource(_TokenSourceBase):
    """Uses the credentials it is given; a secret that came from a file is read again there."""

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        credentials: ServiceCredentials,
        clock: Clock,
        events: EventEmitter,
    ) -> None:
        super().__init__(config, clock, events)
        self._credentials = credentials

    @property
    def credentials(self) -> ServiceCredentials | None:
        return self._credentials

    @property
    def has_known_credentials(self) -> bool:
        return True

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        try:
            return self._fetch(self._credentials, deadline)
        except InvalidClientError as error:
            if not self._reload_secret(error):
                raise
        return self._fetch(self._credentials, deadline)

    def follow_up(self) -> None:
        pass

    def register_again(self) -> None:
        raise ConfigurationError(
            "the credentials are pre-configured, so there is no registration to repeat; "
            "configure new ones, or unset client_id, client_secret and token_endpoint "
            "(SERVICE_CLIENT_ID, SERVICE_CLIENT_SECRET, SERVICE_TOKEN_ENDPOINT)"
        )

    def _reload_secret(self, error: InvalidClientError) -> bool:
        """Read the file that the secret came from; return whether it holds another by now."""
        try:
            secret = self._config.read_client_secret()
        except ConfigurationError as problem:
            self._events.log(logging.WARNING, "%s; the current secret is rejected", problem.message)
            return False
        if secret is None or secret == self._credentials.client_secret:
            return False
        self._credentials = evolve(self._credentials, client_secret=secret)
        self._events.emit_failure(
            EventKind.CREDENTIALS_REJECTED,
            "client secret rejected: %s; reloaded a new one from its file",
            error.message,
            error=error,
            level=logging.INFO,
        )
        return True
