"""A reference identity-api with a real token endpoint, for development and tests.

Needs the extra ``server``: ``pip install "xemahq-identity-client[server]"``.
"""

from .app import create_app
from .backend import Backend, BackendError, Client, EmbeddedBackend, IssuedToken
from .faults import FaultInjector, ServerSettings
from .request_log import LoggedRequest, RequestLog
from .runner import AppServer, IdentityServer
from .scenario import Scenario

__all__ = [
    "AppServer",
    "Backend",
    "BackendError",
    "Client",
    "EmbeddedBackend",
    "FaultInjector",
    "IdentityServer",
    "IssuedToken",
    "LoggedRequest",
    "RequestLog",
    "Scenario",
    "ServerSettings",
    "create_app",
]
