"""OAuth 2.0 client-credentials tokens for microservices: cached, refreshed in the background.

The public names are loaded when they are first used (PEP 562): to import the package, as a command
or a test collector does, costs neither requests nor cattrs.
"""

from __future__ import annotations

from ._public import load_lazily
from ._version import __version__

TYPE_CHECKING = False  # as type checkers know it; typing is the most of what an import would cost
if TYPE_CHECKING:
    from .api_client import Endpoints, IdentityApiClient
    from .auth import TokenAuth
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
    from .service import IdentityBootstrapService
    from .stores import CredentialStore, open_store

_MODULES = {
    "api_client": ("Endpoints", "IdentityApiClient"),
    "auth": ("TokenAuth",),
    "config": ("IdentityApiClientOptions", "IdentityBootstrapConfig"),
    "errors": (
        "ConfigurationError",
        "CredentialStoreError",
        "IdentityApiConnectionError",
        "IdentityApiError",
        "IdentityApiTimeout",
        "IdentityError",
        "InvalidClientError",
        "InvalidResponseError",
        "NotReadyError",
        "RegistrationError",
        "RemoteError",
        "SecretNotReturnedError",
        "ServiceClosedError",
        "TokenEndpointError",
    ),
    "events": ("EventKind", "ServiceEvent", "ServiceState", "ServiceStatus"),
    "models": (
        "AccessToken",
        "ApiEnvelope",
        "EnsureSystemOrgRequest",
        "Organization",
        "RegisterServiceRequest",
        "RegisterServiceResponse",
        "ServiceCredentials",
        "ServiceType",
        "StoredCredentials",
        "VerifyMembershipParams",
        "VerifyMembershipResponse",
    ),
    "service": ("IdentityBootstrapService",),
    "stores": ("CredentialStore", "open_store"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

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


def __getattr__(name: str) -> object:
    return load_lazily(__name__, _MODULE_OF, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
