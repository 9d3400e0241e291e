"""An event hub's door: accepts CloudEvents from producers whose access token holds."""

import logging
import os
import threading
import time

import requests
from flask import Flask, request
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

ISSUER = os.environ.get("TOKEN_ISSUER", "http://127.0.0.1:3053/realms/xema")
KEYS_URL = os.environ.get("TOKEN_KEYS_URL", f"{ISSUER}/protocol/openid-connect/certs")
AUDIENCE = os.environ.get("TOKEN_AUDIENCE")  # what the tokens are for, where the realm says so
PRODUCERS = os.environ.get("TOKEN_PRODUCERS", "orders").split(",")  # their azp
ROLE = os.environ.get("TOKEN_ROLE", "micro-service")

REQUIRED = {"specversion", "id", "source", "type"}
CLOCK_SKEW = 10  # seconds
SECONDS_BETWEEN_KEYS = 10

log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not let in: the HTTP status, and what the producer may know."""

    def __init__(self, status, error):
        super().__init__(error)
        self.status = status
        self.error = error


class Keys:
    """The issuer's public keys; fetched again, with pauses, when a token names another one."""

    def __init__(self, url):
        self._url = url
        self._keys = KeySet([])
        self._fetched_at = float("-inf")
        self._lock = threading.Lock()

    def decode(self, value):
        try:
            return jwt.decode(value, self._keys, algorithms=["RS256"])
        except InvalidKeyIdError:
            self._fetch()
            return jwt.decode(value, self._keys, algorithms=["RS256"])

    def _fetch(self):
        with self._lock:
            if time.monotonic() - self._fetched_at > SECONDS_BETWEEN_KEYS:
                self._fetched_at = time.monotonic()
                response = requests.get(self._url, timeout=5)
                response.raise_for_status()
                self._keys = KeySet.import_key_set(response.json())


keys = Keys(KEYS_URL)
claims_registry = jwt.JWTClaimsRegistry(
    leeway=CLOCK_SKEW,
    exp={"essential": True},
    iss={"essential": True, "value": ISSUER},
    **({"aud": {"essential": True, "value": AUDIENCE}} if AUDIENCE else {}),
)


def verify(authorization):
    """Return the claims of a token that this hub accepts; raise `Refused` for any other."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise Refused(401, "a bearer token is required")
    try:
        claims = keys.decode(value).claims
        claims_registry.validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        log.info("refused a token: %r", error)
        raise Refused(401, "invalid_token") from error
    except requests.RequestException as error:
        raise Refused(503, "the keys of the issuer cannot be fetched") from error
    if claims.get("azp") not in PRODUCERS:
        raise Refused(403, "this producer is not allowed to publish")
    if ROLE not in claims.get("realm_access", {}).get("roles", []):
        raise Refused(403, f"the role {ROLE} is missing")
    return claims


app = Flask(__name__)
app.events = []


@app.errorhandler(Refused)
def refuse(refused):
    headers = {"WWW-Authenticate": 'Bearer realm="events"'} if refused.status == 401 else {}
    return {"error": refused.error}, refused.status, headers


@app.post("/events")
def receive():
    claims = verify(request.headers.get("Authorization", ""))
    event = request.get_json(force=True, silent=True)
    if request.mimetype != "application/cloudevents+json" or not isinstance(event, dict):
        raise Refused(415, "an event in CloudEvents' JSON format is required")
    if not event.keys() >= REQUIRED or event["specversion"] != "1.0":
        raise Refused(400, "this is not a CloudEvent 1.0")
    app.events.append({**event, "producer": claims["azp"]})
    return "", 202


@app.get("/events")
def events():
    verify(request.headers.get("Authorization", ""))
    return app.events
