"""The tests of the application: no network, no thread, no database."""

import responses
from django.test import SimpleTestCase, override_settings

from identity_client import TokenEndpointError
from identity_client.testing import FakeIdentityService

INVENTORY = "http://inventory/items/apple"


class OrderTests(SimpleTestCase):
    def setUp(self):
        self.identity = FakeIdentityService()
        changed = override_settings(
            IDENTITY_CLIENT={"SERVICE": self.identity}, INVENTORY_URL="http://inventory"
        )
        changed.enable()
        self.addCleanup(changed.disable)

    @responses.activate
    def test_an_item_in_stock_can_be_delivered(self):
        responses.get(INVENTORY, json={"in_stock": 3})
        response = self.client.get("/orders/apple")
        self.assertEqual(response.json(), {"item": "apple", "can_be_delivered": True})
        sent = responses.calls[0].request.headers["Authorization"]
        self.assertEqual(sent, f"Bearer {self.identity.get_access_token()}")

    def test_an_outage_costs_a_503_once_the_token_has_expired(self):
        self.assertEqual(self.client.get("/health/identity").status_code, 200)
        self.identity.fail_with(TokenEndpointError("the token endpoint is down"))
        self.identity.expire()
        self.assertEqual(self.client.get("/orders/apple").status_code, 503)
