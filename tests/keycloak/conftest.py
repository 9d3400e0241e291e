"""A Keycloak for the whole run, and a realm of its own for every test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from support.environments import EmbeddedEnvironment, IdentityEnvironment, KeycloakEnvironment
from support.keycloak import Admin, Keycloak, Realm
from support.services import INTERNAL_TOKEN

from identity_client.server import AppServer, create_app


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """A Keycloak that can be stopped and started again."""
    if "KEYCLOAK_URL" in os.environ:
        pytest.skip("the Keycloak of KEYCLOAK_URL is not to be stopped")
    server = Keycloak(tmp_path_factory.mktemp("keycloak"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def admin(request: pytest.FixtureRequest) -> Admin:
    """The admin API of Keycloak: of the one at KEYCLOAK_URL, or of one that is started."""
    if "KEYCLOAK_URL" in os.environ:
        return Admin.from_env()
    started: Keycloak = request.getfixturevalue("keycloak")
    return started.admin


@pytest.fixture
def realm(admin: Admin) -> Iterator[Realm]:
    """A realm that nobody else uses."""
    made = Realm(admin, f"xema-{uuid.uuid4().hex[:8]}")
    made.create()
    yield made
    made.delete()


@pytest.fixture
def served(realm: Realm) -> Iterator[AppServer]:
    """An identity-api in front of the realm."""
    with AppServer(create_app(INTERNAL_TOKEN, realm.backend())) as server:
        yield server


@pytest.fixture(params=["embedded", "keycloak"])
def environment(request: pytest.FixtureRequest) -> IdentityEnvironment:
    """The embedded server, or one in front of Keycloak."""
    if request.param == "embedded":
        return EmbeddedEnvironment(request.getfixturevalue("api"))
    return KeycloakEnvironment(request.getfixturevalue("served"), request.getfixturevalue("realm"))
