"""FastAPI: what `identity_client.integrations.starlette` has, and the dependency `Identity`.

An endpoint with a parameter ``identity: Identity`` gets the service of its application. Tests
replace it with ``app.dependency_overrides[get_identity]``, or set ``app.state.identity``.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from ..service import IdentityBootstrapService
from .starlette import get_identity, identity_lifespan, identity_routes

__all__ = ["Identity", "get_identity", "identity_lifespan", "identity_routes"]

Identity = Annotated[IdentityBootstrapService, Depends(get_identity)]
