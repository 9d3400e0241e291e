"""The command line: what it prints, where, and the exit codes that scripts rely on."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner, Result
from support import hostile
from support.canned import reply, token_reply
from support.cli import without_progress
from support.scripted import registered
from support.services import INTERNAL_TOKEN, MakeService, StartCanned

from identity_client import ServiceStatus, __version__
from identity_client.cli import main
from identity_client.cli.commands import cli
from identity_client.server import IdentityServer

CLIENT_SECRET = "a-client-secret"
SECRETS = (INTERNAL_TOKEN, CLIENT_SECRET)
LIMIT = 20.0

# Environments of services; the names in braces are fixtures of this file.
NAMED = {"SERVICE_NAME": "orders", "IDENTITY_BASE_RETRY_DELAY": "0.05"}
REGISTERING = {
    **NAMED,
    "IDENTITY_API_URL": "{api_url}",
    "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
}
STORING = {**REGISTERING, "IDENTITY_CREDENTIAL_STORE": "{store_url}"}
PRECONFIGURED = {
    **NAMED,
    "SERVICE_CLIENT_ID": "orders",
    "SERVICE_CLIENT_SECRET": CLIENT_SECRET,
    "SERVICE_TOKEN_ENDPOINT": "{issuing_url}/token",
}

ON_KEYCLOAK = {
    "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    "IDENTITY_KEYCLOAK_CLIENT_ID": "identity-api",
    "IDENTITY_KEYCLOAK_CLIENT_SECRET": CLIENT_SECRET,
}

SLOW_TO_RETRY = {"IDENTITY_BASE_RETRY_DELAY": "5", "IDENTITY_REQUEST_TIMEOUT": "5"}
SLOW_ENDPOINT = {
    **PRECONFIGURED,
    **SLOW_TO_RETRY,
    "SERVICE_TOKEN_ENDPOINT": "{silent_url}",
    "IDENTITY_TOKEN_TIMEOUT": "0.2",
}

# Square brackets are markup to the library that draws tables and spinners.
REFUSAL = "see [/docs] or [bold]ask[/bold]"

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set must not matter, nor the kind of terminal, nor a slow machine."""
    for variable in os.environ:
        if variable.startswith(("IDENTITY_", "SERVICE_", "FORCE_COLOR", "NO_COLOR", "TTY_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("identity_client.cli.output.PATIENCE", LIMIT)


@pytest.fixture
def api_url(api: IdentityServer) -> str:
    return api.url


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/credentials.json"


@pytest.fixture
def down_url() -> Iterator[str]:
    with hostile.closed_port() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def silent_url() -> Iterator[str]:
    with hostile.HostileServer(hostile.says_nothing) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def issuing_url(canned: StartCanned) -> str:
    return canned(token_reply("a-token")).url


@pytest.fixture
def rejecting_url(canned: StartCanned) -> str:
    return canned(reply({"error": "invalid_client"}, 401)).url


@pytest.fixture
def refusing_url(canned: StartCanned) -> str:
    return canned(reply({"message": REFUSAL}, 403)).url


@pytest.fixture
def environ(request: pytest.FixtureRequest) -> Callable[[dict[str, str]], dict[str, str]]:
    """Puts the addresses of servers into an environment, and starts those."""

    class Places(dict[str, str]):
        def __missing__(self, name: str) -> str:
            url: str = request.getfixturevalue(name)
            return url

    def fill(variables: dict[str, str]) -> dict[str, str]:
        return {name: text.format_map(Places()) for name, text in variables.items()}

    return fill


@pytest.fixture
def run(environ: Callable[[dict[str, str]], dict[str, str]]) -> Run:
    """Runs a command in this process. No command ever shows a secret."""

    def invoke(*arguments: str, **variables: str) -> Result:
        runner = CliRunner(env=environ(variables), catch_exceptions=False)
        result = runner.invoke(cli, arguments)
        for secret in SECRETS:
            assert secret not in result.output
        return result

    return invoke


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "identity_client.cli", *arguments]


@pytest.fixture
def process(
    environ: Callable[[dict[str, str]], dict[str, str]], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as a process of its own."""

    def call(
        *arguments: str, code: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        order = command() if code is None else [sys.executable, "-c", code]
        done = subprocess.run(
            [*order, *arguments],
            env={**os.environ, **environ(variables)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        done.stderr = without_progress(done.stderr)
        return done

    return call


# --- token, wait and try ---


def test_token_prints_a_token_and_nothing_else(run: Run, api: IdentityServer) -> None:
    result = run("token", **REGISTERING)
    assert result.exit_code == 0
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", result.stdout)
    assert result.stderr == ""
    assert api.backend.requests["token"] == 1


def test_options_win_over_the_environment(run: Run, api: IdentityServer, down_url: str) -> None:
    environ = {**REGISTERING, "IDENTITY_API_URL": down_url}
    assert run("token", "--url", api.url, "--service-name", "billing", **environ).exit_code == 0
    assert api.backend.client("billing") is not None
    assert api.backend.client("orders") is None


def test_wait_prints_nothing_when_a_token_can_be_had(run: Run) -> None:
    result = run("wait", **STORING)
    assert (result.exit_code, result.output) == (0, "")


def test_wait_waits_out_an_outage(run: Run, canned: StartCanned) -> None:
    server = canned(reply({"message": "out of order"}, 503))
    server.answers.extend([registered(server.url), token_reply()])
    result = run("wait", **{**STORING, "IDENTITY_API_URL": server.url})
    assert (result.exit_code, result.output) == (0, "")
    assert len(server.asked) == 3


def test_try_shows_a_table(run: Run) -> None:
    result = run("try", **REGISTERING)
    assert result.exit_code == 0
    shown = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in result.stdout.splitlines())
    assert shown.keys() == {
        attribute.name.replace("_", " ") for attribute in attrs.fields(ServiceStatus)
    }
    assert shown["service name"] == "orders"
    assert shown["state"] == "READY"
    assert shown["client id"] == "orders"
    assert 280 < float(shown["token expires in"]) <= 290
    assert shown["attempts"] == "0"
    assert shown["last error"] == shown["next attempt in"] == "-"
    assert shown["registrations"] == shown["tokens issued"] == "1"


def test_try_shows_json(run: Run) -> None:
    result = run("try", "--json", **REGISTERING)
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert 280 < shown.pop("token_expires_in") <= 290
    assert abs(shown.pop("last_success_at") - time.time()) < 60
    assert shown == {
        "service_name": "orders",
        "state": "READY",
        "started": True,
        "client_id": "orders",
        "attempts": 0,
        "last_error": None,
        "next_attempt_in": None,
        "registrations": 1,
        "registrations_failed": 0,
        "secrets_regenerated": 0,
        "tokens_issued": 1,
        "token_requests_failed": 0,
        "tokens_invalidated": 0,
    }


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["a table", "JSON"])
def test_try_without_a_token_shows_why_and_exits_with_1(run: Run, as_json: tuple[str, ...]) -> None:
    variables = {**REGISTERING, "IDENTITY_API_URL": "{refusing_url}"}
    result = run("try", "--timeout", "2", *as_json, **variables)
    assert result.exit_code == 1
    assert "PENDING" in result.stdout
    assert f"returned HTTP 403 ({REFUSAL})" in result.stdout
    assert result.stderr == ""


def test_try_exits_with_3_when_the_time_is_over_before_anything_failed(run: Run) -> None:
    result = run("try", "--timeout", "0.3", **SLOW_ENDPOINT)
    assert result.exit_code == 3
    assert "PENDING" in result.stdout
    assert "no access token within 0.3 s: an attempt is under way" in result.stderr


# Command, environment, exit code, and what stderr says.
EXITS = [
    pytest.param(
        ["token"],
        {**PRECONFIGURED, "SERVICE_TOKEN_ENDPOINT": "{rejecting_url}"},
        1,
        "returned HTTP 401 (invalid_client)",
        id="token: the token endpoint rejects the client",
    ),
    pytest.param(
        ["token"],
        {**REGISTERING, "IDENTITY_API_INTERNAL_TOKEN": "another"},
        1,
        "returned HTTP 401",
        id="token: identity-api refuses",
    ),
    pytest.param(
        ["token", "--timeout", "2"],
        {**REGISTERING, **SLOW_TO_RETRY, "IDENTITY_API_URL": "{down_url}"},
        1,
        "connection refused",
        id="token: identity-api is down, and the next attempt comes too late",
    ),
    pytest.param(
        ["token"],
        {
            **REGISTERING,
            "IDENTITY_API_URL": "{down_url}",
            "IDENTITY_MAX_REGISTRATION_ATTEMPTS": "1",
        },
        1,
        "registration of 'orders' failed after 1 attempts",
        id="token: all attempts are used up",
    ),
    pytest.param(
        ["wait"],
        {
            **STORING,
            "IDENTITY_API_URL": "{down_url}",
            "IDENTITY_MAX_REGISTRATION_ATTEMPTS": "1",
        },
        1,
        "identity-client: not ready: ",
        id="wait: all attempts are used up",
    ),
    pytest.param(
        ["token", "--timeout", "0.2"],
        {**REGISTERING, **SLOW_TO_RETRY, "IDENTITY_API_URL": "{silent_url}"},
        3,
        "no access token for 'orders' within 0.2 s",
        id="token: identity-api says nothing",
    ),
    pytest.param(
        ["token"],
        SLOW_ENDPOINT,
        3,
        "no access token for 'orders' within 0.2 s",
        id="token: the token endpoint says nothing",
    ),
    pytest.param(
        ["wait", "--timeout", "0.2"],
        {**STORING, **SLOW_TO_RETRY, "IDENTITY_API_URL": "{silent_url}"},
        3,
        "not ready after 0.2 s: no response yet",
        id="wait: identity-api says nothing",
    ),
    pytest.param(
        ["wait", "--timeout", "2"],
        {**PRECONFIGURED, "SERVICE_TOKEN_ENDPOINT": "{rejecting_url}"},
        3,
        "returned HTTP 401 (invalid_client)",
        id="wait: nobody mends it in time",
    ),
    *(
        pytest.param(
            [name], {}, 2, "service_name (SERVICE_NAME) is missing", id=f"{name}: no settings"
        )
        for name in ("token", "wait", "try")
    ),
    *(
        pytest.param(
            [name, "--timeout", timeout],
            PRECONFIGURED,
            2,
            "is not in the range" if timeout == "-1" else "nan is not a number of seconds",
            id=f"{name}: a timeout of {timeout}",
        )
        for name in ("token", "wait", "try")
        for timeout in ("-1", "nan")
    ),
    pytest.param(
        ["token", "--timeout", "soon"],
        PRECONFIGURED,
        2,
        "'soon' is not a valid float",
        id="token: a timeout that is no number",
    ),
    pytest.param(
        ["token"],
        {**PRECONFIGURED, "IDENTITY_REFRESH_RATIO": "90"},
        2,
        "refresh_ratio (IDENTITY_REFRESH_RATIO) must be",
        id="token: a setting that cannot be used",
    ),
    pytest.param(
        ["token", "--url", "identity-api"],
        REGISTERING,
        2,
        "identity_api_url (IDENTITY_API_URL) is not",
        id="token: an address that is none",
    ),
    pytest.param(["tokens"], {}, 2, "No such command 'tokens'", id="a command that there is not"),
    pytest.param(
        ["serve"], {}, 2, "(IDENTITY_API_INTERNAL_TOKEN) is missing", id="serve: no token"
    ),
    pytest.param(
        ["serve"],
        {"IDENTITY_API_INTERNAL_TOKEN": ""},
        2,
        "(IDENTITY_API_INTERNAL_TOKEN) is empty",
        id="serve: an empty token",
    ),
    pytest.param(
        ["serve", "--host", "192.0.2.1"],
        {"IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN},
        2,
        "cannot listen on 192.0.2.1:3053: ",
        id="serve: another machine's address",
    ),
    pytest.param(
        ["serve", "--port", "65536"],
        {},
        2,
        "65536 is not in the range",
        id="serve: a port that there is not",
    ),
    pytest.param(
        ["serve", "--token-lifetime", "0"],
        {},
        2,
        "0.0 is not in the range",
        id="serve: tokens that do not live",
    ),
    pytest.param(
        ["serve", "--keycloak-url", "http://127.0.0.1:9"],
        {"IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN},
        2,
        "client_id (IDENTITY_KEYCLOAK_CLIENT_ID) is missing",
        id="serve: nobody to be in Keycloak",
    ),
    pytest.param(
        ["serve", "--keycloak-url", "keycloak:8080"],
        ON_KEYCLOAK,
        2,
        "url (IDENTITY_KEYCLOAK_URL) is not",
        id="serve: an address that is none",
    ),
    pytest.param(
        ["serve", "--keycloak-url", "http://127.0.0.1:9", "--host", "192.0.2.1"],
        ON_KEYCLOAK,
        2,
        "cannot listen on 192.0.2.1:3053: ",
        id="serve: another machine's address, in front of Keycloak",
    ),
]


@pytest.mark.parametrize(("arguments", "variables", "code", "said"), EXITS)
def test_a_failure_is_told_in_one_line_on_stderr_and_by_the_exit_code(
    run: Run, arguments: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    result = run(*arguments, **variables)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""
    if result.stderr.startswith("identity-client: "):
        assert result.stderr.count("\n") == 1
    else:
        assert result.stderr.startswith("Usage: ")


# --- as a process ---


@pytest.mark.parametrize(
    ("variables", "code", "stdout", "stderr"),
    [
        pytest.param(PRECONFIGURED, 0, "a-token\n", "", id="done"),
        pytest.param(
            {**REGISTERING, "IDENTITY_TOKEN_TIMEOUT": "5000"},
            0,
            r"[\w-]+\.[\w-]+\.[\w-]+\n",
            r"token_timeout is 5000 seconds; .*\n",
            id="done, with a warning",
        ),
        pytest.param(
            {**PRECONFIGURED, "SERVICE_TOKEN_ENDPOINT": "{rejecting_url}"},
            1,
            "",
            r"(.*\n)*identity-client: .*returned HTTP 401 .*\n",
            id="refused",
        ),
        pytest.param(
            {**REGISTERING, "SERVICE_CLIENT_ID": "orders"},
            2,
            "",
            r"identity-client: 2 problems: client_secret \(SERVICE_CLIENT_SECRET\) is .*\n",
            id="misconfigured in two ways",
        ),
        pytest.param(
            {**PRECONFIGURED, "IDENTITY_SCOPE": ""},
            2,
            "",
            r"identity-client: scope \(IDENTITY_SCOPE\) is empty.*\n",
            id="misconfigured",
        ),
        pytest.param(
            SLOW_ENDPOINT,
            3,
            "",
            r"identity-client: no access token for 'orders' within 0\.2 s.*\n",
            id="too late",
        ),
    ],
)
def test_a_process_keeps_stdout_for_the_token(
    process: Callable[..., subprocess.CompletedProcess[str]],
    variables: dict[str, str],
    code: int,
    stdout: str,
    stderr: str,
) -> None:
    done = process("token", **variables)
    assert done.returncode == code
    assert re.fullmatch(stdout, done.stdout)
    assert re.fullmatch(stderr, done.stderr)
    for secret in SECRETS:
        assert secret not in done.stdout + done.stderr


def test_the_module_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["identity-client", "--version"])
    spec = find_spec("identity_client.cli.__main__")
    assert spec is not None
    assert spec.origin is not None
    with pytest.raises(SystemExit) as caught:
        # By its path: pytest's import hook, which loads the packages of plugins, has no get_code.
        runpy.run_path(spec.origin, run_name=spec.name)
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"identity-client, version {__version__}\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_names_every_command(run: Run, option: str) -> None:
    result = run(option)
    assert result.exit_code == 0
    assert isinstance(cli, click.Group)
    names = cli.list_commands(click.Context(cli))
    assert {"token", "exec", "check", "wait", "try", "status", "doctor", "serve"} <= set(names)
    for name in names:
        assert re.search(rf"^  {name} +\w", result.stdout, re.MULTILINE)
        assert run(name, option).exit_code == 0


# --- a service that exists ---


@pytest.mark.parametrize("name", ["token", "wait", "try"])
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="by default"),
        pytest.param({"IDENTITY_ALLOW_SECRET_REGENERATION": "true"}, id="if the services may"),
    ],
)
def test_the_secret_of_a_service_that_exists_is_left_alone(
    run: Run, api: IdentityServer, make_service: MakeService, name: str, variables: dict[str, str]
) -> None:
    replica = make_service(api)
    replica.get_access_token()
    client = api.backend.client("orders")
    assert client is not None
    secret = client.secret
    result = run(name, "--timeout", "2", **STORING, **variables)
    assert result.exit_code in (1, 3)
    assert "the service 'orders' is registered already" in result.output
    assert api.backend.client("orders") == client
    assert client.secret == secret
    assert secret not in result.output
    assert api.backend.requests["token"] == 1


@pytest.mark.parametrize("name", ["token", "wait", "try"])
def test_the_secret_of_a_service_that_exists_is_replaced_when_that_is_asked_for(
    run: Run, api: IdentityServer, make_service: MakeService, name: str
) -> None:
    make_service(api).get_access_token()
    client = api.backend.client("orders")
    assert client is not None
    before = client.secret
    variables = {**STORING, "IDENTITY_ALLOW_SECRET_REGENERATION": "false"}
    result = run(name, "--allow-secret-regeneration", **variables)
    assert result.exit_code == 0
    assert client.secret != before
    assert client.secret not in result.output


@pytest.mark.parametrize(
    "command", [("token",), ("try",), ("wait",), ("exec", "--", "no-such-command")]
)
@pytest.mark.parametrize("word", ["false", "0", "No"])
def test_a_secret_that_may_not_be_regenerated_is_not_lost(
    run: Run, api: IdentityServer, command: tuple[str, ...], word: str
) -> None:
    result = run(*command, **REGISTERING, IDENTITY_ALLOW_SECRET_REGENERATION=word)
    assert result.exit_code == 2
    assert "credential_store (IDENTITY_CREDENTIAL_STORE) is memory:" in result.stderr
    assert api.backend.client("orders") is None
    assert run("token", **STORING, IDENTITY_ALLOW_SECRET_REGENERATION=word).exit_code == 0


# --- progress ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("{silent_url}", "waiting for a token", id="nothing happened yet"),
        pytest.param(
            "{down_url}", "attempt 1 failed: identity-api at http", id="an attempt failed"
        ),
        pytest.param("{refusing_url}", f"returned HTTP 403 ({REFUSAL})", id="with square brackets"),
    ],
)
def test_on_a_terminal_the_command_shows_what_the_service_is_doing(
    run: Run, url: str, shown: str
) -> None:
    variables = {**STORING, **SLOW_TO_RETRY, "IDENTITY_API_URL": url, "FORCE_COLOR": "1"}
    result = run("wait", "--timeout", "2", **variables)
    assert result.exit_code == 3
    progress, _, told = result.stderr.partition("identity-client: not ready after 2 s: ")
    assert shown in progress
    assert told
    assert result.stdout == ""


def test_on_a_terminal_stdout_still_has_the_token_only(
    environ: Callable[[dict[str, str]], dict[str, str]], tmp_path: Path
) -> None:
    terminal, its_other_end = pty.openpty()
    with subprocess.Popen(
        command("token"),
        env={**os.environ, **environ(PRECONFIGURED)},
        cwd=tmp_path,
        stdin=its_other_end,
        stdout=subprocess.PIPE,
        stderr=its_other_end,
    ) as started:
        os.close(its_other_end)
        shown = b""
        with suppress(OSError):  # as Linux says that nobody has the other end any more
            while part := os.read(terminal, 4096):
                shown += part
        os.close(terminal)
        stdout, _ = started.communicate(timeout=LIMIT)
    assert (started.returncode, stdout) == (0, b"a-token\n")
    assert "⠋ ".encode() in shown.replace(b"\x1b[0m", b"")
    assert b"a-token" not in shown
    assert CLIENT_SECRET.encode() not in shown


# --- extras that are not installed ---

_HIDE = (
    "import sys; sys.modules[sys.argv.pop(1)] = None; from identity_client.cli import main; main()"
)


@pytest.mark.parametrize(("module", "argument"), [("click", "--help"), ("rich", "demo")])
def test_without_the_extra_cli_the_command_says_what_to_install(
    process: Callable[..., subprocess.CompletedProcess[str]], module: str, argument: str
) -> None:
    done = process(module, argument, code=_HIDE)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"identity-client: {module}(\.\w+)? is missing; "
        r"pip install 'xemahq-identity-client\[cli\]'\n",
        done.stderr,
    )


@pytest.mark.parametrize(("name", "module"), [("serve", "flask"), ("demo", "joserfc")])
def test_without_the_extra_server_these_commands_say_what_to_install(
    process: Callable[..., subprocess.CompletedProcess[str]], name: str, module: str
) -> None:
    done = process(module, name, code=_HIDE, IDENTITY_API_INTERNAL_TOKEN=INTERNAL_TOKEN)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"identity-client: {module}[\w.]* is missing; "
        r"pip install 'xemahq-identity-client\[server\]'\n",
        done.stderr,
    )


def test_without_the_extra_server_the_other_commands_work(
    process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = process("flask", "token", code=_HIDE, **PRECONFIGURED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a-token\n", "")


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a module look uninstalled to one of ours, which is imported anew."""

    def hide(ours: str, module: str) -> None:
        parent, _, child = ours.rpartition(".")
        for name in [name for name in sys.modules if name == ours or name.startswith(f"{ours}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(sys.modules[parent], child)
        monkeypatch.setitem(sys.modules, module, None)

    return hide


def test_the_command_asks_for_the_extra_cli(
    hide: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    hide("identity_client.cli.commands", "click")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "identity-client: click is missing; pip install 'xemahq-identity-client[cli]'\n"
    )


@pytest.mark.parametrize("name", ["serve", "demo"])
def test_the_command_asks_for_the_extra_server(
    run: Run, hide: Callable[[str, str], None], name: str
) -> None:
    hide("identity_client.server", "flask")
    result = run(name, IDENTITY_API_INTERNAL_TOKEN=INTERNAL_TOKEN)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "identity-client: flask is missing; pip install 'xemahq-identity-client[server]'\n"
    )


@pytest.mark.parametrize("name", ["serve", "demo"])
def test_the_command_asks_for_the_extra_keycloak(
    run: Run, hide: Callable[[str, str], None], name: str
) -> None:
    importlib.import_module("identity_client.server.relay")
    for ours in ("identity_client.server.keycloak", "identity_client.server.relay"):
        hide(ours, "keycloak")
    result = run(name, "--keycloak-url", "http://127.0.0.1:9", **ON_KEYCLOAK)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "identity-client: keycloak is missing; pip install 'xemahq-identity-client[keycloak]'\n"
    )
