"""Publishes an event for each order number in its arguments."""

import os
import sys

from hub import EventHub

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
hub = EventHub(
    os.environ.get("EVENT_HUB_URL", "http://127.0.0.1:8003/events"),
    source="/orders",
    token_provider=service.get_access_token,
)

if __name__ == "__main__":
    with service:
        for number in sys.argv[1:]:
            print(hub.publish("example.order.placed", {"number": number}))
