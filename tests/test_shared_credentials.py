"""Services that share a store: who registers, who follows, and what a failing store may not do."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.canned import Asked, Canned, reply, token_reply
from support.processes import run
from support.scripted import REJECTED, Scripted, existing, registered, wait_for
from support.services import MakeService, Preconfigured, StartCanned

from identity_client import (
    CredentialStoreError,
    EventKind,
    IdentityBootstrapService,
    NotReadyError,
    ServiceCredentials,
    ServiceEvent,
    ServiceState,
    StoredCredentials,
    TokenEndpointError,
)
from identity_client._tokens import registration
from identity_client.server import IdentityServer
from identity_client.stores.memory import MemoryStore

# No pause ends within a test, so a caller without credentials gets the first failure at once.
LONG_PAUSES: dict[str, Any] = {"base_retry_delay": 60.0, "max_retry_delay": 60.0}


class Shelf(MemoryStore):
    """A store that several services of this process share, and that fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, BaseException] = {}
        self.calls: list[str] = []

    def __str__(self) -> str:
        return "the shelf"

    def fail(self, *methods: str, error: BaseException | None = None) -> None:
        self.failing = dict.fromkeys(methods, error or CredentialStoreError("the shelf is gone"))

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if method in self.failing:
            raise self.failing[method]

    def load(self) -> StoredCredentials:
        self._call("load")
        return super().load()

    def lock(self, timeout: float) -> AbstractContextManager[object]:
        self._call("lock")
        return super().lock(timeout)

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        self._call("save")
        return super().save(stored)

    @property
    def holds(self) -> ServiceCredentials | None:
        return self._stored.credentials


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def make(make_service: MakeService, shelf: Shelf) -> MakeService:
    """Makes services that share the shelf."""

    def make_one(*arguments: Any, **settings: Any) -> IdentityBootstrapService:
        service = make_service(*arguments, **settings)
        source: Any = service._source
        source._store = shelf
        return service

    return make_one


@pytest.fixture
def scripted(canned: StartCanned) -> Scripted:
    return Scripted(canned)


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have identity-api asked about a token endpoint that fails within a test."""
    monkeypatch.setattr(registration, "ENDPOINT_CHECK_PAUSE", 0.2)


GONE = reply({"error": "gone"}, 404)
SHORT_PAUSES: dict[str, Any] = {"base_retry_delay": 0.05, "max_token_retry_delay": 0.1}


def until_failing(service: IdentityBootstrapService) -> None:
    """Wait until the failure of a token request has been published."""
    wait_for(service, lambda: service.status().token_requests_failed >= 2)


def until_ready(service: IdentityBootstrapService) -> None:
    wait_for(service, lambda: service.status().state is ServiceState.READY)


def change_stored(shelf: Shelf, **members: Any) -> None:
    """Do as another replica that saves credentials."""
    with shelf.lock(1):
        stored = shelf.load()
        assert stored.credentials is not None
        shelf.save(evolve(stored, credentials=evolve(stored.credentials, **members)))


def test_a_token_endpoint_that_moved_is_found_in_the_store(
    make: MakeService,
    scripted: Scripted,
    shelf: Shelf,
    canned: StartCanned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "ENDPOINT_CHECK_PAUSE", 1e6)  # no draw is near 0
    service = make(scripted.url, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    until_failing(service)
    new_url = canned(token_reply("from-the-new-endpoint")).url
    change_stored(shelf, token_endpoint=f"{new_url}/token")
    until_ready(service)
    assert service.get_access_token() == "from-the-new-endpoint"
    assert scripted.asked.count("register") == 1


def test_what_was_saved_meanwhile_is_not_overwritten_by_what_was_found_in_the_store(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    until_failing(service)
    new = canned(token_reply("from-the-new-endpoint"))
    new.before_answer = lambda asked: change_stored(shelf, client_secret="rotated-meanwhile")
    change_stored(shelf, token_endpoint=f"{new.url}/token")
    until_ready(service)
    idle(service)
    assert shelf.holds is not None
    assert shelf.holds.client_secret == "rotated-meanwhile"


@pytest.mark.usefixtures("asked_often")
def test_a_token_endpoint_that_moved_is_found_by_asking_identity_api(
    make: MakeService,
    scripted: Scripted,
    shelf: Shelf,
    canned: StartCanned,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    new_url = canned(token_reply("from-the-new-endpoint")).url
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    # Not at first: it is asked again while nothing has moved, or nobody answers.
    scripted.registrations = [reply({}, 503), existing(scripted.url), existing(new_url)]
    with caplog.at_level(logging.DEBUG, "identity_client"):
        until_failing(service)
        until_ready(service)
        idle(service)
    assert service.get_access_token() == "from-the-new-endpoint"
    assert scripted.asked.count("register") >= 4
    assert "register and regenerate" not in scripted.asked
    assert service.status().registrations == 1
    assert shelf.holds is not None
    assert shelf.holds.token_endpoint == f"{new_url}/token"
    assert f"the token endpoint has moved to {new_url}/token" in caplog.text
    assert "could not find out whether the token endpoint has moved" in caplog.text


def test_identity_api_is_asked_seldom_while_the_token_endpoint_fails(
    make: MakeService, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ENDPOINT_CHECK_PAUSE", 1e6)  # no draw is near 0
    service = make(scripted.url, base_retry_delay=0.01, max_token_retry_delay=0.01)
    token = service.get_access_token(10)
    scripted.tokens = [GONE]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().token_requests_failed >= 20)
    assert scripted.asked.count("register") == 1
    source: Any = service._source
    source._endpoint_check_at = 0.0
    wait_for(service, lambda: service.status().token_requests_failed >= 50)
    assert scripted.asked.count("register") == 2


def test_who_loads_credentials_asks_soon_whether_the_token_endpoint_has_moved(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned
) -> None:
    make(scripted.url).get_access_token(10)
    scripted.tokens = [GONE]
    scripted.registrations = [existing(canned(token_reply("from-the-new-endpoint")).url)]
    service = make(scripted.url, **SHORT_PAUSES)
    assert service.wait_for_token(10)
    assert service.get_access_token() == "from-the-new-endpoint"
    assert scripted.asked.count("register") == 2


@pytest.mark.usefixtures("asked_often")
def test_callers_hear_of_the_token_endpoint_before_identity_api_is_asked(
    make: MakeService, scripted: Scripted
) -> None:
    service = make(scripted.url, request_timeout=60, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=1), GONE]
    assert service.get_access_token(10)
    asked, release, prepare = threading.Event(), threading.Event(), scripted.server.before_answer

    def hang(request: Asked) -> None:
        if request.path != "/token":
            asked.set()
            release.wait(60)
        prepare(request)

    scripted.server.before_answer = hang
    try:
        assert asked.wait(30)
        while service.peek_token() is not None:  # the worker hangs, so no event tells its end
            time.sleep(0.01)
        failures = service.status().token_requests_failed
        while service.status().token_requests_failed < failures + 3:  # the worker is replaced
            with pytest.raises(TokenEndpointError, match="HTTP 404"):
                service.get_access_token(5)
    finally:
        release.set()


@pytest.mark.parametrize("answer", [REJECTED, GONE])
@pytest.mark.usefixtures("asked_often")
def test_a_wrong_endpoint_from_identity_api_replaces_nothing(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned, answer: Canned
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    wrong = canned(answer)
    scripted.registrations = [existing(wrong.url)]
    wait_for(service, lambda: len(wrong.asked) >= 2)
    scripted.tokens = [token_reply("from-the-old-endpoint")]
    until_ready(service)
    assert service.get_access_token() == "from-the-old-endpoint"
    assert "register and regenerate" not in scripted.asked
    assert shelf.holds is not None
    assert shelf.holds.token_endpoint == f"{scripted.url}/token"


@pytest.mark.usefixtures("asked_often")
def test_a_service_that_identity_api_has_lost_is_used_as_created_again(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    new = canned(token_reply("from-the-new-endpoint"))
    scripted.registrations = [registered(new.url, clientSecret="created-again")]
    until_failing(service)
    until_ready(service)
    assert service.get_access_token() == "from-the-new-endpoint"
    assert new.asked[0].form["client_secret"] == "created-again"
    assert shelf.holds is not None
    assert shelf.holds.client_secret == "created-again"
    assert "register and regenerate" not in scripted.asked


@pytest.mark.usefixtures("asked_often")
def test_a_secret_that_another_replica_saved_is_used_at_the_new_endpoint(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    scripted.tokens = [token_reply(expires_in=2), GONE]
    assert service.get_access_token(10)
    change_stored(shelf, client_secret="rotated-elsewhere")
    new = canned(token_reply("from-the-new-endpoint"))
    scripted.registrations = [existing(new.url)]
    until_failing(service)
    until_ready(service)
    idle(service)
    assert new.asked[0].form["client_secret"] == "rotated-elsewhere"
    assert shelf.holds is not None
    assert shelf.holds.client_secret == "rotated-elsewhere"
    assert shelf.holds.token_endpoint == f"{new.url}/token"


def test_a_secret_that_could_not_be_saved_is_not_replaced_by_what_the_store_holds(
    make: MakeService,
    scripted: Scripted,
    shelf: Shelf,
    canned: StartCanned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    assert service.get_access_token(10)
    idle(service)
    new = canned(reply({}, 503))
    save = shelf.save

    def save_claims_only(stored: StoredCredentials) -> StoredCredentials:
        if stored.credentials and stored.credentials.client_secret == "regenerated":
            raise CredentialStoreError("full")
        return save(stored)

    monkeypatch.setattr(shelf, "save", save_claims_only)
    scripted.registrations = [
        existing(new.url),
        existing(new.url, "regenerated", regenerated=True),
    ]
    service.force_reregistration()
    wait_for(service, lambda: len(new.asked) >= 3)
    assert {asked.form["client_secret"] for asked in new.asked} == {"regenerated"}
    assert scripted.asked.count("token a-client-secret") == 1


def test_no_secret_is_regenerated_where_the_old_endpoint_rejects_a_client_that_moved(
    make: MakeService, scripted: Scripted, shelf: Shelf, canned: StartCanned
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    token = service.get_access_token(10)
    new_url = canned(token_reply("from-the-new-endpoint")).url
    scripted.tokens = [REJECTED]
    scripted.registrations = [existing(new_url)]
    service.invalidate_token(token)
    assert service.wait_for_token(10)
    wait_for(service, lambda: service.get_access_token() == "from-the-new-endpoint")
    idle(service)
    assert "register and regenerate" not in scripted.asked
    assert shelf.holds is not None
    assert shelf.holds.token_endpoint == f"{new_url}/token"


def test_a_store_that_hangs_does_not_keep_a_failed_token_request_from_being_repeated(
    make: MakeService, scripted: Scripted, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make(scripted.url, **SHORT_PAUSES)
    token = service.get_access_token(10)
    idle(service)
    hangs, release = threading.Event(), threading.Event()

    def hang() -> StoredCredentials:
        hangs.set()
        release.wait(60)
        return StoredCredentials()

    monkeypatch.setattr(shelf, "load", hang)
    try:
        service.invalidate_token(token, was_accepted=True)
        token = service.get_access_token(10)
        assert hangs.wait(10)
        scripted.tokens = [GONE, token_reply("at-last")]
        service.invalidate_token(token, was_accepted=True)
        assert service.wait_for_token(10)
        wait_for(service, lambda: service.get_access_token(10) == "at-last")
    finally:
        release.set()


def test_a_store_that_fails_with_the_token_endpoint_is_not_what_callers_hear_of(
    make: MakeService, scripted: Scripted, shelf: Shelf
) -> None:
    service = make(scripted.url)
    token = service.get_access_token(10)
    idle(service)
    shelf.fail("load")
    scripted.tokens = [reply({"error": "gone"}, 404)]
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().token_requests_failed >= 1)
    assert "HTTP 404" in (service.status().last_error or "")


def renew(service: IdentityBootstrapService) -> str:
    """Have the current token replaced."""
    service.invalidate_token(service.get_access_token(), was_accepted=True)
    return service.get_access_token()


def idle(service: IdentityBootstrapService) -> None:
    """Wait until the worker has done all that comes after its last attempt."""
    until = time.monotonic() + 30
    # In this order: what is pending is delivered while the worker is replaceable.
    while service._events.has_pending or service._worker._is_replaceable:
        assert time.monotonic() < until
        time.sleep(0.001)


def shared(service: IdentityBootstrapService) -> None:
    """Wait until the worker has looked after the store, which it does after the token is out."""
    idle(service)
    source: Any = service._source
    done, sync = threading.Event(), source.follow_up

    def sync_and_tell() -> None:
        sync()
        done.set()

    source.follow_up = sync_and_tell
    renew(service)
    assert done.wait(5)
    source.follow_up = sync
    idle(service)


def on_failed_attempt(service: IdentityBootstrapService, action: Callable[[], object]) -> None:
    def look(event: ServiceEvent) -> None:
        if event.kind is EventKind.REGISTRATION_FAILED:
            action()

    service.on_event(look)


# --- one registers, the others follow ---


def test_the_second_service_registers_nothing(
    scripted: Scripted, make: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make(scripted.url).get_access_token()
    second = make(scripted.url)
    second.get_access_token()
    second.close()  # all is logged by then
    assert scripted.asked == ["register", "token a-client-secret", "token a-client-secret"]
    assert "orders: loaded credentials of client 'orders' from the shelf" in caplog.messages
    assert second.status().registrations == 0


def test_a_registration_that_is_done_while_another_waits_for_the_lock_serves_both(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    class Slow:
        """The lock, got only after somebody else has registered."""

        def __enter__(self) -> None:
            shelf._stored = StoredCredentials(
                version=2,
                credentials=ServiceCredentials(
                    client_id="orders",
                    client_secret="by-another",
                    token_endpoint=f"{scripted.url}/token",
                ),
            )

        def __exit__(self, *_: object) -> None:
            pass

    shelf.lock = lambda timeout: Slow()  # type: ignore[method-assign]
    make(scripted.url).get_access_token()
    assert scripted.asked == ["token by-another"]


def test_what_another_registered_anew_is_used_after_a_rejection(
    api: IdentityServer, make: MakeService
) -> None:
    first, second = make(api), make(api)
    first.get_access_token()
    second.get_access_token()
    api.backend.rotate_secret("orders")
    renew(first)
    renew(second)
    assert first.status().secrets_regenerated == 1
    assert second.status().secrets_regenerated == 0
    assert api.backend.requests["register"] == 3  # the first, and those that regenerate


def test_stored_credentials_that_are_rejected_are_replaced(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    make(scripted.url).get_access_token()
    scripted.tokens = [REJECTED, REJECTED, scripted.tokens[0]]
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url, "new", regenerated=True),
    ]
    make(scripted.url).get_access_token()
    assert scripted.asked[2:] == [
        "token a-client-secret",
        "register",
        "token a-client-secret",
        "register and regenerate",
        "token new",
    ]
    assert shelf.holds is not None
    assert shelf.holds.client_secret == "new"


def test_all_who_are_told_to_register_again_cause_one_registration(
    scripted: Scripted, make: MakeService
) -> None:
    services = [make(scripted.url) for _ in range(4)]
    for service in services:
        service.get_access_token()
    scripted.registrations = [existing(scripted.url, "new", regenerated=True)]
    for service in services:
        service.force_reregistration()
        wait_for(service, lambda service=service: service.status().tokens_issued == 2)  # type: ignore[misc]
    assert scripted.asked[5:] == ["register", *["token new"] * 4]


def test_a_forced_registration_keeps_the_pause_between_regenerations(
    scripted: Scripted, make: MakeService
) -> None:
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url, "first", regenerated=True),
        existing(scripted.url),
        existing(scripted.url, "second", regenerated=True),
    ]
    service = make(scripted.url, **LONG_PAUSES)
    service.get_access_token()
    service.force_reregistration()
    wait_for(service, lambda: service.status().tokens_issued == 2)
    assert scripted.asked[-1] == "token first"  # what works stays in use
    assert scripted.asked.count("register and regenerate") == 1
    assert service._source.next_registration_in() is not None  # and the wish is kept


def test_the_pause_between_regenerations_is_the_groups(
    scripted: Scripted, make: MakeService
) -> None:
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url, "new", regenerated=True),
        existing(scripted.url),
    ]
    first, second = (make(scripted.url, **LONG_PAUSES) for _ in range(2))
    first.get_access_token()
    second.get_access_token()
    scripted.tokens = [REJECTED]
    for service in (second, first):
        renew(service)
        assert "IDENTITY_CREDENTIAL_STORE" in (service.status().last_error or "")
    assert scripted.asked.count("register and regenerate") == 1


def test_a_long_calm_ends_the_growth_of_the_pause(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    def regenerate() -> StoredCredentials:
        scripted.tokens = [REJECTED, REJECTED, scripted.tokens[-1]]
        scripted.registrations = [
            existing(scripted.url),
            existing(scripted.url, f"new {len(scripted.asked)}", regenerated=True),
        ]
        renew(service)
        return shelf.load()

    service = make(scripted.url, base_retry_delay=0.001, max_retry_delay=60.0)
    service.get_access_token()
    assert [regenerate().regenerations for _ in range(3)] == [1, 2, 3]
    shelf._stored = evolve(shelf._stored, no_regeneration_before=shelf._stored.version - 61.0)
    assert regenerate().regenerations == 1


# --- a store that fails ---


def test_a_store_that_cannot_be_reached_is_a_failed_attempt_and_no_registration(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    shelf.fail("load")
    service = make(scripted.url, **LONG_PAUSES)
    with pytest.raises(NotReadyError, match="the shelf is gone") as caught:
        service.get_access_token(10)
    assert isinstance(caught.value.__cause__, CredentialStoreError)
    assert service.status().attempts == 1
    shelf.fail()
    service._cache.reset_failure()
    assert service.wait_for_ready(5)
    assert scripted.asked == ["register", "token a-client-secret"]


def test_a_caller_waits_for_a_store_that_comes_back(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    shelf.fail("lock")
    service = make(scripted.url)
    on_failed_attempt(service, shelf.fail)
    assert service.get_access_token(5) == "a-token"


def test_a_store_that_cannot_be_written_is_found_out_before_anything_is_asked_for(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    shelf.fail("save")
    with pytest.raises(NotReadyError, match="the shelf is gone"):
        make(scripted.url, **LONG_PAUSES).get_access_token(10)
    assert scripted.asked == []


def test_a_usable_token_is_served_and_nothing_rotated_while_the_store_is_away(
    api: IdentityServer, make: MakeService, shelf: Shelf
) -> None:
    service = make(api)
    token = service.get_access_token()
    api.backend.rotate_secret("orders")
    shelf.fail("load", "lock", "save")
    service._cache.request_refresh()
    wait_for(service, lambda: service.status().state is ServiceState.DEGRADED)
    assert service.get_access_token() == token
    assert api.backend.requests["register"] == 1
    shelf.fail()
    wait_for(service, lambda: service.status().state is ServiceState.READY)
    assert api.backend.requests["register"] == 3


def test_callers_without_a_token_learn_that_the_store_is_away(
    api: IdentityServer, make: MakeService, shelf: Shelf
) -> None:
    api.backend.change(token_lifetime=2.0)
    service = make(api, **LONG_PAUSES)
    service.get_access_token()
    api.backend.rotate_secret("orders")
    shelf.fail("lock")
    wait_for(service, lambda: service.status().state is ServiceState.UNAVAILABLE)
    for _ in range(2):  # the second attempt comes before another registration is due
        with pytest.raises(NotReadyError, match="the shelf is gone") as caught:
            service.get_access_token(5)
        assert isinstance(caught.value.__cause__, CredentialStoreError)
        service._cache.reset_failure()
    assert api.backend.requests["register"] == 1


def test_a_refresh_does_not_need_the_store(
    api: IdentityServer, make: MakeService, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(api)
    service.get_access_token()
    shelf.fail("load", "lock", "save")
    for _ in range(3):
        shared(service)
    assert service.status().state is ServiceState.READY
    (message,) = caplog.messages
    assert "could not save the credentials to the store" in message


def test_a_secret_that_could_not_be_saved_is_used_and_saved_later(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    service = make(scripted.url)
    shelf_save = shelf.save

    def save_only_the_claim(stored: StoredCredentials) -> StoredCredentials:
        if stored.credentials is not None:
            shelf.fail("load", "save")
        return shelf_save(stored)

    shelf.save = save_only_the_claim  # type: ignore[method-assign]
    assert service.get_access_token() == "a-token"
    assert shelf.holds is None
    shelf.save = shelf_save  # type: ignore[method-assign]
    shelf.fail()
    shelf._stored = StoredCredentials(
        version=7, credentials=evolve(_known(service), client_secret="an older one")
    )
    shared(service)
    assert shelf.holds == _known(service)


def test_a_store_that_lost_the_credentials_gets_them_back(
    api: IdentityServer, make: MakeService, shelf: Shelf
) -> None:
    service = make(api)
    service.get_access_token()
    shelf.clear()
    shared(service)
    assert shelf.holds == _known(service)
    make(api).get_access_token()
    assert api.backend.requests["register"] == 1


def test_a_store_that_hangs_holds_up_no_token_and_one_thread_only(
    api: IdentityServer, make: MakeService, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make(api, service_name="with-a-hanging-store")
    service.get_access_token()
    idle(service)
    release, load = threading.Event(), shelf.load

    def hang() -> StoredCredentials:
        release.wait(60)
        return load()

    monkeypatch.setattr(shelf, "load", hang)
    began = time.monotonic()
    try:
        for _ in range(4):
            renew(service)
        assert time.monotonic() - began < 5
        until = time.monotonic() + 10
        workers: list[threading.Thread] = []
        while len(workers) != 2:  # the one that hangs, and the one that replaced it
            assert time.monotonic() < until
            workers = [one for one in threading.enumerate() if "hanging-store" in one.name]
            time.sleep(0.001)
    finally:
        release.set()


def test_what_another_put_back_first_is_left_alone(
    api: IdentityServer, make: MakeService, shelf: Shelf
) -> None:
    service = make(api)
    service.get_access_token()
    stored, loads = shelf.load(), iter([StoredCredentials()])
    shelf_load = shelf.load
    shelf.load = lambda: next(loads, None) or shelf_load()  # type: ignore[method-assign]
    shared(service)
    assert shelf_load() == stored


class VaultError(CredentialStoreError):
    """An error of somebody's store, whose arguments are others than those of its base."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def test_an_error_of_a_store_may_take_arguments_of_its_own(
    api: IdentityServer, make: MakeService, shelf: Shelf
) -> None:
    shelf.fail("load", "lock", error=VaultError("secret/orders", "is sealed"))
    service = make(api, **LONG_PAUSES)
    with pytest.raises(NotReadyError, match="secret/orders: is sealed; retrying in"):
        service.get_access_token(10)
    assert len(shelf.calls) == 1


def test_an_outage_of_the_store_uses_up_no_registration_attempt(
    make: MakeService, scripted: Scripted, shelf: Shelf
) -> None:
    service = make(scripted.url, max_registration_attempts=2, **SHORT_PAUSES)
    token = service.get_access_token()
    idle(service)
    scripted.tokens = [REJECTED]
    shelf.fail("load", "lock")
    service.invalidate_token(token)
    deadline = time.monotonic() + 30
    while len(scripted.asked) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert service.status().state is ServiceState.DEGRADED
    scripted.tokens = [token_reply("again")]
    shelf.fail()
    until_ready(service)
    assert service.get_access_token() == "again"
    assert scripted.asked.count("register") == 1


def test_the_pause_between_regenerations_delays_no_look_at_the_store(
    make: MakeService, scripted: Scripted, shelf: Shelf
) -> None:
    service = make(scripted.url, base_retry_delay=5.0, max_retry_delay=300.0)
    token = service.get_access_token()
    idle(service)
    quiet_until = time.time() + 200
    shelf._stored = evolve(shelf._stored, regenerations=8, no_regeneration_before=quiet_until)

    def prepare(asked: Asked) -> None:
        is_token = asked.path == "/token"
        is_new = is_token and asked.form["client_secret"] == "rotated-elsewhere"
        found = token_reply("with-the-new-secret") if is_new else REJECTED
        scripted.server.answers[0] = found if is_token else existing(scripted.url)

    scripted.server.before_answer = prepare
    service.invalidate_token(token)
    wait_for(service, lambda: service.status().registrations_failed == 1)
    change_stored(shelf, client_secret="rotated-elsewhere")
    until_ready(service)
    assert service.get_access_token() == "with-the-new-secret"
    assert "register and regenerate" not in scripted.asked


def test_a_store_that_raises_something_else_ends_nothing(
    api: IdentityServer, make: MakeService, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(api)
    service.get_access_token()
    shelf.fail("load", error=KeyError("a-secret"))
    renew(service)
    idle(service)
    renew(service)
    idle(service)
    service.close()  # all is logged by then
    assert "unexpected KeyError while using the credential store (_call" in caplog.text
    assert "this is a bug, please report it" in caplog.text
    assert "a-secret" not in caplog.text


def _known(service: IdentityBootstrapService) -> ServiceCredentials:
    credentials = service._source.credentials
    assert credentials is not None
    return credentials


# --- files that suffer ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "credentials.json"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda path: path.unlink(), id="vanishes"),
        pytest.param(lambda path: path.write_bytes(b""), id="is emptied"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:40]), id="is truncated"),
    ],
)
def test_a_file_that_loses_the_credentials_gets_them_back_and_nothing_is_rotated(
    api: IdentityServer, make_service: MakeService, path: Path, fault: Callable[[Path], object]
) -> None:
    service = make_service(api, credential_store=f"file://{path}")
    service.get_access_token()
    idle(service)
    before = path.read_text()
    fault(path)
    shared(service)
    assert path.read_text().replace('"version": 1', '"version": 2') == before
    make_service(api, credential_store=f"file://{path}").get_access_token()
    assert api.backend.requests["register"] == 1


def test_a_file_that_cannot_be_read_is_told_and_rotates_nothing(
    api: IdentityServer, make_service: MakeService, path: Path
) -> None:
    service = make_service(api, credential_store=f"file://{path}")
    service.get_access_token()
    idle(service)
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    second = make_service(api, credential_store=f"file://{path}", **LONG_PAUSES)
    with pytest.raises(
        NotReadyError, match="cannot be read: is a directory; check directory permissions"
    ):
        second.get_access_token(10)
    renew(service)
    path.rmdir()
    aside.rename(path)
    second._cache.reset_failure()
    assert second.wait_for_ready(5)
    assert api.backend.requests["register"] == 1


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
service = make(url, credential_store=sys.argv[2])
service.start()
while not service.status().attempts:
    time.sleep(0.01)
try:
    service.get_access_token(0.3)
except NotReadyError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(service.wait_for_ready(10))
service.close()
"""


def test_a_full_disk_is_told_before_there_is_a_secret_to_lose(
    api: IdentityServer, path: Path
) -> None:
    done = run(FULL_DISK, api.url, f"file://{path}")
    assert f"the file {path} cannot be written: file too large" in done.out
    assert done.out.endswith("True\n")
    assert api.backend.requests["register"] == 1
    assert json.loads(path.read_text())["credentials"]["clientId"] == "orders"


# --- the hint ---


def test_who_loses_the_secret_again_and_again_is_told_which_setting_helps(
    scripted: Scripted, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(scripted.url, base_retry_delay=0.001)
    service.get_access_token()
    hints = []
    for number in range(3):
        caplog.clear()
        scripted.tokens = [REJECTED, REJECTED, scripted.tokens[-1]]
        scripted.registrations = [
            existing(scripted.url),
            existing(scripted.url, f"new {number}", regenerated=True),
        ]
        reported = threading.Event()
        stop = service.on_event(
            lambda event, done=reported: done.set() if event.kind == "secret_regenerated" else None  # type: ignore[misc]
        )
        renew(service)
        assert reported.wait(5)
        stop()
        hints.append("(IDENTITY_CREDENTIAL_STORE, which is memory: here)" in caplog.text)
    assert hints == [False, True, True]


# --- pre-configured secrets in files ---


def test_a_mounted_secret_is_read_again_when_it_is_rejected(
    preconfigured: Preconfigured, tmp_path: Path
) -> None:
    mounted = tmp_path / "secret"
    mounted.write_text("first")
    service, endpoint = preconfigured(client_secret=None, client_secret_file=str(mounted))
    token = service.get_access_token()
    mounted.write_text("second\n")
    good = endpoint.answers[0]
    endpoint.answers[0] = REJECTED

    def accept(event: ServiceEvent) -> None:
        if event.kind is EventKind.CREDENTIALS_REJECTED:
            endpoint.answers[0] = good

    service.on_event(accept)
    service.invalidate_token(token)
    assert service.get_access_token() == "a-token"
    assert [asked.form["client_secret"] for asked in endpoint.asked] == ["first", "first", "second"]


@pytest.mark.parametrize("content", ["first", "", None], ids=["the same", "empty", "no file"])
def test_a_mounted_secret_that_is_no_other_is_asked_with_once(
    preconfigured: Preconfigured, tmp_path: Path, content: str | None
) -> None:
    mounted = tmp_path / "secret"
    mounted.write_text("first")
    service, endpoint = preconfigured(client_secret=None, client_secret_file=str(mounted))
    token = service.get_access_token()
    if content is None:
        mounted.unlink()
    else:
        mounted.write_text(content)
    endpoint.answers[0] = REJECTED
    service.invalidate_token(token)
    assert service.get_access_token() == token  # no other one can be had
    assert "unauthorized_client" in (service.status().last_error or "")
    assert len(endpoint.asked) == 2


def test_a_caller_waits_out_the_pause_after_a_regeneration_of_which_nothing_is_known(
    scripted: Scripted, make: MakeService, shelf: Shelf
) -> None:
    shelf._stored = StoredCredentials(no_regeneration_before=time.time() + 60)
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url),
        existing(scripted.url, "new", regenerated=True),
    ]
    assert make(scripted.url, max_retry_delay=60.0).get_access_token(5) == "a-token"
    assert scripted.asked == ["register", "register", "register and regenerate", "token new"]
