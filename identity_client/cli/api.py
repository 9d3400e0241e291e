"""The calls of identity-api, for people and scripts."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ..errors import ConfigurationError
from .console import echo
from .failures import FAILED, discard, give_up, reason_of
from .options import config_options, examples, json_option, overrides
from .output import patience, print_rows

if TYPE_CHECKING:
    from ..api_client import IdentityApiClient
    from ..config import IdentityBootstrapConfig


@click.command(
    "register",
    epilog=examples(
        "identity-client register --secret-file /run/orders/secret",
        "identity-client register --secret-file - | kubectl create secret generic \\",
        "    orders-identity --from-file=client-secret=/dev/stdin",
    ),
)
@config_options
@click.option(
    "--secret-file",
    required=True,
    metavar="FILE",
    help="New file for the client secret, readable by you only; - for standard output.",
)
@click.option(
    "--regenerate-secret",
    is_flag=True,
    help="Replace the secret of a service that exists, which cuts off its replicas.",
)
@json_option
def register_command(
    *, secret_file: str, regenerate_secret: bool, as_json: bool, **options: Any
) -> None:
    """Register a service with identity-api, and save its secret to a file.

    What else identity-api returns is printed, on standard error where the secret goes to standard
    output. Services need no such call: they register when they start.
    """
    config = _config(**options)
    to_stdout = secret_file == "-"  # noqa: S105  # standard output
    if to_stdout:
        _refuse_unwritable_stdout()
    target = None if to_stdout else _Reserved(secret_file)
    try:
        with _client(config) as client, patience("waiting for identity-api"):
            reply = client.register_service_full(
                name=config.service_name,
                display_name=config.service_display_name or config.service_name,
                description=config.service_description,
                service_type=config.service_type,
                regenerate_secret=regenerate_secret,
            )
        if not reply.client_secret:
            give_up(
                f"the service {config.service_name!r} exists already, and identity-api did not "
                "return its secret; pass --regenerate-secret to replace it (this invalidates the "
                "old one everywhere), or use the existing credentials",
                FAILED,
            )
        # Before anything else is shown: whatever fails after this, the secret is not lost.
        if target is None:
            echo(reply.client_secret)
        else:
            target.write(reply.client_secret)
    finally:
        if target is not None:
            target.release()
    shown = attrs.asdict(reply, filter=attrs.filters.exclude("client_secret"))
    shown["client_id"] = reply.client_id or config.service_name
    roles = list(reply.roles) if as_json else ", ".join(reply.roles)
    try:
        _show({**shown, "roles": roles, "secret_file": secret_file}, as_json=as_json, err=to_stdout)
    except OSError:
        # A script that sees a failure throws the secret on standard output away.
        if not to_stdout:
            raise
        discard(sys.stderr)


@click.command(
    "verify-membership",
    epilog=examples("identity-client verify-membership USER_ID ORG_ID && echo is a member"),
)
@config_options
@json_option
@click.argument("user_id")
@click.argument("org_id")
def verify_membership_command(*, user_id: str, org_id: str, as_json: bool, **options: Any) -> None:
    """Ask whether a user is a member of an organization; exit with 1 if not."""
    with _client(_nameless_config(**options)) as client, patience("waiting for identity-api"):
        reply = client.verify_membership(user_id, org_id)
    _show(attrs.asdict(reply), as_json=as_json)
    if not reply.is_member:
        sys.exit(FAILED)


@click.command(
    "ensure-system-org",
    epilog=examples('identity-client ensure-system-org platform --display-name "The platform"'),
)
@config_options
@json_option
@click.option("--display-name", help="The name that people see; NAME unless given.")
@click.argument("name")
def ensure_system_org_command(
    *, name: str, display_name: str | None, as_json: bool, **options: Any
) -> None:
    """Create the system organization NAME unless it exists, and show it."""
    with _client(_nameless_config(**options)) as client, patience("waiting for identity-api"):
        organization = client.ensure_system_org(name=name, display_name=display_name or name)
    _show(attrs.asdict(organization), as_json=as_json)


@click.command(
    "get-system-org", epilog=examples("identity-client get-system-org platform --json | jq -r .id")
)
@config_options
@json_option
@click.argument("name")
def get_system_org_command(*, name: str, as_json: bool, **options: Any) -> None:
    """Show the system organization NAME; exit with 1 when there is none."""
    with _client(_nameless_config(**options)) as client, patience("waiting for identity-api"):
        organization = client.get_system_org(name)
    _show(attrs.asdict(organization), as_json=as_json)


def _refuse_unwritable_stdout() -> None:
    """Fail before the secret is made if standard output is closed, or open for reading only."""
    try:
        descriptor = sys.stdout.fileno()
    except ValueError:
        return  # not a file
    try:
        os.write(descriptor, b"")
    except OSError as error:
        reason = reason_of(error)
        raise ConfigurationError(
            f"cannot write the client secret to standard output: {reason}; "
            "redirect standard output, or name a file with --secret-file"
        ) from None


class _Reserved:
    """A new file for a secret, made before the secret is: a secret that cannot be saved is lost."""

    def __init__(self, name: str) -> None:
        self._path = Path(name)
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigurationError(f"{name} exists already; name a new file") from None
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise ConfigurationError(f"{name} cannot be created: {reason}") from None
        self._is_written = False

    def write(self, secret: str) -> None:
        os.write(self._file, f"{secret}\n".encode())
        self._is_written = True

    def release(self) -> None:
        """Close the file; remove it if nothing was written."""
        os.close(self._file)
        if not self._is_written:
            with suppress(FileNotFoundError):
                self._path.unlink()


def _config(**options: Any) -> IdentityBootstrapConfig:
    from ..config import IdentityBootstrapConfig  # takes time that --help does not need

    return IdentityBootstrapConfig.from_env(
        **overrides(**options), client_id=None, client_secret=None, token_endpoint=None
    )


def _nameless_config(**options: Any) -> IdentityBootstrapConfig:
    """Read the settings of a call that is about no service, and needs no name of one."""
    return _config(**{**options, "service_name": "unused"})


def _client(config: IdentityBootstrapConfig) -> IdentityApiClient:
    from ..api_client import IdentityApiClient  # as above

    return IdentityApiClient(
        str(config.identity_api_url),
        str(config.identity_api_internal_token),
        timeout=config.request_timeout,
        ca_bundle=config.ca_bundle,
        client_cert=config.client_cert,
    )


def _show(values: dict[str, Any], *, as_json: bool, err: bool = False) -> None:
    if as_json:
        echo(json.dumps(values), err=err)
    else:
        print_rows(values, err=err)
