"""The client credentials grant (RFC 6749 section 4.4) at a token endpoint."""

from __future__ import annotations

import base64
import logging
import math
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

import requests
from requests.auth import AuthBase

from .._frames import hide_frames
from .._tokens.clock import Clock
from ..errors import InvalidClientError, TokenEndpointError
from ..models import AccessToken, ServiceCredentials
from . import codec
from .failures import HttpError
from .retry import parse_retry_after
from .transport import HttpResponse, HttpTransport, NoAuth, shown_url

_log = logging.getLogger("identity_client")

FALLBACK_LIFETIME = 60.0
MAX_LIFETIME = 86400.0

_ADDRESS = "its address (SERVICE_TOKEN_ENDPOINT, or what identity-api returned)"

_NOT_FOUND = "; check its path and realm (SERVICE_TOKEN_ENDPOINT, or what identity-api returned)"
_REDIRECTED = (
    "; redirects are not followed: set SERVICE_TOKEN_ENDPOINT, or what identity-api returns, to "
    "the address that it redirects to, if you trust it"
)

_CLIENT_ERRORS = ("invalid_client", "unauthorized_client")


class _ClientSecretBasic(AuthBase):
    """HTTP Basic with the form-encoding that RFC 6749 section 2.3.1 asks for."""

    def __init__(self, credentials: ServiceCredentials) -> None:
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Basic {basic_value(self._credentials)}"
        return request


def basic_value(credentials: ServiceCredentials) -> str:
    """Return credentials as HTTP Basic sends them; %20 for a space is read by every server."""
    user, password = quote(credentials.client_id, ""), quote(credentials.client_secret, "")
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class TokenEndpoint:
    """Asks token endpoints for access tokens.

    Args:
        transport: what sends the requests.
        clock: the clocks that the lifetime is counted on.
        auth_method: ``client_secret_post`` or ``client_secret_basic``.
        scope: the scope to ask for, or None.
        log: what is called with the level, template and arguments of a log record; it should not
            wait for log handlers, as the token is not published yet.
    """

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        auth_method: str,
        scope: str | None,
        log: Callable[..., None] = _log.log,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._auth_method = auth_method
        self._scope = scope
        self._log = log
        self._warned_of_lifetime = False

    @hide_frames
    def fetch(self, credentials: ServiceCredentials, timeout: float | None = None) -> AccessToken:
        """Ask for a token.

        Raises:
            InvalidClientError: the endpoint rejects the client.
            TokenEndpointError: it issued no token for another reason, or cannot be reached.
        """
        form = {"grant_type": "client_credentials"}
        if self._scope is not None:
            form["scope"] = self._scope
        auth: AuthBase = NoAuth()
        if self._auth_method == "client_secret_basic":
            auth = _ClientSecretBasic(credentials)
        else:
            form["client_id"] = credentials.client_id
            form["client_secret"] = credentials.client_secret
        endpoint = f"the token endpoint at {shown_url(credentials.token_endpoint)}"
        requested_at, requested_at_wall = self._clock.monotonic(), self._clock.time()
        try:
            answer = self._transport.send(
                "POST",
                credentials.token_endpoint,
                auth=auth,
                form=urlencode(form, quote_via=quote),
                timeout=timeout,
            )
        except HttpError as error:
            raise TokenEndpointError(
                f"{endpoint} is unreachable: {error.explain(_ADDRESS)}"
            ) from None
        value, expires_in, scope = self._read(answer, endpoint, credentials)
        return AccessToken(
            value=value,
            expires_in=expires_in,
            scope=scope,
            requested_at=requested_at,
            requested_at_wall=requested_at_wall,
        )

    def _read(
        self, answer: HttpResponse, endpoint: str, credentials: ServiceCredentials
    ) -> tuple[str, float, str | None]:
        if not answer.ok:
            raise self._http_error_response(answer, endpoint, credentials)
        try:
            if answer.truncated:
                raise codec.CodecError("it is larger than 1 MiB")
            document = codec.as_object(codec.parse_json(answer.body))
            if document.get("error"):
                raise self._http_error_response(answer, endpoint, credentials)
            value = document.get("access_token")
            if not isinstance(value, str):
                raise codec.CodecError("its member 'access_token' is missing or not a string")
            if not re.fullmatch(r"[\x21-\x7e]+", value):
                raise codec.CodecError("its member 'access_token' cannot be sent in a header")
            kind = document.get("token_type")
            if not isinstance(kind, str) or kind.lower() != "bearer":
                raise codec.CodecError("its member 'token_type' is not 'Bearer'")
        except codec.CodecError as error:
            raise TokenEndpointError(
                f"{endpoint} returned an invalid response (HTTP {answer.status}): {error}; check "
                "that it is a token endpoint (SERVICE_TOKEN_ENDPOINT)",
                status_code=answer.status,
            ) from None
        scope = document.get("scope")
        return (
            value,
            self._lifetime(document.get("expires_in"), endpoint),
            scope if isinstance(scope, str) else None,
        )

    def _http_error_response(
        self, answer: HttpResponse, endpoint: str, credentials: ServiceCredentials
    ) -> TokenEndpointError:
        description, code = codec.error_text(
            answer.body, credentials.client_secret, basic_value(credentials)
        )
        rejected = code in _CLIENT_ERRORS and answer.status in (200, 400, 401)
        said = ": ".join(text for text in (code, description) if text)
        kind = InvalidClientError if rejected else TokenEndpointError
        return kind(
            f"{endpoint} returned HTTP {answer.status}"
            + (f" ({said})" if said else "")
            + (f"; check the client {credentials.client_id!r} and its secret" if rejected else "")
            + (_REDIRECTED if answer.status // 100 == 3 else "")
            + (_NOT_FOUND if answer.status == 404 else ""),
            status_code=answer.status,
            error=code,
            error_description=description,
            retry_after=parse_retry_after(answer.headers.get("Retry-After"), self._clock.time()),
        )

    def _lifetime(self, expires_in: object, endpoint: str) -> float:
        """Read ``expires_in``, seconds, which servers send in many forms or not at all."""
        try:
            if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float, str)):
                raise ValueError  # noqa: TRY004  # as for the text below
            seconds = float(expires_in)
            if math.isnan(seconds):
                raise ValueError
        except (ValueError, OverflowError):
            if not self._warned_of_lifetime:
                self._warned_of_lifetime = True
                self._log(
                    logging.WARNING,
                    "%s returned no usable expires_in; assuming %g s",
                    endpoint,
                    FALLBACK_LIFETIME,
                )
            return FALLBACK_LIFETIME
        if seconds <= 0:
            raise TokenEndpointError(
                f"{endpoint} issued a token with expires_in {seconds:g}, which had expired when it "
                "arrived; check for a gateway that caches its responses"
            )
        return min(seconds, MAX_LIFETIME)
