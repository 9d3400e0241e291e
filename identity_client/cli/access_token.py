"""``token``: print an access token, or what is in it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from .console import echo
from .failures import FAILED, TIMED_OUT, give_up
from .jwt import decode
from .options import (
    SECONDS,
    Option,
    examples,
    json_option,
    make_service,
    service_options,
    timeout_option,
)
from .output import progress

if TYPE_CHECKING:
    from ..models import AccessToken
    from ..service import IdentityBootstrapService

min_ttl_option: Option = click.option(
    "--min-ttl",
    type=SECONDS,
    default=0.0,
    metavar="SECONDS",
    help="Seconds that the token must live at least; else another one is requested.",
)

token_timeout_option: Option = timeout_option(
    None, "Seconds to wait at most [IDENTITY_TOKEN_TIMEOUT]."
)


@click.command(
    "token",
    epilog=examples(
        "identity-client token > /run/orders/token",
        "identity-client token --decode",
        "identity-client token --json --min-ttl 120 | jq .expires_at",
    ),
)
@service_options
@token_timeout_option
@min_ttl_option
@click.option("--decode", "as_claims", is_flag=True, help="Show claims and times instead.")
@json_option
def token_command(
    *, timeout: float | None, min_ttl: float, as_claims: bool, as_json: bool, **options: Any
) -> None:
    """Print an access token, and nothing else.

    With --decode, print what a token that is a JWT says (not verified), and not the token. With
    --json, print it with its times.
    """
    with closing(make_service(**options)) as service, progress(service):
        token = fetch(service, timeout, min_ttl)
    if as_claims:
        _print_claims(token, as_json=as_json)
    elif as_json:
        times = {"expires_at": round(token.expires_at, 3), "expires_in": _seconds_left(token)}
        shown = {"access_token": token.value, "token_type": "Bearer", **times}
        echo(json.dumps({**shown, "scope": token.scope}))
    else:
        echo(token.value)


def fetch(service: IdentityBootstrapService, timeout: float | None, min_ttl: float) -> AccessToken:
    """Return a token that lives at least ``min_ttl`` seconds; a gateway may return an older one."""
    began = time.monotonic()
    token = service.get_token(timeout)
    if _seconds_left(token) < min_ttl:
        issued = service.status().tokens_issued
        service.invalidate_token(token.value)
        left = None if timeout is None else timeout - (time.monotonic() - began)
        token = service.get_token(left)
        status = service.status()
        if status.tokens_issued == issued:  # the token in hand came back
            give_up(
                f"no access token that lives {min_ttl:g} s: "
                f"{status.last_error or 'the request for another is under way'}",
                FAILED if status.last_error else TIMED_OUT,
            )
    if _seconds_left(token) < min_ttl:
        give_up(
            f"access tokens live {_seconds_left(token):.0f} s, less than --min-ttl {min_ttl:g}; "
            "set a longer lifetime for the client at the token endpoint",
            FAILED,
        )
    return token


def _seconds_left(token: AccessToken) -> float:
    return round(max(token.expires_at - time.time(), 0.0), 3)


def _print_claims(token: AccessToken, *, as_json: bool) -> None:
    decoded = decode(token.value)
    if decoded is None:
        give_up("the access token is not a JWT, so there is nothing to decode", FAILED)
    header, claims = decoded
    if as_json:
        echo(json.dumps({"header": header, "claims": claims}))
        return
    for name, value in {**header, **claims}.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        echo(f"{name + ':':<20} {shown}{_moment(name, value)}")


def _moment(name: str, value: object) -> str:
    """Return what a time means to a person."""
    if name not in ("exp", "iat", "nbf", "auth_time") or not isinstance(value, (int, float)):
        return ""
    distance = value - time.time()
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    return f" ({at}, {f'in {distance:.0f} s' if distance > 0 else f'{-distance:.0f} s ago'})"
