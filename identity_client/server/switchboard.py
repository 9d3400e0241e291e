"""Faults on demand: settings that change while the server runs, and the calls that change them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any, Protocol

from attrs import evolve, frozen
from flask import Flask, Response, request

from .._http import codec
from .replies import oauth_error, refusal, reply


@frozen(kw_only=True)
class Settings:
    """What can be changed while the server runs: token lifetime and faults.

    Attributes:
        token_lifetime: seconds that a new access token lives.
        api_latency: seconds that every identity-api call takes.
        api_outage: whether every identity-api call answers 503.
        api_error_rate: the part of identity-api calls that answer 500, 0 to 1.
        token_latency: seconds that every token request takes.
        token_outage: whether every token request answers 503.
        token_error_rate: the part of token requests that answer 500, 0 to 1.
    """

    token_lifetime: float = 300.0
    api_latency: float = 0.0
    api_outage: bool = False
    api_error_rate: float = 0.0
    token_latency: float = 0.0
    token_outage: bool = False
    token_error_rate: float = 0.0


class Switchboard:
    """The settings of a server, and how often it was asked what. Thread-safe.

    Attributes:
        requests: how often each endpoint was asked, by its name.
        settings: the current settings; replaced as a whole by `change`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.settings: Settings = settings or Settings()
        self._lock = threading.Lock()

    def change(self, **settings: Any) -> Settings:
        """Change some settings and return all."""
        with self._lock:
            self.settings = evolve(self.settings, **settings)
            return self.settings

    def count(self, endpoint: str) -> None:
        """Count one request to an endpoint."""
        with self._lock:
            self.requests[endpoint] += 1


class Board(Protocol):
    """A switchboard that can rotate secrets, too."""

    settings: Settings

    def count(self, endpoint: str) -> None:
        """Count one request to an endpoint."""
        ...

    def rotate_secret(self, name: str) -> bool:
        """Rotate a client's secret without telling its users; return whether there is such one."""
        ...


def add_switchboard(app: Flask, board: Board) -> None:
    """Let an app fail as its settings say, and add the calls that change them."""

    @app.before_request
    def apply_faults() -> Any:
        if not request.path.startswith("/internal/"):
            return None
        settings = board.settings
        board.count("api")
        time.sleep(settings.api_latency)
        if settings.api_outage:
            return refusal(503, "simulated outage")
        if random.random() < settings.api_error_rate:
            return refusal(500, "simulated error")
        return None

    @app.get("/dev/settings")
    def get_settings() -> Any:
        return reply(board.settings)

    @app.patch("/dev/settings")
    def change_settings() -> Any:
        change = codec.as_object(codec.parse_json(request.get_data()))
        unknown = set(change) - set(codec.to_wire(Settings()))
        if unknown:
            raise codec.CodecError(f"its member {min(unknown)!r} is not known")
        wanted = codec.from_wire({**codec.to_wire(board.settings), **change}, Settings)
        _check(wanted)
        board.settings = wanted
        return reply(wanted)

    @app.post("/dev/services/<name>/rotate-secret")
    def rotate_secret(name: str) -> Any:
        if not board.rotate_secret(name):
            return refusal(404, f"there is no service {name!r}")
        return Response(status=204)


def token_fault(board: Switchboard) -> Any:
    """Count a token request, and return the answer to it if it is to fail."""
    board.count("token")
    settings = board.settings
    time.sleep(settings.token_latency)
    if settings.token_outage:
        return oauth_error(503, "temporarily_unavailable", "The server is being restarted")
    if random.random() < settings.token_error_rate:
        return oauth_error(500, "unknown_error", "For more on this error consult the server log")
    return None


def _check(settings: Settings) -> None:
    if not 0 < settings.token_lifetime <= 86400:
        raise codec.CodecError("its member 'tokenLifetime' must be above 0 and 86400 at most")
    for rate in ("api_error_rate", "token_error_rate"):
        if not 0 <= getattr(settings, rate) <= 1:
            raise codec.CodecError("an error rate must be between 0 and 1")
    for latency in ("api_latency", "token_latency"):
        if not 0 <= getattr(settings, latency) <= 60:
            raise codec.CodecError("a latency must be between 0 and 60 seconds")
