"""The log of requests: for the terminal, for the development page, and for tests to wait on."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote

from attrs import frozen
from flask import Flask, Response, g, request

# Its records have the request's fields as `extra`; `identity-client serve` shows them.
access_log: logging.Logger = logging.getLogger("identity_client.server.access")

KEPT = 1000
_MAX_TEXT = 200


@frozen(kw_only=True)
class LoggedRequest:
    """One request and how it was answered; it holds no secret.

    Attributes:
        number: counts the requests of a log, from 1.
        time: when it arrived, in seconds since the epoch.
        method: its HTTP method.
        path: its path, percent-encoded, without the query.
        endpoint: ``register``, ``api`` (the other identity-api calls), ``token``, or ``other``.
        status: the HTTP status of the response.
        duration: seconds that it took.
        client_id: the client that it named, or None.
        error: the message or the OAuth code of an error response, or None.
    """

    number: int
    time: float
    method: str
    path: str
    endpoint: str
    status: int
    duration: float
    client_id: str | None = None
    error: str | None = None


class RequestLog:
    """The last 1000 requests of a server. Thread-safe."""

    def __init__(self) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=KEPT)
        self._number = 0
        self._arrived = threading.Condition()

    def add(self, **members: Any) -> LoggedRequest:
        """Append a request, with the members of `LoggedRequest` but its number."""
        with self._arrived:
            self._number += 1
            logged = LoggedRequest(number=self._number, **members)
            self._requests.append(logged)
            self._arrived.notify_all()
            return logged

    def since(self, number: int = 0) -> list[LoggedRequest]:
        """Return the requests that are kept, oldest first.

        Args:
            number: the number of the last request to leave out; 0 for none.
        """
        with self._arrived:
            return [logged for logged in self._requests if logged.number > number]

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._arrived:
            self._requests.clear()

    def wait_for(
        self,
        matches: Callable[[LoggedRequest], bool],
        timeout: float = 10.0,
        *,
        count: int = 1,
    ) -> LoggedRequest:
        """Wait until there were ``count`` matching requests since `clear`, and return that one.

        Args:
            matches: whether a request is one of those; called with the log's lock held.
            timeout: seconds to wait at most.
            count: how many of them to wait for.

        Raises:
            TimeoutError: there were fewer in that time.
        """

        def matching() -> list[LoggedRequest]:
            return [logged for logged in self._requests if matches(logged)]

        with self._arrived:
            if self._arrived.wait_for(lambda: len(matching()) >= count, timeout):
                return matching()[count - 1]
            found = len(matching())
        raise TimeoutError(f"{found} of {count} matching requests within {timeout:g} s")


def add_request_log(app: Flask, log: RequestLog) -> None:
    """Log every request of an app; those of the development page go to the access log alone."""

    @app.before_request
    def begin() -> None:
        g.arrived = time.time(), time.perf_counter()

    @app.after_request
    def finish(response: Response) -> Response:
        arrived, began = g.arrived
        members = {
            "time": arrived,
            "method": request.method,
            "path": quote(request.path, safe="/:@!$&'()*+,;=~")[:_MAX_TEXT],
            "endpoint": _endpoint(request.path),
            "status": response.status_code,
            "duration": time.perf_counter() - began,
            "client_id": g.get("client_id"),
            "error": _error_of(response),
        }
        if not request.path.startswith("/dev"):
            log.add(**members)
        access_log.info(
            "%s %s returned HTTP %d",
            *(members[name] for name in ("method", "path", "status")),
            extra={f"identity_request_{name}": value for name, value in members.items()},
        )
        return response


def name_client(client_id: str | None) -> None:
    """Remember which client the current request names; a client chose this text."""
    shown = (c if c.isprintable() else "?" for c in (client_id or "")[:_MAX_TEXT])
    g.client_id = "".join(shown) or None


def _endpoint(path: str) -> str:
    if path == "/internal/services/register":
        return "register"
    if path.startswith("/internal/"):
        return "api"
    return "token" if path.endswith("/protocol/openid-connect/token") else "other"


def _error_of(response: Response) -> str | None:
    found: Any = response.get_json(silent=True) if response.status_code >= 400 else None
    if not isinstance(found, dict):
        return None
    document = cast("dict[str, Any]", found)
    text = document.get("error") if "error_description" in document else document.get("message")
    return str(text)[:_MAX_TEXT]
