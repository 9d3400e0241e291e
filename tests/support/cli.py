"""Runs the command line: in this process, or as a process of its own."""

from __future__ import annotations

import os
import re
import sys

import pytest
from click.testing import CliRunner, Result

from identity_client.cli.commands import cli

_PREFIXES = ("IDENTITY_", "SERVICE_", "FORCE_COLOR", "NO_COLOR", "TTY_", "WEB_", "PYTHONIO")

_PROGRESS = re.compile(
    r"^identity-client: (?:waiting for a token|registered with .*|access token issued .*)\n",
    re.MULTILINE,
)


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the developer has set: settings, colours and proxies."""
    for variable in list(os.environ):
        if variable.startswith(_PREFIXES) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)


def invoke(environ: dict[str, str], *arguments: str, given: str | None = None) -> Result:
    """Run a command in this process; ``given`` is its standard input."""
    runner = CliRunner(env=environ, catch_exceptions=False)
    return runner.invoke(cli, arguments, input=given)


def without_progress(stderr: str) -> str:
    """Leave out what a command writes on a slow machine while it waits."""
    return _PROGRESS.sub("", stderr)


def command(*arguments: str) -> list[str]:
    """Return the arguments of a process that runs a command."""
    return [sys.executable, "-m", "identity_client.cli", *arguments]
