"""``status``: the state of services that run, from the files that they write."""

from __future__ import annotations

import json
import sys

import click

from .._status_file import FileStatus, read_status_files
from .console import echo
from .failures import FAILED, MISCONFIGURED, give_up
from .options import examples, json_option
from .output import print_rows


@click.command(
    "status",
    epilog=examples(
        "IDENTITY_STATUS_FILE=/run/orders/status.json identity-client status",
        "identity-client status --file '/run/orders/status-{pid}.json' --json",
    ),
)
@click.option(
    "--file",
    envvar="IDENTITY_STATUS_FILE",
    metavar="FILE",
    help="The file; {pid} stands for any process id [IDENTITY_STATUS_FILE].",
)
@click.option("--strict", is_flag=True, help="Exit with 1 when the last refresh failed, too.")
@json_option
def status_command(*, file: str | None, strict: bool, as_json: bool) -> None:
    """Show the state of a service that runs, from its status file.

    A service writes the file when IDENTITY_STATUS_FILE is set. Exits with 0 when every process
    that has one has a usable token, else with 1, also when the process that wrote it has ended: as
    a probe of workers without HTTP. Nothing is contacted.
    """
    if not file:
        give_up("IDENTITY_STATUS_FILE is missing; set it here and for the service", MISCONFIGURED)
    found = read_status_files(file)
    running = [status for status in found if status.is_alive]
    if as_json:
        echo(json.dumps([status.to_dict() for status in found]))
    else:
        for status in found:
            _print(status)
    if not found:
        give_up(f"no service has written {file}", FAILED)
    if not running:
        give_up(f"every process that wrote {file} has ended", FAILED)
    if not all(status.is_ready(strict=strict) for status in running):
        sys.exit(FAILED)


def _print(status: FileStatus) -> None:
    print_rows(status.to_dict())
