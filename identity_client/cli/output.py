"""What the commands print: rows, and what goes on meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .console import echo, for_terminal

if TYPE_CHECKING:
    from ..service import IdentityBootstrapService

# Seconds without output after which a command says what it waits for.
PATIENCE = 1.5


def print_rows(rows: Mapping[str, Any], *, err: bool = False) -> None:
    """Print names and values in two columns."""
    left = max(len(name) for name in rows) + 2
    for name, value in rows.items():
        shown = "-" if value is None else f"{value:.1f}" if isinstance(value, float) else value
        row = f"{name.replace('_', ' '):<{left}}{shown}"
        echo(for_terminal(row, " " * left), err=err)


@contextmanager
def patience(text: str | Callable[[], str]) -> Generator[None, None, None]:
    """Say on stderr what takes so long, if it does; again whenever that has changed."""
    done = threading.Event()

    def speak() -> None:
        said = None
        while not done.wait(PATIENCE):
            current = text() if callable(text) else text
            if current != said:
                said = current
                echo(for_terminal(f"identity-client: {current}"), err=True)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def progress(service: IdentityBootstrapService) -> Generator[None, None, None]:
    """Show what the service is doing: in place on a terminal, else in lines, and only if slow."""
    messages = ["waiting for a token"]
    show = _in_place if _is_terminal() else _in_lines
    with show(messages, service):
        yield


@contextmanager
def _in_lines(
    messages: list[str], service: IdentityBootstrapService
) -> Generator[None, None, None]:
    stop = service.on_event(lambda event: messages.append(event.message))
    try:
        with patience(lambda: messages[-1]):
            yield
    finally:
        stop()


@contextmanager
def _in_place(
    messages: list[str], service: IdentityBootstrapService
) -> Generator[None, None, None]:
    from rich.console import Console  # takes time that a pipe does not need
    from rich.text import Text

    console = Console(stderr=True)
    spinner = "dots" if console.encoding.lower().startswith("utf") else "line"
    with console.status(messages[0], spinner=spinner) as display:
        stop = service.on_event(lambda event: display.update(Text(event.message)))
        try:
            yield
        finally:
            stop()


def _is_terminal() -> bool:
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))
