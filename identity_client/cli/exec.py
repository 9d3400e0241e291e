"""``exec``: run a command with an access token."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NoReturn

import click

from .access_token import fetch, min_ttl_option, token_timeout_option
from .failures import give_up
from .options import examples, make_service, service_options
from .output import progress

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127

# A command would inherit that.
IGNORED_BY_PYTHON = [
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)
]

# What a command with a token has no use for.
_SECRETS = (
    "IDENTITY_API_INTERNAL_TOKEN",
    "IDENTITY_CREDENTIAL_STORE",
    "IDENTITY_KEYCLOAK_CLIENT_SECRET",
    "SERVICE_CLIENT_SECRET",
)


def _variable_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and (not name or "=" in name or "\0" in name):
        raise click.BadParameter(f"{name!r} is not the name of an environment variable.")
    return name


def _runnable(_: click.Context, __: click.Parameter, command: tuple[str, ...]) -> tuple[str, ...]:
    if not command[0] or "\0" in "".join(command):
        raise click.BadParameter("the command is empty, or has a null character in it.")
    return command


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "identity-client exec -- ./report.sh",
        "identity-client exec --min-ttl 120 --env TOKEN -- python batch.py",
        "identity-client exec --token-file /run/orders/token -- ./daemon",
    ),
)
@service_options
@token_timeout_option
@min_ttl_option
@click.option(
    "--env",
    "variable",
    metavar="NAME",
    callback=_variable_name,
    help="Variable for the token [default: IDENTITY_ACCESS_TOKEN], or for the file's name "
    "[default: IDENTITY_ACCESS_TOKEN_FILE].",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Stay, keep a valid token in this file, and remove it at the end.",
)
@click.option(
    "--keep-environment",
    is_flag=True,
    help="Leave the internal token, client secret and credential store in the environment.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_runnable)
def exec_command(
    *,
    timeout: float | None,
    min_ttl: float,
    variable: str | None,
    token_file: str | None,
    keep_environment: bool,
    command: tuple[str, ...],
    **options: Any,
) -> None:
    """Run COMMAND with an access token in its environment.

    The command replaces this process: its signals, terminal and exit status are its own. The token
    is in IDENTITY_ACCESS_TOKEN, and the time when it expires, in seconds since the epoch, in
    IDENTITY_ACCESS_TOKEN_EXPIRES_AT; it is not renewed. Secrets of the service are removed from the
    environment.

    With --token-file, the token is in a file instead, which only you can read and which is replaced
    before the token expires; IDENTITY_ACCESS_TOKEN_FILE has its name. This process stays, passes
    signals on and exits with the command's status, or with 128 and the number of the signal that
    ended it.

    Exits with 127 when the command is not found and 126 when it cannot be executed; without a token
    it is not run.
    """
    environ = dict(os.environ) if keep_environment else without_secrets(os.environ)
    service = make_service(**options)
    if token_file is not None:
        from .supervisor import supervise  # few need it

        environ[variable or "IDENTITY_ACCESS_TOKEN_FILE"] = os.path.abspath(token_file)  # noqa: PTH100  # resolves no links
        status = supervise(service, command, environ, token_file, timeout=timeout, min_ttl=min_ttl)
        sys.exit(status)
    with closing(service), progress(service):
        token = fetch(service, timeout, min_ttl)
    environ[variable or "IDENTITY_ACCESS_TOKEN"] = token.value
    environ["IDENTITY_ACCESS_TOKEN_EXPIRES_AT"] = str(int(token.expires_at))
    _replace_process(command, environ)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the secrets of the service, and without their files."""
    return {name: value for name, value in environ.items() if not name.startswith(_SECRETS)}


def give_up_on_command(command: str, error: OSError) -> NoReturn:
    """End as a shell does where a command cannot be run."""
    code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    give_up(f"{command}: {(error.strerror or 'cannot be executed').lower()}", code)


def _replace_process(command: tuple[str, ...], environ: dict[str, str]) -> None:
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environ)  # noqa: S606  # that is what the command is for
    except OSError as error:
        give_up_on_command(command[0], error)
