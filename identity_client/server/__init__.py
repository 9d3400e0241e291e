"""A reference identity-api with a real token endpoint, for development and tests.

Needs the extra ``server``: ``pip install "identity-client[server]"``.
"""

from .app import create_app
from .backend import EmbeddedBackend, Settings
from .runner import IdentityServer

__all__ = ["EmbeddedBackend", "IdentityServer", "Settings", "create_app"]
