"""Servers, each with a service that calls a protected resource."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.resource import ProtectedResource
from support.services import INTERNAL_TOKEN

from identity_client.server import IdentityServer


@pytest.fixture
def environment(api: IdentityServer, resource: ProtectedResource, tmp_path: Path) -> dict[str, str]:
    """What the app is told: the processes of a server share one registration."""
    return {
        "HOME": str(tmp_path),
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "RESOURCE_URL": resource.url,
        "SERVICE_NAME": "orders",
    }
