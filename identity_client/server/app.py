"""The reference identity-api as a Flask app: the contract's calls, and a switchboard for faults."""

from __future__ import annotations

import hmac
import random
import re
import time
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from .. import wire
from ..models import (
    ApiEnvelope,
    EnsureSystemOrgRequest,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
)
from .backend import EmbeddedBackend, Settings
from .oauth import TOKEN_PATH, add_token_endpoint

_T = TypeVar("_T")

# No lone surrogates either: they cannot be encoded.
_TEXT = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class _Name(BaseConverter):
    """A name with any slashes in it; Werkzeug's `path` does not let it begin with one."""

    regex = ".+"
    part_isolating = False


def create_app(internal_token: str, backend: EmbeddedBackend) -> Flask:
    """Make the app.

    Args:
        internal_token: the bearer token that callers of ``/internal`` and ``/dev`` must have.
        backend: where services and the rest are kept.
    """
    app = Flask("identity-api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    app.url_map.converters["name"] = _Name
    expected = f"Bearer {internal_token}".encode()

    @app.before_request
    def authorize() -> Any:
        if not request.path.startswith(("/internal/", "/dev/")):
            return None
        given = request.headers.get("Authorization", "").encode()
        return None if hmac.compare_digest(given, expected) else _error(401, "Unauthorized")

    @app.before_request
    def apply_faults() -> Any:
        if not request.path.startswith("/internal/"):
            return None
        settings = backend.settings
        backend.count("api")
        time.sleep(settings.api_latency)
        if settings.api_outage:
            return _error(503, "the service is out of order, as it was told to be")
        if random.random() < settings.api_error_rate:
            return _error(500, "an error, as it was told to make")
        return None

    @app.post("/internal/services/register")
    def register_service() -> Any:
        order = _body(RegisterServiceRequest)
        backend.count("register")
        done = backend.register(order)
        return _reply(
            RegisterServiceResponse(
                id=done.client.id,
                client_id=done.client.client_id,
                client_secret=done.secret,
                token_endpoint=request.host_url.rstrip("/") + TOKEN_PATH,
                roles=done.client.roles,
                already_existed=done.already_existed,
                secret_regenerated=done.secret_regenerated,
            )
        )

    @app.get("/internal/memberships/verify")
    def verify_membership() -> Any:
        params = _checked(request.args.to_dict(), VerifyMembershipParams)
        answer = wire.to_wire(backend.membership(params))
        return jsonify(data={"role": None, **answer})

    @app.post("/internal/organizations/system")
    def ensure_system_org() -> Any:
        return _reply(backend.ensure_organization(_body(EnsureSystemOrgRequest)))

    @app.get("/internal/organizations/system/<name:name>")
    def get_system_org(name: str) -> Any:
        organization = backend.organization(name)
        if organization is None:
            return _error(404, f"there is no system organization {name!r}")
        return _reply(organization)

    @app.get("/health")
    def health() -> Any:
        return jsonify(status="ok")

    @app.get("/dev/settings")
    def get_settings() -> Any:
        return _reply(backend.settings)

    @app.patch("/dev/settings")
    def change_settings() -> Any:
        change = wire.as_object(wire.parse_json(request.get_data()))
        unknown = set(change) - set(wire.to_wire(Settings()))
        if unknown:
            raise wire.WireError(f"its member {min(unknown)!r} is not known")
        wanted = wire.from_wire({**wire.to_wire(backend.settings), **change}, Settings)
        _check_settings(wanted)
        backend.settings = wanted
        return _reply(wanted)

    @app.post("/dev/services/<name>/rotate-secret")
    def rotate_secret(name: str) -> Any:
        if not backend.rotate_secret(name):
            return _error(404, f"there is no service {name!r}")
        return Response(status=204)

    @app.errorhandler(wire.WireError)
    def bad_request(error: wire.WireError) -> Any:
        return _error(400, f"the request cannot be used: {error}")

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Any:
        return _error(error.code or 500, error.description or error.name)

    add_token_endpoint(app, backend)
    return app


def _body(kind: type[_T]) -> _T:
    return _checked(wire.parse_json(request.get_data()), kind)


def _checked(document: object, kind: type[_T]) -> _T:
    value = wire.from_wire(document, kind)
    for name, member in wire.to_wire(value).items():
        if isinstance(member, str) and not _TEXT.fullmatch(member):
            raise wire.WireError(
                f"its member {name!r} is blank, has a control character, "
                "or has more than 255 characters"
            )
    return value


def _check_settings(settings: Settings) -> None:
    if not 0 < settings.token_lifetime <= 86400:
        raise wire.WireError("its member 'tokenLifetime' must be above 0 and 86400 at most")
    for rate in ("api_error_rate", "token_error_rate"):
        if not 0 <= getattr(settings, rate) <= 1:
            raise wire.WireError("an error rate must be between 0 and 1")
    for latency in ("api_latency", "token_latency"):
        if not 0 <= getattr(settings, latency) <= 60:
            raise wire.WireError("a latency must be between 0 and 60 seconds")


def _reply(value: object) -> Response:
    return jsonify(wire.to_wire(ApiEnvelope(value)))


def _error(status: int, message: str) -> tuple[Response, int]:
    return jsonify(statusCode=status, message=message, error=HTTPStatus(status).phrase), status
