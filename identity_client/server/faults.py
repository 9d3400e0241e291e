"""Fault injection: latency, outages and errors that change while the server runs."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from attrs import evolve, frozen
from flask import Flask, request

from .request_log import RequestLog
from .responses import error_response, oauth_error

# The key in a request's WSGI environment of the event that is set when its server stops.
STOPPING = "identity_api.stopping"

MAX_LIFETIME = 86_400.0
_LIMITS = {60.0: ("api_latency", "token_latency"), 1.0: ("api_error_rate", "token_error_rate")}


@frozen(kw_only=True)
class SettingsDocument:
    """The settings as JSON has them: of the right types, and not yet checked."""

    token_lifetime: float = 300.0
    api_latency: float = 0.0
    api_outage: bool = False
    api_error_rate: float = 0.0
    token_latency: float = 0.0
    token_outage: bool = False
    token_error_rate: float = 0.0


@frozen(kw_only=True)
class ServerSettings(SettingsDocument):
    """What can change while the server runs: the token lifetime and faults.

    Attributes:
        token_lifetime: seconds until a new access token expires, above 0 and at most 86400.
        api_latency: seconds added to every identity-api call, 0 to 60.
        api_outage: whether every identity-api call returns 503.
        api_error_rate: the share of identity-api calls that return 500, 0 to 1.
        token_latency: seconds added to every token request, 0 to 60.
        token_outage: whether every token request returns 503.
        token_error_rate: the share of token requests that return 500, 0 to 1.

    Raises:
        ValueError: a value is out of its range.
    """

    def __attrs_post_init__(self) -> None:
        if not 0 < self.token_lifetime <= MAX_LIFETIME:
            limit = f"above 0 and at most {MAX_LIFETIME:g} seconds"
            raise ValueError(f"the token lifetime must be {limit}")
        for high, names in _LIMITS.items():
            for name in names:
                if not 0 <= getattr(self, name) <= high:  # also true of NaN
                    words = name.replace("_", " ")
                    raise ValueError(f"the {words} must be between 0 and {high:g}")


class FaultInjector:
    """The settings of a server, how often each endpoint was called, and the log. Thread-safe.

    Args:
        settings: the settings to begin with.

    Attributes:
        requests: how often each endpoint was called: ``api``, ``register`` and ``token``.
        settings: the current settings; `change` replaces them as a whole.
        log: the last requests, which a test can wait for.
    """

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.settings: ServerSettings = settings or ServerSettings()
        self.log: RequestLog = RequestLog()
        self._lock = threading.Lock()

    def change(self, **settings: Any) -> ServerSettings:
        """Change some settings, and return all.

        Args:
            settings: the new values, with the names, units and ranges of `ServerSettings`.

        Raises:
            ValueError: a value is out of its range; nothing has changed then.
            TypeError: a name is not that of a setting.
        """
        with self._lock:
            self.settings = evolve(self.settings, **settings)
            return self.settings

    @contextmanager
    def changed(self, **settings: Any) -> Generator[ServerSettings, None, None]:
        """Change some settings for the time of a ``with`` block; raises what `change` raises."""
        before = self.settings
        after = self.change(**settings)
        try:
            yield after
        finally:
            self.change(**{name: getattr(before, name) for name in settings})

    def count(self, endpoint: str) -> None:
        """Count one call of an endpoint: ``api``, ``register`` or ``token``."""
        with self._lock:
            self.requests[endpoint] += 1


def add_faults(app: Flask, faults: FaultInjector) -> None:
    """Delay and fail the identity-api calls of an app as the settings say."""

    @app.before_request
    def apply_faults() -> Any:
        if not request.path.startswith("/internal/"):
            return None
        faults.count("api")
        settings = faults.settings
        _delay(settings.api_latency)
        if settings.api_outage:
            return error_response(503, "simulated outage")
        if random.random() < settings.api_error_rate:
            return error_response(500, "simulated error")
        return None


def token_fault(faults: FaultInjector) -> Any:
    """Count a token request, and return the error response if it is to fail, else None."""
    faults.count("token")
    settings = faults.settings
    _delay(settings.token_latency)
    if settings.token_outage:
        return oauth_error(503, "temporarily_unavailable", "simulated outage")
    if random.random() < settings.token_error_rate:
        return oauth_error(500, "unknown_error", "simulated error")
    return None


def stopping() -> threading.Event:
    """Return the event that is set when the server of the current request stops."""
    event: threading.Event = request.environ.get(STOPPING) or threading.Event()
    return event


def _delay(seconds: float) -> None:
    # Not a sleep: a server that stops must not wait for the latency to pass.
    if seconds:
        stopping().wait(seconds)
