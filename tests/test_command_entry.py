"""How the command begins: streams that the caller has closed, and life as process 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.canned import token_reply
from support.cli import clean_environment, command, without_progress
from support.services import StartCanned

from identity_client.cli import main

LIMIT = 30.0


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, canned: StartCanned) -> dict[str, str]:
    clean_environment(monkeypatch)
    return {
        **os.environ,
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-client-secret",
        "SERVICE_TOKEN_ENDPOINT": canned(token_reply("a-token", expires_in=300)).url,
    }


def in_shell(environ: dict[str, str], closed: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command with streams closed; return exit code, standard output and error."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, without_progress(done.stderr)


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_a_closed_stderr_does_not_matter(
    environ: dict[str, str], tmp_path: Path, closed: str
) -> None:
    assert in_shell(environ, closed, "token") == (0, "a-token\n", "")
    code, out, _ = in_shell(environ, closed, "try")
    assert (code, "READY" in out) == (0, True)
    assert in_shell(environ, closed, "exec", "--", "sh", "-c", "exit 4") == (4, "", "")
    supervised = ("exec", "--token-file", str(tmp_path / "token"), "--", "sh", "-c", "exit 4")
    assert in_shell(environ, closed, *supervised) == (4, "", "")
    assert in_shell({**environ, "SERVICE_NAME": ""}, closed, "token") == (2, "", "")


def test_a_closed_stdout_matters_only_to_a_command_that_prints(environ: dict[str, str]) -> None:
    assert in_shell(environ, ">&-", "wait") == (0, "", "")
    assert in_shell(environ, ">&-", "exec", "--", "true") == (0, "", "")
    code, _, err = in_shell(environ, ">&-", "token")
    assert code == 1
    assert err == "identity-client: cannot write the output: bad file descriptor\n"


def test_a_closed_stdin_holds_no_internal_token(environ: dict[str, str]) -> None:
    code, _, err = in_shell(environ, "<&-", "token", "--internal-token-file", "-")
    assert code == 2
    assert "standard input holds no internal token" in err


def test_closed_streams_are_replaced(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(sys, "argv", ["identity-client", "no-such-command"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    with sys.stdin, sys.stdout, sys.stderr:
        assert sys.stdin.read() == ""
        assert not sys.stdout.isatty()
        assert sys.stderr.write("nowhere") == len("nowhere")


# --- as process 1 ---


def test_process_1_ends_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["identity-client", "no-such-command"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            main()
        assert callable(signal.getsignal(signal.SIGTERM))  # else it would end the test run
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143


_NAMESPACE = (
    "unshare",
    *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
    *("--pid", "--fork", "--kill-child"),
)


@pytest.mark.parametrize("arguments", [("wait", "--for", "api"), ("try",), ("exec", "--", "true")])
def test_in_a_container_each_command_ends_on_sigterm(
    environ: dict[str, str], arguments: tuple[str, ...]
) -> None:
    try:
        subprocess.run([*_NAMESPACE, "true"], check=True, capture_output=True, timeout=LIMIT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("process namespaces are not allowed here")
    name, *rest = arguments
    service = {name: text for name, text in environ.items() if not name.startswith("SERVICE_")}
    service |= {
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": "http://127.0.0.1:9",
        "IDENTITY_API_INTERNAL_TOKEN": "a-token",
        "IDENTITY_MAX_RETRY_DELAY": "60",
    }
    with subprocess.Popen(
        [*_NAMESPACE, *command(name, "--timeout", "60", *rest)],
        env=service,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # what it waits for, so it runs
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGTERM)
        try:
            assert process.wait(LIMIT) == 143
        finally:
            process.kill()
