"""The calls below ``/dev/`` that change a running server, and the page that makes them.

They need the internal token, or the page's key. The page's own files hold nothing secret and are
public: a browser opens them without a header, with the key in the address's fragment.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from threading import BoundedSemaphore, Event
from typing import Any

import attrs
from flask import Blueprint, Flask, Request, Response, jsonify, request

from .._http import codec
from .backend import Client, EmbeddedBackend
from .faults import SettingsDocument, stopping
from .oauth import inspect_token
from .responses import data_response, error_response

# Each open page holds one of the server's threads.
MAX_STREAMS = 4
PACE = 0.25
HEARTBEAT = 20  # paces

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MODULES = ("api", "decoder", "page", "requests", "services", "settings", "time")
_FILES = ("page.css", "icon.svg", *(f"{module}.js" for module in _MODULES))
# Each public path, and its file and content type.
_PAGE = {
    "/dev/": ("index.html", "text/html"),
    **{f"/dev/{name}": (name, _TYPES[Path(name).suffix]) for name in _FILES},
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def is_public(asked: Request) -> bool:
    """Whether a request is for one of the page's own files."""
    return asked.path in _PAGE and asked.method in ("GET", "HEAD")


def add_dev_api(app: Flask, backend: EmbeddedBackend) -> None:
    """Add the calls and the page to an app."""
    routes = Blueprint("dev", __name__)
    _add_page(routes)
    _add_settings(routes, backend)
    _add_services(routes, backend)
    _add_requests(routes, backend)
    app.register_blueprint(routes)


def _add_page(routes: Blueprint) -> None:
    def show() -> Response:
        name, mimetype = _PAGE[request.path]
        content = (files("identity_client.server") / "page" / name).read_bytes()
        return Response(content, mimetype=mimetype, headers=_HEADERS)

    for path in _PAGE:
        routes.add_url_rule(path, "page", show)


def _add_settings(routes: Blueprint, backend: EmbeddedBackend) -> None:
    @routes.get("/dev/settings")
    def get_settings() -> Any:
        return data_response(backend.settings)

    @routes.patch("/dev/settings")
    def change_settings() -> Any:
        change = codec.as_object(codec.parse_json(request.get_data()))
        current = codec.to_wire(backend.settings)
        unknown = set(change) - set(current)
        if unknown:
            raise codec.CodecError(f"its member {min(unknown)!r} is not known")
        wanted = codec.from_wire({**current, **change}, SettingsDocument)
        try:
            return data_response(backend.change(**attrs.asdict(wanted)))
        except ValueError as error:
            raise codec.CodecError(str(error)) from None


def _add_services(routes: Blueprint, backend: EmbeddedBackend) -> None:
    @routes.get("/dev/services")
    def get_services() -> Any:
        return jsonify(data=[_service(client) for client in backend.clients()])

    @routes.post("/dev/services/<name:name>/rotate-secret")
    def rotate_secret(name: str) -> Any:
        return _done(name, backend.rotate_secret(name))

    @routes.post("/dev/services/<name:name>/disable")
    def disable(name: str) -> Any:
        return _done(name, backend.disable_client(name))

    @routes.post("/dev/services/<name:name>/enable")
    def enable(name: str) -> Any:
        return _done(name, backend.enable_client(name))

    @routes.post("/dev/decode")
    def decode() -> Any:
        token = codec.as_object(codec.parse_json(request.get_data())).get("token")
        if not isinstance(token, str):
            raise codec.CodecError("its member 'token' must be a string")
        try:
            return jsonify(data=inspect_token(token.strip()))
        except ValueError as error:
            return error_response(400, f"not a JSON Web Token: {error}")


def _add_requests(routes: Blueprint, backend: EmbeddedBackend) -> None:
    streams = BoundedSemaphore(MAX_STREAMS)

    @routes.get("/dev/requests")
    def get_requests() -> Any:
        since = request.args.get("since", 0, type=int)
        return jsonify(data=[codec.to_wire(logged) for logged in backend.log.since(since)])

    @routes.get("/dev/events")
    def stream_events() -> Any:
        if not streams.acquire(blocking=False):
            return error_response(503, f"{MAX_STREAMS} pages are open already; close one")
        since = request.headers.get("Last-Event-ID", 0, type=int)
        response = Response(_events(backend, since, stopping()), mimetype="text/event-stream")
        response.call_on_close(streams.release)
        response.headers["Cache-Control"] = "no-store"
        return response


def _events(backend: EmbeddedBackend, since: int, stop: Event) -> Generator[str, None, None]:
    """Yield server-sent events: each new request, and the state whenever it has changed."""
    shown = ""
    quiet = 0
    while True:
        events = ""
        new = backend.log.since(since)  # before the state, so that what these have changed is in it
        state = json.dumps(_state(backend))
        if state != shown:
            shown = state
            events += f"event: state\ndata: {state}\n\n"
        for logged in new:
            since = logged.number
            events += f"event: request\nid: {since}\ndata: {json.dumps(codec.to_wire(logged))}\n\n"
        quiet = 0 if events else quiet + 1
        if quiet == HEARTBEAT:
            # Only a write shows that the page was closed.
            events, quiet = ": still there\n\n", 0
        if events:
            yield events
        if stop.wait(PACE):
            return


def _state(backend: EmbeddedBackend) -> dict[str, Any]:
    return {
        "settings": codec.to_wire(backend.settings),
        "services": [_service(client) for client in backend.clients()],
    }


def _service(client: Client) -> dict[str, Any]:
    token = client.last_token
    return {
        "name": client.client_id,
        "enabled": client.enabled,
        "roles": client.roles,
        "registeredAt": client.registered_at,
        "secretChangedAt": client.secret_changed_at,
        "lastToken": None if token is None else codec.to_wire(token),
    }


def _done(name: str, found: bool) -> Any:
    return Response(status=204) if found else error_response(404, f"no service named {name!r}")
