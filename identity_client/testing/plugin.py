"""The pytest plugin: fixtures for applications that use this package.

pytest loads this module in every run, so it imports nothing else of the package until a test
asks for a fixture. ``-p no:identity_client`` switches it off.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from identity_client import IdentityBootstrapService
    from identity_client.testing import FakeIdentityService, IdentityServer

_WORKERS = "identity-client "  # how the names of the threads begin
_TIME_TO_END = 1.0


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for ``--strict-markers``."""
    config.addinivalue_line(
        "markers",
        "identity(**settings): settings of the fixtures of identity_client: those of "
        "IdentityBootstrapConfig, token_lifetime, claims (fake_identity), and the faults of "
        "IdentityServer.change().",
    )


@pytest.fixture
def identity_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings from ``@pytest.mark.identity(...)``; override it to set some for many tests."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("identity"))):
        if marker.args:
            raise pytest.UsageError("@pytest.mark.identity takes keyword arguments only")
        settings.update(marker.kwargs)
    return settings


@pytest.fixture
def identity_server(identity_settings: dict[str, Any]) -> Iterator[IdentityServer]:
    """An identity-api with a token endpoint: real HTTP on a free port of loopback.

    Needs ``pip install "xemahq-identity-client[testing]"``.
    """
    from identity_client.testing import IdentityServer

    names = IdentityServer.setting_names()
    with IdentityServer(**{k: v for k, v in identity_settings.items() if k in names}) as server:
        yield server


@pytest.fixture
def identity_service(
    request: pytest.FixtureRequest,
    identity_server: IdentityServer,
    identity_settings: dict[str, Any],
) -> Iterator[IdentityBootstrapService]:
    """A real service that registers with ``identity_server``; it starts when it is first used."""
    _look_for_threads_last(request)
    service = identity_server.service(**_service_settings(identity_server, identity_settings))
    yield service
    service.close()


@pytest.fixture
def identity_environment(
    request: pytest.FixtureRequest,
    identity_server: IdentityServer,
    identity_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """The environment variables of an application that registers with ``identity_server``.

    They are set, and all other variables of the package are unset, until the test is over.
    """
    from identity_client.testing._settings import is_variable

    _look_for_threads_last(request)
    for name in filter(is_variable, list(os.environ)):
        monkeypatch.delenv(name)
    settings = _service_settings(identity_server, identity_settings)
    environment = identity_server.environment(**settings)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def fake_identity(identity_settings: dict[str, Any]) -> Iterator[FakeIdentityService]:
    """A service without network and threads, whose time stands still; not started yet."""
    from identity_client.testing import FakeIdentityService

    service = FakeIdentityService(**identity_settings)
    yield service
    service.close()


@pytest.fixture
def no_identity_threads() -> Iterator[None]:
    """Fail a test that leaves a service running.

    For all tests, write ``usefixtures = no_identity_threads`` in ``pytest.ini``. Among a test's
    arguments, it comes before fixtures of your own that start a service without
    ``identity_environment`` or ``identity_service``.
    """
    before = set(threading.enumerate())
    yield
    started = (thread for thread in threading.enumerate() if thread not in before)
    services = [thread for thread in started if thread.name.startswith(_WORKERS)]
    for thread in services:
        thread.join(_TIME_TO_END)  # that of a service that was only forgotten ends by itself
    running = [thread.name.removeprefix(_WORKERS) for thread in services if thread.is_alive()]
    if running:
        pytest.fail(
            f"services are still running: {', '.join(running)}; close() them, or use 'with'",
            pytrace=False,
        )


def _look_for_threads_last(request: pytest.FixtureRequest) -> None:
    """Set up ``no_identity_threads`` first if a test uses it, in whatever order it names them."""
    if "no_identity_threads" in request.fixturenames:
        request.getfixturevalue("no_identity_threads")


def _service_settings(server: IdentityServer, settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k not in server.setting_names()}
