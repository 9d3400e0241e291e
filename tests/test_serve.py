"""``identity-client serve`` and ``demo``: what they print, accept, and leave behind."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from cheroot import wsgi
from click.testing import CliRunner, Result
from support.services import INTERNAL_TOKEN

from identity_client import IdentityApiClient
from identity_client.cli.commands import cli
from identity_client.server import AppServer

LIMIT = 20.0
COMMAND = [sys.executable, "-m", "identity_client.cli", "serve", "--port", "0"]
TOKEN = {"IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set must not matter, and neither must the kind of terminal."""
    for variable in os.environ:
        if variable.startswith(("IDENTITY_", "SERVICE_", "FORCE_COLOR", "NO_COLOR", "TTY_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "80")


class Serving(NamedTuple):
    process: subprocess.Popen[str]
    introduction: str
    url: str

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Stop it and return what it printed after its introduction."""
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=LIMIT)
        assert (self.process.returncode, stdout) == (0, "")
        return stderr


@contextmanager
def serving(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> Iterator[Serving]:
    """Run ``serve`` as a process, and end it if the test does not."""
    variables = TOKEN if environ is None else environ
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, **variables},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=variables.get("PYTHONIOENCODING", "utf-8"),
    ) as started:
        try:
            assert started.stderr is not None
            introduction = ""
            while "Ctrl-C" not in introduction:
                line = started.stderr.readline()
                assert line, introduction
                introduction += line
            assert started.stderr.readline() == "\n"
            address = re.search(r"api +(http://127\.0\.0\.1:\d+)\n", introduction)
            assert address is not None, introduction
            yield Serving(started, introduction, address[1])
        finally:
            started.kill()


def get_token(url: str) -> requests.Response:
    with IdentityApiClient(url, INTERNAL_TOKEN) as client:
        credentials = client.register_service(name="orders", display_name="Orders")
    form = {
        "grant_type": "client_credentials",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
    }
    return requests.post(credentials.token_endpoint, data=form, timeout=LIMIT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_serve_answers_until_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    with serving("--token-lifetime", "5", cwd=tmp_path) as served:
        assert get_token(served.url).json()["expires_in"] == 5
        assert requests.get(f"{served.url}/dev/settings", timeout=LIMIT).status_code == 401
        assert served.stop(number).endswith("stopped\n")


def test_serve_prints_its_addresses_and_what_a_service_needs(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as served:
        url = served.url
        shown = dict(re.findall(r"^  (\w+) +(http\S+)$", served.introduction, re.MULTILINE))
        discovery = requests.get(shown["discovery"], timeout=LIMIT).json()
        page = requests.get(shown["page"], timeout=LIMIT)
        assert requests.get(shown["keys"], timeout=LIMIT).json()["keys"]
    assert (shown["token"], shown["keys"]) == (
        discovery["token_endpoint"],
        discovery["jwks_uri"],
    )
    assert page.headers["Content-Type"].startswith("text/html")
    assert f"  export IDENTITY_API_URL={url}\n" in served.introduction
    assert "  export IDENTITY_API_INTERNAL_TOKEN=..." in served.introduction
    assert INTERNAL_TOKEN not in served.introduction
    assert max(len(line) for line in served.introduction.splitlines()) <= 80


def test_the_page_key_is_new_in_each_run_and_opens_the_page_s_calls_only(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with serving(cwd=tmp_path) as served:
            key = re.search(r"/dev/#key=(\S+)", served.introduction)
            assert key is not None
            keys.append(key[1])
            bearer = {"Authorization": f"Bearer {key[1]}"}
            settings = requests.get(f"{served.url}/dev/settings", headers=bearer, timeout=LIMIT)
            organization = requests.get(
                f"{served.url}/internal/organizations/system/a", headers=bearer, timeout=LIMIT
            )
            assert (settings.status_code, organization.status_code) == (200, 401)
    assert keys[0] != keys[1]
    assert INTERNAL_TOKEN not in keys


def test_serve_prints_a_line_per_request_without_secrets(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as served:
        token = get_token(served.url).json()["access_token"]
        requests.get(f"{served.url}/nothing\n%1b[31m?client_secret=hidden", timeout=LIMIT)
        lines = served.stop().splitlines()
    expected = [
        r"200 +\d+ ms  POST /internal/services/register  orders",
        r"200 +\d+ ms  POST /realms/xema/protocol/openid-connect/token  orders",
        r"404 +\d+ ms  GET /nothing%0A%1B%5B31m  Not Found",
        r"stopped",
    ]
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(rf"(\d\d:\d\d:\d\d )?{pattern}", line), line
    shown = "".join(lines)
    for secret in (INTERNAL_TOKEN, token, "hidden"):
        assert secret not in shown


def test_serve_goes_on_when_the_reader_of_its_output_has_gone(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as served:
        assert served.process.stderr is not None
        served.process.stderr.close()
        for _ in range(20):  # more than one for each thread
            assert requests.get(f"{served.url}/health", timeout=LIMIT).status_code == 200
            assert requests.get(f"{served.url}/nothing", timeout=LIMIT).status_code == 404
        served.process.terminate()
        assert served.process.wait(LIMIT) == 0


def test_serve_goes_on_when_its_output_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    used: list[int] = []

    def use(server: AppServer) -> None:
        with server:
            for _ in range(20):
                response = requests.get(f"{server.url}/nothing", timeout=LIMIT)
                used.append(response.status_code)

    monkeypatch.setattr(AppServer, "run", use)
    monkeypatch.setenv("IDENTITY_API_INTERNAL_TOKEN", INTERNAL_TOKEN)
    # Unbuffered: what is left in a buffer would fail again when the file is closed.
    with open("/dev/full", "wb", buffering=0) as raw:  # noqa: PTH123  # a device
        full = io.TextIOWrapper(raw, write_through=True)
        with redirect_stderr(full):
            cli.main(["serve", "--port", "0"], standalone_mode=False)
    assert used == [404] * 20


def test_serve_whose_server_has_ended_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    monkeypatch.setattr(wsgi.Server, "serve", lambda _: None)
    result = run("serve", "--port", "0", **TOKEN)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "identity-client: the HTTP server ended unexpectedly; see the log, and start it again"
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_serve_prints_names_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    with serving(cwd=tmp_path, environ={**TOKEN, "PYTHONIOENCODING": encoding}) as served:
        with IdentityApiClient(served.url, INTERNAL_TOKEN) as client:
            client.register_service(name="größe-✓", display_name="Größe")
        line = served.stop().splitlines()[0]
    assert "POST /internal/services/register  gr" in line


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "internal-token"
    file.write_text(f"{INTERNAL_TOKEN}\n")
    with serving(
        cwd=tmp_path, environ={"IDENTITY_API_INTERNAL_TOKEN_FILE": "internal-token"}
    ) as served:
        assert get_token(served.url).status_code == 200
    assert f"export IDENTITY_API_INTERNAL_TOKEN_FILE={file}" in served.introduction


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=variables, catch_exceptions=False).invoke(cli, arguments)


@pytest.mark.parametrize(
    ("arguments", "variables", "problem"),
    [
        pytest.param([], {}, "IDENTITY_API_INTERNAL_TOKEN", id="no internal token"),
        pytest.param(
            [],
            {"IDENTITY_API_INTERNAL_TOKEN": "\udcff\udcfe"},
            "IDENTITY_API_INTERNAL_TOKEN",
            id="an internal token of bytes that are not text",
        ),
        pytest.param(
            [], {"IDENTITY_API_INTERNAL_TOKEN": "größe"}, "ASCII", id="an internal token in Latin"
        ),
        pytest.param(
            [],
            {**TOKEN, "IDENTITY_API_INTERNAL_TOKEN_FILE": "file"},
            "IDENTITY_API_INTERNAL_TOKEN_FILE",
            id="two internal tokens",
        ),
        pytest.param(["--token-lifetime", "nan"], TOKEN, "nan is not a number", id="NaN"),
        pytest.param(["--token-lifetime", "inf"], TOKEN, "0<x<=86400", id="infinity"),
        pytest.param(["--token-lifetime", "-inf"], TOKEN, "0<x<=86400", id="minus infinity"),
        pytest.param(
            [],
            {"IDENTITY_API_INTERNAL_TOKEN_FILE": "absent"},
            "IDENTITY_API_INTERNAL_TOKEN_FILE names: No such file",
            id="a file that does not exist",
        ),
        pytest.param(
            [],
            {"IDENTITY_API_INTERNAL_TOKEN_FILE": os.devnull},
            "IDENTITY_API_INTERNAL_TOKEN) is empty",
            id="an empty file",
        ),
        pytest.param(["--token-lifetime", "0"], TOKEN, "0<x<=86400", id="no lifetime"),
        pytest.param(
            ["--scenario", "absent.yaml"],
            TOKEN,
            "the scenario absent.yaml cannot be read: No such file",
            id="a scenario that does not exist",
        ),
        pytest.param(
            ["--scenario", "x.yaml", "--keycloak-url", "http://127.0.0.1:9"],
            TOKEN,
            "leave out --keycloak-url",
            id="a scenario on Keycloak",
        ),
    ],
)
def test_serve_refuses_what_it_cannot_use(
    arguments: list[str], variables: dict[str, str], problem: str
) -> None:
    result = run("serve", "--port", "0", *arguments, **variables)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr


def test_serve_refuses_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        result = run("serve", "--port", str(port), **TOKEN)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr
    assert result.stdout == ""


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("keycloak", [False, True], ids=["embedded", "on Keycloak"])
def test_serve_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keycloak: bool
) -> None:
    internal_token = tmp_path / "internal-token"
    internal_token.write_text(INTERNAL_TOKEN)
    if keycloak:
        monkeypatch.setenv("IDENTITY_API_INTERNAL_TOKEN_FILE", str(internal_token))
    else:
        monkeypatch.setenv("IDENTITY_API_INTERNAL_TOKEN", INTERNAL_TOKEN)
    monkeypatch.setenv("IDENTITY_KEYCLOAK_CLIENT_ID", "identity-api")
    monkeypatch.setenv("IDENTITY_KEYCLOAK_CLIENT_SECRET", "a-secret")
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("steps: [{at: 0, token_outage: true}, {at: 1000, token_outage: false}]")
    options = (
        ["--keycloak-url", "http://127.0.0.1:9"] if keycloak else ["--scenario", str(scenario)]
    )
    threads = set(threading.enumerate())
    read_end, write_end = os.pipe()
    seen: list[Any] = []

    def use_and_stop() -> None:
        shown = ""
        try:
            while "Ctrl-C" not in shown:
                shown += lines.readline()
            url = re.findall(r"  api +(http\S+)", shown)[0]
            seen.append(requests.get(f"{url}/health", timeout=LIMIT).json())
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        seen.append(lines.read().splitlines()[-1])

    user = threading.Thread(target=use_and_stop)
    with os.fdopen(read_end) as lines:
        with os.fdopen(write_end, "w") as stderr, redirect_stderr(stderr):
            user.start()
            cli.main(["serve", "--port", "0", *options], standalone_mode=False)
        user.join()
    assert seen == [{"status": "ok"}, "stopped"]
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads


def test_a_scenario_plays_while_serve_runs(tmp_path: Path) -> None:
    (tmp_path / "outage.yaml").write_text(
        "settings: {token_lifetime: 7}\nsteps: [{at: 0, token_outage: true}]"
    )
    with serving("--scenario", "outage.yaml", cwd=tmp_path) as served:
        assert served.process.stderr is not None
        lines = iter(served.process.stderr.readline, "")
        change = re.compile(r"\d\d:\d\d:\d\d scenario: at 0 s: token_outage = True\n")
        assert any(change.fullmatch(line) for line in lines)
        bearer = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
        response = requests.get(f"{served.url}/dev/settings", headers=bearer, timeout=LIMIT)
        settings = response.json()["data"]
        assert (settings["tokenOutage"], settings["tokenLifetime"]) == (True, 7)
        assert served.stop().endswith("stopped\n")


def test_a_demo_whose_checks_fail_exits_with_1() -> None:
    result = run("demo", "--token-lifetime", "0.05")
    assert result.exit_code == 1
    assert re.search(r"\d of \d checks failed", result.stdout)


def test_a_demo_without_a_client_in_keycloak_does_not_begin() -> None:
    result = run("demo", "--keycloak-url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "IDENTITY_KEYCLOAK_CLIENT_ID" in result.stderr
