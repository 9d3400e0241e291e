"""A terminal that types the commands of a page and compares what they print with the page."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect

_PROMPT = re.compile(r"\[(\d+)\]ready> ")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A shell that stays open from one block of a page to the next.

    A block has commands after ``$``, and below each what it prints; ``...`` stands for anything.
    The last command of a block may keep running: a block without a command shows what it prints
    later, and ``^C`` ends it.

    Args:
        folder: where the shell starts.
        environment: its variables.
        timeout: seconds that the output of a block may take.
    """

    def __init__(self, folder: Path, environment: dict[str, str], timeout: float = 200) -> None:
        variables: Any = {
            **environment,
            "PS1": "[$?]ready> ",
            "PS2": "",
            "TERM": "dumb",
        }
        self._shell: Any = pexpect.spawn(
            "env",  # a test that runs in a shell's background would hand down that ^C is ignored
            ["--default-signal=INT", "bash", "--norc", "--noprofile"],
            cwd=str(folder),
            env=variables,
            encoding="utf-8",
            echo=False,
            timeout=timeout,
            dimensions=(50, 200),
        )
        self._shell.delaybeforesend = None
        self._timeout = timeout
        self._shell.expect(_PROMPT)
        self._is_busy = False

    def run(self, block: str) -> None:
        """Type the commands of a block, and wait for what it shows."""
        steps = list(_steps(block))
        for number, (command, output) in enumerate(steps, 1):
            if command == "^C":
                self._shell.sendintr()
            elif command:
                self._wait_for_prompt(command)
                self._shell.sendline(command)
                self._is_busy = True
            if output:
                self._wait_for_output(command, output)
            if number < len(steps) or not output or command == "^C":
                self._wait_for_prompt(command, interrupted=command == "^C")

    def close(self) -> None:
        """End the shell and what it started."""
        if self._shell.isalive():
            os.killpg(self._shell.pid, signal.SIGHUP)
        self._shell.close(force=True)

    def _wait_for_output(self, command: str, output: list[str]) -> None:
        printed: list[str] = []
        may_skip = False
        deadline = time.monotonic() + self._timeout
        for line in output:
            if line == "...":
                may_skip = True
                continue
            pattern = _pattern(line)
            while not pattern.fullmatch(self._next_line(command, line, printed)):
                if not may_skip or time.monotonic() > deadline:
                    raise AssertionError(_report(command, line, printed))
            may_skip = False

    def _next_line(self, command: str, wanted: str, printed: list[str]) -> str:
        found = self._shell.expect([r"\r?\n", _PROMPT, pexpect.TIMEOUT, pexpect.EOF])
        printed.append(_plain(self._shell.before or ""))
        if found:
            raise AssertionError(_report(command, wanted, printed))
        return printed[-1]

    def _wait_for_prompt(self, command: str, *, interrupted: bool = False) -> None:
        if not self._is_busy:
            return
        if self._shell.expect([_PROMPT, pexpect.TIMEOUT, pexpect.EOF]):
            raise AssertionError(_report(command, "its end", [_plain(self._shell.before or "")]))
        self._is_busy = False
        if self._shell.match[1] != "0" and not interrupted:
            printed = ["with status", self._shell.match[1], _plain(self._shell.before)]
            raise AssertionError(_report(command, "its end", printed))


def _steps(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a block, with the lines that it is to print."""
    command, output = "", list[str]()
    for line in block.splitlines():
        if line.startswith(("$ ", "> ", "^C")):
            if line.startswith("> "):  # the command goes on
                command = f"{command}\n{line[2:]}"
                continue
            if command or output:
                yield command, output
            command, output = line.removeprefix("$ "), []
        elif line.strip():
            output.append(line.strip())
    yield command, output


def _pattern(line: str) -> re.Pattern[str]:
    text = re.escape(line).replace(re.escape("..."), ".*")
    return re.compile(rf"\s*{text}\s*")


def _report(command: str, wanted: str, printed: list[str]) -> str:
    return "\n".join([f"$ {command}", f"was to print {wanted!r}, and printed:", *printed])


def _plain(text: str) -> str:
    return _ESCAPES.sub("", text).replace("\r", "")
