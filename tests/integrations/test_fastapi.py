"""FastAPI: the dependency, and the example under uvicorn as its users run it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.testclient import TestClient
from support.examples import EXAMPLES, lines_of_glue, run_tests_of
from support.resource import ProtectedResource
from support.restarts import restarted
from support.services import INTERNAL_TOKEN, MakeService
from support.uvicorn_server import UvicornServer

from identity_client.integrations.fastapi import (
    Identity,
    get_identity,
    identity_lifespan,
    identity_routes,
)
from identity_client.server import IdentityServer

Run = Callable[..., UvicornServer]


@pytest.fixture
def run(api: IdentityServer, resource: ProtectedResource, tmp_path: Path) -> Run:
    """Runs the example; its processes share one registration."""
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(EXAMPLES / "fastapi" / "main.py", folder)
    environment = {
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_BASE_RETRY_DELAY": "0.2",
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "INVENTORY_URL": resource.url,
        "SERVICE_NAME": "orders",
    }

    def run(options: str = "", **settings: str) -> UvicornServer:
        options = options.format(folder=folder)
        return UvicornServer(folder, options, environment | settings, tmp_path / "log")

    return run


def application(**options: Any) -> FastAPI:
    app = FastAPI(routes=identity_routes(), **options)

    @app.get("/token")
    async def token(identity: Identity) -> str:
        return await identity.aget_access_token()

    @app.get("/blocking")
    def blocking(identity: Identity) -> str:
        return identity.get_access_token()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, identity: Identity) -> None:
        await websocket.accept()
        await websocket.send_text(await identity.aget_access_token())
        await websocket.close()

    return app


def test_endpoints_of_each_kind_get_the_service(
    api: IdentityServer, make_service: MakeService
) -> None:
    app = application(lifespan=identity_lifespan())
    app.state.identity = make_service(api)
    with TestClient(app) as client:
        token = client.get("/token").json()
        assert client.get("/blocking").json() == token
        with client.websocket_connect("/socket") as websocket:
            assert websocket.receive_text() == token
        assert client.get("/ready").status_code == 200
        assert "/ready" not in client.get("/openapi.json").json()["paths"]


def test_a_test_replaces_the_service_of_endpoints(
    api: IdentityServer, make_service: MakeService
) -> None:
    app = application()
    service = make_service(api)
    app.dependency_overrides[get_identity] = lambda: service
    assert TestClient(app).get("/token").json() == service.get_access_token()


def test_the_lifespan_of_an_included_router_is_merged(
    api: IdentityServer, make_service: MakeService
) -> None:
    app = application(lifespan=identity_lifespan())
    app.state.identity = make_service(api)
    app.include_router(APIRouter(lifespan=identity_lifespan()), prefix="/included")
    with TestClient(app) as client:
        assert client.get("/token").is_success


def test_two_workers_of_uvicorn_answer_with_one_registration(run: Run, api: IdentityServer) -> None:
    with run("--workers=2") as server:
        server.pids_of_all(2)
    assert api.backend.requests["register"] == 1
    assert api.backend.requests["token"] == 2


def test_the_reloader_makes_no_request_and_a_reload_does_not_register(
    run: Run, api: IdentityServer, tmp_path: Path
) -> None:
    with run("--reload --reload-dir={folder}") as server:
        before = server.pids_of_all(1)
        assert api.backend.requests["register"] == 1
        assert api.backend.requests["token"] == 1
        with (tmp_path / "app" / "main.py").open("a") as source:
            source.write("\n# changed\n")
        after = _pids_after_reload(server)
        assert not before & after
    assert api.backend.requests["register"] == 1
    assert api.backend.requests["token"] == 2


def _pids_after_reload(server: UvicornServer) -> set[int]:
    """Wait for the second process, then ask: one that ends drops requests that it has not read."""
    deadline = time.monotonic() + 60
    while server.log.count("Started server process") < 2:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.1)
    return server.pids_of_all(1)


def test_while_identity_api_hangs_at_boot_the_application_is_live_and_not_ready(
    run: Run, api: IdentityServer
) -> None:
    api.backend.change(api_latency=30.0)
    with run(IDENTITY_REQUEST_TIMEOUT="8") as server:
        began = time.monotonic()
        assert server.get("/live").status_code == 200
        assert server.get("/ready").status_code == 503
        assert time.monotonic() - began < 5.0  # neither waited for the registration
        api.backend.change(api_latency=0.0)
        assert server.wait_for("/ready").json()["state"] == "READY"
        server.ask()


def test_no_request_fails_while_identity_api_is_down_and_the_secret_rotates(
    run: Run, api: IdentityServer
) -> None:
    api.backend.change(token_lifetime=10.0)
    # A refresh at half of the lifetime leaves a slow machine four seconds.
    with run("--workers=2", IDENTITY_REFRESH_RATIO="0.5") as server:
        server.pids_of_all(2)
        api.backend.change(api_outage=True, token_outage=True)
        for _ in range(5):
            server.ask()
        api.backend.rotate_secret("orders")
        api.backend.change(api_outage=False, token_outage=False)
        _ask_until_all_tokens_are_refreshed(server)


def _ask_until_all_tokens_are_refreshed(server: UvicornServer) -> None:
    end = time.monotonic() + 12.0  # they live for 10 s
    while time.monotonic() < end:
        server.ask()


def test_no_request_fails_while_identity_api_restarts(run: Run, api: IdentityServer) -> None:
    api.backend.change(token_lifetime=10.0)
    # A refresh at half of the lifetime leaves a slow machine four seconds.
    with run("--workers=2", IDENTITY_REFRESH_RATIO="0.5") as server:
        server.pids_of_all(2)
        with restarted(api, while_stopped=server.ask):
            before = api.backend.requests["token"]
            _ask_until_all_tokens_are_refreshed(server)
            assert api.backend.requests["token"] >= before + 2
    assert api.backend.requests["register"] == 1


def test_without_settings_the_server_ends_with_what_is_missing(run: Run) -> None:
    server = run(SERVICE_NAME="")
    assert server.run_to_end() != 0
    assert "SERVICE_NAME" in server.log
    assert "Application startup failed" in server.log


def test_the_example_has_three_lines_of_glue() -> None:
    lines = lines_of_glue("fastapi/main.py", "fastapi")
    assert len(lines) == 3, lines


def test_the_example_passes_its_own_tests() -> None:
    run_tests_of("fastapi")
