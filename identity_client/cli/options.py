"""Options that several commands have, and what is made of them."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigurationError
from .failures import reason_of

if TYPE_CHECKING:
    from ..config import IdentityBootstrapConfig
    from ..service import IdentityBootstrapService

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A range of seconds; click's own lets NaN through."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


_NO = ("false", "0", "no")

SECONDS = Seconds(min=0)

_LONGEST_LINE = 64 * 1024

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What adds an option to a command's function."""

json_option: Option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_URL = click.option("--url", help="Address of identity-api [IDENTITY_API_URL].")
_SERVICE_NAME = click.option("--service-name", help="Name of the service [SERVICE_NAME].")
_INTERNAL_TOKEN_FILE = click.option(
    "--internal-token-file",
    metavar="FILE",
    help="File with the internal token; - for standard input [IDENTITY_API_INTERNAL_TOKEN_FILE].",
)
_REGENERATION = click.option(
    "--allow-secret-regeneration",
    is_flag=True,
    help="Replace the secret of a service that exists. Its replicas are cut off until they "
    "register again.",
)


def examples(*lines: str) -> str:
    """Return the end of a help text, which click is not to wrap."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def config_options(command: _Command) -> _Command:
    """Add the options that name a service and its identity-api."""
    return _URL(_SERVICE_NAME(_INTERNAL_TOKEN_FILE(command)))


def service_options(command: _Command) -> _Command:
    """Add the options of commands that obtain a token, as a service does."""
    return config_options(_REGENERATION(command))


def timeout_option(default: float | None, text: str) -> Callable[[_Command], _Command]:
    """Return the option ``--timeout``."""
    return click.option(
        "--timeout", type=SECONDS, default=default, show_default=default is not None, help=text
    )


def make_config(**options: Any) -> IdentityBootstrapConfig:
    """Read the settings from the environment; options win."""
    from ..config import IdentityBootstrapConfig  # takes time that --help does not need

    return IdentityBootstrapConfig.from_env(**overrides(**options))


def make_service(**options: Any) -> IdentityBootstrapService:
    """Make the service that the environment and the options describe; it is not started.

    Raises:
        ConfigurationError: a setting is wrong, or the command would register the service and lose
            a secret that the environment forbids to regenerate.
    """
    from ..integrations._commands import refuse_to_lose_secret
    from ..service import IdentityBootstrapService  # as above

    config = make_config(**options)
    forbidden = os.environ.get("IDENTITY_ALLOW_SECRET_REGENERATION", "").lower() in _NO
    if forbidden and not config.allow_secret_regeneration:
        refuse_to_lose_secret(config)
    return IdentityBootstrapService(config)


def overrides(
    *,
    url: str | None = None,
    service_name: str | None = None,
    internal_token_file: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return the settings that the options name."""
    given = {
        "identity_api_url": url,
        "service_name": service_name,
        **_internal_token(internal_token_file),
        **others,
    }
    # A look from a shell does not replace the file of the service that runs.
    return {name: value for name, value in given.items() if value is not None} | {
        "status_file": None
    }


def _internal_token(file: str | None) -> dict[str, str | None]:
    if file != "-":
        return {"identity_api_internal_token_file": file}
    try:
        token = _first_line_of_stdin().decode().rstrip()
    except UnicodeDecodeError:
        raise ConfigurationError(
            "the internal token on standard input is not UTF-8; write it there as text"
        ) from None
    if not token:
        raise ConfigurationError("standard input holds no internal token; write it there")
    return {"identity_api_internal_token": token}


def _first_line_of_stdin() -> bytes:
    """Read a line, and nothing after it: the rest is the input of the command that `exec` runs."""
    try:
        line = _unbuffered_stdin().readline(_LONGEST_LINE + 1)
    except OSError as error:
        reason = reason_of(error)
        raise ConfigurationError(
            f"cannot read the internal token from standard input: {reason}; "
            "write it there, or name a file with --internal-token-file"
        ) from None
    if len(line) > _LONGEST_LINE:
        raise ConfigurationError(
            f"the first line of standard input is longer than {_LONGEST_LINE} bytes; "
            "write the internal token there"
        )
    return line


def _unbuffered_stdin() -> IO[bytes]:
    """Return standard input, which then is read byte by byte."""
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        return sys.stdin.buffer  # not a file
    return os.fdopen(descriptor, "rb", buffering=0, closefd=False)
