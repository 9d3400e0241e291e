"""Exit codes, and how an error becomes one line on stderr and a code.

Every command may let an `IdentityError` out: the group turns it into one of click's exceptions,
which click prints and exits with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, NoReturn

import click

from ..errors import ConfigurationError, IdentityError, NotReadyError
from .console import echo, for_terminal

FAILED, MISCONFIGURED, TIMED_OUT = 1, 2, 3


class CommandError(click.ClickException):
    """One line on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own classes do the same

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002  # click's signature
        echo(for_terminal(f"identity-client: {self.message}"), err=True)


def give_up(message: str, exit_code: int) -> NoReturn:
    """End the command with a message on stderr."""
    raise CommandError(message, exit_code)


def exit_code_of(error: IdentityError) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(error, ConfigurationError):
        return MISCONFIGURED
    timed_out = isinstance(error, NotReadyError) and error.next_attempt_in is None
    return TIMED_OUT if timed_out else FAILED


@contextmanager
def errors_as_exits() -> Generator[None, None, None]:
    """Turn errors of the package, and an output that cannot be written, into exits."""
    try:
        yield
    except IdentityError as error:
        raise CommandError(error.message, exit_code_of(error)) from None
    except BrokenPipeError:
        raise  # the reader went away; click ends quietly
    except OSError as error:
        # Other errors are translated where they occur: without a file, this is the output.
        discard(sys.stdout)
        what = error.filename or "cannot write the output"
        raise CommandError(f"{what}: {reason_of(error)}", FAILED) from None


def reason_of(error: OSError) -> str:
    """Return what the operating system says, as a part of a message."""
    return (error.strerror or type(error).__name__).lower()


def discard(output: IO[str]) -> None:
    """Let what is left in the buffer go nowhere: Python writes it again when it ends, and fails."""
    try:
        descriptor = output.fileno()
    except (OSError, ValueError):
        return  # not a file
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
