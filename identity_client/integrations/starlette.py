"""Starlette and FastAPI: a lifespan that starts the service, and where requests find it.

The service of an application is ``app.state.identity``: set by the lifespan, by the first request
where the lifespan does not run (a test client without ``with``), or by the application itself, as
tests do with a fake.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio.to_thread
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError, NotReadyError
from ..service import IdentityBootstrapService
from ._shared import readiness, release_service, shared_service

__all__ = ["get_identity", "identity_lifespan", "identity_routes"]

State = Mapping[str, Any]
Lifespan = Callable[[Any], AbstractAsyncContextManager[State | None]]


def identity_lifespan(
    inner: Lifespan | None = None,
    *,
    config: IdentityBootstrapConfig | None = None,
    wait: float | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[State]]:
    """Return a lifespan that starts the service with the application, and closes it with it.

    It never blocks the event loop. The service is ``app.state.identity``, and in requests
    ``request.state.identity`` as well, which mounted applications see, too. One that is in
    ``app.state`` before is started and used, and not closed.

    Args:
        inner: another lifespan, which runs within this one; its state is kept.
        config: the settings; None to read them from the environment when the application starts.
        wait: seconds to wait for a first token before requests are served, 0 or more; without a
            token the application does not start. None to serve requests at once.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[State]:
        async with _running_service(app, config, wait) as service:
            context = nullcontext() if inner is None else inner(app)
            async with context as state:
                yield {**(state or {}), "identity": service}

    return lifespan


async def get_identity(connection: HTTPConnection) -> IdentityBootstrapService:
    """Return the service of a request's application; a dependency for FastAPI.

    Where no lifespan made one, it is made of the environment's settings.

    Raises:
        ConfigurationError: that is so, and settings are missing or cannot be used.
    """
    app = connection.app
    service: IdentityBootstrapService | None = getattr(app.state, "identity", None)
    service = service or getattr(connection.state, "identity", None)
    if service is None:
        service = app.state.identity = _service_of_environment(app)
    return service


def identity_routes(path: str = "/ready", *, strict: bool = False) -> list[BaseRoute]:
    """Return the route for readiness probes, for ``Starlette(routes=…)`` or ``FastAPI(routes=…)``.

    It responds with 503 until there was a first token, and when the service has failed; with 200
    otherwise, also in an outage. The state is in its JSON document.

    Args:
        path: the path of the route.
        strict: whether it is 503 as well while there is no usable token.
    """

    async def ready(request: Request) -> JSONResponse:
        status, document = readiness(await get_identity(request), strict=strict)
        return JSONResponse(document, status, {"Cache-Control": "no-store"})

    return [Route(path, ready, include_in_schema=False)]


class _Lifespan:
    """One run of a lifespan, as a holder of its service."""


@asynccontextmanager
async def _running_service(
    app: Any, config: IdentityBootstrapConfig | None, wait: float | None
) -> AsyncGenerator[IdentityBootstrapService]:
    service = getattr(app.state, "identity", None)
    if service is not None:
        await _start(service, wait)
        yield service
        return
    holder = _Lifespan()
    config = config or IdentityBootstrapConfig.from_env()
    service = app.state.identity = await anyio.to_thread.run_sync(shared_service, config, holder)
    try:
        await _start(service, wait)
        yield service
    finally:
        is_in_place = getattr(app.state, "identity", None) is service
        if is_in_place:  # the application may have replaced it
            del app.state.identity
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(release_service, service, holder)


async def _start(service: IdentityBootstrapService, wait: float | None) -> None:
    service.start(validate=False)
    if wait is None or await anyio.to_thread.run_sync(service.wait_for_ready, wait):
        return
    cause = service.status().last_error or "an attempt is under way"
    raise NotReadyError(
        f"the application does not start: no access token within {wait:g} s: {cause}"
    )


def _service_of_environment(app: Any) -> IdentityBootstrapService:
    try:
        return shared_service(IdentityBootstrapConfig.from_env(), app)
    except ConfigurationError as error:
        raise ConfigurationError(
            "the application has no identity service: its lifespan did not run, and the "
            f"environment has no settings that can be used ({error.message}); pass "
            "identity_lifespan() to the application and use its test client in a `with` "
            "statement, or set app.state.identity",
            problems=error.problems,
        ) from None
