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
from .oauth import add_token_endpoint
from .replies import body, checked, is_text, refusal, reply
from .switchboard import add_switchboard

_log = logging.getLogger("identity_client.server")


class _Name(BaseConverter):
    """A name with any slashes in it; Werkzeug's `path` does not let it begin with one."""

    regex = ".+"
    part_isolating = False


def create_app(internal_token: str, backend: Backend) -> Flask:
    """Make the app; with an `EmbeddedBackend`, it has a token endpoint and a switchboard, too.

    Args:
        internal_token: the bearer token that callers of ``/internal`` and ``/dev`` must have.
        backend: where services and the rest are kept.
    """
    app = Flask("identity-api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    app.url_map.converters["name"] = _Name
    expected = _digest(f"Bearer {internal_token}")

    @app.before_request
    def authorize() -> Any:
        if not request.path.startswith(("/internal/", "/dev/")):
            return None
        given = _digest(request.headers.get("Authorization", ""))
        return None if hmac.compare_digest(given, expected) else refusal(401, "Unauthorized")

    @app.post("/internal/services/register")
    def register_service() -> Any:
        return reply(backend.register(body(RegisterServiceRequest), request.host_url.rstrip("/")))

    @app.get("/internal/memberships/verify")
    def verify_membership() -> Any:
        params = checked(request.args.to_dict(), VerifyMembershipParams)
        answer = codec.to_wire(backend.membership(params))
        return jsonify(data={"role": None, **answer})

    @app.post("/internal/organizations/system")
    def ensure_system_org() -> Any:
        return reply(backend.ensure_organization(body(EnsureSystemOrgRequest)))

    @app.get("/internal/organizations/system/<name:name>")
    def get_system_org(name: str) -> Any:
        organization = backend.organization(name) if is_text(name) else None
        if organization is None:
            return refusal(404, f"there is no system organization {name!r}")
        return reply(organization)

    @app.get("/health")
    def health() -> Any:
        return jsonify(status="ok")

    @app.errorhandler(codec.CodecError)
    def bad_request(error: codec.CodecError) -> Any:
        return refusal(400, f"the request cannot be used: {error}")

    @app.errorhandler(BackendError)
    def backend_error(error: BackendError) -> Any:
        _log.warning("%s %r: %s", request.method, request.path, error.message)
        return refusal(error.status, error.message)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Any:
        answer, status = refusal(error.code or 500, error.description or error.name)
        headers = [pair for pair in error.get_headers() if pair[0] != "Content-Type"]
        return answer, status, headers

    if isinstance(backend, EmbeddedBackend):
        add_switchboard(app, backend)
        add_token_endpoint(app, backend)
    return app


def _digest(text: str) -> bytes:
    """Make texts of any length equally long, so that a comparison's time tells nothing of them."""
    return hashlib.sha256(text.encode()).digest()
