"""gunicorn: its worker classes, with the service made before the fork and after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.deployment import WORKERS, DeploymentContract, Run
from support.deployment import WebDeployment
from support.services import INTERNAL_TOKEN

from identity_client import IdentityApiClient
from identity_client.server import IdentityServer


@pytest.fixture(
    params=[
        pytest.param("--worker-class=sync", id="sync"),
        pytest.param("--worker-class=gthread --threads=4", id="gthread"),
        pytest.param("--worker-class=gevent", id="gevent"),
    ]
)
def worker_class(request: pytest.FixtureRequest) -> str:
    options: str = request.param
    return options


@pytest.fixture(params=["", "--preload"], ids=["loaded after the fork", "preloaded"])
def loaded(request: pytest.FixtureRequest) -> str:
    option: str = request.param
    return option


@pytest.fixture
def run(worker_class: str, loaded: str, environment: dict[str, str], tmp_path: Path) -> Run:
    def run(workers: int, *, recycle_after: int = 0, **settings: str) -> WebDeployment:
        command = (
            f"gunicorn --bind={{address}} --workers={workers} {worker_class} {loaded} "
            f"--max-requests={recycle_after} deployments.app:application"
        )
        return WebDeployment(command, {**environment, **settings}, tmp_path / "log")

    return run


class TestGunicorn(DeploymentContract):
    """What is true under every server."""


only_sync = pytest.mark.parametrize("worker_class", ["--worker-class=sync"])
only_preloaded = pytest.mark.parametrize("loaded", ["--preload"])


@only_preloaded
def test_workers_inherit_what_was_had_before_the_fork(run: Run, api: IdentityServer) -> None:
    with run(2, IDENTITY_CREDENTIAL_STORE="memory:", WAIT_AT_BOOT="yes") as server:
        server.pids_of_all(2)
    assert api.backend.requests == {"api": 1, "register": 1, "token": 1}


@only_preloaded
@pytest.mark.parametrize(
    "worker_class", ["--worker-class=gevent --config=deployments/gunicorn_patched.py"]
)
def test_a_service_made_after_the_patches_of_gevent_is_inherited(
    run: Run, api: IdentityServer
) -> None:
    api.backend.change(token_latency=1.5)  # longer than a fork waits for the greenlet
    with run(WORKERS) as server:
        server.pids_of_all(WORKERS)
    assert api.backend.requests["register"] == 1
    assert "MonkeyPatchWarning" not in server.log
    assert "failed" not in server.log


@only_sync
def test_credentials_that_are_configured_register_nobody(run: Run, api: IdentityServer) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        given = client.register_service(name="orders", display_name="Orders")
    with run(
        2,
        SERVICE_CLIENT_ID=given.client_id,
        SERVICE_CLIENT_SECRET=given.client_secret,
        SERVICE_TOKEN_ENDPOINT=given.token_endpoint,
    ) as server:
        server.pids_of_all(2)
    assert api.backend.requests["register"] == 1
