"""``serve`` and ``demo``, which need the extra ``server``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click

from .failures import FAILED, MISCONFIGURED, give_up
from .options import Seconds, examples


def _token_lifetime(
    default: float | None, text: str = "Seconds until an access token expires."
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--token-lifetime",
        type=Seconds(0, 86400, min_open=True),
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


@click.command(
    "serve",
    epilog=examples(
        "read -rs IDENTITY_API_INTERNAL_TOKEN && export IDENTITY_API_INTERNAL_TOKEN",
        "identity-client serve --token-lifetime 20",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=3053, show_default=True)
@_token_lifetime(None, "Seconds until a token expires [default: 300, or as the realm says].")
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file with outages and other faults, and when they begin and end.",
)
@_keycloak_options
def serve_command(
    *,
    host: str,
    port: int,
    token_lifetime: float | None,
    scenario_file: Path | None,
    keycloak_url: str | None,
    keycloak_realm: str,
) -> None:
    """Run a reference identity-api: with its own token endpoint, for development, or on Keycloak.

    Callers need the bearer token in IDENTITY_API_INTERNAL_TOKEN, which you choose. Without
    Keycloak, the page at /dev/ shows services and requests, and changes token lifetime and faults
    while the server runs; its address, with the key that opens it, is printed.

    With --keycloak-url, services are registered in that realm, as the client in
    IDENTITY_KEYCLOAK_CLIENT_ID with IDENTITY_KEYCLOAK_CLIENT_SECRET. Instead of each secret, a
    variable with the suffix _FILE may name a file.
    """
    _require_server_extra()
    from . import serving  # needs the extra server

    if keycloak_url is None:
        serving.serve_embedded(host, port, token_lifetime, scenario_file)
    elif scenario_file is not None:
        raise click.UsageError("--scenario needs the embedded server; leave out --keycloak-url")
    else:
        with _keycloak_extra():
            serving.serve_keycloak(host, port, token_lifetime, keycloak_url, keycloak_realm)


@click.command("demo", epilog=examples("identity-client demo --token-lifetime 5"))
@_token_lifetime(10.0)
@_keycloak_options
def demo_command(token_lifetime: float, keycloak_url: str | None, keycloak_realm: str) -> None:
    """Show the package at work: outages, 200 threads, background refresh, a rotated secret.

    It takes half a minute, on this machine. With --keycloak-url it uses that realm, as the client
    in IDENTITY_KEYCLOAK_CLIENT_ID with IDENTITY_KEYCLOAK_CLIENT_SECRET; what it registers there is
    deleted at the end.
    """
    _require_server_extra()
    from .demo import run  # needs the extra server, which the other commands do without
    from .demo_environments import EmbeddedEnvironment, KeycloakEnvironment

    with _keycloak_extra():
        environment = (
            KeycloakEnvironment(keycloak_url, keycloak_realm, token_lifetime)
            if keycloak_url
            else EmbeddedEnvironment(token_lifetime)
        )
    sys.exit(0 if run(environment=environment) else FAILED)


@contextmanager
def _keycloak_extra() -> Generator[None, None, None]:
    try:
        yield
    except ModuleNotFoundError as error:
        give_up(
            f"{error.name} is missing; pip install 'xemahq-identity-client[keycloak]'",
            MISCONFIGURED,
        )


def _require_server_extra() -> None:
    try:
        import_module("identity_client.server")  # an extra of its own
    except ModuleNotFoundError as error:
        give_up(
            f"{error.name} is missing; pip install 'xemahq-identity-client[server]'", MISCONFIGURED
        )
