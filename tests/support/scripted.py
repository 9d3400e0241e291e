"""An identity-api and a token endpoint that answer what a test has prepared."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

from identity_client import IdentityBootstrapService
from support.canned import Asked, Canned, CannedServer, reply, token_reply
from support.services import StartCanned

REJECTED = reply({"error": "unauthorized_client"}, 401)


def registered(url: str, **members: Any) -> Canned:
    """The reply to a registration."""
    return reply(
        {
            "data": {
                "id": "1",
                "clientId": "orders",
                "clientSecret": "a-client-secret",
                "tokenEndpoint": f"{url}/token",
                "roles": ["micro-service"],
                "alreadyExisted": False,
                "secretRegenerated": False,
                **members,
            }
        }
    )


class Scripted:
    """An identity-api and a token endpoint on one port, each with answers of its own."""

    def __init__(self, canned: StartCanned) -> None:
        self.server = canned(Canned(404))
        self.url = self.server.url
        self.registrations: list[Canned] = [registered(self.url)]
        self.tokens: list[Canned] = [token_reply()]
        self.server.before_answer = self._prepare
        self._lock = threading.Lock()

    def _prepare(self, asked: Asked) -> None:
        answers = self.tokens if asked.path == "/token" else self.registrations
        with self._lock:
            self.server.answers[0] = answers.pop(0) if len(answers) > 1 else answers[0]

    @property
    def asked(self) -> list[str]:
        """What was asked, in short."""
        short = []
        for asked in self.server.asked:
            if asked.path == "/token":
                short.append(f"token {asked.form['client_secret']}")
            else:
                again = json.loads(asked.body)["regenerateSecret"]
                short.append("register and regenerate" if again else "register")
        return short


def numbered_tokens(endpoint: CannedServer, lifetime: float) -> None:
    """Let an endpoint issue a new token for each request, each for `lifetime` seconds."""
    numbers = itertools.count(len(endpoint.asked))

    def prepare(asked: Asked) -> None:
        endpoint.answers[0] = token_reply(f"token-{next(numbers)}", expires_in=lifetime)

    endpoint.before_answer = prepare


def existing(url: str, secret: str | None = None, *, regenerated: bool = False) -> Canned:
    return registered(url, clientSecret=secret, alreadyExisted=True, secretRegenerated=regenerated)


def wait_for(service: IdentityBootstrapService, condition: Callable[[], bool]) -> None:
    """Wait until an event makes a condition true."""
    happened = threading.Event()
    stop = service.on_event(lambda event: happened.set())
    try:
        while not condition():
            assert happened.wait(10)
            happened.clear()
    finally:
        stop()
