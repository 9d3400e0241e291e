"""A web application that asks the inventory service, which requires an access token."""

import os
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from identity_client import IdentityError
from identity_client.integrations.fastapi import Identity, identity_lifespan, identity_routes
from identity_client.integrations.httpx2 import IdentityAuth

INVENTORY_URL = os.environ.get("INVENTORY_URL", "http://127.0.0.1:8001")


@asynccontextmanager
async def lifespan(app):
    async with httpx2.AsyncClient(base_url=INVENTORY_URL) as inventory:
        yield {"inventory": inventory}


app = FastAPI(lifespan=identity_lifespan(lifespan), routes=identity_routes("/ready"))


@app.exception_handler(IdentityError)
async def no_token(request, error):
    return JSONResponse({"detail": "the inventory service cannot be asked now"}, 503)


@app.get("/live")
async def live():
    return {"live": True}


@app.get("/stock/{item}")
async def stock(item: str, request: Request, identity: Identity):
    """Return the status that the inventory service responds with for an item."""
    auth = IdentityAuth(identity)
    response = await request.state.inventory.get(f"/items/{item}", auth=auth)
    if response.is_error:
        raise HTTPException(502, f"the inventory service returned {response.status_code}")
    return {"item": item, "status": response.status_code, "pid": os.getpid()}
