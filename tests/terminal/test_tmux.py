"""The commands in a real terminal of 80 columns: what a person sees there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from support.cli import clean_environment, command
from support.needs import needs
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import IdentityBootstrapService
from identity_client.server import IdentityServer

WITHIN = 120.0
END = "THE-COMMAND-HAS-ENDED"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)[0-7][;m]")
VARIANTS = [
    pytest.param({}, id="as it is"),
    pytest.param({"NO_COLOR": "1"}, id="without colour"),
    pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii"),
]


class Screen(NamedTuple):
    rows: list[str]
    lines: list[str]  # a line that the terminal had to break is one of these
    coloured: str
    shows_cursor: bool


class Tmux:
    """A terminal of 80 columns with one window."""

    def __init__(self, program: str, socket: Path, environ: dict[str, str]) -> None:
        self._program = [program, "-S", str(socket), "-f", "/dev/null"]
        self._environ = environ

    def start(self, *arguments: str, variables: dict[str, str] | None = None) -> None:
        self.start_process(command(*arguments), variables)

    def start_process(self, order: list[str], variables: dict[str, str] | None) -> None:
        line = f"trap : INT; {shlex.join(order)}; echo {END} $?; sleep {WITHIN:.0f}"
        self._ask(
            *("new-session", "-d", "-x", "80", "-y", "60", "sh", "-c", line), variables=variables
        )

    def press(self, key: str) -> None:
        self._ask("send-keys", key)

    def wait_for(self, text: str) -> Screen:
        deadline = time.monotonic() + WITHIN
        while text not in (shown := self._ask("capture-pane", "-p", "-S", "-")):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        return Screen(
            _lines(shown),
            _lines(self._ask("capture-pane", "-p", "-S", "-", "-J")),
            self._ask("capture-pane", "-p", "-S", "-", "-e"),
            self._ask("display-message", "-p", "#{cursor_flag}").strip() == "1",
        )

    def _ask(self, *arguments: str, variables: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._program, *arguments],
            env={**self._environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def end(self) -> None:
        subprocess.run([*self._program, "kill-server"], capture_output=True, check=False)


def _lines(shown: str) -> list[str]:
    return [line.rstrip() for line in shown.rstrip().split("\n")]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: no terminal can help breaking one of more than 80 characters."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def terminal(api: IdentityServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmux]:
    program = needs("tmux", "install the package tmux of your distribution")
    clean_environment(monkeypatch)
    environ = {
        **os.environ,
        "LANG": "C.UTF-8",
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_CREDENTIAL_STORE": f"file://{folder}/credentials.json",
        "IDENTITY_STATUS_FILE": f"{folder}/status.json",
        "IDENTITY_BASE_RETRY_DELAY": "0.05",
    }
    for name in ("COLUMNS", "LINES", "TMUX", "NO_COLOR"):
        environ.pop(name, None)
    opened = Tmux(program, folder / "tmux", environ)
    yield opened
    opened.end()


@pytest.fixture
def ready(api: IdentityServer, make_service: MakeService, folder: Path) -> IdentityBootstrapService:
    """A service that runs, whose credentials and status the commands find."""
    service = make_service(
        api,
        credential_store=f"file://{folder}/credentials.json",
        status_file=f"{folder}/status.json",
    )
    assert service.wait_for_ready(30)
    return service


def looks_right(screen: Screen, variables: dict[str, str]) -> None:
    assert screen.rows == screen.lines, "the terminal had to break a line"
    assert max(map(len, screen.rows)) <= 80
    assert screen.shows_cursor
    assert "Traceback" not in screen.coloured
    if "NO_COLOR" in variables:
        assert not COLOUR.search(screen.coloured)
    if "PYTHONIOENCODING" in variables:
        assert screen.coloured.isascii()


@pytest.mark.parametrize("variables", VARIANTS)
@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        pytest.param(("doctor",), "ID501", id="doctor"),
        pytest.param(("wait",), "", id="wait"),
        pytest.param(("status",), "READY", id="status"),
        pytest.param(("try",), "READY", id="try"),
    ],
)
def test_a_command_looks_right(
    terminal: Tmux,
    ready: IdentityBootstrapService,
    variables: dict[str, str],
    arguments: tuple[str, ...],
    shows: str,
) -> None:
    assert ready.is_ready()
    terminal.start(*arguments, variables=variables)
    screen = terminal.wait_for(END)
    assert f"{END} 0" in screen.rows
    assert shows in "\n".join(screen.rows)
    looks_right(screen, variables)


@pytest.mark.parametrize("variables", VARIANTS)
def test_a_wait_in_vain_looks_right(terminal: Tmux, variables: dict[str, str]) -> None:
    terminal.start(
        "wait",
        "--timeout",
        "2.5",
        variables={**variables, "IDENTITY_API_URL": "http://127.0.0.1:9"},
    )
    screen = terminal.wait_for(END)
    assert f"{END} 3" in screen.rows
    looks_right(screen, variables)


@pytest.mark.parametrize("variables", VARIANTS)
def test_the_development_server_looks_right(terminal: Tmux, variables: dict[str, str]) -> None:
    terminal.start("serve", "--port", "0", variables=variables)
    looks_right(terminal.wait_for("Press Ctrl-C"), variables)  # its last line
    terminal.press("C-c")
    looks_right(terminal.wait_for(END), variables)


@pytest.mark.parametrize("variables", VARIANTS)
def test_the_demo_looks_right(terminal: Tmux, variables: dict[str, str]) -> None:
    code = (
        "from identity_client.cli import demo, main; "
        "demo.LATENCY, demo.HERD_LIMIT = 0.8, 10.0; main()"  # for a machine that is slow
    )
    demo = [sys.executable, "-c", code, "demo", "--token-lifetime", "15"]
    terminal.start_process(demo, variables)
    screen = terminal.wait_for(END)
    assert f"{END} 0" in screen.rows
    looks_right(screen, variables)
