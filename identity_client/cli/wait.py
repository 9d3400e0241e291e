"""``wait``: until there is a token, or until identity-api responds."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError
from .failures import FAILED, TIMED_OUT, give_up
from .options import examples, make_config, service_options, timeout_option
from .output import patience, progress

if TYPE_CHECKING:
    from ..config import IdentityBootstrapConfig

_POLL = 1.0

# A look at identity-api uses no name, credentials or store, so an init container need not have
# them, nor mount their files, which are not read where these are given. Nothing sends these.
_UNUSED = {
    "service_name": "unused",
    "identity_api_internal_token": "unused",
    "client_id": "unused",
    "client_secret": "unused",
    "token_endpoint": "http://unused.invalid",
    "credential_store": "memory:",
    "credential_store_key": "unused",
}


@click.command(
    "wait",
    epilog=examples(
        "identity-client wait --for api --timeout 300",
        "identity-client wait && exec ./my-service",
    ),
)
@service_options
@click.option(
    "--for",
    "goal",
    type=click.Choice(["token", "api"]),
    default="token",
    show_default=True,
    help="A token, as the service would obtain it; or any response of identity-api.",
)
@timeout_option(60.0, "Seconds to wait.")
def wait_command(*, goal: str, timeout: float, **options: Any) -> None:
    """Wait for a token, or for identity-api to respond; exit with 3 if that takes too long.

    --for api has no side effect and needs the address alone, for init containers. --for token
    registers a service that is not registered, so it needs a credential store that outlives this
    command.
    """
    if goal == "api":
        _wait_for_api(make_config(url=options["url"], **_UNUSED), timeout)
    else:
        _wait_for_token(make_config(**options), timeout)


def _wait_for_token(config: IdentityBootstrapConfig, timeout: float) -> None:
    from ..events import ServiceState  # takes time that --help does not need
    from ..integrations._commands import refuse_to_lose_secret
    from ..service import IdentityBootstrapService

    try:
        refuse_to_lose_secret(config)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error.message}, or wait with --for api") from None
    with closing(IdentityBootstrapService(config)) as service, progress(service):
        ready = service.wait_for_ready(timeout)
        status = service.status()
    if not ready:
        problem = status.last_error or "no response yet"
        if status.state is ServiceState.FAILED:
            give_up(f"not ready: {problem}", FAILED)
        give_up(f"not ready after {timeout:g} s: {problem}", TIMED_OUT)


def _wait_for_api(config: IdentityBootstrapConfig, timeout: float) -> None:
    from .reachability import api_problem  # takes time that --help does not need

    if config.identity_api_url is None:
        raise ConfigurationError("identity_api_url (IDENTITY_API_URL) is missing; set it")
    deadline = time.monotonic() + timeout
    problem: str | None = "no response yet"
    with patience(lambda: f"waiting for identity-api: {problem}"):
        while True:
            left = deadline - time.monotonic()
            problem = api_problem(config, left)
            if problem is None:
                return
            if deadline - time.monotonic() <= 2 * _POLL:  # too short for another request to tell
                break
            time.sleep(_POLL)
    give_up(f"not ready after {timeout:g} s: {problem}", TIMED_OUT)
