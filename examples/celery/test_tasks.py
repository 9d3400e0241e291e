"""Tests of the tasks with a fake service: no identity-api, no thread, no broker."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import tasks

from identity_client import TokenEndpointError
from identity_client.testing import FakeIdentityService


@pytest.fixture
def service():
    fake = FakeIdentityService()
    tasks.app.conf.update(identity_client={"SERVICE": fake}, task_always_eager=True)
    yield fake
    tasks.app.conf.update(identity_client=None, task_always_eager=False)


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
        monkeypatch.setattr(tasks, "INVENTORY_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield headers
        server.shutdown()


def test_a_task_sends_the_token(service, received):
    assert tasks.check_stock.delay("book").get() == 204
    assert received == [f"Bearer {service.get_access_token()}"]


def test_a_task_fails_with_the_cause_while_there_is_no_token(service, received):
    service.fail_with(TokenEndpointError("the token endpoint is down"))
    result = tasks.check_stock.delay("book")
    assert isinstance(result.result, TokenEndpointError)
    assert received == []

    service.recover()
    assert tasks.check_stock.delay("book").get() == 204
