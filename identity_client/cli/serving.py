"""What ``identity-client serve`` runs and prints; needs the extra ``server``."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import ConfigurationError
from ..server import AppServer, IdentityServer, Scenario, ServerSettings
from ..server.wsgi import AccessSettings, create_keycloak_app
from .failures import discard

_STYLES = {2: "green", 3: "cyan", 4: "yellow", 5: "bold red"}

_INTERNAL_TOKEN = "IDENTITY_API_INTERNAL_TOKEN"  # noqa: S105  # the variable's name


def serve_embedded(
    host: str, port: int, token_lifetime: float | None, scenario_file: Path | None
) -> None:
    """Run the embedded server, with its page, until an interrupt."""
    settings = ServerSettings(token_lifetime=token_lifetime or 300.0)
    scenario = None if scenario_file is None else Scenario.load(scenario_file)
    access = AccessSettings.from_env(os.environ)
    # A key of its own: the internal token belongs neither into an address nor into a browser.
    page_key = secrets.token_urlsafe(16)

    def make() -> AppServer:
        return IdentityServer(
            access.internal_token,
            host=host,
            port=port,
            settings=settings,
            scenario=scenario,
            page_key=page_key,
        )

    def introduce(console: Console, url: str) -> None:
        realm = f"{url}/realms/xema"
        addresses = {
            "api": url,
            "token": f"{realm}/protocol/openid-connect/token",
            "keys": f"{realm}/protocol/openid-connect/certs",
            "discovery": f"{realm}/.well-known/openid-configuration",
            "page": f"{url}/dev/#key={page_key}",
        }
        _say(console, "identity-api for development, not for production\n", style="bold")
        for name, address in addresses.items():
            _say(console, f"  {name:<9}  {address}")
        _introduce_settings(console, url)

    _run(make, host, port, introduce)


def serve_keycloak(
    host: str, port: int, token_lifetime: float | None, url: str, realm: str
) -> None:
    """Run identity-api in front of a realm of Keycloak until an interrupt."""
    app = create_keycloak_app(url=url, realm=realm, token_lifetime=token_lifetime)

    def introduce(console: Console, own_url: str) -> None:
        _say(console, f"identity-api for the realm {realm!r} of Keycloak\n", style="bold")
        _say(console, f"  api        {own_url}")
        _say(console, f"  Keycloak   {url}")
        _introduce_settings(console, own_url)

    _run(lambda: AppServer(app, host=host, port=port), host, port, introduce)


def _introduce_settings(console: Console, url: str) -> None:
    _say(console, "\nFor a service:\n", style="bold")
    _say(console, f"  export IDENTITY_API_URL={url}")
    file = os.environ.get(f"{_INTERNAL_TOKEN}_FILE")
    if file is None:
        _say(console, f"  export {_INTERNAL_TOKEN}=...  # the value that this server has")
    else:
        _say(console, f"  export {_INTERNAL_TOKEN}_FILE={Path(file).absolute()}")
    _say(console, "  export SERVICE_NAME=my-service")
    _say(console, "\nPress Ctrl-C to stop.\n", style="dim")


def _run(
    make: Callable[[], AppServer],
    host: str,
    port: int,
    introduce: Callable[[Console, str], None],
) -> None:
    console = Console(stderr=True, highlight=False)
    try:
        server = make()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from None
    try:
        with suppress(KeyboardInterrupt), _log_to(console):
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            introduce(console, server.url)
            server.run()
    finally:
        server.stop()
    _say(console, "stopped")


@contextmanager
def _log_to(console: Console) -> Generator[None, None, None]:
    log = logging.getLogger("identity_client.server")
    handler = _ConsoleHandler(console)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _ConsoleHandler(logging.Handler):
    """Prints a line for each request, and the server's other log records."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        status = getattr(record, "identity_request_status", None)
        if status is None:
            style = "yellow" if record.levelno >= logging.WARNING else "magenta"
            text = Text(record.getMessage(), style=style)
        else:
            text = _access_line(status, record.__dict__)
        _say(self._console, Text.assemble((clock, "dim"), " ", text))


def _access_line(status: int, fields: dict[str, Any]) -> Text:
    method, path, duration, client_id, error = (
        fields[f"identity_request_{name}"]
        for name in ("method", "path", "duration", "client_id", "error")
    )
    return Text.assemble(
        (f"{status}", _STYLES.get(status // 100, "")),
        (f" {duration * 1000:5.0f} ms  ", "dim"),
        f"{method} {path}",
        (f"  {client_id}" if client_id else "", "bold"),
        (f"  {error}" if error else "", "yellow"),
    )


def _say(console: Console, text: str | Text, style: str = "") -> None:
    line = Text.assemble((text, style)) if isinstance(text, str) else text
    try:
        console.print(line, soft_wrap=True)  # addresses and log lines are copied and searched
    except (OSError, SystemExit):
        # A broken pipe is SystemExit in rich, which would end cheroot in the thread of a request.
        # An output that cannot be written must not end the server.
        console.quiet = True
        discard(console.file)
