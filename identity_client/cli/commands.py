"""The commands, and the exit codes that scripts can rely on.

0: done. 1: identity-api or the token endpoint refused, or a check failed. 2: a wrong argument or
setting. 3: timed out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from functools import wraps
from typing import Any, NoReturn

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError, IdentityError, NotReadyError
from ..events import ServiceEvent, ServiceState
from ..service import IdentityBootstrapService
from ..stores import CredentialStore, open_store

FAILED, MISCONFIGURED, TIMED_OUT = 1, 2, 3

_SECONDS = click.FloatRange(min=0)


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line on stderr and an exit code."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ConfigurationError as error:
            _give_up(str(error), MISCONFIGURED)
        except NotReadyError as error:
            _give_up(str(error), TIMED_OUT if error.next_attempt_in is None else FAILED)
        except IdentityError as error:
            _give_up(str(error), FAILED)

    return wrapper


def _give_up(message: str, code: int) -> NoReturn:
    click.echo(f"identity-client: {message}", err=True)
    sys.exit(code)


def _service_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--url", help="Address of identity-api [IDENTITY_API_URL]."),
        click.option("--service-name", help="Name to register [SERVICE_NAME]."),
        click.option(
            "--allow-secret-regeneration",
            is_flag=True,
            help="Replace the secret of a service that exists. Its replicas are cut off until "
            "they register again.",
        ),
    ):
        command = option(command)
    return command


def _store_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--store", help="The store [IDENTITY_CREDENTIAL_STORE]."),
        click.option("--url", help="Address of identity-api [IDENTITY_API_URL]."),
        click.option("--service-name", help="Name of the service [SERVICE_NAME]."),
    ):
        command = option(command)
    return command


def _store(store: str | None, **given: str | None) -> CredentialStore:
    config = IdentityBootstrapConfig.from_env(**_overrides(credential_store=store, **given))
    if config.credential_store.startswith("memory:"):
        raise ConfigurationError(
            "credential_store (IDENTITY_CREDENTIAL_STORE) is memory:, where nothing outlives its "
            "process; name the store of the service, or pass --store"
        )
    return open_store(
        config.credential_store,
        service_name=config.service_name,
        identity_api_url=config.identity_api_url or "",
        key=config.credential_store_key,
        timeout=config.request_timeout,
    )


def _overrides(*, url: str | None, service_name: str | None, **others: Any) -> dict[str, Any]:
    given = {"identity_api_url": url, "service_name": service_name, **others}
    return {name: value for name, value in given.items() if value is not None}


def _print_table(rows: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        shown = f"{value:.1f}" if isinstance(value, float) else str(getattr(value, "value", value))
        table.add_row(name.replace("_", " "), Text("-" if value is None else shown))
    Console().print(table)


def _service(
    url: str | None, service_name: str | None, allow_secret_regeneration: bool
) -> IdentityBootstrapService:
    # A look at a service from a shell must not take the secret from those who run it.
    overrides = _overrides(
        url=url,
        service_name=service_name,
        allow_secret_regeneration=allow_secret_regeneration,
    )
    return IdentityBootstrapService(IdentityBootstrapConfig.from_env(**overrides))


def _token_lifetime(
    default: float | None, text: str = "Seconds that an access token lives."
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--token-lifetime",
        type=click.FloatRange(0, 86400, min_open=True),
        default=default,
        show_default=True,
        help=text,
    )


def _keycloak_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--keycloak-url",
            envvar="IDENTITY_KEYCLOAK_URL",
            help="Address of Keycloak [IDENTITY_KEYCLOAK_URL].",
        ),
        click.option(
            "--keycloak-realm",
            envvar="IDENTITY_KEYCLOAK_REALM",
            default="xema",
            show_default=True,
            help="Realm to register services in [IDENTITY_KEYCLOAK_REALM].",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def _progress(service: IdentityBootstrapService) -> Generator[None, None, None]:
    """Show what the service is doing; rich shows it on a terminal only."""
    with Console(stderr=True).status("waiting for a token") as display:

        def show(event: ServiceEvent) -> None:
            display.update(Text(event.message))

        stop = service.on_event(show)
        try:
            yield
        finally:
            stop()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="identity-client")
def cli() -> None:
    """Access tokens for microservices.

    Settings come from the environment, as for a service: IDENTITY_API_URL,
    IDENTITY_API_INTERNAL_TOKEN (or IDENTITY_API_INTERNAL_TOKEN_FILE), SERVICE_NAME, or
    SERVICE_CLIENT_ID, SERVICE_CLIENT_SECRET and SERVICE_TOKEN_ENDPOINT.
    """


@cli.command()
@_service_options
@click.option(
    "--timeout",
    type=_SECONDS,
    help="Seconds to wait at most [IDENTITY_TOKEN_TIMEOUT].",
)
@_told
def token(timeout: float | None, **options: Any) -> None:
    """Print an access token, and nothing else."""
    with closing(_service(**options)) as service, _progress(service):
        value = service.get_access_token(timeout)
    click.echo(value)


@cli.command()
@_service_options
@click.option(
    "--timeout",
    type=_SECONDS,
    default=60.0,
    show_default=True,
    help="Seconds to wait.",
)
@_told
def wait(timeout: float, **options: Any) -> None:
    """Wait until a token can be had; exit with 3 if that takes too long."""
    with closing(_service(**options)) as service, _progress(service):
        ready = service.wait_for_ready(timeout)
        status = service.status()
    if not ready:
        problem = status.last_error or "no answer yet"
        if status.state is ServiceState.FAILED:
            _give_up(f"not ready: {problem}", FAILED)
        _give_up(f"not ready after {timeout:g} s: {problem}", TIMED_OUT)


@cli.command()
@_service_options
@click.option(
    "--timeout",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds to wait.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_told
def status(timeout: float, as_json: bool, **options: Any) -> None:
    """Try to get a token and show how that went; exit with 1 without one."""
    with closing(_service(**options)) as service:
        with _progress(service):
            service.wait_for_ready(timeout)
        seen = service.status()
    if as_json:
        click.echo(json.dumps(attrs.asdict(seen)))
    else:
        _print_table(attrs.asdict(seen))
    if seen.state is not ServiceState.READY:
        sys.exit(FAILED)


@cli.group()
def credentials() -> None:
    """Look after the credentials in the store that IDENTITY_CREDENTIAL_STORE names."""


@credentials.command()
@_store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_told
def show(as_json: bool, **options: Any) -> None:
    """Show what is stored, without the secret; exit with 1 when nothing is."""
    with closing(_store(**options)) as store:
        stored = store.load()
    known = stored.credentials
    if known is None:
        _give_up(f"{store} holds no credentials", FAILED)
    shown = {
        "store": str(store),
        "version": stored.version,
        "client_id": known.client_id,
        "client_secret": f"*** ({len(known.client_secret)} characters)",
        "token_endpoint": known.token_endpoint,
        "roles": ", ".join(known.roles),
    }
    if as_json:
        click.echo(json.dumps({**shown, "roles": known.roles}))
    else:
        _print_table(shown)


@credentials.command()
@_store_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@_told
def clear(yes: bool, **options: Any) -> None:
    """Forget what is stored.

    Processes that run keep their credentials, and put them back. With none running, the next one
    that starts regenerates the secret.
    """
    with closing(_store(**options)) as store:
        if not yes:
            click.confirm(f"Forget what {store} holds?", abort=True, err=True)
        store.clear()
    click.echo(f"{store} is empty", err=True)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=3053, show_default=True)
@_token_lifetime(None, "Seconds that an access token lives [default: 300, or as the realm says].")
@_keycloak_options
@_told
def serve(
    host: str,
    port: int,
    token_lifetime: float | None,
    keycloak_url: str | None,
    keycloak_realm: str,
) -> None:
    """Run a reference identity-api: with its own token endpoint, for development, or on Keycloak.

    Callers need the bearer token in IDENTITY_API_INTERNAL_TOKEN, which you choose. With it, and
    without Keycloak, PATCH /dev/settings changes token lifetime and faults while the server runs,
    and POST /dev/services/NAME/rotate-secret rotates a secret.

    With --keycloak-url, services are registered in that realm, as the client in
    IDENTITY_KEYCLOAK_CLIENT_ID with IDENTITY_KEYCLOAK_CLIENT_SECRET. Of all secrets, a variable
    with the suffix _FILE may name a file instead.
    """
    server_module = _server()
    if keycloak_url is None:
        title = "identity-api for development, not for production,"
        settings = server_module.Settings(token_lifetime=token_lifetime or 300.0)
        backend = server_module.EmbeddedBackend(settings)
        app = server_module.create_app(_internal_token(), backend)
    else:
        title = f"identity-api for the realm {keycloak_realm!r}"
        app = _keycloak_app(keycloak_url, keycloak_realm, token_lifetime)
    try:
        server = server_module.AppServer(app, host=host, port=port)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with suppress(KeyboardInterrupt):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        click.echo(f"{title} on {server.url}", err=True)
        server.run()
    server.stop()
    click.echo("stopped", err=True)


def _internal_token() -> str:
    internal_token = os.environ.get("IDENTITY_API_INTERNAL_TOKEN", "")
    if not internal_token:
        raise ConfigurationError(
            "IDENTITY_API_INTERNAL_TOKEN is missing; set it to a token of your choice, "
            "which callers then have to send"
        )
    return internal_token


def _keycloak_app(url: str, realm: str, token_lifetime: float | None) -> Any:
    from ..server.wsgi import create_keycloak_app  # the extra server was there a moment ago

    with _keycloak_extra():
        return create_keycloak_app(url=url, realm=realm, token_lifetime=token_lifetime)


@cli.command()
@_token_lifetime(10.0)
@_keycloak_options
@_told
def demo(token_lifetime: float, keycloak_url: str | None, keycloak_realm: str) -> None:
    """Show the whole job on this machine: outages, 200 threads, refreshes, a rotated secret.

    With --keycloak-url it plays on that realm, as the client in IDENTITY_KEYCLOAK_CLIENT_ID with
    IDENTITY_KEYCLOAK_CLIENT_SECRET; what it registers there is deleted in the end.
    """
    _server()
    from .demo import run  # needs the extra server, which the other commands do without
    from .stages import Embedded, OnKeycloak

    with _keycloak_extra():
        stage = (
            OnKeycloak(keycloak_url, keycloak_realm, token_lifetime)
            if keycloak_url
            else Embedded(token_lifetime)
        )
    sys.exit(0 if run(stage=stage) else FAILED)


@contextmanager
def _keycloak_extra() -> Generator[None, None, None]:
    try:
        yield
    except ModuleNotFoundError as error:
        _give_up(
            f"{error.name} is missing; pip install 'xemahq-identity-client[keycloak]'",
            MISCONFIGURED,
        )


def _server() -> Any:
    try:
        from .. import server  # an extra of its own
    except ModuleNotFoundError as error:
        _give_up(
            f"{error.name} is missing; pip install 'xemahq-identity-client[server]'", MISCONFIGURED
        )
    return server
