"""Starlette: the lifespan, the service of a request, and the route for probes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import (
    ConfigurationError,
    IdentityBootstrapConfig,
    NotReadyError,
    ServiceState,
)
from identity_client.integrations._shared import release_service, shared_service
from identity_client.integrations.starlette import get_identity, identity_lifespan, identity_routes
from identity_client.server import IdentityServer

Backend = Literal["asyncio", "trio"]
MakeApp = Callable[..., Starlette]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


@pytest.fixture
def environment(api: IdentityServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "IDENTITY_BASE_RETRY_DELAY": "0.05",
        "IDENTITY_MAX_RETRY_DELAY": "0.2",
        "SERVICE_NAME": "orders",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["registration", "pre-configured"])
def hanging_api(
    environment: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """An identity-api, or a token endpoint, that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("IDENTITY_API_URL", url)
        if request.param == "pre-configured":
            monkeypatch.setenv("SERVICE_CLIENT_ID", "orders")
            monkeypatch.setenv("SERVICE_CLIENT_SECRET", "a-secret")
            monkeypatch.setenv("SERVICE_TOKEN_ENDPOINT", f"{url}/token")
        yield


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Makes applications that respond with a token; what they keep is closed after the test."""
    made = []

    async def token(request: Request) -> PlainTextResponse:
        identity = await get_identity(request)
        return PlainTextResponse(await identity.aget_access_token())

    def make(*routes: Mount, **options: Any) -> Starlette:
        routes_of_all = [Route("/token", token), *identity_routes(), *routes]
        made.append(Starlette(routes=routes_of_all, **options))
        return made[-1]

    yield make
    for app in made:
        if hasattr(app.state, "identity"):
            app.state.identity.close()


def test_the_service_runs_as_long_as_the_application(
    environment: None, api: IdentityServer, make_app: MakeApp, backend: Backend
) -> None:
    app = make_app(lifespan=identity_lifespan(wait=10))
    assert not api.backend.requests
    with TestClient(app, backend=backend) as client:
        service = app.state.identity
        assert api.backend.requests["token"] == 1  # it waited
        assert client.get("/token").text == service.get_access_token()
    assert service.status().state is ServiceState.CLOSED
    assert not hasattr(app.state, "identity")
    with TestClient(app, backend=backend) as client:
        assert client.get("/token").is_success


def test_a_client_without_a_lifespan_starts_the_service_with_its_first_request(
    environment: None, api: IdentityServer, make_app: MakeApp
) -> None:
    app = make_app(lifespan=identity_lifespan())
    client = TestClient(app)
    assert not api.backend.requests
    assert client.get("/token").text == client.get("/token").text
    assert client.get("/ready").status_code == 200
    assert api.backend.requests["register"] == 1


def test_without_a_lifespan_and_without_settings_the_error_says_what_to_do(
    make_app: MakeApp,
) -> None:
    with pytest.raises(ConfigurationError, match=r"its lifespan did not run.*SERVICE_NAME") as info:
        TestClient(make_app()).get("/token")
    assert "set app.state.identity" in info.value.message
    assert info.value.problems


def test_the_service_that_an_application_sets_is_used_and_not_closed(
    api: IdentityServer, make_app: MakeApp, make_service: MakeService
) -> None:
    service = make_service(api)
    app = make_app(lifespan=identity_lifespan())
    app.state.identity = service
    with TestClient(app) as client:
        assert client.get("/token").text == service.get_access_token()
    assert TestClient(app).get("/token").text == service.get_access_token()
    assert app.state.identity is service


def test_a_mounted_application_has_the_service_of_the_one_around_it(
    api: IdentityServer, make_app: MakeApp, make_service: MakeService
) -> None:
    config = IdentityBootstrapConfig(
        service_name="orders", identity_api_url=api.url, identity_api_internal_token=INTERNAL_TOKEN
    )
    sub = make_app()
    app = make_app(Mount("/sub", sub), lifespan=identity_lifespan(config=config))
    with TestClient(app) as client:
        assert client.get("/sub/token").text == client.get("/token").text
        assert client.get("/sub/ready").json()["service"] == "orders"
        assert not hasattr(sub.state, "identity")
    assert api.backend.requests["register"] == 1


def test_another_lifespan_runs_within_and_keeps_its_state(
    environment: None, make_app: MakeApp
) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def inner(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
        seen.append(await app.state.identity.aget_access_token())
        yield {"database": "a database"}
        seen.append(app.state.identity.peek_token())

    app = make_app(lifespan=identity_lifespan(inner))

    async def show(request: Request) -> PlainTextResponse:
        assert request.state.identity is app.state.identity
        return PlainTextResponse(request.state.database)

    app.router.routes.append(Route("/show", show))
    with TestClient(app) as client:
        assert client.get("/show").text == "a database"
    assert seen[0]
    assert seen[1].value == seen[0]  # it ends before the service does


def test_two_lifespans_share_a_service_until_the_last_one_ends(
    environment: None, api: IdentityServer, make_app: MakeApp
) -> None:
    first, second = make_app(lifespan=identity_lifespan()), make_app(lifespan=identity_lifespan())
    with TestClient(first) as client:
        token = client.get("/token").text
        with TestClient(second) as other:
            assert other.get("/token").text == token
            service = second.state.identity
        assert client.get("/token").text == token
    assert service.status().state is ServiceState.CLOSED
    assert api.backend.requests["register"] == 1


def test_a_lifespan_leaves_a_service_open_that_another_application_holds(
    environment: None, make_app: MakeApp
) -> None:
    held = shared_service(IdentityBootstrapConfig.from_env(), make_app)
    with TestClient(make_app(lifespan=identity_lifespan())) as client:
        assert client.get("/token").text == held.get_access_token()
    assert held.get_access_token()
    release_service(held, make_app)
    assert held.status().state is ServiceState.CLOSED


def test_two_lifespans_of_one_application_are_one(environment: None, make_app: MakeApp) -> None:
    app = make_app(lifespan=identity_lifespan(identity_lifespan()))
    with TestClient(app) as client:
        assert client.get("/token").is_success
        service = app.state.identity
    assert service.status().state is ServiceState.CLOSED


def test_the_application_serves_requests_while_identity_api_hangs(
    hanging_api: None, make_app: MakeApp, backend: Backend
) -> None:
    began = time.monotonic()
    app = make_app(lifespan=identity_lifespan())
    with TestClient(app, backend=backend) as client:
        response = client.get("/ready")
        assert response.status_code == 503
        assert response.json()["state"] == "PENDING"
        assert response.headers["Cache-Control"] == "no-store"
        assert INTERNAL_TOKEN not in response.text
    assert time.monotonic() - began < 9.0  # the request to identity-api takes 10 s to time out


def test_closing_does_not_block_the_loop(hanging_api: None, make_app: MakeApp) -> None:
    app = make_app()
    ticks = 0

    async def main() -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            async with identity_lifespan()(app):
                while not app.state.identity._cache.in_flight:
                    await anyio.sleep(0.01)
                before = ticks
            during = ticks - before
            tasks.cancel_scope.cancel()
        return during

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.005)
            ticks += 1

    assert anyio.run(main) >= 10  # closing waits a second for the request


def test_an_application_that_must_wait_does_not_start_without_a_token(
    hanging_api: None, make_app: MakeApp
) -> None:
    app = make_app(lifespan=identity_lifespan(wait=0.2))
    expected = r"does not start: no access token within 0\.2 s: an attempt is under way"
    with pytest.raises(NotReadyError, match=expected), TestClient(app):
        pass
    assert not hasattr(app.state, "identity")


def test_why_there_is_no_token_is_in_the_error(
    environment: None, api: IdentityServer, make_app: MakeApp
) -> None:
    api.backend.change(api_outage=True)
    app = make_app(lifespan=identity_lifespan(wait=3))
    with pytest.raises(NotReadyError, match="simulated outage"), TestClient(app):
        pass


def test_an_application_whose_settings_are_missing_does_not_start(make_app: MakeApp) -> None:
    app = make_app(lifespan=identity_lifespan())
    with pytest.raises(ConfigurationError, match="SERVICE_NAME"), TestClient(app):
        pass


@pytest.mark.parametrize("strict", [False, True])
def test_in_an_outage_the_probe_fails_only_when_it_is_strict(
    strict: bool, environment: None, api: IdentityServer
) -> None:
    api.backend.change(token_lifetime=4.0)
    app = Starlette(
        routes=identity_routes("/health", strict=strict), lifespan=identity_lifespan(wait=10)
    )
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        api.backend.change(token_outage=True)
        deadline = time.monotonic() + 30
        while (response := client.get("/health")).json()["state"] != "UNAVAILABLE":
            assert time.monotonic() < deadline
        assert response.status_code == (503 if strict else 200)


def test_no_thread_is_left(environment: None, make_app: MakeApp, backend: Backend) -> None:
    with TestClient(make_app(lifespan=identity_lifespan()), backend=backend) as client:
        assert client.get("/token").is_success
    deadline = time.monotonic() + 5
    while left := [each for each in threading.enumerate() if "identity-client" in each.name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.mark.usefixtures("environment")
def test_an_application_may_replace_its_service_while_it_runs() -> None:
    app = Starlette(lifespan=identity_lifespan())
    with TestClient(app):
        started, app.state.identity = app.state.identity, "another"
    assert started.status().state is ServiceState.CLOSED
    assert app.state.identity == "another"
