"""The examples for Flask and Django against a real Keycloak, with the settings they always have."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.keycloak import Realm
from support.services import INTERNAL_TOKEN
from support.web import EXAMPLES, WebServer, inventory, load

from identity_client.server import AppServer

TARGETS = {"flask": "orders:create_app()", "django": "shop.wsgi"}


@pytest.mark.parametrize("folder", TARGETS)
def test_an_example_gets_its_orders_through_a_rotated_secret(
    folder: str,
    served: AppServer,
    realm: Realm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    realm.change(accessTokenLifespan=4)
    with inventory(realm.issuer, monkeypatch) as inventory_url:
        environment = {
            "HOME": str(tmp_path),
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "IDENTITY_API_URL": served.url,
            "INVENTORY_URL": inventory_url,
            "SERVICE_NAME": "orders",
        }
        command = f"gunicorn --bind=127.0.0.1:{{port}} --threads=4 {TARGETS[folder]}"
        with WebServer(command, EXAMPLES / folder, environment, tmp_path / "log") as server:
            server.wait_until("/health/identity", 200)
            with load(server, "/orders/apple") as statuses:
                realm.rotate_secret("orders")
                server.wait_for_log("client secret regenerated")
                seen = len(statuses)
                while len(statuses) < seen + 20:
                    server.wait_until("/health/identity", 200)
    assert set(statuses) == {200}
