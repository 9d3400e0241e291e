"""The event hub of the examples, driven as processes; its receiver refuses what does not hold."""

from __future__ import annotations

import base64
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import RSAKey
from support.canned import CannedServer, reply
from support.event_hub import CLOUD_EVENT, LIMIT, Receiver, produce
from support.services import INTERNAL_TOKEN

ISSUER = "http://issuer.test/realms/xema"


@pytest.fixture
def served() -> Iterator[str]:
    """The address of `identity-client serve`."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("identity-client"), "serve", "--port", "0"],
        env={**os.environ, "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = (line.partition("export IDENTITY_API_URL=") for line in process.stderr)
        yield next(url.strip() for _, found, url in lines if found)
        process.terminate()


def test_events_arrive_with_a_token_each(served: str) -> None:
    with Receiver(TOKEN_ISSUER=f"{served}/realms/xema") as receiver:
        done = produce(served, receiver, "1001", "1002", "1003")
        assert (done.returncode, done.stderr) == (0, "")
        ids = done.stdout.split()
        assert len(set(ids)) == 3

        refused = requests.post(receiver.url, json=CLOUD_EVENT, timeout=LIMIT)
        assert refused.status_code == 401


def test_the_producer_is_refused_where_it_is_not_allowed_to_publish(served: str) -> None:
    with Receiver(TOKEN_ISSUER=f"{served}/realms/xema", TOKEN_PRODUCERS="billing") as receiver:
        done = produce(served, receiver, "1001")
        assert done.returncode == 1
        assert "403 Client Error" in done.stderr
        assert "Bearer" not in done.stderr


class Issuer:
    """Signs tokens with a key of its own, which it publishes.

    Attributes:
        url: where the key is published.
    """

    def __init__(self, url: str, key: RSAKey) -> None:
        self.url = url
        self.key = key

    def token(self, *, key: RSAKey | None = None, **claims: Any) -> str:
        """Return a token that holds, but for the claims that are given; None takes one away."""
        now = int(time.time())
        roles = {"roles": ["micro-service"]}
        good = {"iss": ISSUER, "azp": "orders", "aud": "events", "exp": now + 60, "iat": now}
        kept = {**good, "realm_access": roles, **claims}
        header = {"alg": "RS256", "kid": self.key.kid}
        values = {name: value for name, value in kept.items() if value is not None}
        return jwt.encode(header, values, key or self.key)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
    with CannedServer(reply({"keys": [key.as_dict(private=False)]})) as published:
        yield Issuer(published.url, key)


@pytest.fixture(scope="module")
def receiver(issuer: Issuer) -> Iterator[Receiver]:
    settings = {"TOKEN_ISSUER": ISSUER, "TOKEN_KEYS_URL": issuer.url, "TOKEN_AUDIENCE": "events"}
    with Receiver(**settings) as started:
        yield started


def test_a_token_that_holds_is_accepted(issuer: Issuer, receiver: Receiver) -> None:
    assert receiver.post(issuer.token()).status_code == 202
    (event,) = receiver.events(issuer.token())
    assert event == {**CLOUD_EVENT, "producer": "orders"}
    assert receiver.post(issuer.token(aud=["account", "events"])).status_code == 202


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def with_algorithm(alg: str, token: str) -> str:
    """Return a token's claims under another header, without a signature."""
    return f"{encoded(json.dumps({'alg': alg}).encode())}.{token.split('.')[1]}"


def signed_with_public_key(issuer: Issuer) -> str:
    """Return a token that takes the public key for a shared secret."""
    text = with_algorithm("HS256", issuer.token())
    signature = hmac.digest(issuer.key.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{encoded(signature)}"


def other_key(issuer: Issuer) -> RSAKey:
    parameters: Any = {"kid": issuer.key.kid}
    return RSAKey.generate_key(2048, parameters)


REFUSED: dict[str, tuple[int, Any]] = {
    "no token": (401, lambda issuer: None),
    "no JWT": (401, lambda issuer: "an-opaque-token"),
    "wrong issuer": (401, lambda issuer: issuer.token(iss="http://other.test/realms/xema")),
    "no issuer": (401, lambda issuer: issuer.token(iss=None)),
    "wrong audience": (401, lambda issuer: issuer.token(aud="account")),
    "no audience": (401, lambda issuer: issuer.token(aud=None)),
    "expired": (401, lambda issuer: issuer.token(exp=int(time.time()) - 60)),
    "no expiry": (401, lambda issuer: issuer.token(exp=None)),
    "bad signature": (401, lambda issuer: issuer.token()[:-8] + "AAAAAAAA"),
    "signed with another key": (401, lambda issuer: issuer.token(key=other_key(issuer))),
    "unknown key": (401, lambda issuer: jwt.encode({"alg": "RS256", "kid": "x"}, {}, issuer.key)),
    "alg none": (401, lambda issuer: with_algorithm("none", issuer.token()) + "."),
    "signed with the public key as a secret": (401, signed_with_public_key),
    "wrong azp": (403, lambda issuer: issuer.token(azp="billing")),
    "no azp": (403, lambda issuer: issuer.token(azp=None)),
    "no roles": (403, lambda issuer: issuer.token(realm_access=None)),
    "missing role": (403, lambda issuer: issuer.token(realm_access={"roles": ["reader"]})),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_does_not_hold_is_refused(
    issuer: Issuer, receiver: Receiver, case: str
) -> None:
    status, make = REFUSED[case]
    before = receiver.events(issuer.token())
    response = receiver.post(make(issuer))
    assert response.status_code == status
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert receiver.events(issuer.token()) == before


def test_another_scheme_is_refused(issuer: Issuer, receiver: Receiver) -> None:
    assert receiver.post(None, Authorization=f"Basic {issuer.token()}").status_code == 401


def test_what_is_not_a_cloud_event_is_refused(issuer: Issuer, receiver: Receiver) -> None:
    token = issuer.token()
    assert receiver.post(token, [1]).status_code == 415
    assert receiver.post(token, **{"Content-Type": "application/json"}).status_code == 415
    assert receiver.post(token, {"specversion": "1.0"}).status_code == 400
    assert receiver.post(token, {**CLOUD_EVENT, "specversion": "0.3"}).status_code == 400
