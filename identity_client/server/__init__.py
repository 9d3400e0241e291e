"""A reference identity-api with a real token endpoint, for development and tests.

Needs the extra ``server``: ``pip install "xemahq-identity-client[server]"``.
"""

from .app import create_app
from .backend import Backend, BackendError, EmbeddedBackend
from .runner import AppServer, IdentityServer
from .switchboard import Settings

__all__ = [
    "AppServer",
    "Backend",
    "BackendError",
    "EmbeddedBackend",
    "IdentityServer",
    "Settings",
    "create_app",
]
