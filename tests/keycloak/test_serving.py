"""identity-api in front of Keycloak, as it is run: by the command, and under gunicorn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.keycloak import ADMIN_SECRET, Realm
from support.services import INTERNAL_TOKEN, MakeService

COMMAND = [
    *(sys.executable, "-m", "identity_client.cli", "serve", "--port", "0"),
    *("--token-lifetime", "17"),
]
GUNICORN = [
    *(
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--threads",
        "4",
    ),
    *("--worker-tmp-dir", "/dev/shm", "identity_client.server.wsgi:create_keycloak_app()"),
]


@contextmanager
def running(command: list[str], realm: Realm, folder: Path) -> Iterator[str]:
    """Run a server with its secrets in files, and return its address."""
    secrets = {"IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN}
    secrets["IDENTITY_KEYCLOAK_CLIENT_SECRET"] = ADMIN_SECRET
    environment = {
        "IDENTITY_KEYCLOAK_URL": realm.admin.url,
        "IDENTITY_KEYCLOAK_REALM": realm.name,
        "IDENTITY_KEYCLOAK_CLIENT_ID": "identity-api",
    }
    for variable, secret in secrets.items():
        (folder / variable).write_text(f"{secret}\n")
        environment[f"{variable}_FILE"] = str(folder / variable)
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr is not None
        said = ""
        try:
            for line in started.stderr:
                said += line
                address = re.search(r"http://127\.0\.0\.1:\d+", line)
                if address is not None:
                    yield address[0]
                    break
            else:
                pytest.fail(said)
        finally:
            started.terminate()
            said += started.stderr.read()
    for secret in secrets.values():
        assert secret not in said


@pytest.mark.parametrize("command", [COMMAND, GUNICORN], ids=["the command", "gunicorn"])
def test_a_service_gets_its_token(
    realm: Realm, make_service: MakeService, tmp_path: Path, command: list[str]
) -> None:
    with running(command, realm, tmp_path) as url:
        service = make_service(url)
        claims = realm.claims(service.get_access_token(30))
    assert claims["azp"] == "orders"
    assert claims["exp"] - claims["iat"] == (17 if command is COMMAND else 10)


# The demo's own limits are for a machine that does little else.
DEMO = """
from identity_client.cli import demo, main
demo.LATENCY, demo.HERD_LIMIT = 0.8, 10.0
main()
"""


def test_the_demo_shows_the_same_on_keycloak(realm: Realm, tmp_path: Path) -> None:
    realm.change(accessTokenLifespan=60)
    where = ["--keycloak-url", realm.admin.url, "--keycloak-realm", realm.name]
    credentials = {
        "IDENTITY_KEYCLOAK_CLIENT_ID": "identity-api",
        "IDENTITY_KEYCLOAK_CLIENT_SECRET": ADMIN_SECRET,
    }
    done = subprocess.run(
        [sys.executable, "-c", DEMO, "demo", "--token-lifetime", "20", *where],
        env={**os.environ, **credentials},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "all 11 checks passed" in done.stdout
    clients = realm.admin.call("GET", f"/{realm.name}/clients").json()
    assert [c["clientId"] for c in clients if c["clientId"].startswith("order-service")] == []
