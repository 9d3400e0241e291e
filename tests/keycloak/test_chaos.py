"""Faults on the way between the package and both servers; see `support.toxiproxy.FAULTS`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.keycloak import Realm
from support.load import Load
from support.services import INTERNAL_TOKEN, MakeService
from support.toxiproxy import FAULTS, Proxy, Toxiproxy
from support.watched import Watched

from identity_client import EventKind, ServiceState
from identity_client.server import AppServer, IdentityServer, ServerSettings, create_app

# Of tokens that live 10 s: one comes after 8.55 s at the latest, and is used for 9 s.
LIFETIME = 10
LONGER_THAN_A_TOKEN_LIVES = 12.0

# Faults that make requests slow, and let them through.
MILD_FAULTS = ("latency", "bandwidth", "slow close")


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    with Toxiproxy() as server:
        yield server


@pytest.fixture
def embedded(toxiproxy: Toxiproxy) -> Iterator[tuple[str, Proxy]]:
    """The address of the embedded server behind a proxy, and that."""
    with IdentityServer(INTERNAL_TOKEN, settings=ServerSettings(token_lifetime=LIFETIME)) as server:
        proxy = toxiproxy.between(f"embedded-{time.time_ns()}", server.url)
        yield proxy.url, proxy


@pytest.fixture
def on_keycloak(toxiproxy: Toxiproxy, realm: Realm) -> Iterator[tuple[str, Proxy]]:
    """The address of an identity-api, and the proxy in front of its Keycloak."""
    proxy = toxiproxy.between(realm.name, realm.admin.url)
    with AppServer(create_app(INTERNAL_TOKEN, realm.backend(url=proxy.url))) as server:
        yield server.url, proxy


@pytest.fixture(params=["embedded", "on_keycloak"])
def way(request: pytest.FixtureRequest) -> tuple[str, Proxy]:
    """The address of an identity-api, and the proxy in front of its token endpoint."""
    found: tuple[str, Proxy] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def ready(way: tuple[str, Proxy], make_service: MakeService, fault: str) -> tuple[Watched, Proxy]:
    """A service that has a token, and the proxy that it came through."""
    url, proxy = way
    # Of a busy machine, too, no request may fail that a mild fault has made slow.
    timeout = 8.0 if fault in MILD_FAULTS else 2.0
    service = make_service(url, request_timeout=timeout, base_retry_delay=0.5, max_retry_delay=2.0)
    seen = Watched(service)
    assert service.wait_for_ready(20)
    return seen, proxy


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "nothing"])
def test_no_usable_token_is_kept_back_and_no_expired_one_served(
    ready: tuple[Watched, Proxy], fault: str
) -> None:
    seen, proxy = ready
    service = seen.service
    with Load(service) as load:
        proxy.infect(fault)
        time.sleep(LONGER_THAN_A_TOKEN_LIVES)
        proxy.infect("nothing")
        seen.wait_for(EventKind.TOKEN_ISSUED, 2)
    assert (load.seen.failed_with_usable_token, load.seen.expired) == (0, 0), load.seen
    # It was out of reach for a while, and asked for with pauses of a quarter of a second at least.
    status = service.status()
    assert status.tokens_issued + status.token_requests_failed <= 2 + 4 * LONGER_THAN_A_TOKEN_LIVES
    assert status.registrations == 1
    if fault in MILD_FAULTS:
        assert load.seen.failed == 0
        assert status.state is ServiceState.READY
    else:
        assert load.seen.failed > 0
