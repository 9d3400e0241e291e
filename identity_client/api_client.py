"""`IdentityApiClient`: the calls of identity-api, for scripts and for registration."""

from __future__ import annotations

import time
from typing import Any, NoReturn, Self, TypeVar
from urllib.parse import quote

from attrs import frozen

from ._frames import hide_frames
from ._http import codec
from ._http.failures import HttpError
from ._http.retry import parse_retry_after
from ._http.transport import BearerAuth, HttpResponse, HttpTransport, shown_url
from ._public import public
from ._settings import url_problem
from .config import IdentityApiClientOptions
from .errors import (
    ConfigurationError,
    IdentityApiConnectionError,
    IdentityApiError,
    IdentityApiTimeout,
    InvalidResponseError,
    SecretNotReturnedError,
)
from .models import (
    EnsureSystemOrgRequest,
    Organization,
    Record,
    RegisterServiceRequest,
    RegisterServiceResponse,
    ServiceCredentials,
    ServiceType,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)

_T = TypeVar("_T")


@public
@frozen(kw_only=True, eq=False, repr=False)
class Endpoints(Record):
    """The paths of identity-api, for one that has them elsewhere.

    Attributes:
        register_service: where services are registered.
        verify_membership: where memberships are asked for.
        system_organization: where system organizations live; ``/{name}`` is added for one of them.
    """

    register_service: str = "/internal/services/register"
    verify_membership: str = "/internal/memberships/verify"
    system_organization: str = "/internal/organizations/system"


@public
class IdentityApiClient:
    """A client of identity-api; a context manager that closes its session.

    Args:
        base_url: the address of identity-api, such as ``http://identity-api:3053``.
        internal_token: the bearer token that identity-api knows.
        timeout: seconds that one call may take in all, above 0.
        ca_bundle: a file with the certificates to trust, or None for the system's.
        client_cert: a client certificate: a file with certificate and key, or a pair of files.
        endpoints: the paths, where they are not the usual ones.

    Raises:
        ConfigurationError: an argument cannot be used.

    Every call raises `IdentityApiConnectionError` when identity-api cannot be reached,
    `IdentityApiTimeout` when it does not respond in time, `InvalidResponseError` when the response
    is not what the contract says, and `IdentityApiError` when it returns an HTTP error.
    """

    @hide_frames
    def __init__(
        self,
        base_url: str,
        internal_token: str,
        *,
        timeout: float = 10.0,
        ca_bundle: str | None = None,
        client_cert: str | tuple[str, str] | None = None,
        endpoints: Endpoints | None = None,
    ) -> None:
        options = IdentityApiClientOptions(
            base_url=base_url,
            internal_token=internal_token,
            timeout=timeout,
            ca_bundle=ca_bundle,
            client_cert=client_cert,
        )
        self._base_url = options.base_url.rstrip("/")
        self._auth = BearerAuth(options.internal_token)
        self._transport = HttpTransport(options.timeout, options.ca_bundle, options.client_cert)
        self._endpoints = endpoints or Endpoints()

    @classmethod
    def from_options(
        cls, options: IdentityApiClientOptions, *, endpoints: Endpoints | None = None
    ) -> IdentityApiClient:
        """Make a client of options that were gathered elsewhere."""
        return cls(
            options.base_url,
            options.internal_token,
            timeout=options.timeout,
            ca_bundle=options.ca_bundle,
            client_cert=options.client_cert,
            endpoints=endpoints,
        )

    @hide_frames
    def register_service(
        self,
        *,
        name: str,
        display_name: str,
        description: str | None = None,
        service_type: str = ServiceType.BACKEND,
        regenerate_secret: bool = False,
    ) -> ServiceCredentials:
        """Register a service and return its credentials.

        Args:
            name: the service's name, which becomes the client_id.
            display_name: the name that people see.
            description: what the service is for.
            service_type: a `ServiceType`, or another string that identity-api knows.
            regenerate_secret: whether a service that exists gets a new secret; the old one stops
                working at once, for every replica that uses it.

        Raises:
            SecretNotReturnedError: the service exists, and its secret was not asked to be renewed.
        """
        reply = self.register_service_full(
            name=name,
            display_name=display_name,
            description=description,
            service_type=service_type,
            regenerate_secret=regenerate_secret,
        )
        return extract_credentials(reply, name, self._base_url)

    @hide_frames
    def register_service_full(
        self,
        *,
        name: str,
        display_name: str,
        description: str | None = None,
        service_type: str = ServiceType.BACKEND,
        regenerate_secret: bool = False,
        timeout: float | None = None,
    ) -> RegisterServiceResponse:
        """Register a service and return the whole reply, with or without a secret.

        Args:
            name: the service's name, which becomes the client_id.
            display_name: the name that people see.
            description: what the service is for.
            service_type: a `ServiceType`, or another string that identity-api knows.
            regenerate_secret: whether a service that exists gets a new secret; the old one stops
                working at once, for every replica that uses it.
            timeout: seconds for this call, where they are fewer than the client's.

        Raises:
            InvalidResponseError: the token endpoint in the response is not a URL, or another
                member is not what the contract says.
        """
        request = RegisterServiceRequest(
            name=name,
            display_name=display_name,
            description=description,
            service_type=service_type,
            regenerate_secret=regenerate_secret,
        )
        reply = self._call(
            "POST",
            self._endpoints.register_service,
            RegisterServiceResponse,
            json=codec.to_wire(request),
            timeout=timeout,
        )
        problem = url_problem(reply.token_endpoint)
        if problem is not None:
            raise self._invalid_response(
                self._endpoints.register_service, 200, f"its member 'tokenEndpoint' {problem}"
            )
        return reply

    @hide_frames
    def verify_membership(self, user_id: str, org_id: str) -> VerifyMembershipResponse:
        """Ask whether a user is a member of an organization.

        Args:
            user_id: the user's id.
            org_id: the organization's id.
        """
        params = VerifyMembershipParams(user_id=user_id, org_id=org_id)
        return self._call(
            "GET",
            self._endpoints.verify_membership,
            VerifyMembershipResponse,
            params=codec.to_wire(params),
        )

    @hide_frames
    def ensure_system_org(self, *, name: str, display_name: str) -> Organization:
        """Create a system organization unless it exists, and return it.

        Args:
            name: the organization's unique name.
            display_name: the name that people see.
        """
        request = EnsureSystemOrgRequest(name=name, display_name=display_name)
        return self._call(
            "POST", self._endpoints.system_organization, Organization, json=codec.to_wire(request)
        )

    @hide_frames
    def get_system_org(self, name: str) -> Organization:
        """Return a system organization.

        Args:
            name: the organization's unique name.

        Raises:
            IdentityApiError: with ``status_code`` 404 when there is none of that name.
            ConfigurationError: the name is empty, ``.`` or ``..``.
        """
        if not name or name in (".", ".."):
            raise ConfigurationError("name cannot be used: it must name an organization")
        path = f"{self._endpoints.system_organization}/{quote(name, safe='')}"
        return self._call("GET", path, Organization)

    def close(self) -> None:
        """Close the session; safe twice. A later call opens another."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<IdentityApiClient {self._base_url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an IdentityApiClient holds a secret and a session and cannot be pickled")

    def _call(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        params: dict[str, str] | None = None,
        json: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> _T:
        try:
            answer = self._transport.send(
                method,
                self._base_url + path,
                auth=self._auth,
                params=params,
                json=json,
                timeout=timeout,
            )
        except HttpError as error:
            broken = IdentityApiTimeout if error.timed_out else IdentityApiConnectionError
            raise broken(
                f"identity-api at {shown_url(self._base_url)} is unreachable: "
                f"{error.explain('IDENTITY_API_URL')}"
            ) from None
        if not answer.ok:
            raise self._http_error_response(answer, path)
        if answer.truncated:
            raise self._invalid_response(path, answer.status, "it is larger than 1 MiB")
        try:
            return codec.from_wire(codec.unwrap(codec.parse_json(answer.body)).data, kind)
        except codec.CodecError as error:
            raise self._invalid_response(path, answer.status, str(error)) from None

    def _http_error_response(self, answer: HttpResponse, path: str) -> IdentityApiError:
        message, code = codec.error_text(answer.body, self._auth.token)
        advice = _HINTS.get(answer.status if answer.status >= 400 else answer.status // 100, "")
        return IdentityApiError(
            f"identity-api at {shown_url(self._base_url + path)} returned HTTP {answer.status}"
            f"{f' ({message})' if message else ''}{advice}",
            status_code=answer.status,
            code=code,
            retry_after=parse_retry_after(answer.headers.get("Retry-After"), time.time()),
        )

    def _invalid_response(self, path: str, status: int, problem: str) -> InvalidResponseError:
        return InvalidResponseError(
            f"identity-api at {shown_url(self._base_url + path)} returned an invalid response "
            f"(HTTP {status}): {problem}; check that IDENTITY_API_URL is identity-api's address",
            status_code=status,
        )


_HINTS = {
    3: "; redirects are not followed: set the address that it redirects to, if you trust it",
    401: "; check the internal token (IDENTITY_API_INTERNAL_TOKEN)",
    403: "; check what the internal token (IDENTITY_API_INTERNAL_TOKEN) may do",
    404: "; check the address (IDENTITY_API_URL), or the requested resource",
    429: "; rate limited",
}


def extract_credentials(
    reply: RegisterServiceResponse, name: str, base_url: str
) -> ServiceCredentials:
    """Take the credentials out of a registration's reply.

    Raises:
        SecretNotReturnedError: the reply holds no secret.
    """
    if not reply.client_secret:
        raise SecretNotReturnedError(
            f"identity-api at {shown_url(base_url)} did not return a secret: the service {name!r} "
            "exists already; pass regenerate_secret=True to rotate its secret (this invalidates "
            "the old one everywhere), or use the existing credentials"
        )
    return ServiceCredentials(
        client_id=reply.client_id or name,
        client_secret=reply.client_secret,
        token_endpoint=reply.token_endpoint,
        roles=reply.roles,
    )
