"""What is true of a service and of its fake, so that a test with the fake says something."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import pickle
from typing import Any, Protocol

import pytest
import requests

from identity_client import (
    ConfigurationError,
    EventKind,
    IdentityBootstrapService,
    NotReadyError,
    RegistrationError,
    ServiceClosedError,
    ServiceState,
    TokenAuth,
    TokenEndpointError,
)
from identity_client.testing import EventRecorder

LIFETIME = 300.0

PRECONFIGURED = {
    "client_id": "orders",
    "client_secret": "a-client-secret",
    "token_endpoint": "http://127.0.0.1:9/token",
}


class World(Protocol):
    """A service's servers and its time."""

    def make(self, **settings: Any) -> IdentityBootstrapService:
        """Make a service with tokens of 300 s; it is closed after the test."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def expire(self, service: IdentityBootstrapService) -> None:
        """Let the token expire before it is refreshed."""
        ...

    def fail_api(self) -> None:
        """Let identity-api return 503."""
        ...

    def fail_tokens(self) -> None:
        """Let the token endpoint return 503."""
        ...

    def recover(self) -> None:
        """Let both work again."""
        ...


class ServiceContract:
    """The tests; subclasses have a fixture ``world``."""

    # --- tokens ---

    def test_a_new_service_does_nothing_until_it_is_asked(self, world: World) -> None:
        service = world.make()
        status = service.status()
        assert (status.state, status.started, status.tokens_issued) == ("PENDING", False, 0)
        assert service.peek_token() is None
        assert not service.has_credentials()
        assert service.get_client_id() is None

    def test_the_first_call_registers_and_gets_a_token(self, world: World) -> None:
        service = world.make(service_name="billing")
        token = service.get_access_token()
        assert service.get_client_id() == "billing"
        assert service.has_credentials()
        status = service.status()
        assert (status.state, status.started) == (ServiceState.READY, True)
        assert (status.registrations, status.tokens_issued) == (1, 1)
        assert claims_of(token)["azp"] == "billing"

    def test_a_token_is_a_json_web_token_of_its_lifetime(self, world: World) -> None:
        claims = claims_of(world.make().get_access_token())
        assert claims["exp"] - claims["iat"] == LIFETIME
        assert {"iss", "sub", "aud", "jti", "typ", "scope"} <= claims.keys()
        assert claims["realm_access"] == {"roles": ["micro-service"]}
        assert claims["preferred_username"] == f"service-account-{claims['azp']}"
        assert claims["client_id"] == claims["azp"]

    def test_all_ways_to_read_return_the_same_token(self, world: World) -> None:
        service = world.make()
        token = service.get_access_token()
        assert service.get_access_token(timeout=0) == token
        assert service.get_token().value == token
        assert service.get_token().expires_in == LIFETIME
        peeked = service.peek_token()
        assert peeked is not None
        assert peeked.value == token
        assert asyncio.run(service.aget_access_token()) == token
        assert service.status().tokens_issued == 1

    def test_a_coroutine_gets_the_first_token(self, world: World) -> None:
        service = world.make()
        tokens = asyncio.run(gather(service))
        assert set(tokens) == {service.get_access_token()}

    def test_waiting_ends_with_the_first_token(self, world: World) -> None:
        service = world.make()
        assert service.wait_for_ready(10)
        assert service.wait_for_token(10)
        assert service.is_ready()

    def test_a_token_is_refreshed_before_it_expires(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        token = service.get_access_token()
        world.advance(0.45 * LIFETIME - 1)
        assert service.get_access_token() == token
        world.advance(0.45 * LIFETIME + 1)
        recorder.wait_for(EventKind.TOKEN_ISSUED, 2)
        assert service.get_access_token() != token

    def test_an_expired_token_is_not_served(self, world: World) -> None:
        service = world.make()
        token = service.get_access_token()
        world.expire(service)
        assert service.get_access_token() != token
        assert service.status().state is ServiceState.READY

    @pytest.mark.parametrize("timeout", [math.nan, "1", True])
    def test_a_wrong_timeout_is_refused(self, world: World, timeout: Any) -> None:
        with pytest.raises(ConfigurationError, match="timeout"):
            world.make().get_access_token(timeout=timeout)

    # --- rejected tokens ---

    def test_a_rejected_token_is_replaced(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        token = service.get_access_token()
        service.invalidate_token(token, "orders")
        recorder.wait_for(EventKind.TOKEN_ISSUED, 2)
        assert service.get_access_token() != token
        assert service.status().tokens_invalidated == 1

    def test_late_rejections_of_a_token_replace_nothing(self, world: World) -> None:
        service = world.make()
        old = service.get_access_token()
        service.invalidate_token(old)
        token = service.get_access_token()
        service.invalidate_token(old)
        assert service.get_access_token() == token
        assert service.status().tokens_invalidated == 1

    def test_a_server_that_rejects_each_token_causes_no_loop(self, world: World) -> None:
        service = world.make(base_retry_delay=60.0, max_retry_delay=60.0)
        service.invalidate_token(service.get_access_token())
        token = service.get_access_token()
        service.invalidate_token(token)
        assert service.get_access_token() == token

    def test_requests_carry_the_token(self, world: World) -> None:
        service = world.make()
        request = requests.Request("GET", "http://orders/", auth=service.auth()).prepare()
        assert request.headers["Authorization"] == f"Bearer {service.get_access_token()}"
        with service.session(hosts=["orders"]) as session:
            assert isinstance(session.auth, TokenAuth)

    # --- failures ---

    def test_a_usable_token_is_served_through_an_outage(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        token = service.get_access_token()
        world.fail_tokens()
        world.advance(0.9 * LIFETIME)
        failed = recorder.wait_for(EventKind.TOKEN_REQUEST_FAILED)
        assert failed.status_code == 503
        assert service.get_access_token() == token
        recorder.wait_for(EventKind.STATE_CHANGED, 2)
        assert service.status().state is ServiceState.DEGRADED

    def test_calls_fail_at_once_when_there_is_no_usable_token(self, world: World) -> None:
        service = world.make()
        service.get_access_token()
        world.fail_tokens()
        world.expire(service)
        with pytest.raises(TokenEndpointError, match="retrying in") as caught:
            service.get_access_token()
        assert caught.value.status_code == 503
        assert caught.value.retry_after is not None
        with pytest.raises(TokenEndpointError):
            asyncio.run(service.aget_access_token())
        assert not service.is_ready()
        assert service.peek_token() is None
        status = service.status()
        assert status.state is ServiceState.UNAVAILABLE
        assert status.last_error is not None

    def test_it_recovers_by_itself(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        service.get_access_token()
        world.fail_tokens()
        world.expire(service)
        with pytest.raises(TokenEndpointError):
            service.get_access_token()
        world.recover()
        recorder.wait_for(EventKind.TOKEN_ISSUED, 2)
        assert service.get_access_token()
        assert service.status().state is ServiceState.READY

    def test_a_service_that_cannot_register_is_not_ready(self, world: World) -> None:
        world.fail_api()
        service = world.make()
        recorder = EventRecorder(service)
        service.start()
        recorder.wait_for(EventKind.REGISTRATION_FAILED)
        with pytest.raises(NotReadyError, match="no access token for 'test-service'") as caught:
            service.get_access_token(timeout=0.2)
        assert caught.value.attempts >= 1
        assert not service.wait_for_ready(0.1)
        assert not service.is_ready()
        status = service.status()
        assert status.state is ServiceState.PENDING
        assert status.attempts >= 1
        world.recover()
        assert service.wait_for_ready(10)

    def test_registration_fails_after_the_last_attempt(self, world: World) -> None:
        world.fail_api()
        service = world.make(max_registration_attempts=1)
        with pytest.raises(RegistrationError, match="failed after 1 attempts"):
            service.get_access_token()
        assert service.status().state is ServiceState.FAILED
        world.recover()
        with pytest.raises(RegistrationError):
            service.get_access_token()
        service.start()
        assert service.get_access_token()

    def test_wrong_preconfigured_credentials_fail_at_the_start(self, world: World) -> None:
        world.fail_tokens()
        service = world.make(**PRECONFIGURED)
        with pytest.raises(TokenEndpointError):
            service.start()
        assert service.status().state is ServiceState.FAILED

    def test_without_validation_a_start_does_not_fail(self, world: World) -> None:
        world.fail_tokens()
        service = world.make(**PRECONFIGURED)
        service.start(validate=False)
        with pytest.raises(TokenEndpointError):
            service.get_access_token()
        assert service.status().state is not ServiceState.FAILED

    # --- the rest ---

    def test_it_registers_again_when_asked(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        token = service.get_access_token()
        service.force_reregistration()
        recorder.wait_for(EventKind.TOKEN_ISSUED, 2)
        assert service.get_access_token() != token
        status = service.status()
        assert (status.registrations, status.secrets_regenerated) == (2, 1)

    def test_preconfigured_credentials_cannot_be_registered_again(self, world: World) -> None:
        with pytest.raises(ConfigurationError, match="pre-configured"):
            world.make(**PRECONFIGURED).force_reregistration()

    def test_listeners_get_the_events_in_their_order(self, world: World) -> None:
        service = world.make()
        with EventRecorder(service) as recorder:
            service.get_access_token()
            recorder.wait_for(EventKind.STATE_CHANGED)
        assert recorder.kinds == [
            EventKind.REGISTERED,
            EventKind.TOKEN_ISSUED,
            EventKind.STATE_CHANGED,
        ]
        service.invalidate_token(service.get_access_token())
        service.get_access_token()
        assert len(recorder.events) == 3

    def test_a_listener_may_ask_for_the_token(self, world: World) -> None:
        service = world.make()
        seen: list[str] = []
        service.on_event(lambda event: seen.append(service.get_access_token(timeout=5)))
        recorder = EventRecorder(service)
        token = service.get_access_token()
        recorder.wait_for(EventKind.STATE_CHANGED)
        assert seen == [token] * 3

    def test_a_closed_service_serves_nothing(self, world: World) -> None:
        service = world.make()
        recorder = EventRecorder(service)
        with service:
            token = service.get_access_token()
        service.close()
        assert recorder.events[-1].state is ServiceState.CLOSED
        assert service.status().state is ServiceState.CLOSED
        assert service.peek_token() is None
        assert not service.is_ready()
        assert not service.wait_for_token(1)
        service.invalidate_token(token)
        for call in (service.start, service.get_access_token, service.force_reregistration):
            with pytest.raises(ServiceClosedError, match="closed"):
                call()
        with pytest.raises(ServiceClosedError):
            asyncio.run(service.aget_access_token())

    def test_it_shows_its_state_and_no_secret(self, world: World) -> None:
        service = world.make(service_name="billing")
        token = service.get_access_token()
        assert repr(service) == f"<{type(service).__name__} billing READY>"
        assert token not in str(service.status().to_dict())

    def test_it_cannot_be_pickled(self, world: World) -> None:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(world.make())


async def gather(service: IdentityBootstrapService) -> list[str]:
    """Ask for the token in 50 coroutines at once."""
    return await asyncio.gather(*(service.aget_access_token() for _ in range(50)))


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a JSON Web Token."""
    _, claims, _ = token.split(".")
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return decoded
