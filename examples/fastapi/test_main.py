"""Tests of the application with a fake service: no identity-api, and no thread for it."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import main
import pytest
from fastapi.testclient import TestClient

from identity_client import TokenEndpointError
from identity_client.integrations.fastapi import get_identity
from identity_client.testing import FakeIdentityService


@pytest.fixture
def service():
    return FakeIdentityService()


@pytest.fixture
def client(service, received):
    main.app.state.identity = service
    with TestClient(main.app) as client:
        yield client
    del main.app.state.identity


@pytest.fixture
def received(monkeypatch):
    """The Authorization headers that the inventory service has received."""
    headers = []

    class Inventory(BaseHTTPRequestHandler):
        def do_GET(self):
            headers.append(self.headers["Authorization"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Inventory) as server:
        monkeypatch.setattr(main, "INVENTORY_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield headers
        server.shutdown()


def test_the_token_is_sent(client, service, received):
    assert client.get("/stock/book").json()["status"] == 204
    assert received == [f"Bearer {service.get_access_token()}"]


def test_in_an_outage_it_stays_ready_and_responds_with_503(client, service, received):
    service.fail_with(TokenEndpointError("the token endpoint is down"))
    service.expire()
    assert client.get("/stock/book").status_code == 503
    assert client.get("/ready").json()["state"] == "UNAVAILABLE"
    assert received == []

    service.recover()
    assert client.get("/stock/book").status_code == 200


def test_one_endpoint_with_another_service(client, received):
    other = FakeIdentityService()
    main.app.dependency_overrides[get_identity] = lambda: other
    client.get("/stock/book")
    assert received == [f"Bearer {other.get_access_token()}"]
    main.app.dependency_overrides.clear()
