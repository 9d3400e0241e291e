"""What the examples need: an identity-api, a service to call, and the settings for both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import INTERNAL_TOKEN
from support.web import inventory

from identity_client.server import IdentityServer


@pytest.fixture
def inventory_url(api: IdentityServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with inventory(f"{api.url}/realms/xema", monkeypatch) as url:
        yield url


@pytest.fixture
def environment(api: IdentityServer, inventory_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of an example; its processes share their credentials."""
    return {
        "HOME": str(tmp_path),
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_API_URL": api.url,
        "IDENTITY_BASE_RETRY_DELAY": "0.1",
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "IDENTITY_MAX_RETRY_DELAY": "0.5",
        "INVENTORY_URL": inventory_url,
        "SERVICE_NAME": "orders",
    }
