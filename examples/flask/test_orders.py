"""The tests of the application: no network and no thread."""

import pytest
import responses
from orders import create_app

from identity_client import TokenEndpointError

INVENTORY = "http://inventory/items/apple"


@pytest.fixture
def client(fake_identity):
    app = create_app({"IDENTITY_SERVICE": fake_identity, "INVENTORY_URL": "http://inventory"})
    return app.test_client()


@responses.activate
def test_an_item_in_stock_can_be_delivered(client, fake_identity):
    responses.get(INVENTORY, json={"in_stock": 3})
    assert client.get("/orders/apple").json == {"item": "apple", "can_be_delivered": True}
    sent = responses.calls[0].request.headers["Authorization"]
    assert sent == f"Bearer {fake_identity.get_access_token()}"


@responses.activate
def test_a_revoked_token_is_replaced_and_the_request_repeated(client, fake_identity):
    responses.get(INVENTORY, status=401)
    responses.get(INVENTORY, json={"in_stock": 0})
    assert client.get("/orders/apple").json == {"item": "apple", "can_be_delivered": False}
    assert len(fake_identity.tokens) == 2


def test_an_outage_costs_a_503_once_the_token_has_expired(client, fake_identity):
    assert client.get("/health/identity").status_code == 200
    fake_identity.fail_with(TokenEndpointError("the token endpoint is down"))
    fake_identity.expire()
    assert client.get("/orders/apple").status_code == 503
    fake_identity.recover()
    assert client.get("/health/identity").status_code == 200
