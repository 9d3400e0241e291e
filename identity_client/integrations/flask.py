"""A Flask extension: each application has its service, started by its first request.

Needs the extra ``flask``: ``pip install "xemahq-identity-client[flask]"``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click
from flask import Blueprint, Flask, current_app
from flask.cli import AppGroup
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.local import LocalProxy

from ..config import IdentityBootstrapConfig
from ..errors import IdentityError, NotReadyError, RegistrationError, TokenEndpointError
from ._commands import FAILED, command_service, exit_code, status_text
from ._shared import config_from_settings, readiness, shared_service

if TYPE_CHECKING:
    from ..service import IdentityBootstrapService

__all__ = ["FlaskIdentity", "current_identity"]

_KEY = "identity_client"

_NO_TOKEN = (NotReadyError, RegistrationError, TokenEndpointError)


class FlaskIdentity:
    """Gives each application that it is initialised with an `IdentityBootstrapService`.

    It keeps no application itself; any number may use one object. The service is
    ``app.extensions["identity_client"]``, and `current_identity` inside a request.

    Creating it and `init_app` make no request and start no thread, so that ``flask routes``, the
    parent of the reloader and ``gunicorn --check-config`` do not register. The first request to the
    application starts the service, and so does its first use outside of one. Requests that find no
    token get a 503 with ``Retry-After``, unless the application handles the error itself.

    Args:
        app: an application to initialise at once, or None.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the settings of an application and give it a service; later changes have no effect.

        The keys of ``app.config`` are the names of the environment variables, and win over these.
        Applications with the same settings share a service. Further keys:

        - ``IDENTITY_SERVICE``: an object to use as the service, such as a fake in tests; nothing
          else is read then.
        - ``IDENTITY_AUTOSTART``: whether the first request starts the service, True by default.
          With ``TESTING`` it does not.

        Args:
            app: the application.

        Raises:
            ConfigurationError: settings cannot be used, or required ones are missing.
            RuntimeError: the application is initialised already.
        """
        if _KEY in app.extensions:
            raise RuntimeError(
                f"identity_client is already initialised for the application {app.name!r}; call "
                f"init_app once, and get its service from app.extensions[{_KEY!r}]"
            )
        _settings(app).setdefault("IDENTITY_AUTOSTART", True)
        app.extensions[_KEY] = _injected(app) or shared_service(_config(app), app)
        _start_with_first_request(app)
        # For the base class, so that a handler of the application for it, or for a subclass, wins.
        if IdentityError not in app.error_handler_spec[None][None]:
            app.register_error_handler(IdentityError, _unavailable)
        app.cli.add_command(_commands)

    @staticmethod
    def health_blueprint(
        path: str = "/health/identity", *, name: str = "identity_health", strict: bool = False
    ) -> Blueprint:
        """Return a blueprint with a readiness probe, which makes no request and shows no secret.

        503 before the first token, and when the service has failed for good; 200 otherwise, also
        in an outage. The state is in the JSON document.

        Args:
            path: the path of the probe.
            name: the name of the blueprint.
            strict: whether it is 503 as well when there is no usable token.
        """
        blueprint = Blueprint(name, __name__)

        @blueprint.get(path)
        def health() -> ResponseReturnValue:
            status, document = readiness(current_identity, strict=strict)
            return document, status, {"Cache-Control": "no-store"}

        return blueprint


def _settings(app: Flask) -> dict[str, Any]:
    return cast("dict[str, Any]", app.config)


def _injected(app: Flask) -> IdentityBootstrapService | None:
    return _settings(app).get("IDENTITY_SERVICE")


def _config(app: Flask) -> IdentityBootstrapConfig:
    return config_from_settings(_settings(app), where="app.config")


def _service() -> IdentityBootstrapService:
    if not current_app:
        raise RuntimeError(
            "current_identity needs an application; use it in a request or a command, or inside "
            "'with app.app_context():'"
        )
    if _KEY not in current_app.extensions:
        raise RuntimeError(
            f"identity_client is not initialised for the application {current_app.name!r}; "
            "call FlaskIdentity().init_app(app)"
        )
    return cast("IdentityBootstrapService", current_app.extensions[_KEY])


current_identity: IdentityBootstrapService = cast("IdentityBootstrapService", LocalProxy(_service))
"""The `IdentityBootstrapService` of the current application."""


def _start_with_first_request(app: Flask) -> None:
    """Have the token requested while the first request, often a probe, is handled.

    There is no hook for the start of a server. This one is known not to run in commands, in the
    parent of the reloader, or while a server only checks its configuration; TESTING may be set
    after `init_app`, as the tests of Flask's documentation do, and counts as well.
    """
    started = False

    def start() -> None:
        nonlocal started
        if not started and app.config["IDENTITY_AUTOSTART"] and not app.testing:
            started = True
            _service().is_ready()  # starts it, without raising

    app.before_request(start)


def _unavailable(error: IdentityError) -> ResponseReturnValue:
    """Turn the lack of a token into a 503, which the application's own handlers may then show."""
    if not isinstance(error, _NO_TOKEN):
        raise error
    seconds = getattr(error, "next_attempt_in", None) or getattr(error, "retry_after", None) or 1.0
    unavailable = ServiceUnavailable(
        "An access token is not available.", retry_after=math.ceil(seconds)
    )
    return current_app.handle_http_exception(unavailable)


_commands = AppGroup("identity", help="Request an access token with the application's settings.")

_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Seconds."
)


@contextmanager
def _service_of_command() -> Generator[IdentityBootstrapService, None, None]:
    """Yield a service, and turn errors into one line on stderr and an exit code."""
    try:
        yield _injected(current_app) or command_service(_config(current_app))
    except IdentityError as error:
        click.echo(f"flask identity: {error}", err=True)
        sys.exit(exit_code(error))


@_commands.command("token")
@_timeout
def _print_token(timeout: float) -> None:
    """Print an access token, and nothing else; never regenerates the secret."""
    with _service_of_command() as service:
        click.echo(service.get_access_token(timeout))


@_commands.command("status")
@_timeout
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _print_status(timeout: float, as_json: bool) -> None:
    """Request a token and show how that went; exit with 1 without one."""
    with _service_of_command() as service:
        text, ready = status_text(service, timeout, as_json=as_json)
        click.echo(text)
    sys.exit(0 if ready else FAILED)
