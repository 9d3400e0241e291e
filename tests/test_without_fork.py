"""Systems that do not fork, such as Windows: the package imports there, and serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.services import INTERNAL_TOKEN

from identity_client.server import IdentityServer

# What Windows lacks goes before anything that looks for it is imported.
PROGRAM = """
import os, sys
for name in ("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "getegid",
             "killpg", "setsid"):
    delattr(os, name)
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
url, internal_token, store = sys.argv[1:]
config = IdentityBootstrapConfig(
    service_name="orders",
    identity_api_url=url,
    identity_api_internal_token=internal_token,
    credential_store=store,
)
with IdentityBootstrapService(config) as service:
    token = service.get_access_token()
    service.invalidate_token(token)
    print(service.get_access_token() != token, service.status().state.value)
"""


def serve(url: str, store: str = "memory:") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url, INTERNAL_TOKEN, store]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_service_obtains_tokens(api: IdentityServer) -> None:
    done = serve(api.url)
    assert (done.stdout, done.stderr, done.returncode) == ("True READY\n", "", 0)


def test_the_file_store_does_without_modes_and_warns(api: IdentityServer, tmp_path: Path) -> None:
    done = serve(api.url, f"{tmp_path.as_uri()}/credentials.json")
    assert (done.stdout, done.returncode) == ("True READY\n", 0), done.stderr
    assert "this system has no file modes" in done.stderr
    assert (tmp_path / "credentials.json").exists()


@pytest.mark.parametrize("command", [["token", "--help"], ["serve", "--help"]])
def test_the_command_starts(command: list[str]) -> None:
    program = PROGRAM.partition("from identity_client")[0] + (
        f"from identity_client.cli import main\nsys.argv[1:] = {command}\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
