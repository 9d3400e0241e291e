"""A worker that asks the inventory service, which requires an access token."""

import os

import requests
from celery import Celery

from identity_client import IdentityError
from identity_client.integrations.celery import CeleryIdentity

BROKER_URL = os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0")
INVENTORY_URL = os.environ.get("INVENTORY_URL", "http://127.0.0.1:8001")

app = Celery("orders", broker=BROKER_URL, backend=BROKER_URL)
identity = CeleryIdentity(app)


@app.task(autoretry_for=(IdentityError,), retry_backoff=True)
def check_stock(item):
    """Return what the inventory service responds about an item."""
    url = f"{INVENTORY_URL}/items/{item}"
    response = requests.get(url, auth=identity.auth(), timeout=10)
    response.raise_for_status()
    return response.status_code
