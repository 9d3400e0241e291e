"""``exec``: the command's environment, its signals, its exit status, and the token file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned import Asked, Canned, CannedServer, reply, token_reply
from support.cli import clean_environment, command, invoke, without_progress
from support.recorder import Recorder
from support.services import INTERNAL_TOKEN, Preconfigured, StartCanned

from identity_client import EventKind
from identity_client.cli import console, supervisor
from identity_client.server import IdentityServer

CLIENT_SECRET = "a-client-secret"
LIMIT = 60.0
MODES = pytest.mark.parametrize("supervised", [False, True], ids=["replaced", "supervised"])


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def environ(canned: StartCanned) -> dict[str, str]:
    """The environment of a service with pre-configured credentials, and other secrets."""
    return {
        **os.environ,
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": CLIENT_SECRET,
        "SERVICE_TOKEN_ENDPOINT": canned(token_reply("a-token", expires_in=300)).url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_CREDENTIAL_STORE": "redis://:a-password@127.0.0.1:9",
    }


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the arguments of ``exec`` in one of its modes."""

    def make(supervised: bool, *order: str, options: tuple[str, ...] = ()) -> list[str]:
        mode = ["--token-file", str(tmp_path / "token")] if supervised else []
        return ["exec", *mode, *options, "--", *order]

    return make


@pytest.fixture
def started(environ: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``exec`` as a process; what runs at the end of the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(arguments: list[str], **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # A shell lets what it runs in the background ignore some signals.
            ["env", "--default-signal", *command(*arguments)],
            env={**environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@MODES
def test_the_environment_has_the_token_and_no_secret(
    started: Callable[..., Any], arguments: Callable[..., list[str]], supervised: bool
) -> None:
    process = started(arguments(supervised, sys.executable, "-c", SHOW))
    shown = json.loads(process.communicate(timeout=LIMIT)[0])
    assert process.returncode == 0
    assert shown["SERVICE_NAME"] == "orders"
    for secret in (INTERNAL_TOKEN, CLIENT_SECRET, "a-password"):
        assert secret not in json.dumps(shown)
    if supervised:
        assert "IDENTITY_ACCESS_TOKEN" not in shown
        assert shown["IDENTITY_ACCESS_TOKEN_FILE"].endswith("/token")
    else:
        assert shown["IDENTITY_ACCESS_TOKEN"] == "a-token"
        assert 200 < int(shown["IDENTITY_ACCESS_TOKEN_EXPIRES_AT"]) - time.time() <= 300


def test_the_environment_is_kept_and_the_variable_renamed_when_that_is_asked_for(
    started: Callable[..., Any], arguments: Callable[..., list[str]]
) -> None:
    options = ("--env", "TOKEN", "--keep-environment")
    process = started(arguments(False, sys.executable, "-c", SHOW, options=options))
    shown = json.loads(process.communicate(timeout=LIMIT)[0])
    assert shown["TOKEN"] == "a-token"
    assert shown["SERVICE_CLIENT_SECRET"] == CLIENT_SECRET
    assert "IDENTITY_ACCESS_TOKEN" not in shown


def test_the_command_replaces_the_process(
    started: Callable[..., Any], arguments: Callable[..., list[str]]
) -> None:
    process = started(arguments(False, "sh", "-c", "echo $$ $PPID"))
    out, _ = process.communicate(timeout=LIMIT)
    assert out.split() == [str(process.pid), str(os.getpid())]


@MODES
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", signal.SIGTERM), ("kill -9 $$", 9)],
)
def test_the_exit_status_is_the_commands(
    started: Callable[..., Any],
    arguments: Callable[..., list[str]],
    supervised: bool,
    script: str,
    status: int,
) -> None:
    process = started(arguments(supervised, "sh", "-c", script))
    process.communicate(timeout=LIMIT)
    killed = script.startswith("kill")
    expected = (128 + status if supervised else -status) if killed else status
    assert process.returncode == expected


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_signals_reach_a_command_that_traps_them(
    started: Callable[..., Any], arguments: Callable[..., list[str]], supervised: bool, name: str
) -> None:
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    process = started(arguments(supervised, "sh", "-c", script))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[f"SIG{name}"])
    out, _ = process.communicate(timeout=LIMIT)
    assert (out, process.returncode) == (f"got {name}\n", 5)


@MODES
def test_signals_that_python_ignores_are_as_usual_for_the_command(
    started: Callable[..., Any], arguments: Callable[..., list[str]], supervised: bool
) -> None:
    process = started(arguments(supervised, "grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"))
    out, _ = process.communicate(timeout=LIMIT)
    blocked, ignored = (int(line.split()[1], 16) for line in out.splitlines())
    assert blocked == 0
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


@MODES
@pytest.mark.parametrize(
    ("order", "code"), [("no-such-command", 127), ("/dev/null", 126)], ids=["missing", "no program"]
)
def test_a_command_that_cannot_be_run_exits_as_in_a_shell(
    started: Callable[..., Any],
    arguments: Callable[..., list[str]],
    supervised: bool,
    order: str,
    code: int,
) -> None:
    process = started(arguments(supervised, order))
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert without_progress(err).startswith(f"identity-client: {order}: ")


@MODES
def test_without_a_token_nothing_is_run(
    environ: dict[str, str],
    canned: StartCanned,
    arguments: Callable[..., list[str]],
    supervised: bool,
    tmp_path: Path,
) -> None:
    environ["SERVICE_TOKEN_ENDPOINT"] = canned(reply({"error": "invalid_client"}, 401)).url
    result = invoke(environ, *arguments(supervised, "touch", str(tmp_path / "run")))
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_exits_with_2(arguments: Callable[..., list[str]]) -> None:
    assert invoke({}, *arguments(False, "true")).exit_code == 2


@MODES
@pytest.mark.parametrize("name", ["A=B", "", "=", "A\0B"])
def test_a_variable_that_cannot_exist_is_a_usage_error_before_any_request(
    environ: dict[str, str],
    canned: StartCanned,
    arguments: Callable[..., list[str]],
    supervised: bool,
    name: str,
) -> None:
    endpoint = canned(token_reply())
    environ["SERVICE_TOKEN_ENDPOINT"] = endpoint.url
    result = invoke(environ, *arguments(supervised, "no-such-command", options=("--env", name)))
    assert result.exit_code == 2
    assert "is not the name of an environment variable" in result.stderr
    assert endpoint.asked == []


@MODES
@pytest.mark.parametrize("order", [("",), ("no-such-command", "a\0b")], ids=["empty", "null"])
def test_a_command_that_cannot_exist_is_a_usage_error(
    environ: dict[str, str],
    arguments: Callable[..., list[str]],
    supervised: bool,
    order: tuple[str, ...],
) -> None:
    result = invoke(environ, *arguments(supervised, *order))
    assert result.exit_code == 2
    assert "the command is empty, or has a null character in it" in result.stderr


@MODES
def test_the_command_has_all_of_standard_input_after_the_internal_token(
    api: IdentityServer, arguments: Callable[..., list[str]], supervised: bool
) -> None:
    options = ("--internal-token-file", "-")
    done = subprocess.run(
        command(*arguments(supervised, "cat", options=options)),
        env={**os.environ, "SERVICE_NAME": "orders", "IDENTITY_API_URL": api.url},
        input=f"{INTERNAL_TOKEN}\r\n\nfirst\n" + "x" * 200_000,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "\nfirst\n" + "x" * 200_000)


# --- the token file ---


@pytest.fixture
def renewed(canned: StartCanned, environ: dict[str, str]) -> Callable[..., CannedServer]:
    """Starts a token endpoint whose first token is renewed soon, but not before a path exists."""

    def start(path: Path, *answers: Canned) -> CannedServer:
        endpoint = canned(token_reply("first", expires_in=20), *answers)
        deadline = time.monotonic() + LIMIT

        def wait(asked: Asked) -> None:
            while len(endpoint.asked) > 1 and not path.exists() and time.monotonic() < deadline:
                time.sleep(0.02)

        endpoint.before_answer = wait
        environ["SERVICE_TOKEN_ENDPOINT"] = endpoint.url
        environ["IDENTITY_REFRESH_RATIO"] = "0.1"
        return endpoint

    return start


@pytest.fixture
def until_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What a shell does until a message of the supervisor has been shown."""
    told = tmp_path / "told"

    def echo(*arguments: Any, **options: Any) -> None:
        console.echo(*arguments, **options)
        told.touch()

    monkeypatch.setattr("identity_client.cli.supervisor.echo", echo)
    return f"for i in $(seq 400); do [ -e {told} ] && break; sleep 0.05; done"


def test_the_token_file_is_readable_by_its_owner_only_and_removed_at_the_end(
    environ: dict[str, str], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    script = f"stat -c %a $FILE > {seen}; cat $FILE >> {seen}"
    result = invoke(environ, *arguments(True, "sh", "-c", script, options=("--env", "FILE")))
    assert result.exit_code == 0
    assert seen.read_text() == "600\na-token"
    assert list(tmp_path.iterdir()) == [seen]


def test_a_token_file_that_cannot_be_written_is_a_wrong_setting(
    environ: dict[str, str], tmp_path: Path
) -> None:
    result = invoke(environ, "exec", "--token-file", str(tmp_path / "no" / "token"), "--", "true")
    assert result.exit_code == 2
    assert "cannot be written: no such file or directory" in result.stderr


def test_where_signals_cannot_be_waited_for_there_is_no_token_file(
    environ: dict[str, str],
    arguments: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(signal, "sigtimedwait")
    result = invoke(environ, *arguments(True, "true"))
    assert result.exit_code == 2
    assert "--token-file needs a system with sigtimedwait(2)" in result.stderr


def test_a_renewal_that_cannot_be_written_is_reported_and_repeated(
    environ: dict[str, str],
    renewed: Callable[..., CannedServer],
    until_told: str,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    token, saved = tmp_path / "token", tmp_path / "saved"
    renewed(token / "x", reply({}, 503), token_reply("second"))
    # A folder in its place: even the administrator cannot write there.
    script = f"mv {token} {saved}; mkdir -p {token}/x; {until_told}; rm -r {token}"
    result = invoke(environ, *arguments(True, "sh", "-c", script))
    assert result.exit_code == 0
    assert "cannot be written: is a directory" in result.stderr


def test_a_write_that_fails_is_repeated_until_the_file_has_the_current_token(
    environ: dict[str, str],
    renewed: Callable[..., CannedServer],
    until_told: str,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    # It sees no other renewal: the second token is not due within the test.
    endpoint = renewed(token / "x", token_reply("second", expires_in=3000))
    # The write is repeated each second.
    script = (
        f"rm {token}; mkdir -p {token}/x; {until_told}; sleep 2.5; rm -r {token}; "
        f"for i in $(seq 200); do grep -q second {token} && exit 5; sleep 0.05; done"
    )
    result = invoke(environ, *arguments(True, "sh", "-c", script))
    assert result.exit_code == 5
    assert result.stderr.count("cannot be written: is a directory") == 1
    assert len(endpoint.asked) == 2


def test_the_file_of_another_process_is_left_alone_at_the_end(
    environ: dict[str, str], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    script = f"echo another > {token}.new; mv {token}.new {token}"
    assert invoke(environ, *arguments(True, "sh", "-c", script)).exit_code == 0
    assert token.read_text() == "another\n"


@pytest.mark.parametrize("kind", ["", "FIFO", "folder", "link to a FIFO"])
def test_a_token_file_that_is_not_a_regular_file_is_refused_before_any_request(
    environ: dict[str, str], canned: StartCanned, tmp_path: Path, kind: str
) -> None:
    endpoint = canned(token_reply())
    environ["SERVICE_TOKEN_ENDPOINT"] = endpoint.url
    fifo, link, folder = tmp_path / "fifo", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    link.symlink_to(fifo)
    name = {"": "", "FIFO": str(fifo), "folder": str(folder)}.get(kind, str(link))
    result = invoke(environ, "exec", "--token-file", name, "--", "true")
    assert result.exit_code == 2
    expected = "is not a regular file; name a file" if kind else "is not the name of a file"
    assert expected in result.stderr
    assert (str(fifo) in result.stderr) == ("FIFO" in kind)
    assert fifo.is_fifo()
    assert link.is_symlink()
    assert endpoint.asked == []


def test_a_link_to_a_file_is_replaced_and_what_it_names_is_kept(
    environ: dict[str, str], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of another program")
    (tmp_path / "token").symlink_to(victim)
    assert invoke(environ, *arguments(True, "true")).exit_code == 0
    assert list(tmp_path.iterdir()) == [victim]
    assert victim.read_text() == "of another program"


def test_a_renewal_that_comes_late_leaves_no_token_file(
    preconfigured: Preconfigured, tmp_path: Path
) -> None:
    service, _ = preconfigured()
    token = service.get_access_token()
    with supervisor.TokenFile(str(tmp_path / "token"), service) as file:
        file.write(token)
        assert list(tmp_path.iterdir()) == [tmp_path / "token"]
    file.write(token)  # by the worker, which had begun before the command ended
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_failed_is_not_repeated_after_the_end(
    preconfigured: Preconfigured, tmp_path: Path
) -> None:
    service, _ = preconfigured(token_reply(), token_reply("b-token"))
    service.get_access_token()
    path = tmp_path / "token"
    (path / "x").mkdir(parents=True)
    with supervisor.TokenFile(str(path), service) as file:
        recorder = Recorder(service)
        service.invalidate_token("a-token")
        recorder.wait_for(EventKind.TOKEN_ISSUED)  # called after the file was to be written
    shutil.rmtree(path)
    file.repair()
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_missing_leaves_no_token_file(
    environ: dict[str, str], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert invoke(environ, *arguments(True, "no-such-command")).exit_code == 127
    assert list(tmp_path.iterdir()) == []


def test_a_signal_for_the_supervisor_is_passed_on(
    environ: dict[str, str], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    main = threading.main_thread().ident or 0

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    script = f"trap 'exit 5' USR1; touch {ready}; while :; do sleep 0.05; done"
    result = invoke(environ, *arguments(True, "sh", "-c", script))
    sender.join()
    assert result.exit_code == 5


def test_a_parent_that_ignores_sigchld_does_not_keep_the_supervisor_from_ending(
    environ: dict[str, str], arguments: Callable[..., list[str]]
) -> None:
    done = subprocess.run(
        ["env", "--ignore-signal=CHLD", *command(*arguments(True, "sh", "-c", "exit 7"))],
        env=environ,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 7


def test_a_command_whose_status_other_code_has_taken_has_ended() -> None:
    child = os.posix_spawnp("true", ["true"], os.environ)
    os.waitpid(child, 0)
    assert supervisor.reap(child) == 1


def test_orphans_of_the_command_are_reaped(tmp_path: Path) -> None:
    child = os.posix_spawnp("sh", ["sh", "-c", "exit 3"], os.environ)
    other = os.posix_spawnp("true", ["true"], os.environ)
    status = None
    while status is None:
        status = supervisor.reap(child)
    assert status == 3
    while supervisor.reap(child) is None and Path(f"/proc/{other}").exists():
        time.sleep(0.01)
    with pytest.raises(ChildProcessError):
        os.waitpid(other, os.WNOHANG)


@pytest.mark.slow
def test_the_file_is_usable_all_the_time_while_tokens_live_ten_seconds(
    arguments: Callable[..., list[str]], environ: dict[str, str], tmp_path: Path
) -> None:
    reader = (
        "import base64, json, os, sys, time\n"
        "end, seen = time.time() + 30, set()\n"
        "while time.time() < end:\n"
        "    token = open(os.environ['IDENTITY_ACCESS_TOKEN_FILE']).read()\n"
        "    part = token.split('.')[1]\n"
        "    claims = json.loads(base64.urlsafe_b64decode(part + '=' * (-len(part) % 4)))\n"
        "    assert claims['exp'] > time.time() - 1, claims\n"
        "    seen.add(token)\n"
        "    time.sleep(0.01)\n"
        "sys.exit(0 if len(seen) > 2 else 9)\n"
    )
    with IdentityServer(INTERNAL_TOKEN) as server:
        server.backend.change(token_lifetime=10.0)
        variables = {
            **{name: text for name, text in environ.items() if not name.startswith("SERVICE_")},
            "SERVICE_NAME": "orders",
            "IDENTITY_API_URL": server.url,
            "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        }
        done = subprocess.run(
            command(*arguments(True, sys.executable, "-c", reader)),
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, without_progress(done.stderr)) == (0, "")


# --- replacing the process, seen from inside ---


def test_the_last_act_before_the_command_is_to_replace_the_process(
    environ: dict[str, str],
    arguments: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced: list[Any] = []

    def replace(*given: Any) -> None:
        replaced.extend(given)
        raise FileNotFoundError(2, "No such file or directory")

    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    monkeypatch.setattr(os, "execvpe", replace)
    try:
        result = invoke(environ, *arguments(False, "report", "--all", options=("--min-ttl", "100")))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result.exit_code == 127
    assert replaced[:2] == ["report", ("report", "--all")]
    assert replaced[2]["IDENTITY_ACCESS_TOKEN"] == "a-token"
