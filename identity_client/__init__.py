"""Access tokens for microservices: one registration, one token in memory, for all threads."""

from ._version import __version__
from .api_client import Endpoints, IdentityApiClient
from .auth import TokenAuth
from .bootstrap import IdentityBootstrapService
from .config import IdentityApiClientOptions, IdentityBootstrapConfig
from .errors import (
    ConfigurationError,
    CredentialStoreError,
    IdentityApiConnectionError,
    IdentityApiError,
    IdentityApiTimeout,
    IdentityError,
    InvalidClientError,
    InvalidResponseError,
    NotReadyError,
    RegistrationError,
    RemoteError,
    SecretNotReturnedError,
    ServiceClosedError,
    TokenEndpointError,
)
from .events import EventKind, ServiceEvent, ServiceState, ServiceStatus
from .models import (
    AccessToken,
    ApiEnvelope,
    EnsureSystemOrgRequest,
    Organization,
    RegisterServiceRequest,
    RegisterServiceResponse,
    ServiceCredentials,
    ServiceType,
    StoredCredentials,
    VerifyMembershipParams,
    VerifyMembershipResponse,
)
from .stores import CredentialStore, open_store

__all__ = [
    "AccessToken",
    "ApiEnvelope",
    "ConfigurationError",
    "CredentialStore",
    "CredentialStoreError",
    "Endpoints",
    "EnsureSystemOrgRequest",
    "EventKind",
    "IdentityApiClient",
    "IdentityApiClientOptions",
    "IdentityApiConnectionError",
    "IdentityApiError",
    "IdentityApiTimeout",
    "IdentityBootstrapConfig",
    "IdentityBootstrapService",
    "IdentityError",
    "InvalidClientError",
    "InvalidResponseError",
    "NotReadyError",
    "Organization",
    "RegisterServiceRequest",
    "RegisterServiceResponse",
    "RegistrationError",
    "RemoteError",
    "SecretNotReturnedError",
    "ServiceClosedError",
    "ServiceCredentials",
    "ServiceEvent",
    "ServiceState",
    "ServiceStatus",
    "ServiceType",
    "StoredCredentials",
    "TokenAuth",
    "TokenEndpointError",
    "VerifyMembershipParams",
    "VerifyMembershipResponse",
    "__version__",
    "open_store",
]
