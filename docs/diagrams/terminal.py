"""Records what the commands and a service print, as pictures: ``tox -e pictures``.

A name as the argument records one of them: ``demo``, ``command-line``, ``doctor`` or ``logs``.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService, ServiceState
from identity_client.cli import demo
from identity_client.server import IdentityServer, ServerSettings

FOLDER = Path(__file__).parent
WIDTH = 80
DEMO_WIDTH = 84
INTERNAL_TOKEN = "internal-token-of-the-picture"
COLORS = {logging.INFO: 32, logging.WARNING: 33, logging.ERROR: 31}

# Without the fonts of another server, which a page must not load.
FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {{width}} {{height}}" xmlns="http://www.w3.org/2000/svg">
<style>
.{{unique_id}}-matrix {{{{ font-family: ui-monospace, Menlo, Consolas, monospace; \
font-size: {{char_height}}px; line-height: {{line_height}}px; \
font-variant-east-asian: full-width; }}}}
{{styles}}
</style>
<defs><clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}" />
</clipPath>{{lines}}</defs>
<rect fill="{background}" width="{{width}}" height="{{height}}" rx="8" />
<g transform="translate({{terminal_x}}, {{terminal_y}})" \
clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}<g class="{{unique_id}}-matrix">{{matrix}}</g></g></svg>
"""


class Mode(NamedTuple):
    theme: TerminalTheme
    background: str


DARK = Mode(MONOKAI, "#0d1117")
# The standard's green and yellow are too pale on a light page.
LIGHT = Mode(
    TerminalTheme(
        (246, 248, 250),
        (31, 35, 40),
        [
            (31, 35, 40),
            (180, 20, 30),
            (17, 99, 41),
            (122, 82, 0),
            *[(9, 80, 174)] * 3,
            (90, 90, 90),
        ],
        [*DEFAULT_TERMINAL_THEME.ansi_colors._colors[8:]],
    ),
    "#f6f8fa",
)


def main() -> None:
    chosen = sys.argv[1:] or ["demo", *PAGES]
    for name in chosen:
        if name == "demo":
            write("demo", without_summary(record_demo()), DARK, DEMO_WIDTH, "demo")
            continue
        lines = PAGES[name]()
        write(f"{name}-light", lines, LIGHT, WIDTH, name)
        write(f"{name}-dark", lines, DARK, WIDTH, name)


def write(name: str, lines: list[str], mode: Mode, width: int, unique_id: str) -> None:
    """Draw lines with their colours as the picture of that name."""
    picture = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for line in lines:
        picture.print(Text.from_ansi(line))
    frame = FRAME.format(background=mode.background)
    svg = picture.export_svg(theme=mode.theme, code_format=frame, unique_id=unique_id)
    text = "\n".join(line.rstrip() for line in svg.splitlines())
    (FOLDER / f"{name}.svg").write_text(f"{text}\n", encoding="utf-8")


# --- the demo of README.rst ---


def record_demo() -> str:
    """Run the demo and return what it prints, with colours."""
    # The lines that show progress where nothing can be redrawn are not part of the picture.
    module: Any = __import__("identity_client.cli.demo_report", fromlist=["PROGRESS_INTERVAL"])
    module.PROGRESS_INTERVAL = 3600.0
    console = Console(record=True, width=DEMO_WIDTH, file=io.StringIO(), highlight=False)
    if not demo.run(console=console):
        raise SystemExit(f"the demo failed:\n{console.export_text()}")
    return console.export_text(styles=True)


def without_summary(text: str) -> list[str]:
    """Return the lines of the steps and the last one: the table between repeats the checks."""
    lines = text.rstrip().split("\n")
    end = next(number for number, line in enumerate(lines) if "Summary" in line)
    return [*lines[:end], lines[-1]]


# --- commands ---


def command_line() -> list[str]:
    """Look at the settings, and at a token."""
    with server() as api:
        settings = variables(api.url)
        return [
            *run("identity-client check", settings),
            "",
            *run("identity-client token --decode", settings),
        ]


def doctor() -> list[str]:
    """Run doctor with the internal token of another environment."""
    with server() as api:
        settings = variables(api.url) | {"IDENTITY_API_INTERNAL_TOKEN": "token-of-staging"}
        return run("identity-client doctor", settings, expect=1)


def server(token_lifetime: float = 300.0) -> IdentityServer:
    # On the port that all pages name.
    settings = ServerSettings(token_lifetime=token_lifetime)
    return IdentityServer(INTERNAL_TOKEN, port=3053, settings=settings)


def variables(url: str) -> dict[str, str]:
    return {
        "IDENTITY_API_URL": url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "SERVICE_NAME": "orders",
    }


def run(command: str, settings: dict[str, str], expect: int = 0) -> list[str]:
    """Run a command in a terminal of 80 columns; return its lines below a prompt."""
    mine, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        shlex.split(command),
        env={**kept, **settings, "TERM": "xterm-256color"},
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,  # has the progress, which is no longer there in the end
    )
    os.close(terminal)
    text = read_all(mine)
    if process.wait() != expect:
        raise SystemExit(f"{command} exited with {process.returncode}:\n{text}")
    return [f"\x1b[1m$ {command}\x1b[0m", *text.rstrip().splitlines()]


def read_all(terminal: int) -> str:
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a terminal so
            chunk = b""
        if not chunk:
            os.close(terminal)
            return b"".join(chunks).decode()
        chunks.append(chunk)


# --- log records ---


class Lines(logging.Handler):
    """Keeps each record as a line, with the colour of its level."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        time = logging.Formatter().formatTime(record, "%H:%M:%S")
        text = f"{time} {record.levelname:<7} {record.getMessage()}"
        first, *rest = textwrap.wrap(text, WIDTH, subsequent_indent=" " * 17)
        color = COLORS[record.levelno]
        first = first.replace(record.levelname, f"\x1b[{color}m{record.levelname}\x1b[0m", 1)
        self.lines += [first, *rest]


def logs() -> list[str]:
    """Let a service live through an outage of the token endpoint that outlasts its token."""
    handler, logger = Lines(), logging.getLogger("identity_client")
    logger.setLevel(logging.INFO)
    logging.getLogger("identity_client.server").setLevel(logging.WARNING)
    logger.addHandler(handler)
    with server(token_lifetime=20.0) as api:
        config = IdentityBootstrapConfig(
            service_name="orders",
            identity_api_url=api.url,
            identity_api_internal_token=INTERNAL_TOKEN,
        )
        with IdentityBootstrapService(config) as service:
            service.wait_for_ready(30)
            with api.backend.changed(token_outage=True):
                wait_until(service, lambda: service.status().state is ServiceState.UNAVAILABLE)
                failed = service.status().token_requests_failed
                wait_until(service, lambda: service.status().token_requests_failed > failed)
            wait_until(service, lambda: service.status().state is ServiceState.READY)
    logger.removeHandler(handler)
    return handler.lines


def wait_until(service: IdentityBootstrapService, condition: Callable[[], bool]) -> None:
    """Look at the condition after each event."""
    met = threading.Event()
    stop = service.on_event(lambda _: met.set() if condition() else None)
    if not condition() and not met.wait(90):
        raise SystemExit(f"waited too long: {service.status()}")
    stop()


PAGES: dict[str, Callable[[], list[str]]] = {
    "command-line": command_line,
    "doctor": doctor,
    "logs": logs,
}

if __name__ == "__main__":
    main()
