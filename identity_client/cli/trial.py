"""``try``: a trial in a service of its own."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

import click

from .console import echo
from .failures import FAILED, TIMED_OUT, give_up
from .options import examples, json_option, make_service, service_options, timeout_option
from .output import print_rows, progress


@click.command(
    "try",
    epilog=examples("identity-client try", "identity-client try --json | jq -r .last_error"),
)
@service_options
@timeout_option(10.0, "Seconds to wait.")
@json_option
def try_command(*, timeout: float, as_json: bool, **options: Any) -> None:
    """Try to get a token, as a service would, and show how that went.

    Exits with 1 without one, or with 3 when the time is over before anything failed.
    What a service that runs does is shown by status; what keeps it from working, by doctor.
    """
    with closing(make_service(**options)) as service:
        with progress(service):
            service.wait_for_ready(timeout)
        seen = service.status()
    if as_json:
        echo(json.dumps(seen.to_dict()))
    else:
        print_rows(seen.to_dict())
    if seen.state.value == "READY":
        return
    if seen.last_error is None:
        give_up(f"no access token within {timeout:g} s: an attempt is under way", TIMED_OUT)
    sys.exit(FAILED)
