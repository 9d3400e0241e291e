"""The doctor on a real Redis server: what is wrong with the credential store."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from support.cli import clean_environment, invoke
from support.redis_server import PASSWORD, RedisServer
from support.services import INTERNAL_TOKEN

from identity_client.server import IdentityServer

Diagnose = Callable[[str], tuple[list[str], str]]


@pytest.fixture
def diagnose(api: IdentityServer, monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    """Runs the doctor with a store; returns the ids of what failed, and what was found."""
    clean_environment(monkeypatch)

    def run(url: str) -> tuple[list[str], str]:
        environ = {
            "SERVICE_NAME": "orders",
            "IDENTITY_API_URL": api.url,
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "IDENTITY_CREDENTIAL_STORE": url,
        }
        result = invoke(environ, "doctor", "--json", "--timeout", "5")
        assert api.backend.requests["register"] == 0
        assert PASSWORD not in result.output
        checks = json.loads(result.stdout)["checks"]
        failed = [check for check in checks if check["status"] == "fail"]
        return [check["id"] for check in failed], " ".join(check["found"] for check in failed)

    return run


def test_a_store_that_works_passes(redis_server: RedisServer, diagnose: Diagnose) -> None:
    assert diagnose(redis_server.url) == ([], "")


def test_a_database_that_does_not_exist_is_named(
    redis_server: RedisServer, diagnose: Diagnose
) -> None:
    failed, found = diagnose(f"redis://127.0.0.1:{redis_server.port}/99")
    assert failed == ["ID401"]
    assert "/99 cannot be used" in found


def test_tls_against_a_server_without_it_is_named(
    redis_server: RedisServer, diagnose: Diagnose
) -> None:
    failed, found = diagnose(f"rediss://127.0.0.1:{redis_server.port}/0")
    assert failed == ["ID204"]
    assert "speaks no TLS there" in found


def test_a_password_that_is_missing_or_wrong_is_named(diagnose: Diagnose) -> None:
    with RedisServer("--requirepass", PASSWORD) as server:
        for user in ("", ":another@"):
            failed, _ = diagnose(f"redis://{user}127.0.0.1:{server.port}/0")
            assert failed == ["ID401"]
        assert diagnose(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0") == ([], "")


def test_a_server_that_hangs_is_named(redis_server: RedisServer, diagnose: Diagnose) -> None:
    with RedisServer() as server:
        server.freeze()
        failed, _ = diagnose(server.url)
    assert failed == ["ID401"]
