"""The fake of a service: what it shares with the real one, and what only it has."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contracts.service import LIFETIME, ServiceContract, World, claims_of
from joserfc import jwt
from joserfc.jwk import OctKey
from support.processes import run

from identity_client import (
    ConfigurationError,
    EventKind,
    IdentityApiConnectionError,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    InvalidClientError,
    ServiceEvent,
    ServiceState,
    TokenEndpointError,
)
from identity_client.testing import (
    SIGNING_KEY,
    EventRecorder,
    FakeClock,
    FakeIdentityService,
    IdentityServer,
)

DELAYS = {"base_retry_delay": 0.05, "max_retry_delay": 0.2, "max_token_retry_delay": 0.2}


class ShiftedClock:
    """The real time and what was added to it."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._waited_on: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def monotonic(self) -> float:
        return time.monotonic() + self._offset

    def time(self) -> float:
        return time.time() + self._offset

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        self._waited_on.add(condition)
        condition.wait(min(timeout, threading.TIMEOUT_MAX))

    def advance(self, seconds: float) -> None:
        self._offset += seconds
        for condition in list(self._waited_on):
            with condition:
                condition.notify_all()


class RealWorld:
    """A real service and a real server."""

    def __init__(self, server: IdentityServer) -> None:
        self._server = server
        self._clock = ShiftedClock()
        self._made: list[IdentityBootstrapService] = []

    def make(self, **settings: Any) -> IdentityBootstrapService:
        config = self._server.config(**{**DELAYS, **settings})
        service = IdentityBootstrapService(config, clock=self._clock)
        self._made.append(service)
        return service

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def expire(self, service: IdentityBootstrapService) -> None:
        self._clock.advance(LIFETIME)

    def fail_api(self) -> None:
        self._server.change(api_outage=True)

    def fail_tokens(self) -> None:
        self._server.change(token_outage=True)

    def recover(self) -> None:
        self._server.change(api_outage=False, token_outage=False)

    def close(self) -> None:
        for service in self._made:
            service.close()


class FakeWorld:
    """A fake and its servers in memory; a failure that is set before it exists is kept for it."""

    def __init__(self) -> None:
        self._fake: FakeIdentityService | None = None
        self._error: IdentityApiConnectionError | TokenEndpointError | None = None

    def make(self, **settings: Any) -> IdentityBootstrapService:
        self._fake = FakeIdentityService(**{**DELAYS, **settings})
        if self._error is not None:
            self._fake.fail_with(self._error)
        return self._fake

    @property
    def _made(self) -> FakeIdentityService:
        assert self._fake is not None
        return self._fake

    def advance(self, seconds: float) -> None:
        self._made.clock.advance(seconds)

    def expire(self, service: IdentityBootstrapService) -> None:
        self._made.expire()

    def fail_api(self) -> None:
        self._fail(IdentityApiConnectionError("simulated", status_code=503))

    def fail_tokens(self) -> None:
        self._fail(TokenEndpointError("simulated", status_code=503))

    def _fail(self, error: IdentityApiConnectionError | TokenEndpointError) -> None:
        self._error = error
        if self._fake is not None:
            self._fake.fail_with(error)

    def recover(self) -> None:
        self._made.recover()


class TestRealService(ServiceContract):
    """The real service."""

    @pytest.fixture
    def world(self) -> Iterator[World]:
        with IdentityServer(token_lifetime=LIFETIME) as server:
            world = RealWorld(server)
            yield world
            world.close()


class TestFakeService(ServiceContract):
    """The fake."""

    @pytest.fixture
    def world(self) -> World:
        return FakeWorld()


# --- what only the fake has ---


@pytest.fixture
def fake() -> Iterator[FakeIdentityService]:
    with FakeIdentityService() as service:
        yield service


def test_it_is_a_service(fake: FakeIdentityService) -> None:
    assert isinstance(fake, IdentityBootstrapService)


def test_it_starts_no_thread_and_opens_no_socket(socket_disabled: None) -> None:
    before = set(threading.enumerate())
    with FakeIdentityService() as fake:
        fake.get_access_token()
        fake.clock.advance(1000)
        with pytest.raises(StopIteration):  # that is: it returns without being suspended
            fake.aget_access_token().send(None)
        assert set(threading.enumerate()) <= before


def test_the_start_gets_the_first_token(fake: FakeIdentityService) -> None:
    assert [fake.get_access_token()] == fake.tokens


def test_time_stands_still(fake: FakeIdentityService) -> None:
    before = fake.clock.time(), fake.clock.monotonic(), fake.status().token_expires_in
    time.sleep(0.01)
    assert (fake.clock.time(), fake.clock.monotonic(), fake.status().token_expires_in) == before


def test_its_tokens_are_valid_now_and_signed_with_the_published_key() -> None:
    with FakeIdentityService(token_lifetime=60, claims={"aud": "orders"}) as fake:
        token = jwt.decode(
            fake.get_access_token(), OctKey.import_key(SIGNING_KEY), algorithms=["HS256"]
        )
    assert token.header == {"alg": "HS256", "typ": "JWT"}
    assert token.claims["aud"] == "orders"
    assert time.time() < token.claims["exp"] <= time.time() + 60


def test_a_refresh_is_due_at_its_ratio_and_not_by_chance_before() -> None:
    with FakeIdentityService(token_lifetime=100, refresh_ratio=0.5) as fake:
        fake.clock.advance(49.9)
        assert len(fake.tokens) == 1
        fake.clock.advance(0.1)
        assert len(fake.tokens) == 2


def test_what_falls_due_is_done_while_the_clock_moves(fake: FakeIdentityService) -> None:
    recorder = EventRecorder(fake)
    fake.clock.advance(3600)
    assert recorder.kinds == [EventKind.TOKEN_ISSUED] * 13  # every 270 s
    assert fake.status().token_expires_in > 0


def test_an_outage_that_outlasts_the_token_is_seen_as_it_happens(
    fake: FakeIdentityService,
) -> None:
    recorder = EventRecorder(fake)
    fake.fail_with(TokenEndpointError("simulated", status_code=503))
    fake.clock.advance(300)
    fake.recover()
    changes = [event.state for event in recorder.events if event.state]
    assert changes == [ServiceState.DEGRADED, ServiceState.UNAVAILABLE, ServiceState.READY]
    assert fake.get_access_token() == fake.tokens[-1]


def test_a_failure_may_happen_a_number_of_times(fake: FakeIdentityService) -> None:
    fake.expire()
    fake.fail_with(TokenEndpointError("simulated"), times=2)
    fake.clock.advance(60)
    assert fake.status().token_requests_failed == 2
    assert fake.status().state is ServiceState.READY


def test_a_rejected_client_registers_again(fake: FakeIdentityService) -> None:
    recorder = EventRecorder(fake)
    fake.expire()
    fake.fail_with(InvalidClientError("simulated", status_code=401), times=2)
    assert fake.get_access_token() == fake.tokens[-1]
    assert EventKind.CREDENTIALS_REJECTED in recorder.kinds
    assert fake.status().secrets_regenerated == 1


def test_tokens_are_issued_while_identity_api_fails(fake: FakeIdentityService) -> None:
    fake.fail_with(IdentityApiConnectionError("simulated"))
    fake.expire()
    assert fake.get_access_token()
    assert fake.status().state is ServiceState.READY


def test_recovering_from_nothing_changes_nothing(fake: FakeIdentityService) -> None:
    now = fake.clock.monotonic()
    fake.recover()
    assert fake.clock.monotonic() == now


def test_a_service_that_has_failed_stays_so_until_it_is_started() -> None:
    fake = FakeIdentityService(max_registration_attempts=1)
    fake.fail_with(IdentityApiConnectionError("simulated"))
    fake.start()
    fake.recover()
    assert fake.status().state is ServiceState.FAILED
    fake.start()
    assert fake.status().state is ServiceState.READY


def test_a_rejection_before_the_start_starts_nothing() -> None:
    fake = FakeIdentityService()
    fake.invalidate_token("a-token")
    assert not fake.status().started
    assert fake.tokens == []


def test_services_that_share_a_clock_act_in_the_order_of_time() -> None:
    clock = FakeClock()
    began = clock.monotonic()
    seen: list[tuple[str, float]] = []

    def note(event: ServiceEvent) -> None:
        seen.append((event.service_name, clock.monotonic() - began))

    slow = FakeIdentityService(service_name="slow", clock=clock, token_lifetime=100)
    fast = FakeIdentityService(service_name="fast", clock=clock, token_lifetime=40)
    with slow, fast:
        slow.on_event(note)
        fast.on_event(note)
        clock.advance(100)
        assert seen == [("fast", 36), ("fast", 72), ("slow", 90)]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_goes_forward_only(seconds: float) -> None:
    with pytest.raises(ValueError, match="cannot advance by"):
        FakeClock().advance(seconds)


def test_nothing_is_done_while_the_machine_sleeps(fake: FakeIdentityService) -> None:
    fake.clock.advance(1000, asleep=True)
    assert len(fake.tokens) == 1
    fake.clock.advance(15)
    assert len(fake.tokens) == 2


@pytest.mark.parametrize("lifetime", [0, 0.5, 86401, float("nan")])
def test_a_wrong_lifetime_is_refused(lifetime: float) -> None:
    with pytest.raises(ValueError, match="token_lifetime must be"):
        FakeIdentityService(token_lifetime=lifetime)


def test_a_wrong_failure_is_refused(fake: FakeIdentityService) -> None:
    wrong: Any = RuntimeError("simulated")
    with pytest.raises(TypeError, match="IdentityApiError or a TokenEndpointError"):
        fake.fail_with(wrong)
    with pytest.raises(ValueError, match="times must be at least 1"):
        fake.fail_with(TokenEndpointError("simulated"), times=0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'token_lifetme'"):
        FakeIdentityService(token_lifetme=5)


def test_the_store_of_the_configuration_is_not_used(tmp_path: Path) -> None:
    config = IdentityBootstrapConfig(
        service_name="orders",
        identity_api_url="http://identity-api:3053",
        identity_api_internal_token="a-token",
        credential_store=f"file://{tmp_path}/credentials.json",
        scope="openid",
    )
    with FakeIdentityService(config, service_name="billing") as fake:
        token = fake.get_token()
    assert token.scope == claims_of(token.value)["scope"] == "openid"
    assert claims_of(token.value)["azp"] == "billing"
    assert list(tmp_path.iterdir()) == []


class Claims(Mapping[str, Any]):
    """Claims that do something while a token is issued."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        self._action()
        return iter(())

    def __len__(self) -> int:
        return 1


def test_threads_that_come_at_once_share_one_token() -> None:
    all_came = threading.Barrier(8)
    fake = FakeIdentityService(claims=Claims(lambda: time.sleep(0.05)))

    def use(_: int) -> str:
        all_came.wait(10)
        return fake.get_access_token()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(use, range(8))) == {*fake.tokens}
    assert len(fake.tokens) == 1


def test_a_token_that_is_issued_while_the_one_before_is_rejected_is_not_served() -> None:
    def reject() -> None:
        if len(service.tokens) == 1:
            service.invalidate_token(service.tokens[0], was_accepted=True)

    service = FakeIdentityService(claims=Claims(reject))
    with service:
        service.clock.jump(280)
        assert service.get_access_token(timeout=1000) == service.tokens[2]


def test_a_token_that_expires_before_it_is_returned_is_replaced() -> None:
    fake = FakeIdentityService()

    def expire(event: ServiceEvent) -> None:
        if event.kind is EventKind.TOKEN_ISSUED and len(fake.tokens) < 3:
            fake.expire()

    fake.on_event(expire)
    assert fake.get_access_token(timeout=1000) == fake.tokens[2]


def test_many_threads_that_reject_tokens_get_a_token_each_time() -> None:
    with FakeIdentityService() as fake:

        def use(_: int) -> int:
            for _ in range(200):
                fake.invalidate_token(fake.get_access_token(), was_accepted=True)
            return 1

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(use, range(8))) == 8
        assert fake.get_access_token()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_child_has_the_token_and_gets_another() -> None:
    done = run("""
        from identity_client.testing import FakeIdentityService
        fake = FakeIdentityService()
        token = fake.get_access_token()
        child = os.fork()
        assert fake.get_access_token() == token
        fake.expire()
        assert fake.get_access_token() != token
        assert fake.status().tokens_issued == (2 if child else 1)
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("done")
    """, "")  # fmt: skip
    assert (done.err, done.out) == ("", "done\n")


def test_an_unknown_setting_is_an_error_of_the_configuration() -> None:
    config = FakeIdentityService()._config
    for given in (None, config):
        with pytest.raises(ConfigurationError, match="unknown setting 'nonsense'"):
            FakeIdentityService(given, nonsense=1)
