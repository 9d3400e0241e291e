"""The parts of the testing kit beside the fake: recorder, clock, server, contract of a store."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import evolve

from identity_client import (
    ConfigurationError,
    CredentialStore,
    CredentialStoreError,
    EventKind,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    ServiceState,
    StoredCredentials,
    testing,
)
from identity_client.stores.file import FileStore
from identity_client.testing import (
    CredentialStoreContract,
    EncryptedStoreContract,
    EventRecorder,
    FakeClock,
    FakeIdentityService,
    IdentityServer,
)


@pytest.fixture
def server() -> Iterator[IdentityServer]:
    with IdentityServer() as started:
        yield started


def test_the_names_are_those_that_it_has() -> None:
    assert set(testing.__all__) <= set(dir(testing))
    assert not hasattr(testing, "Mock")


# --- recorder ---


def test_an_event_that_does_not_come_is_an_error_with_those_that_came() -> None:
    with FakeIdentityService() as fake, EventRecorder(fake) as recorder:
        fake.invalidate_token(fake.get_access_token())
        assert recorder.wait_for(EventKind.TOKEN_ISSUED).duration == 0
        with pytest.raises(TimeoutError, match=r"so far: token_invalidated, token_issued$"):
            recorder.wait_for(EventKind.REGISTERED, timeout=0.01)
        recorder.clear()
        with pytest.raises(TimeoutError, match=r"so far: none$"):
            recorder.wait_for(EventKind.TOKEN_ISSUED, timeout=0.01)


def test_a_recorder_waits_for_an_event_of_a_real_service(server: IdentityServer) -> None:
    with server.service() as service:
        assert service.wait_for_ready(10)
        recorder = EventRecorder(service)
        service.force_reregistration()
        assert recorder.wait_for(EventKind.SECRET_REGENERATED).service_name == "test-service"
        recorder.stop()
        recorder.stop()


# --- clock ---


def test_a_real_service_acts_when_the_clock_moves(server: IdentityServer) -> None:
    clock = FakeClock()
    with IdentityBootstrapService(server.config(), clock=clock) as service:
        recorder = EventRecorder(service)
        token = service.get_access_token()
        clock.advance(300)
        recorder.wait_for(EventKind.TOKEN_ISSUED, 1)
        assert service.get_access_token() != token


# --- server ---


def test_settings_change_while_it_runs(server: IdentityServer) -> None:
    server.change(token_lifetime=60)
    with server.changed(token_lifetime=30), server.service(service_name="a") as service:
        assert service.get_token().expires_in == 30
    with server.service(service_name="b") as service:
        assert service.get_token().expires_in == 60


def test_a_service_outlives_an_outage(server: IdentityServer) -> None:
    service = server.service()
    recorder = EventRecorder(service)
    with service:
        assert service.wait_for_ready(10)
        recorder.wait_for(EventKind.STATE_CHANGED)
        recorder.clear()
        with server.outage():
            service.force_reregistration()
            recorder.wait_for(EventKind.STATE_CHANGED)
            assert service.status().state is ServiceState.DEGRADED
            assert service.get_access_token()
        recorder.wait_for(EventKind.STATE_CHANGED, 2)
        assert service.status().state is ServiceState.READY


def test_requests_are_counted_logged_and_waited_for(server: IdentityServer) -> None:
    with server.service() as service:
        assert server.wait_for("token").client_id == "test-service"
        assert service.wait_for_ready(10)
        service.invalidate_token(service.get_access_token())
        assert server.wait_for("token", count=2).status == 200
    assert server.wait_for("register").path == "/internal/services/register"
    assert server.requests == {"api": 1, "register": 1, "token": 2}
    assert [request.endpoint for request in server.log.since()] == ["register", "token", "token"]
    with pytest.raises(TimeoutError, match="1 of 2 matching requests"):
        server.wait_for("register", count=2, timeout=0.01)


def test_a_wrong_fault_is_refused(server: IdentityServer) -> None:
    with pytest.raises(TypeError, match="token_outrage"):
        server.change(token_outrage=True)
    with pytest.raises(ValueError, match="the token lifetime must be above 0"):
        server.change(token_lifetime=0)
    with pytest.raises(TypeError, match="token_outrage"), server.changed(token_outrage=True):
        pass


def test_the_secret_of_an_unknown_service_cannot_be_rotated(server: IdentityServer) -> None:
    with pytest.raises(LookupError, match="no service 'test-service' has registered"):
        server.rotate_secret()


def test_an_unknown_setting_of_a_service_is_refused(server: IdentityServer) -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'servicename'"):
        server.service(servicename="billing")


def test_the_environment_is_that_of_the_configuration(server: IdentityServer) -> None:
    settings = {
        "allow_secret_regeneration": False,
        "max_registration_attempts": 3,
        "refresh_ratio": 0.5,
        "client_cert": (__file__, __file__),
        "scope": None,
    }
    environment = server.environment(**settings)
    assert IdentityBootstrapConfig.from_env(environment) == server.config(**settings)
    assert "IDENTITY_SCOPE" not in environment


def test_a_server_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with IdentityServer() as server, server.service() as service:
        service.get_access_token()
        requests.get(f"{server.url}/health", timeout=10).raise_for_status()
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


# --- the contract of a store ---


class BlindStore(FileStore):
    """Replaces what it has not seen."""

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        return super().save(evolve(stored, version=self.load().version))


class LaxStore(FileStore):
    """Takes the lock where the caller has not."""

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        try:
            return super().save(stored)
        except CredentialStoreError:
            with self.lock(1):
                return super().save(evolve(stored, version=self.load().version))


class OpenStore(FileStore):
    """Locks nothing out."""

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        with suppress(CredentialStoreError), super().lock(0):
            yield
            return
        yield


class LeakyStore(FileStore):
    """Keeps the lock when its user fails."""

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        self._held = super().lock(timeout)  # else the garbage collector ends it
        self._held.__enter__()
        yield
        self._held.__exit__(None, None, None)


class ForgetfulStore(FileStore):
    """Counts from 0 for each object."""

    def load(self) -> StoredCredentials:
        return evolve(super().load(), regenerations=0)


class SolidStore(FileStore):
    """Cannot be cleared."""

    def clear(self) -> None:
        pass


class ClosedStore(FileStore):
    """Cannot be used after it was closed."""

    def close(self) -> None:
        self._path = Path("/nowhere")


class TalkativeStore(FileStore):
    """Shows what it keeps."""

    def __str__(self) -> str:
        stored = self.load().credentials
        return stored.client_secret if stored else "nothing"


class PlainStore(FileStore):
    """Ignores the key."""

    def __init__(self, url: str, **arguments: Any) -> None:
        super().__init__(url, **{**arguments, "key": None})


class FirstKeyStore(FileStore):
    """Ignores all keys but the first."""

    def __init__(self, url: str, **arguments: Any) -> None:
        key = arguments["key"]
        super().__init__(url, **{**arguments, "key": key and key.partition(",")[0]})


def encrypted(kind: type[FileStore], folder: Path) -> EncryptedStoreContract:
    path = folder / "credentials.json"

    class Contract(EncryptedStoreContract):
        def make_store(self, key: str | None) -> CredentialStore:
            return kind(
                path.as_uri(), service_name="orders", identity_api_url="http://api:3053", key=key
            )

        def read_raw(self) -> bytes:
            return path.read_bytes()

    return Contract()


ENCRYPTED = [name for name in dir(EncryptedStoreContract) if name.startswith("test_")]


@pytest.mark.parametrize("test", ENCRYPTED)
def test_the_file_encrypts_as_the_contract_demands(test: str, tmp_path: Path) -> None:
    getattr(encrypted(FileStore, tmp_path), test)()


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (PlainStore, "test_a_wrong_key_and_a_missing_one_are_errors"),
        (PlainStore, "test_what_is_kept_cannot_be_read_without_the_key"),
        (FirstKeyStore, "test_keys_can_be_rotated"),
    ],
)
def test_a_store_that_ignores_keys_fails_its_contract(
    broken: type[FileStore], test: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, CredentialStoreError)):
        getattr(encrypted(broken, tmp_path), test)()


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (BlindStore, "test_only_the_version_that_was_seen_is_replaced"),
        (LaxStore, "test_nothing_is_written_without_the_lock"),
        (OpenStore, "test_one_holds_the_lock_and_the_others_wait"),
        (LeakyStore, "test_the_lock_is_free_after_an_error"),
        (ForgetfulStore, "test_what_is_saved_is_found_by_others"),
        (ForgetfulStore, "test_a_record_without_credentials_is_kept_too"),
        (SolidStore, "test_what_is_cleared_is_gone"),
        (ClosedStore, "test_it_works_on_after_it_was_closed"),
        (TalkativeStore, "test_where_it_is_kept_is_said_without_the_secret"),
    ],
)
def test_a_broken_store_fails_its_contract(
    broken: type[FileStore], test: str, tmp_path: Path
) -> None:
    made: list[CredentialStore] = []  # else the garbage collector frees a lock that one leaks

    class Contract(CredentialStoreContract):
        def make_store(self) -> CredentialStore:
            store = broken(
                f"file://{tmp_path}/credentials.json",
                service_name="orders",
                identity_api_url="http://identity-api:3053",
                key=None,
                timeout=1.0,
            )
            made.append(store)
            return store

    with pytest.raises((AssertionError, CredentialStoreError, OSError)):
        getattr(Contract(), test)()


def test_a_contract_has_to_make_a_store() -> None:
    with pytest.raises(NotImplementedError):
        CredentialStoreContract().make_store()
    with pytest.raises(NotImplementedError):
        EncryptedStoreContract().make_store(None)
    with pytest.raises(NotImplementedError):
        EncryptedStoreContract().read_raw()
