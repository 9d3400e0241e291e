"""Where tokens come from: pre-configured credentials, or a registration with identity-api."""

from __future__ import annotations

import logging
import math
from typing import Protocol

from .api_client import IdentityApiClient, credentials_of
from .clock import Clock
from .config import IdentityBootstrapConfig
from .errors import (
    ConfigurationError,
    InvalidClientError,
    SecretNotReturnedError,
    TokenEndpointError,
)
from .events import EventKind, Reporter
from .http import HttpTransport
from .models import AccessToken, RegisterServiceResponse, ServiceCredentials
from .retry import Backoff
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

    def reregister(self) -> None:
        """Ask for new credentials with the next token; from any thread."""
        ...

    def close(self) -> None:
        """Close the connections; `obtain` opens them again."""
        ...


class _Requests:
    """What both sources share: a token endpoint to ask, and time that runs out."""

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


class Preconfigured(_Requests):
    """Uses the credentials it is given, and nothing else."""

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        credentials: ServiceCredentials,
        clock: Clock,
        report: Reporter,
    ) -> None:
        super().__init__(config, clock, report)
        self.credentials: ServiceCredentials | None = credentials
        self._given = credentials

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        return self._fetch(self._given, deadline)

    def reregister(self) -> None:
        raise ConfigurationError(
            "the credentials are pre-configured, so there is no registration to repeat; "
            "configure new ones, or leave out client_id, client_secret and token_endpoint"
        )


class Registration(_Requests):
    """Registers the service with identity-api, and again when its credentials are rejected.

    A secret is regenerated only when identity-api has the service and tells no secret, or the one
    that was just rejected; and not again before a pause that grows while secrets keep being
    rejected, so that replicas that take each other's secret away do not do it in a loop.
    """

    def __init__(
        self,
        config: IdentityBootstrapConfig,
        clock: Clock,
        report: Reporter,
    ) -> None:
        super().__init__(config, clock, report)
        self._base_url = config.identity_api_url or ""
        self._api = IdentityApiClient(
            self._base_url,
            config.identity_api_internal_token or "",
            timeout=config.request_timeout,
            ca_bundle=config.ca_bundle,
            client_cert=config.client_cert,
        )
        self.credentials: ServiceCredentials | None = None
        self._unproven: ServiceCredentials | None = None
        self._rejected: ServiceCredentials | None = None
        self._must_register = False
        self._regeneration_pauses = self._new_pauses()
        self._no_regeneration_before = -math.inf

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        known = self._unproven or self.credentials
        if known is not None and not self._must_register:
            try:
                return self._prove(known, deadline)
            except InvalidClientError as error:
                self._reject(known, error.message)
        # A shared store goes here: under its lock, load before registering, save after proving.
        self._unproven = self._register(deadline)
        self._must_register = False
        return self._prove(self._unproven, deadline)

    def reregister(self) -> None:
        self._no_regeneration_before = -math.inf
        self._must_register = True

    def close(self) -> None:
        super().close()
        self._api.close()

    def _prove(self, credentials: ServiceCredentials, deadline: float) -> AccessToken:
        token = self._fetch(credentials, deadline)
        if self.credentials is credentials:
            self._regeneration_pauses = self._new_pauses()
        self.credentials, self._unproven, self._rejected = credentials, None, None
        return token

    def _reject(self, credentials: ServiceCredentials, reason: str) -> None:
        self.credentials = self._unproven = None
        self._rejected = credentials
        self._report.emit(
            EventKind.CREDENTIALS_REJECTED,
            f"the credentials are not used any more: {reason}; registering again",
            level=logging.WARNING,
        )

    def _register(self, deadline: float) -> ServiceCredentials:
        reply = self._ask(deadline, regenerate_secret=False)
        if not self._brings_a_secret(reply):
            self._may_regenerate()
            reply = self._ask(deadline, regenerate_secret=True)
            pause = self._regeneration_pauses.next()
            self._no_regeneration_before = self._clock.monotonic() + pause
        credentials = credentials_of(reply, self._config.service_name, self._base_url)
        how = "found again" if reply.already_existed else "created"
        self._report.emit(
            EventKind.REGISTERED,
            f"registered with identity-api: the client {credentials.client_id!r} was {how}",
            level=logging.INFO,
        )
        if reply.secret_regenerated:
            self._report.emit(
                EventKind.SECRET_REGENERATED,
                "the secret was regenerated; other replicas that hold the old one must follow",
                level=logging.WARNING,
            )
        return credentials

    def _brings_a_secret(self, reply: RegisterServiceResponse) -> bool:
        rejected = self._rejected
        return bool(reply.client_secret) and (
            rejected is None or reply.client_secret != rejected.client_secret
        )

    def _may_regenerate(self) -> None:
        wait = self._no_regeneration_before - self._clock.monotonic()
        if wait > 0:
            raise InvalidClientError(
                "the secret was regenerated a moment ago and is rejected already, so somebody "
                f"else replaces it; it is left alone for {wait:.1f} s; let the replicas share "
                "their credentials, or configure them",
                retry_after=wait,
            )
        if not self._config.allow_secret_regeneration:
            raise SecretNotReturnedError(
                f"the service {self._config.service_name!r} exists, and its secret is not known "
                "here; configure the credentials, or allow it to be replaced "
                "(IDENTITY_ALLOW_SECRET_REGENERATION, or --allow-secret-regeneration)"
            )

    def _ask(self, deadline: float, *, regenerate_secret: bool) -> RegisterServiceResponse:
        config = self._config
        return self._api.register_service_full(
            name=config.service_name,
            display_name=config.service_display_name or config.service_name,
            description=config.service_description,
            service_type=config.service_type,
            regenerate_secret=regenerate_secret,
            timeout=self._seconds_to(deadline),
        )

    def _new_pauses(self) -> Backoff:
        return Backoff(self._config.base_retry_delay, self._config.max_retry_delay)
