"""What the commands look like: 80 columns, without colour, piped, in ASCII, on a full disk."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from support import hostile
from support.canned import reply
from support.cli import clean_environment, command, invoke
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client.cli import main
from identity_client.cli.commands import cli
from identity_client.cli.console import for_terminal
from identity_client.cli.failures import CommandError, errors_as_exits
from identity_client.server import IdentityServer

LIMIT = 30.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NAMES = cli.list_commands(click.Context(cli)) if isinstance(cli, click.Group) else []


class Ended(NamedTuple):
    code: int
    out: str


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    for variable in ("COLUMNS", "LINES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def environ(api: IdentityServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "IDENTITY_BASE_RETRY_DELAY": "0.05",
    }


def on_terminal(environ: dict[str, str], *arguments: str) -> Ended:
    """Run a command on a terminal of 80 columns, and return all that it shows."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command(*arguments), env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    ) as started:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way to report the end
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        return Ended(started.wait(LIMIT), shown.decode().replace("\r\n", "\n"))


def piped(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


COMMANDS = pytest.mark.parametrize(
    "arguments",
    [("doctor",), ("try",), ("wait",), ("check",), ("status",), ("--help",), ("exec", "--help")],
    ids=" ".join,
)


@pytest.mark.slow
@COMMANDS
def test_a_terminal_of_80_columns_breaks_no_line(
    environ: dict[str, str], arguments: tuple[str, ...]
) -> None:
    shown = ESCAPES.sub("", on_terminal(environ, *arguments).out)
    for line in re.split(r"[\r\n]", shown):
        assert len(line) <= 80 or " " not in line.strip()


@pytest.mark.slow
@COMMANDS
def test_no_colour_means_no_colour(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    shown = on_terminal({**environ, "NO_COLOR": "1"}, *arguments).out
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9]*m", shown)


@pytest.mark.slow
@COMMANDS
def test_a_pipe_gets_no_escapes(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    done = piped(environ, *arguments)
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
@COMMANDS
def test_ascii_is_enough(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    variables = {**environ, "PYTHONIOENCODING": "ascii"}
    shown = on_terminal(variables, *arguments)
    assert shown.out.isascii()
    assert "\\u" not in shown.out
    assert "Traceback" not in shown.out


def test_a_failure_is_red_on_a_terminal(environ: dict[str, str]) -> None:
    with hostile.closed_port() as port:
        shown = on_terminal({**environ, "IDENTITY_API_URL": f"http://127.0.0.1:{port}"}, "doctor")
    assert shown.code == 1
    assert "\x1b[31mFAIL" in shown.out


def test_what_the_encoding_cannot_show_is_escaped(
    environ: dict[str, str], canned: StartCanned
) -> None:
    server = canned(reply({"message": "ungültig ✓"}, 403))
    variables = {
        **environ,
        "IDENTITY_API_URL": server.url,
        "IDENTITY_MAX_REGISTRATION_ATTEMPTS": "1",
        "PYTHONIOENCODING": "ascii",
    }
    done = piped(variables, "try")
    assert done.returncode == 1
    assert "ung\\xfcltig \\u2713" in done.stdout


def test_a_full_disk_is_an_error_and_not_a_traceback(environ: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("token"),
            env=environ,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "identity-client: cannot write the output: no space left on device\n"


def test_a_reader_that_goes_away_ends_the_command_quietly(environ: dict[str, str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command("doctor", "--list"),
        env=environ,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    os.close(write_end)
    assert "Traceback" not in done.stderr


def test_a_pipe_shows_what_a_slow_command_waits_for(environ: dict[str, str]) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        environ["IDENTITY_API_URL"] = f"http://127.0.0.1:{server.port}"
        done = piped(environ, "wait", "--timeout", "5")
    assert done.returncode == 3
    assert done.stderr.startswith("identity-client: waiting for a token\n")


def test_the_list_of_commands_imports_none_of_them(environ: dict[str, str]) -> None:
    code = (
        "import sys; from identity_client.cli import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally: print(sorted({'requests', 'rich', 'cattrs'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("serve", "demo")])
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    names = ["credentials", "show"] if name == "credentials" else [name]
    shown = invoke({}, *names, "--help").stdout
    assert re.search(rf"Examples:\n    .*identity-client {' '.join(names)}", shown)
    assert max(map(len, shown.splitlines())) <= 80


# --- in this process ---


def test_an_output_that_is_no_file_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("click.core.HelpFormatter.getvalue", fail)
    monkeypatch.setattr(sys, "argv", ["identity-client", "check", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "cannot write the output: no space left on device" in capsys.readouterr().err


def test_an_error_of_a_file_names_it() -> None:
    with pytest.raises(CommandError) as caught, errors_as_exits():
        Path("/missing/file").stat()
    assert caught.value.message == "/missing/file: no such file or directory"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError()])
def test_what_could_not_be_written_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    expected = BrokenPipeError if isinstance(error, BrokenPipeError) else CommandError
    with (tmp_path / "full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(expected), errors_as_exits():
            raise error
        full.write("left in the buffer")
    wrote = (tmp_path / "full").read_text()
    assert wrote == ("" if expected is CommandError else "left in the buffer")


def test_a_line_is_broken_between_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert for_terminal("word " * 20) == "word " * 20
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert for_terminal("word " * 20, "    ").splitlines()[1] == "    word word word word"
    os.close(ours)


def test_an_ascii_terminal_gets_an_ascii_spinner(environ: dict[str, str]) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        variables = {
            **environ,
            "IDENTITY_API_URL": f"http://127.0.0.1:{server.port}",
            "PYTHONIOENCODING": "ascii",
        }
        began = time.monotonic()
        shown = on_terminal(variables, "wait", "--timeout", "0.5")
    assert time.monotonic() - began < LIMIT
    assert re.search(r"[-\\|/] waiting for a token", ESCAPES.sub("", shown.out))
