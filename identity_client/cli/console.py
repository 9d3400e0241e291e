"""Standard output and error, in the encoding and the width that they have."""

from __future__ import annotations

import sys
import textwrap

import click

COLUMNS = 79


def echo(text: str, *, err: bool = False) -> None:
    """Print a line. Given no file, click would write UTF-8 where the encoding is ASCII."""
    click.echo(text, file=sys.stderr if err else sys.stdout)


def for_terminal(text: str, indent: str = "  ") -> str:
    """Break a line between words where a person reads it; scripts get one line."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return text
    return textwrap.fill(
        text,
        COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
