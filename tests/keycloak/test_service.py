"""The package against a real Keycloak, through all that can happen to a client and its realm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from support.clock import FakeClock
from support.keycloak import Keycloak, Realm
from support.load import Load
from support.services import MakeService
from support.watched import Watched

from identity_client import (
    EventKind,
    ServiceState,
)
from identity_client.server import AppServer

HARD_SECRET = "a+b/c%d:e&f ü"


@pytest.fixture
def watched(served: AppServer, make_service: MakeService) -> Callable[..., Watched]:
    """Makes a service that is registered through identity-api."""

    def make(**settings: Any) -> Watched:
        return Watched(make_service(served.url, **settings))

    return make


def verified(realm: Realm, token: str) -> dict[str, Any]:
    """Verify a token as a resource server would, and return its claims."""
    claims = realm.claims(token)
    assert claims["iss"] == realm.issuer
    assert claims["azp"] == "orders"
    assert "micro-service" in claims["realm_access"]["roles"]
    assert claims["exp"] > time.time()
    return claims


def renewed(watched: Watched) -> str:
    """Give the current token up, and get another."""
    watched.service.invalidate_token(watched.service.get_access_token(), was_accepted=True)
    return watched.service.get_access_token()


def test_a_first_registration_brings_a_token(realm: Realm, watched: Callable[..., Watched]) -> None:
    service = watched().service
    verified(realm, service.get_access_token())
    assert (service.status().registrations, service.status().secrets_regenerated) == (1, 0)


def test_an_existing_client_gets_a_new_secret(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    watched().service.get_access_token()
    before = realm.client("orders")["secret"]
    second = watched().service
    verified(realm, second.get_access_token())
    assert second.status().secrets_regenerated == 1
    assert realm.client("orders")["secret"] != before


def test_a_disabled_client_is_served_again_once_it_is_enabled(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    realm.change(accessTokenLifespan=300)  # usable all the while, however slow Keycloak is
    seen = watched()
    seen.service.get_access_token()
    realm.change_client("orders", enabled=False)
    token = seen.service.get_access_token()
    seen.service.invalidate_token(token)
    seen.wait_for(EventKind.CREDENTIALS_REJECTED)
    assert seen.service.get_access_token(3) == token  # no other one can be had
    issued = seen.service.status().tokens_issued
    realm.change_client("orders", enabled=True)
    seen.wait_for(EventKind.TOKEN_ISSUED, issued + 1)
    verified(realm, seen.service.get_access_token())


def test_a_deleted_client_is_registered_again(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    seen = watched()
    seen.service.get_access_token()
    realm.delete_client("orders")
    verified(realm, renewed(seen))
    status = seen.service.status()
    assert (status.registrations, status.secrets_regenerated) == (2, 0)


def test_a_deleted_realm_is_waited_for(realm: Realm, watched: Callable[..., Watched]) -> None:
    realm.change(accessTokenLifespan=300)  # usable all the while, however slow Keycloak is
    seen = watched()
    old = seen.service.get_access_token()
    realm.delete()
    seen.service.invalidate_token(old)
    assert seen.service.get_access_token(10) == old  # no other one can be had
    status = seen.service.status()
    assert status.state is ServiceState.DEGRADED
    assert "Realm does not exist" in (status.last_error or "")
    realm.create()
    seen.wait_for(EventKind.TOKEN_ISSUED, 2)
    verified(realm, seen.service.get_access_token())
    assert seen.service.status().registrations == 2


def test_a_secret_that_is_rotated_in_the_admin_api_is_followed(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    seen = watched()
    seen.service.get_access_token()
    realm.rotate_secret("orders")
    with Load(seen.service, threads=4) as load:
        seen.wait_for(EventKind.TOKEN_ISSUED, 2)
    assert (load.seen.failed, load.seen.expired) == (0, 0)
    verified(realm, seen.service.get_access_token())
    assert seen.service.status().secrets_regenerated == 1


@pytest.fixture
def rotation_policy(realm: Realm) -> None:
    """A policy by which a rotated secret goes on working for 6 s."""
    realm.admin.call(
        "PUT",
        f"/{realm.name}/client-policies/profiles",
        {
            "profiles": [
                {
                    "name": "rotation",
                    "executors": [
                        {
                            "executor": "secret-rotation",
                            "configuration": {
                                "expiration-period": 3600,
                                "rotated-expiration-period": 6,
                                "remaining-rotation-period": 600,
                            },
                        }
                    ],
                }
            ]
        },
    )
    realm.admin.call(
        "PUT",
        f"/{realm.name}/client-policies/policies",
        {
            "policies": [
                {
                    "name": "rotation",
                    "enabled": True,
                    "conditions": [
                        {
                            "condition": "client-access-type",
                            "configuration": {"type": ["confidential"]},
                        }
                    ],
                    "profiles": ["rotation"],
                }
            ]
        },
    )


@pytest.mark.usefixtures("rotation_policy")
def test_a_secret_that_the_rotation_policy_keeps_for_a_while_is_used_as_long_as_it_works(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    seen = watched()
    seen.service.get_access_token()
    rotated_at = time.monotonic()
    realm.rotate_secret("orders")
    verified(realm, renewed(seen))
    assert seen.service.status().registrations == 1
    with Load(seen.service, threads=4) as load:
        seen.wait_for(EventKind.CREDENTIALS_REJECTED)
        assert time.monotonic() - rotated_at > 6
        issued = seen.service.status().tokens_issued
        seen.wait_for(EventKind.TOKEN_ISSUED, issued + 1)
    assert (load.seen.failed, load.seen.expired) == (0, 0)
    verified(realm, seen.service.get_access_token())
    assert seen.service.status().secrets_regenerated == 1


@pytest.mark.parametrize("lifetime", [10, 60, 300])
def test_a_token_is_replaced_before_its_end(
    realm: Realm, watched: Callable[..., Watched], lifetime: int
) -> None:
    realm.change(accessTokenLifespan=lifetime)
    clock = FakeClock()
    seen = watched(clock=clock)
    first = seen.service.get_access_token()
    assert verified(realm, first)["exp"] - time.time() <= lifetime
    leeway = max(1.0, min(10.0, lifetime * 0.05))
    # Keycloak subtracts the second that has begun meanwhile.
    assert seen.service.status().token_expires_in == pytest.approx(lifetime - leeway, abs=1.5)
    clock.advance(lifetime * 0.42)
    assert seen.service.get_access_token() == first
    clock.advance(lifetime * 0.481)
    seen.wait_for(EventKind.TOKEN_ISSUED, 2)
    second = seen.service.get_access_token()
    assert second != first
    verified(realm, second)


def test_a_lifespan_that_changes_is_followed_from_the_next_token_on(
    realm: Realm, watched: Callable[..., Watched]
) -> None:
    clock = FakeClock()
    seen = watched(clock=clock)
    for number, (lifetime, usable) in enumerate(((60, 57), (300, 290), (10, 9)), 2):
        realm.change(accessTokenLifespan=lifetime)
        seen.service.invalidate_token(seen.service.get_access_token(), was_accepted=True)
        verified(realm, seen.service.get_access_token())
        assert seen.service.status().token_expires_in == pytest.approx(usable, abs=1.5)
        assert seen.service.status().tokens_issued == number


@pytest.mark.parametrize("skew", [-3600.0, 3600.0], ids=["an hour behind", "an hour ahead"])
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(
    realm: Realm, watched: Callable[..., Watched], skew: float
) -> None:
    class Skewed(FakeClock):
        def time(self) -> float:
            return time.time() + skew

    clock = Skewed()
    seen = watched(clock=clock)
    first = seen.service.get_access_token()
    verified(realm, first)
    clock.advance(8.6)
    seen.wait_for(EventKind.TOKEN_ISSUED, 2)
    verified(realm, seen.service.get_access_token())
    assert seen.service.status().token_requests_failed == 0


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize("secret", [None, HARD_SECRET], ids=["Keycloak's", "a hard one"])
def test_both_ways_to_authenticate_work_with_any_secret(
    realm: Realm,
    watched: Callable[..., Watched],
    make_service: MakeService,
    method: str,
    secret: str | None,
) -> None:
    realm.change(accessTokenLifespan=300)  # so that this service does not refresh meanwhile
    watched().service.get_access_token()
    if secret is not None:
        realm.change_client("orders", secret=secret)
    service = make_service(
        "http://127.0.0.1:9",
        client_id="orders",
        client_secret=realm.client("orders")["secret"],
        token_endpoint=realm.token_endpoint,
        token_endpoint_auth_method=method,
    )
    verified(realm, service.get_access_token())


def test_wrong_secrets_lock_nobody_out(realm: Realm, watched: Callable[..., Watched]) -> None:
    # The realm locks users out after two failures; clients are no users to it.
    seen = watched()
    seen.service.get_access_token()
    form = {"grant_type": "client_credentials", "client_id": "orders", "client_secret": "wrong"}
    for _ in range(20):
        assert requests.post(realm.token_endpoint, data=form, timeout=30).status_code == 401
    verified(realm, renewed(seen))
    assert seen.service.status().token_requests_failed == 0


def test_a_wrong_internal_token_is_told(served: AppServer, make_service: MakeService) -> None:
    service = make_service(
        served.url, identity_api_internal_token="wrong", max_registration_attempts=1
    )
    assert not service.wait_for_ready(10)
    assert "401" in (service.status().last_error or "")


def test_keycloak_is_restarted_under_load(
    keycloak: Keycloak, realm: Realm, watched: Callable[..., Watched]
) -> None:
    seen = watched()
    verified(realm, seen.service.get_access_token())
    with Load(seen.service, threads=16) as load:
        keycloak.stop()
        seen.wait_for(EventKind.TOKEN_REQUEST_FAILED)
        keycloak.start()
        issued = seen.service.status().tokens_issued
        seen.wait_for(EventKind.TOKEN_ISSUED, issued + 1)
        verified(realm, seen.service.get_access_token())
    assert load.seen.calls > 1000
    assert (load.seen.failed_with_usable_token, load.seen.expired) == (0, 0)
    assert set(load.seen.failures) <= {"TokenEndpointError", "NotReadyError"}
    assert seen.service.status().registrations == 1
