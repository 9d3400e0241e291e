"""The calls of identity-api on the command line, and a token seen from inside."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from click.testing import CliRunner, Result
from support.canned import reply, token_reply
from support.cli import clean_environment, command, invoke
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client.cli.commands import cli
from identity_client.cli.failures import CommandError
from identity_client.server import IdentityServer

LIMIT = 20.0

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def environ(api: IdentityServer) -> dict[str, str]:
    return {
        "SERVICE_NAME": "orders",
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Runs a command on a server; the internal token is never shown."""

    def call(*arguments: str, given: str | None = None, **variables: str) -> Result:
        result = invoke({**environ, **variables}, *arguments, given=given)
        assert INTERNAL_TOKEN not in result.output
        return result

    return call


def secret_of(api: IdentityServer, name: str = "orders") -> str:
    client = api.backend.client(name)
    assert client is not None
    return client.secret


# --- register ---


def test_register_saves_the_secret_to_a_new_file_of_its_owner(
    run: Run, api: IdentityServer, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    result = run("register", "--secret-file", str(path), "--json")
    assert result.exit_code == 0
    assert path.read_text() == f"{secret_of(api)}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = json.loads(result.stdout)
    assert shown["client_id"] == "orders"
    assert shown["secret_file"] == str(path)
    assert secret_of(api) not in result.output


def test_register_prints_the_secret_alone_where_that_is_asked_for(
    run: Run, api: IdentityServer
) -> None:
    result = run("register", "--secret-file", "-")
    assert result.stdout == f"{secret_of(api)}\n"
    assert "token endpoint" in result.stderr
    assert "roles               micro-service\n" in result.stderr
    assert secret_of(api) not in result.stderr


def test_register_prints_the_secret_even_where_standard_error_cannot_be_written(
    environ: dict[str, str], api: IdentityServer
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command("register", "--secret-file", "-"),
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=write_end,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stdout) == (0, f"{secret_of(api)}\n")


@pytest.fixture
def main(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a command in this process, with the standard streams that are there."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    return lambda *arguments: cli.main(arguments, standalone_mode=False)


@pytest.fixture
def unwritable() -> Iterator[TextIO]:
    """A stream whose descriptor is open for reading only."""
    with os.fdopen(os.open(os.devnull, os.O_RDONLY), "w") as stream:
        yield stream


def test_register_refuses_a_standard_output_that_cannot_be_written_before_any_request(
    main: Callable[..., None],
    api: IdentityServer,
    monkeypatch: pytest.MonkeyPatch,
    unwritable: TextIO,
) -> None:
    monkeypatch.setattr(sys, "stdout", unwritable)  # as where its caller has closed it
    with pytest.raises(CommandError) as caught:
        main("register", "--secret-file", "-")
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        "cannot write the client secret to standard output: bad file descriptor; "
        "redirect standard output, or name a file with --secret-file"
    )
    assert api.backend.requests["register"] == 0


def test_register_succeeds_where_standard_error_alone_cannot_be_written(
    main: Callable[..., None],
    api: IdentityServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unwritable: TextIO,
) -> None:
    monkeypatch.setattr(sys, "stderr", unwritable)
    main("register", "--secret-file", "-")
    assert capsys.readouterr().out == f"{secret_of(api)}\n"


def test_register_fails_where_the_rows_cannot_be_written_and_keeps_the_secret(
    main: Callable[..., None],
    api: IdentityServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unwritable: TextIO,
) -> None:
    monkeypatch.setattr(sys, "stdout", unwritable)
    with pytest.raises(CommandError, match="cannot write the output: bad file descriptor"):
        main("register", "--secret-file", str(tmp_path / "secret"))
    assert (tmp_path / "secret").read_text() == f"{secret_of(api)}\n"


def test_register_with_standard_output_closed_registers_nothing(
    environ: dict[str, str], api: IdentityServer
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command("register", "--secret-file", "-")],
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot write the client secret to standard output" in done.stderr
    assert api.backend.requests["register"] == 0


def test_register_prints_the_secret_before_anything_else(
    environ: dict[str, str], api: IdentityServer
) -> None:
    result = invoke(environ, "register", "--secret-file", "-")
    assert result.output.startswith(f"{secret_of(api)}\n")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (b"\xff\xfe-secret\n", "the internal token on standard input is not UTF-8"),
        (b"x" * 70_000, "the first line of standard input is longer than 65536 bytes"),
    ],
    ids=["not UTF-8", "no end"],
)
def test_what_is_not_an_internal_token_on_standard_input_is_refused(
    environ: dict[str, str], given: bytes, problem: str
) -> None:
    runner = CliRunner(env=environ, catch_exceptions=False)
    arguments = ["register", "--internal-token-file", "-", "--secret-file", "-"]
    result = runner.invoke(cli, arguments, input=given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"identity-client: {problem}; ")
    assert "secret" not in result.stderr
    assert "xff" not in result.stderr


def test_a_standard_input_that_cannot_be_read_is_an_error(
    main: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb"), os.fdopen(write_end, "w") as unreadable:
        monkeypatch.setattr(sys, "stdin", unreadable)
        with pytest.raises(CommandError) as caught:
            main("get-system-org", "platform", "--internal-token-file", "-")
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        "cannot read the internal token from standard input: bad file descriptor; "
        "write it there, or name a file with --internal-token-file"
    )


def test_what_follows_the_internal_token_stays_in_standard_input(
    main: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as given:
        given.write(f"{INTERNAL_TOKEN}\nthe rest\n")
    with os.fdopen(read_end) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        main("ensure-system-org", "platform", "--internal-token-file", "-")
        assert os.read(read_end, 100) == b"the rest\n"


def test_register_reads_the_internal_token_from_standard_input(
    run: Run, api: IdentityServer
) -> None:
    arguments = ("register", "--internal-token-file", "-", "--secret-file", "-")
    variables = {"IDENTITY_API_INTERNAL_TOKEN": "another"}
    assert run(*arguments, given=f"{INTERNAL_TOKEN}\n", **variables).exit_code == 0
    result = run(*arguments, given="\n")
    assert result.exit_code == 2
    assert "standard input holds no internal token" in result.stderr


def test_register_reads_the_internal_token_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(INTERNAL_TOKEN)
    variables = {"IDENTITY_API_INTERNAL_TOKEN": "another"}
    file = str(tmp_path / "token")
    arguments = ("register", "--internal-token-file", file, "--secret-file", "-")
    assert run(*arguments, **variables).exit_code == 0


def test_register_of_a_service_that_exists_leaves_its_secret_and_no_file(
    run: Run, api: IdentityServer, tmp_path: Path
) -> None:
    run("register", "--secret-file", str(tmp_path / "first"))
    secret = secret_of(api)
    result = run("register", "--secret-file", str(tmp_path / "second"))
    assert result.exit_code == 1
    assert "pass --regenerate-secret to replace it" in result.stderr
    assert not (tmp_path / "second").exists()
    assert secret_of(api) == secret
    assert run("register", "--secret-file", "-").exit_code == 1


def test_register_replaces_the_secret_where_that_is_asked_for(
    run: Run, api: IdentityServer, tmp_path: Path
) -> None:
    run("register", "--secret-file", str(tmp_path / "first"))
    result = run("register", "--regenerate-secret", "--secret-file", str(tmp_path / "second"))
    assert result.exit_code == 0
    assert (tmp_path / "second").read_text() == f"{secret_of(api)}\n"
    assert (tmp_path / "first").read_text() != (tmp_path / "second").read_text()


def test_a_secret_file_that_cannot_be_made_is_an_error_before_anything_is_registered(
    run: Run, api: IdentityServer, tmp_path: Path
) -> None:
    (tmp_path / "exists").write_text("")
    for name, reason in [("exists", "exists already"), ("no/folder", "cannot be created: no such")]:
        result = run("register", "--secret-file", str(tmp_path / name))
        assert result.exit_code == 2
        assert reason in result.stderr
    assert api.backend.requests["register"] == 0
    assert (tmp_path / "exists").exists()


def test_register_names_the_client_after_the_service_where_the_reply_does_not(
    run: Run, canned: StartCanned
) -> None:
    server = canned(
        reply(
            {
                "id": "1",
                "clientSecret": "s",
                "tokenEndpoint": "http://t/t",
                "roles": [],
                "alreadyExisted": False,
                "secretRegenerated": False,
            }
        )
    )
    result = run("register", "--secret-file", "-", "--json", IDENTITY_API_URL=server.url)
    assert json.loads(result.stderr)["client_id"] == "orders"


# --- the other calls ---


def test_a_membership_is_an_exit_code(run: Run, api: IdentityServer) -> None:
    api.backend.add_member("ada", "platform", "admin")
    result = run("verify-membership", "ada", "platform")
    assert (result.exit_code, result.stdout) == (0, "is member  True\nrole       admin\n")
    result = run("verify-membership", "bob", "platform", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"is_member": False, "role": None}


def test_a_system_organization_is_created_once_and_shown(run: Run) -> None:
    created = json.loads(run("ensure-system-org", "platform", "--json").stdout)
    assert created["display_name"] == "platform"
    again = run("ensure-system-org", "platform", "--display-name", "Other", "--json")
    assert json.loads(again.stdout) == created
    assert json.loads(run("get-system-org", "platform", "--json").stdout) == created


def test_an_organization_that_does_not_exist_exits_with_1(run: Run) -> None:
    result = run("get-system-org", "nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "returned HTTP 404" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify-membership", "user", "org"), 1),
        (("ensure-system-org", "platform"), 0),
        (("get-system-org", "platform"), 1),
    ],
)
def test_calls_that_are_about_no_service_need_no_name(
    environ: dict[str, str], arguments: tuple[str, ...], code: int
) -> None:
    del environ["SERVICE_NAME"]
    assert invoke(environ, *arguments).exit_code == code


def test_pre_configured_credentials_do_not_stand_for_the_internal_token(run: Run) -> None:
    variables = {"IDENTITY_API_INTERNAL_TOKEN_FILE": "", "SERVICE_CLIENT_ID": "orders"}
    assert run("get-system-org", "platform", **variables).exit_code == 2


# --- what is in a token ---


@pytest.fixture
def preconfigured(canned: StartCanned) -> Callable[..., dict[str, str]]:
    def make(*tokens: Any) -> dict[str, str]:
        return {
            "SERVICE_NAME": "orders",
            "SERVICE_CLIENT_ID": "orders",
            "SERVICE_CLIENT_SECRET": "a-client-secret",
            "SERVICE_TOKEN_ENDPOINT": canned(*tokens).url,
        }

    return make


def test_a_decoded_token_shows_claims_and_times_and_not_itself(run: Run) -> None:
    result = run("token", "--decode")
    assert result.exit_code == 0
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert lines["alg:"] == "RS256"
    assert lines["azp:"] == "orders"
    assert lines["realm_access:"] == '{"roles": ["micro-service"]}'
    assert re.search(r" UTC, in [23]\d\d s\)$", lines["exp:"])
    assert " s ago)" in lines["iat:"]
    assert "eyJ" not in result.output


def test_a_decoded_token_is_json_where_that_is_asked_for(run: Run) -> None:
    shown = json.loads(run("token", "--decode", "--json").stdout)
    assert shown["header"]["alg"] == "RS256"
    assert shown["claims"]["azp"] == "orders"


def test_an_opaque_token_cannot_be_decoded(preconfigured: Callable[..., dict[str, str]]) -> None:
    result = invoke(preconfigured(token_reply("opaque")), "token", "--decode")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "identity-client: the access token is not a JWT, so there is nothing to decode\n"
    )


def test_a_time_that_is_not_a_number_is_shown_as_it_is(
    preconfigured: Callable[..., dict[str, str]],
) -> None:
    claims = base64.urlsafe_b64encode(b'{"exp": "soon"}').decode().rstrip("=")
    result = invoke(preconfigured(token_reply(f"e30.{claims}.x")), "token", "--decode")
    assert result.stdout == f"{'exp:':<20} soon\n"


def test_a_token_is_json_with_its_times(preconfigured: Callable[..., dict[str, str]]) -> None:
    result = invoke(preconfigured(token_reply("a", expires_in=120, scope="x")), "token", "--json")
    shown = json.loads(result.stdout)
    assert abs(shown.pop("expires_at") - time.time() - 120) < 20
    assert 100 < shown.pop("expires_in") <= 120
    assert shown == {"access_token": "a", "token_type": "Bearer", "scope": "x"}


def test_a_token_that_lives_too_short_is_replaced_once(
    preconfigured: Callable[..., dict[str, str]],
) -> None:
    environ = preconfigured(token_reply("old", expires_in=30), token_reply("new", expires_in=300))
    assert invoke(environ, "token", "--min-ttl", "120").stdout == "new\n"


def test_tokens_that_all_live_too_short_are_an_error(
    preconfigured: Callable[..., dict[str, str]],
) -> None:
    result = invoke(preconfigured(token_reply(expires_in=60)), "token", "--min-ttl", "120")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "access tokens live 60 s, less than --min-ttl 120" in result.stderr


def test_the_request_for_a_token_that_lives_longer_is_within_the_same_timeout(
    canned: StartCanned,
) -> None:
    server, release = canned(token_reply(expires_in=30)), threading.Event()
    server.before_answer = lambda asked: release.wait(3 if len(server.asked) == 1 else 30)
    environ = {
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-client-secret",
        "SERVICE_TOKEN_ENDPOINT": server.url,
    }
    began = time.monotonic()
    result = invoke(environ, "token", "--min-ttl", "120", "--timeout", "6")
    took = time.monotonic() - began
    release.set()
    assert result.exit_code == 3
    assert "no access token that lives 120 s: the request for another is under way" in result.stderr
    assert took < 9.9  # and not 3 s, 6 s, and the second in which the service closes


def test_a_token_that_lives_longer_and_cannot_be_had_says_why(canned: StartCanned) -> None:
    server = canned(token_reply(expires_in=30), reply({"error": "server_error"}, 503))
    environ = {
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-client-secret",
        "SERVICE_TOKEN_ENDPOINT": server.url,
    }
    result = invoke(environ, "token", "--min-ttl", "120", "--timeout", "10")
    assert result.exit_code == 1
    assert "no access token that lives 120 s: the token endpoint" in result.stderr
    assert "HTTP 503" in result.stderr
