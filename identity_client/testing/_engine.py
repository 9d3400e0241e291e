"""What replaces the servers and the thread of a `FakeIdentityService`; the rest is the real one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from .._http.token_endpoint import TokenEndpoint
from .._tokens.clock import Clock
from .._tokens.registration import RegistrationSource
from .._tokens.sources import StaticCredentialsSource, TokenSource
from .._tokens.worker import Worker
from ..config import IdentityBootstrapConfig
from ..errors import IdentityApiError, RemoteError, TokenEndpointError, copy_for_raise
from ..events import EventEmitter
from ..models import AccessToken, RegisterServiceResponse, ServiceCredentials
from ._settings import IDENTITY_API

if TYPE_CHECKING:
    from .clock import FakeClock

SIGNING_KEY = "the-public-key-of-all-fake-access-tokens"
"""The HS256 key that a `FakeIdentityService` signs its tokens with; not a secret."""

_ISSUER = f"{IDENTITY_API}/realms/xema"
_ROLES = ("micro-service",)


class InlineWorker(Worker):
    """Does the steps of the worker's thread in the threads of its callers; there is no other.

    The clock has to be a `FakeClock`, which does the steps whose time comes while it moves.
    """

    @staticmethod
    def _draw(limit: float) -> float:  # noqa: ARG004  # of the method it replaces
        return 0.0  # a test has to know when a refresh is due

    def ensure_running(self) -> bool:
        """Do what is due; return False, as there is no thread that goes on."""
        cast("FakeClock", self._clock).attach(self)
        self.refresh_inline(math.inf)
        return False

    def refresh_inline(self, deadline: float) -> None:
        self.check_fork()
        with self._start_lock:
            attempt = self._cache.begin_refresh()
            if attempt is not None:
                self._attempt(attempt, deadline)
            # As if a thread had ended after this step: a caller whose token another one
            # invalidates now comes back for the next step instead of waiting for it.
            self._cache.release_waiters()
        self.publish_state_change()
        self._events.deliver()

    def run_due(self) -> float:
        self.refresh_inline(math.inf)
        return self._cache.next_look_in()


class FakeServers(TokenEndpoint):
    """An identity-api and a token endpoint in memory, for one service.

    Args:
        clock: when tokens are issued.
        token_lifetime: seconds that they live.
        claims: what they hold beside the usual claims, or instead of them.
        scope: the scope that they get, or None.
    """

    def __init__(
        self, clock: Clock, token_lifetime: float, claims: Mapping[str, Any], scope: str | None
    ) -> None:
        self.token_lifetime = token_lifetime
        self.tokens: list[str] = []
        self._clock = clock
        self._claims = claims
        self._scope = scope
        self._is_registered = False
        self._failure: RemoteError | None = None
        self._failures_left = math.inf

    def fail_with(self, error: RemoteError, times: float) -> None:
        self._failure, self._failures_left = error, times

    def recover(self) -> None:
        self._failure = None

    def register(
        self, config: IdentityBootstrapConfig, *, regenerate_secret: bool
    ) -> RegisterServiceResponse:
        """Register the service; its secret is returned if it is new, as identity-api does."""
        self._fail_if(IdentityApiError)
        existed, self._is_registered = self._is_registered, True
        return RegisterServiceResponse(
            id=str(uuid.uuid4()),
            client_id=config.service_name,
            client_secret=uuid.uuid4().hex if regenerate_secret or not existed else None,
            token_endpoint=f"{_ISSUER}/protocol/openid-connect/token",
            roles=_ROLES,
            already_existed=existed,
            secret_regenerated=existed and regenerate_secret,
        )

    def fetch(
        self,
        credentials: ServiceCredentials,
        timeout: float | None = None,  # noqa: ARG002  # the response is there at once
    ) -> AccessToken:
        self._fail_if(TokenEndpointError)
        value = self._issue(credentials)
        self.tokens.append(value)
        return AccessToken(
            value=value,
            expires_in=self.token_lifetime,
            scope=self._scope,
            requested_at=self._clock.monotonic(),
            requested_at_wall=self._clock.time(),
        )

    def _fail_if(self, kind: type[RemoteError]) -> None:
        error = self._failure
        if isinstance(error, kind):
            self._failures_left -= 1
            if self._failures_left <= 0:
                self.recover()
            raise copy_for_raise(error)

    def _issue(self, credentials: ServiceCredentials) -> str:
        now = self._clock.time()
        claims = {
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "jti": str(uuid.uuid4()),
            "iss": _ISSUER,
            "aud": "account",
            "sub": str(uuid.uuid5(uuid.NAMESPACE_URL, credentials.client_id)),
            "typ": "Bearer",
            "azp": credentials.client_id,
            "realm_access": {"roles": list(credentials.roles or _ROLES)},
            "scope": self._scope or "email profile",
            "preferred_username": f"service-account-{credentials.client_id}",
            "client_id": credentials.client_id,
            **self._claims,
        }
        signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
        digest = hmac.digest(SIGNING_KEY.encode(), signed.encode(), hashlib.sha256)
        return f"{signed}.{_base64(digest)}"


class _FakeRegistrationSource(RegistrationSource):
    def __init__(
        self,
        config: IdentityBootstrapConfig,
        clock: Clock,
        events: EventEmitter,
        servers: FakeServers,
    ) -> None:
        super().__init__(config, clock, events)
        self._servers = self._endpoint = servers

    def _register_call(
        self,
        deadline: float,  # noqa: ARG002  # the response is there at once
        *,
        regenerate_secret: bool,
    ) -> RegisterServiceResponse:
        return self._servers.register(self._config, regenerate_secret=regenerate_secret)


class _FakeStaticSource(StaticCredentialsSource):
    def __init__(
        self,
        config: IdentityBootstrapConfig,
        credentials: ServiceCredentials,
        clock: Clock,
        events: EventEmitter,
        servers: FakeServers,
    ) -> None:
        super().__init__(config, credentials, clock, events)
        self._endpoint = servers


def make_source(
    config: IdentityBootstrapConfig, clock: Clock, events: EventEmitter, servers: FakeServers
) -> TokenSource:
    """Make the real source of tokens for these settings, with its servers in memory."""
    credentials = config.preconfigured_credentials
    if credentials is not None:
        return _FakeStaticSource(config, credentials, clock, events, servers)
    return _FakeRegistrationSource(config, clock, events, servers)


def _part(document: Mapping[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
