"""``check`` and ``wait --for api``: looks without side effects; and completion."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support import hostile
from support.canned import Canned, reply
from support.cli import clean_environment, invoke
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client.cli import main
from identity_client.server import IdentityServer

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def environ() -> dict[str, str]:
    return {
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": "http://127.0.0.1:9",
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    }


# --- check ---


def test_good_settings_pass_and_nothing_is_contacted(environ: dict[str, str]) -> None:
    result = invoke(environ, "check")
    assert (result.exit_code, result.output) == (0, "ok    all settings can be used\n")
    shown = json.loads(invoke(environ, "check", "--json").stdout)
    assert shown == {"success": True, "problems": [], "warnings": []}


def test_every_problem_is_reported_at_once(environ: dict[str, str]) -> None:
    environ |= {"IDENTITY_REFRESH_RATIO": "90", "IDENTITY_API_URL": "identity-api"}
    result = invoke(environ, "check")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["FAIL", "identity_api_url"],
        ["FAIL", "refresh_ratio"],
    ]
    assert len(json.loads(invoke(environ, "check", "--json").stdout)["problems"]) == 2
    assert INTERNAL_TOKEN not in result.output


def test_a_store_that_cannot_be_made_is_a_problem(environ: dict[str, str], tmp_path: Path) -> None:
    environ["IDENTITY_CREDENTIAL_STORE"] = "vault://host"
    result = invoke(environ, "check")
    assert result.exit_code == 2
    assert "names a store that is not known, vault:" in result.stdout


def test_a_pre_configured_service_needs_no_store() -> None:
    environ = {
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-client-secret",
        "SERVICE_TOKEN_ENDPOINT": "http://127.0.0.1:9/token",
        "IDENTITY_CREDENTIAL_STORE": "vault://host",
    }
    assert invoke(environ, "check").exit_code == 0


def test_warnings_are_shown_once_and_fail_only_strictly(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    environ["IDENTITY_REFRESH_RATOI"] = "0.5"
    result = invoke(environ, "check")
    assert result.exit_code == 0
    assert result.stdout == (
        "warn  IDENTITY_REFRESH_RATOI is not a setting; is IDENTITY_REFRESH_RATIO meant?\n"
        "ok    all settings can be used\n"
    )
    assert caplog.records == []
    assert logging.getLogger("identity_client").propagate
    assert invoke(environ, "check", "--strict").exit_code == 1


# --- wait ---


def test_waiting_for_identity_api_registers_nothing(
    environ: dict[str, str], api: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity_client.cli.output.PATIENCE", 20.0)
    environ["IDENTITY_API_URL"] = api.url
    result = invoke(environ, "wait", "--for", "api")
    assert (result.exit_code, result.output) == (0, "")
    assert api.backend.requests["register"] == 0


def test_an_identity_api_without_health_is_known_by_its_asking_for_a_token(
    environ: dict[str, str], canned: StartCanned
) -> None:
    server = canned(reply({"message": "Cannot GET /health"}, 404), reply({}, 401))
    environ["IDENTITY_API_URL"] = server.url
    assert invoke(environ, "wait", "--for", "api").exit_code == 0
    assert all("Authorization" not in asked.headers for asked in server.asked)


def test_waiting_for_identity_api_waits_out_an_outage(
    environ: dict[str, str], canned: StartCanned
) -> None:
    down = reply({"message": "starting"}, 503)
    server = canned(down, down, down, down, reply({"status": "ok"}))
    environ["IDENTITY_API_URL"] = server.url
    result = invoke(environ, "wait", "--for", "api")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "identity-client: waiting for identity-api: identity-api at" in result.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply({"message": "starting"}, 503), "returned HTTP 503; see its log"),
        (Canned(404, b"<html>"), "returned HTTP 404, and not JSON; check host, port and path"),
        (Canned(200, b"hello"), "returned HTTP 200, and not JSON; check host, port and path"),
    ],
    ids=["down", "no page", "a page"],
)
def test_another_server_is_not_identity_api(
    environ: dict[str, str], canned: StartCanned, answer: Canned, said: str
) -> None:
    environ["IDENTITY_API_URL"] = canned(answer).url
    result = invoke(environ, "wait", "--for", "api", "--timeout", "2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert said in result.stderr


def test_both_requests_of_a_look_share_its_time(
    environ: dict[str, str], canned: StartCanned
) -> None:
    server = canned(reply({}, 404))
    release = threading.Event()
    server.before_answer = lambda asked: asked.path == "/health" or release.wait(30)
    environ["IDENTITY_API_URL"] = server.url
    began = time.monotonic()
    result = invoke(environ, "wait", "--for", "api", "--timeout", "4")
    took = time.monotonic() - began
    release.set()
    assert result.exit_code == 3
    assert re.search(r"timed out after [0-4](\.\d+)? s", result.stderr)
    assert took < 9  # request_timeout is 10 s


def test_an_identity_api_that_is_down_times_out(environ: dict[str, str]) -> None:
    with hostile.closed_port() as port:
        environ["IDENTITY_API_URL"] = f"http://127.0.0.1:{port}"
        result = invoke(environ, "wait", "--for", "api", "--timeout", "2")
    assert result.exit_code == 3
    assert "not ready after 2 s: identity-api at http" in result.stderr
    assert "connection refused" in result.stderr


def test_a_pre_configured_service_has_no_identity_api_to_wait_for() -> None:
    environ = {
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-client-secret",
        "SERVICE_TOKEN_ENDPOINT": "http://127.0.0.1:9/token",
    }
    result = invoke(environ, "wait", "--for", "api")
    assert result.exit_code == 2
    assert "identity_api_url (IDENTITY_API_URL) is missing" in result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"IDENTITY_API_INTERNAL_TOKEN_FILE": "/missing/token", "SERVICE_CLIENT_ID": "orders"},
        {
            "SERVICE_CLIENT_SECRET_FILE": "/missing/secret",
            "IDENTITY_CREDENTIAL_STORE_FILE": "/missing/url",
            "IDENTITY_CREDENTIAL_STORE_KEY_FILE": "/missing/key",
        },
    ],
    ids=["only the address", "half-given credentials", "secrets that are not mounted"],
)
def test_waiting_for_identity_api_needs_its_address_alone(
    canned: StartCanned, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity_client.cli.output.PATIENCE", 20.0)
    server = canned(reply({}, 404), reply({}, 401))
    environ = {**variables, "IDENTITY_API_URL": server.url}
    result = invoke(environ, "wait", "--for", "api")
    assert (result.exit_code, result.output) == (0, "")
    assert all("Authorization" not in asked.headers for asked in server.asked)
    assert invoke(variables, "wait", "--for", "api", "--url", server.url).exit_code == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("IDENTITY_API_URL", "identity-api", "identity_api_url (IDENTITY_API_URL) is not an http"),
        ("IDENTITY_REQUEST_TIMEOUT", "0", "must be a number of seconds above 0"),
        ("IDENTITY_CA_BUNDLE", "/missing.pem", "ca_bundle (IDENTITY_CA_BUNDLE)"),
        ("IDENTITY_CLIENT_CERT", "/missing.pem", "client_cert (IDENTITY_CLIENT_CERT)"),
    ],
)
def test_waiting_for_identity_api_refuses_bad_values_of_what_it_uses(
    variable: str, value: str, said: str
) -> None:
    environ = {"IDENTITY_API_URL": "http://127.0.0.1:9", variable: value}
    result = invoke(environ, "wait", "--for", "api")
    assert result.exit_code == 2
    assert said in result.stderr
    assert "internal_token" not in result.stderr


def test_waiting_for_identity_api_without_its_address_is_refused() -> None:
    result = invoke({}, "wait", "--for", "api")
    assert result.exit_code == 2
    assert result.stderr == (
        "identity-client: identity_api_url (IDENTITY_API_URL) is missing; set it\n"
    )


def test_waiting_for_a_token_does_not_register_a_secret_away(
    environ: dict[str, str], api: IdentityServer
) -> None:
    environ["IDENTITY_API_URL"] = api.url
    result = invoke(environ, "wait")
    assert result.exit_code == 2
    assert "would register the service and lose its secret" in result.stderr
    assert api.backend.requests["register"] == 0


# --- completion ---


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_names_the_command(shell: str) -> None:
    result = invoke({}, "completion", shell)
    assert result.exit_code == 0
    assert "_IDENTITY_CLIENT_COMPLETE" in result.stdout
    assert result.stdout.isascii()


def test_completion_of_another_shell_is_a_wrong_argument() -> None:
    assert invoke({}, "completion", "tcsh").exit_code == 2


def test_completion_knows_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["identity-client"])
    for words, expected in [("do", "plain,doctor"), ("doctor --str", "plain,--strict")]:
        monkeypatch.setenv("_IDENTITY_CLIENT_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", f"identity-client {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out.splitlines() == [expected]
