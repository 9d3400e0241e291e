"""``credentials``: what the credential store holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigurationError
from .console import echo
from .failures import FAILED, give_up
from .options import config_options, examples, json_option, make_config
from .output import print_rows

if TYPE_CHECKING:
    from ..stores import CredentialStore

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _store_options(command: _Command) -> _Command:
    store = click.option(
        "--store", help="The store, without a password [IDENTITY_CREDENTIAL_STORE]."
    )
    return store(config_options(command))


@click.group("credentials")
def credentials_command() -> None:
    """Look after the credentials in the store that IDENTITY_CREDENTIAL_STORE names."""


@credentials_command.command("show", epilog=examples("identity-client credentials show --json"))
@_store_options
@json_option
def show(*, as_json: bool, **options: Any) -> None:
    """Show what is stored, without the secret; exit with 1 when nothing is."""
    with closing(_store(**options)) as store:
        stored = store.load()
    known = stored.credentials
    if known is None:
        give_up(f"{store} holds no credentials", FAILED)
    shown = {
        "store": str(store),
        "version": stored.version,
        "client_id": known.client_id,
        "client_secret": f"*** ({len(known.client_secret)} characters)",
        "token_endpoint": known.token_endpoint,
        "roles": ", ".join(known.roles),
    }
    if as_json:
        echo(json.dumps({**shown, "roles": known.roles}))
    else:
        print_rows(shown)


@credentials_command.command("clear", epilog=examples("identity-client credentials clear --yes"))
@_store_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(*, yes: bool, **options: Any) -> None:
    """Forget what is stored.

    Processes that run keep their credentials, and put them back. With none running, the next one
    that starts regenerates the secret.
    """
    with closing(_store(**options)) as store:
        if not yes:
            click.confirm(f"Forget what {store} holds?", abort=True, err=True)
        store.clear()
    echo(f"{store} is empty", err=True)


def _store(store: str | None, **options: Any) -> CredentialStore:
    from ..stores import open_store  # takes time that --help does not need

    config = make_config(credential_store=store, **options)
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
