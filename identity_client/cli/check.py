"""``check``: all settings, offline."""

from __future__ import annotations

import json
import os
import sys

import click

from .console import echo
from .failures import FAILED, MISCONFIGURED
from .options import examples, json_option
from .settings import read_settings, store_problem


@click.command(
    "check",
    epilog=examples("identity-client check", "identity-client check --strict --json"),
)
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@json_option
def check_command(*, strict: bool, as_json: bool) -> None:
    """Check all settings, offline, and report every problem.

    Reads the environment and the files that it names, and contacts nothing; for CI and init
    containers. Exits with 2 when something is wrong. To find out whether the settings work, see
    doctor.
    """
    settings = read_settings(os.environ)
    problems = list(settings.problems)
    if settings.config is not None and (problem := store_problem(settings.config)):
        problems.append(problem)
    if as_json:
        shown = {"success": not problems, "problems": problems, "warnings": settings.warnings}
        echo(json.dumps(shown))
    else:
        for text in problems:
            echo(f"FAIL  {text}")
        for text in settings.warnings:
            echo(f"warn  {text}")
        if not problems:
            echo("ok    all settings can be used")
    if problems:
        sys.exit(MISCONFIGURED)
    if strict and settings.warnings:
        sys.exit(FAILED)
