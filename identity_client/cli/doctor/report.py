"""The outcomes as lines of 80 columns, or as one JSON document; ASCII, and without secrets."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Sequence

import click

from ..console import COLUMNS, echo
from .model import Check, Outcome, Status

_INDENT = 14
_COLORS = {Status.FAILED: "red", Status.CRASHED: "red", Status.WARNING: "yellow"}


def print_outcome(outcome: Outcome) -> None:
    """Print what a check found, and what to do."""
    finding = outcome.finding
    color = None if "NO_COLOR" in os.environ else _COLORS.get(finding.status)
    mark = click.style(f"{finding.status.value:<5}", fg=color)
    lines = [line for part in finding.text.splitlines() for line in _wrapped(part)]
    echo(f"{mark} {outcome.check.id}   {lines[0]}")
    for line in lines[1:]:
        echo(" " * _INDENT + line)
    for number, line in enumerate(_wrapped(finding.advice or "")):
        echo(f"{'' if number else 'do: ':>{_INDENT}}{line}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS - _INDENT, break_long_words=False, break_on_hyphens=False)


def print_list(checks: Sequence[Check]) -> None:
    """Print each id with its title."""
    for check_id, title in sorted({(check.id, check.title) for check in checks}):
        echo(f"{check_id}  {title}")


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print how many checks came out how."""
    counts = Counter(outcome.finding.status for outcome in outcomes)
    names = {
        Status.CRASHED: "broke",
        Status.FAILED: "failed",
        Status.WARNING: "with a warning",
        Status.OK: "ok",
        Status.SKIPPED: "not tried",
    }
    parts = [f"{counts[status]} {name}" for status, name in names.items() if counts[status]]
    echo(", ".join(parts))


def as_json(outcomes: Sequence[Outcome], *, success: bool) -> str:
    """Return the document that ``--json`` prints."""
    checks = [
        {
            "id": outcome.check.id,
            "title": outcome.check.title,
            "subject": outcome.check.subject or None,
            "status": outcome.finding.status.value.lower(),
            "found": outcome.finding.text,
            "do": outcome.finding.advice,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
    return json.dumps({"success": success, "checks": checks})
