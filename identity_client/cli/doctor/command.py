"""The command: which checks run, and the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import click

from ..._settings import MAX_SECONDS
from ..console import echo
from ..failures import FAILED, MISCONFIGURED, give_up
from ..options import Seconds, examples, json_option
from . import report
from .checks import CHECKS
from .model import Facts, Outcome, Status
from .runner import run, select


@click.command(
    "doctor",
    epilog=examples(
        "identity-client doctor",
        "identity-client doctor --only ID2 --timeout 2",
        "kubectl exec deploy/orders -- identity-client doctor --json",
    ),
)
@click.option("--url", help="Address of identity-api [IDENTITY_API_URL].")
@click.option("--service-name", help="Name of the service [SERVICE_NAME].")
@click.option("--only", default="ID", metavar="ID", help="Checks whose id begins so: ID2, ID501.")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@click.option(
    "--timeout",
    type=Seconds(min=0, max=MAX_SECONDS),
    default=5.0,
    show_default=True,
    help="Seconds per look.",
)
@click.option("--list", "as_list", is_flag=True, help="List the checks; run none.")
@json_option
def doctor_command(
    *,
    url: str | None,
    service_name: str | None,
    only: str,
    strict: bool,
    timeout: float,
    as_list: bool,
    as_json: bool,
) -> None:
    """Find out why no token can be obtained; changes nothing.

    Checks settings, files, DNS, proxy, connections, TLS, identity-api, the internal token, clocks,
    the credential store and the credentials, in this order, and says what to do. A check is skipped
    when one that it needs has failed. Nothing is registered, rotated or changed; a token is
    requested where there are credentials.

    Exits with 1 when a check failed, and with 2 when doctor itself could not run.
    """
    if as_list:
        report.print_list(CHECKS)
        return
    given = {"IDENTITY_API_URL": url, "SERVICE_NAME": service_name}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    checks = select(CHECKS, only)
    if not checks:
        give_up(f"no check has an id that begins with {only!r}; see --list", MISCONFIGURED)
    outcomes = _shown(run(checks, Facts(environ, timeout or 0.001)), only, quiet=as_json)
    code = _exit_code(outcomes, strict=strict)
    if as_json:
        echo(report.as_json(outcomes, success=code == 0))
    else:
        report.print_summary(outcomes)
    sys.exit(code)


def _shown(outcomes: Iterable[Outcome], only: str, *, quiet: bool) -> list[Outcome]:
    """Print outcomes as they come; of those that are only needed by others, the failures."""
    shown: list[Outcome] = []
    for outcome in outcomes:
        failed = outcome.finding.status in (Status.FAILED, Status.CRASHED)
        if failed or outcome.check.id.startswith(only):
            shown.append(outcome)
            if not quiet:
                report.print_outcome(outcome)
    return shown


def _exit_code(outcomes: Sequence[Outcome], *, strict: bool) -> int:
    statuses = {outcome.finding.status for outcome in outcomes}
    if Status.CRASHED in statuses:
        return MISCONFIGURED
    failing = {Status.FAILED, Status.WARNING} if strict else {Status.FAILED}
    return FAILED if statuses & failing else 0
