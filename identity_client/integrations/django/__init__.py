"""A Django app: one service for the process, found with `get_identity`, started by its first use.

Needs the extra ``django``: ``pip install "xemahq-identity-client[django]"``. Add
``identity_client.integrations.django`` to ``INSTALLED_APPS`` for its checks and commands.
"""

from __future__ import annotations

from ...errors import IdentityError
from ._identity import get_identity

__all__ = ["IdentityError", "get_identity"]
