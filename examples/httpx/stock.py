"""Asks the inventory service for its stock, one item after the other, then all at once."""

import asyncio
import os
import sys

import httpx2

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.integrations.httpx2 import IdentityAuth

INVENTORY_URL = os.environ.get("INVENTORY_URL", "http://127.0.0.1:8001")

service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
auth = IdentityAuth(service)


def one_by_one(items):
    with httpx2.Client(base_url=INVENTORY_URL, auth=auth) as client:
        return [client.get(f"/items/{item}").status_code for item in items]


async def at_once(items):
    async with httpx2.AsyncClient(base_url=INVENTORY_URL, auth=auth) as client:
        responses = await asyncio.gather(*(client.get(f"/items/{item}") for item in items))
        return [response.status_code for response in responses]


if __name__ == "__main__":
    with service:
        print(one_by_one(sys.argv[1:]), asyncio.run(at_once(sys.argv[1:])))
