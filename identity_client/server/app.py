"""The reference identity-api as a Flask app: the contract's calls, in front of any backend."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

from flask import Flask, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from .._http import codec
from ..models import EnsureSystemOrgRequest, RegisterServiceRequest, VerifyMembershipParams
from .backend import Backend, BackendError, EmbeddedBackend
from .dev_api import add_dev_api, is_public
from .faults import FaultInjector, add_faults
from .oauth import add_token_endpoint
from .request_log import RequestLog, add_request_log, name_client
from .responses import checked, data_response, error_response, is_text, parse_body

_log = logging.getLogger("identity_client.server")


class _Name(BaseConverter):
    """A name with any slashes in it; Werkzeug's `path` does not let it begin with one."""

    regex = ".+"
    part_isolating = False


def create_app(internal_token: str, backend: Backend, *, page_key: str | None = None) -> Flask:
    """Make the app; with an `EmbeddedBackend` it has a token endpoint and a ``/dev/`` page, too.

    Args:
        internal_token: the bearer token that callers of ``/internal`` and ``/dev`` must have.
        backend: where services and the rest are kept.
        page_key: a second bearer token, which opens ``/dev`` and nothing else.
    """
    app = Flask("identity-api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    app.url_map.converters["name"] = _Name
    add_request_log(app, backend.log if isinstance(backend, FaultInjector) else RequestLog())
    _add_authorization(app, internal_token, page_key)
    if isinstance(backend, FaultInjector):
        add_faults(app, backend)
    _add_contract(app, backend)
    _add_error_handlers(app)
    if isinstance(backend, EmbeddedBackend):
        add_dev_api(app, backend)
        add_token_endpoint(app, backend)
    return app


def _add_authorization(app: Flask, internal_token: str, page_key: str | None) -> None:
    internal = _digest(f"Bearer {internal_token}")
    # Without a page key, the internal token is compared twice: that takes the same time.
    page = internal if page_key is None else _digest(f"Bearer {page_key}")

    @app.before_request
    def authorize() -> Any:
        dev = request.path.startswith("/dev/")
        if not (dev or request.path.startswith("/internal/")) or is_public(request):
            return None
        given = _digest(request.headers.get("Authorization", ""))
        allowed = hmac.compare_digest(given, internal)
        allowed |= hmac.compare_digest(given, page) and dev
        return None if allowed else error_response(401, "Unauthorized")


def _add_contract(app: Flask, backend: Backend) -> None:
    @app.post("/internal/services/register")
    def register_service() -> Any:
        wanted = parse_body(RegisterServiceRequest)
        name_client(wanted.name)
        return data_response(backend.register(wanted, request.host_url.rstrip("/")))

    @app.get("/internal/memberships/verify")
    def verify_membership() -> Any:
        params = checked(request.args.to_dict(), VerifyMembershipParams)
        found = codec.to_wire(backend.membership(params))
        return jsonify(data={"role": None, **found})

    @app.post("/internal/organizations/system")
    def ensure_system_org() -> Any:
        return data_response(backend.ensure_organization(parse_body(EnsureSystemOrgRequest)))

    @app.get("/internal/organizations/system/<name:name>")
    def get_system_org(name: str) -> Any:
        organization = backend.organization(name) if is_text(name) else None
        if organization is None:
            return error_response(404, f"no system organization named {name!r}")
        return data_response(organization)

    @app.get("/health")
    def health() -> Any:
        return jsonify(status="ok")


def _add_error_handlers(app: Flask) -> None:
    @app.errorhandler(codec.CodecError)
    def bad_request(error: codec.CodecError) -> Any:
        return error_response(400, f"invalid request: {error}")

    @app.errorhandler(BackendError)
    def backend_error(error: BackendError) -> Any:
        _log.warning("%s %r failed: %s", request.method, request.path, error.message)
        return error_response(error.status, error.message)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Any:
        status = error.code or 500
        is_specific = error.description not in (None, type(error).description)
        message = str(error.description) if is_specific else error.name  # Werkzeug's are paragraphs
        response, _ = error_response(status, message)
        headers = [pair for pair in error.get_headers() if pair[0] != "Content-Type"]
        if status == 413:
            # The rest of a chunked body would be taken for the connection's next request.
            headers.append(("Connection", "close"))
        return response, status, headers


def _digest(text: str) -> bytes:
    """Make texts of any length equally long, so that the time of a comparison reveals nothing."""
    return hashlib.sha256(text.encode()).digest()
