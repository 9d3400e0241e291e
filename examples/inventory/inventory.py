"""The service that the other examples call: it verifies the access token of each request."""

import os
import time

import requests
from flask import Flask, abort, request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

ISSUER = os.environ.get("ISSUER", "http://127.0.0.1:3053/realms/xema")
KEYS_TTL = 300.0

app = Flask(__name__)
claims = jwt.JWTClaimsRegistry(
    iss={"essential": True, "value": ISSUER}, exp={"essential": True}, azp={"essential": True}
)
cached = {"keys": None, "until": 0.0}


def keys():
    if time.monotonic() > cached["until"]:
        response = requests.get(f"{ISSUER}/protocol/openid-connect/certs", timeout=10)
        response.raise_for_status()
        cached["keys"] = KeySet.import_key_set(response.json())
        cached["until"] = time.monotonic() + KEYS_TTL
    return cached["keys"]


@app.get("/items/<item>")
def show_item(item):
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        verified = jwt.decode(token, keys(), algorithms=["RS256"])
        claims.validate(verified.claims)
    except (JoseError, ValueError):
        abort(401)
    if scheme != "Bearer":
        abort(401)
    return {"item": item, "in_stock": len(item), "asked_by": verified.claims["azp"]}
