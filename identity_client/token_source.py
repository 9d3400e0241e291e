"""Where the worker gets tokens from, and the source that is given its credentials."""

from __future__ import annotations

import logging
import math
from typing import Protocol

from attrs import evolve

from .clock import Clock
from .config import IdentityBootstrapConfig
from .errors import ConfigurationError, InvalidClientError, TokenEndpointError
from .events import EventKind, Reporter
from .http import HttpTransport
from .models import AccessToken, ServiceCredentials
from .token_endpoint import TokenEndpoint


class TokenSource(Protocol):
    """Obtains tokens for one service. Used by one thread at a time."""

    @property
    def credentials(self) -> ServiceCredentials | None:
        """The credentials that the token endpoint accepted last, or None."""
        ...

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        """Obtain a token by the least that it takes.

        Args:
            deadline: the monotonic moment at which all requests are over.

        Raises:
            IdentityError: whatever went wrong.
        """
        ...

    def share(self) -> None:
        """See to it that other processes find the credentials, once the token is served."""
        ...

    def reregister(self) -> None:
        """Ask for new credentials with the next token; from any thread."""
        ...

    def close(self) -> None:
        """Close the connections; `obtain` opens them again."""
        ...


class TokenRequests:
    """What all sources share: a token endpoint to ask, and time that runs out."""

    def __init__(self, config: IdentityBootstrapConfig, clock: Clock, report: Reporter) -> None:
        self._config = config
        self._clock = clock
        self._report = report
        self._transport = HttpTransport(
            config.request_timeout, config.ca_bundle, config.client_cert
        )
        self._endpoint = TokenEndpoint(
            self._transport, clock, config.token_endpoint_auth_method, config.scope
        )

    def _seconds_to(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        return min(max(left, 0.001), self._config.request_timeout)

    def _fetch(self, credentials: ServiceCredentials, deadline: float) -> AccessToken:
        try:
            token = self._endpoint.fetch(credentials, self._seconds_to(deadline))
        except TokenEndpointError as error:
            self._report.emit(EventKind.TOKEN_REQUEST_FAILED, error.message)
            raise
        self._report.emit(EventKind.TOKEN_ISSUED, f"a token was issued for {token.expires_in:g} s")
        return token

    def close(self) -> None:
        self._transport.close()


class Preconfigured(TokenRequests):
    """Uses the credentials it is given; a secret that came from a file is read again there."""

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        credentials: ServiceCredentials,
        clock: Clock,
        report: Reporter,
    ) -> None:
        super().__init__(config, clock, report)
        self._given = credentials

    @property
    def credentials(self) -> ServiceCredentials | None:
        return self._given

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        try:
            return self._fetch(self._given, deadline)
        except InvalidClientError as error:
            if not self._read_again(error):
                raise
        return self._fetch(self._given, deadline)

    def share(self) -> None:
        pass

    def reregister(self) -> None:
        raise ConfigurationError(
            "the credentials are pre-configured, so there is no registration to repeat; "
            "configure new ones, or leave out client_id, client_secret and token_endpoint"
        )

    def _read_again(self, error: InvalidClientError) -> bool:
        """Read the file that the secret came from; return whether it holds another by now."""
        try:
            secret = self._config.read_client_secret()
        except ConfigurationError as problem:
            self._report.log(logging.WARNING, f"{problem.message}; the secret is rejected")
            return False
        if secret is None or secret == self._given.client_secret:
            return False
        self._given = evolve(self._given, client_secret=secret)
        self._report.emit(
            EventKind.CREDENTIALS_REJECTED,
            f"the secret is not used any more: {error.message}; its file holds another",
            level=logging.INFO,
        )
        return True
