"""The commands that look after stored credentials."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.credentials import API, save, store_at

from identity_client.cli.commands import cli

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "credentials.json"


@pytest.fixture
def run(path: Path) -> Run:
    """Runs ``identity-client credentials`` on a file. No command ever shows the secret."""
    environment = {
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": API,
        "IDENTITY_API_INTERNAL_TOKEN": "an-internal-token",
        "IDENTITY_CREDENTIAL_STORE": f"file://{path}",
        "COLUMNS": "200",
    }

    def invoke(*arguments: str, answer: str | None = None) -> Result:
        runner = CliRunner(env=environment, catch_exceptions=False)
        result = runner.invoke(cli, ["credentials", *arguments], input=answer)
        assert "a-client-secret" not in result.output
        return result

    return invoke


def test_show_tells_all_but_the_secret(run: Run, path: Path) -> None:
    save(store_at(f"file://{path}"))
    result = run("show")
    assert result.exit_code == 0
    shown = dict(line.strip().split(maxsplit=1) for line in result.stdout.splitlines()[1:2])
    assert shown == {"version": "1"}
    assert f"the file {path}" in result.stdout
    assert "*** (15 characters)" in result.stdout
    assert "http://keycloak/token" in result.stdout


def test_show_prints_json(run: Run, path: Path) -> None:
    save(store_at(f"file://{path}"))
    assert json.loads(run("show", "--json").stdout) == {
        "store": f"the file {path}",
        "version": 1,
        "client_id": "orders",
        "client_secret": "*** (15 characters)",
        "token_endpoint": "http://keycloak/token",
        "roles": ["micro-service"],
    }


def test_show_of_nothing_exits_with_1(run: Run, path: Path) -> None:
    result = run("show")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"identity-client: the file {path} holds no credentials\n"


def test_clear_asks_first(run: Run, path: Path) -> None:
    save(store_at(f"file://{path}"))
    assert run("clear", answer="n\n").exit_code == 1
    assert path.exists()
    result = run("clear", answer="y\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert not path.exists()


def test_clear_does_not_ask_when_told_so(run: Run, path: Path) -> None:
    save(store_at(f"file://{path}"))
    assert run("clear", "--yes").exit_code == 0
    assert not path.exists()


def test_options_win_over_the_environment(run: Run, path: Path) -> None:
    other = path.with_name("other.json")
    save(store_at(f"file://{other}", service_name="billing", identity_api_url="http://other"))
    options = ("--store", f"file://{other}", "--service-name", "billing", "--url", "http://other")
    assert run("show", *options).exit_code == 0
    assert run("show", "--store", f"file://{other}").exit_code == 1


def test_a_store_in_memory_is_no_store_to_look_at(run: Run) -> None:
    for command in ("show", "clear"):
        result = run(command, "--store", "memory:")
        assert result.exit_code == 2
        assert "name the store of the service, or pass --store" in result.stderr


def test_a_store_that_cannot_be_used_is_told_in_one_line(run: Run, path: Path) -> None:
    path.mkdir()
    result = run("show")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"identity-client: the file {path} cannot be read: is a")
    assert result.stderr.count("\n") == 1
