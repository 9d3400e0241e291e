"""CeleryIdentity in this process: what it does at Celery's signals, and which service it has."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from attrs import frozen
from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from support.canned import reply
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client import (
    ConfigurationError,
    IdentityBootstrapService,
    TokenEndpointError,
)
from identity_client.integrations.celery import CeleryIdentity
from identity_client.server import IdentityServer
from identity_client.testing import FakeIdentityService


@frozen
class Worker:
    """What sends `worker_init`."""

    app: Celery


@pytest.fixture
def app() -> Celery:
    return Celery("orders")


def start_worker(app: Celery) -> None:
    signals.worker_init.send(sender=Worker(app))


def start_child() -> None:
    signals.worker_process_init.send(sender="a worker")


def failing() -> FakeIdentityService:
    service = FakeIdentityService()
    service.fail_with(TokenEndpointError("the token endpoint is down"))
    return service


def test_creating_it_reads_no_settings_and_starts_nothing(app: Celery) -> None:
    made = []

    def make() -> IdentityBootstrapService:
        made.append(FakeIdentityService())
        return made[-1]

    threads = set(threading.enumerate())
    identity = CeleryIdentity(app, service=make)
    identity.auth({"inventory"})
    identity.session()
    assert made == []
    assert not identity.service.status().started
    assert identity.service is identity.service is made[0]
    assert set(threading.enumerate()) <= threads


def test_threads_that_come_at_once_make_one_service(app: Celery) -> None:
    made, barrier = [], threading.Barrier(4)

    def make() -> IdentityBootstrapService:
        time.sleep(0.01)
        made.append(FakeIdentityService())
        return made[-1]

    identity = CeleryIdentity(app, service=make)

    def ask(_: int) -> str:
        barrier.wait()
        return identity.get_access_token()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(made) == 1


def test_a_starting_worker_starts_the_service(app: Celery) -> None:
    service = FakeIdentityService()
    CeleryIdentity(app, service=service)
    start_worker(app)
    assert service.peek_token() is not None


def test_the_worker_of_another_app_does_not(app: Celery) -> None:
    service = FakeIdentityService()
    CeleryIdentity(app, service=service)
    start_worker(Celery("another"))
    start_child()
    assert not service.status().started


def test_a_child_of_the_pool_starts_the_service(app: Celery) -> None:
    service = FakeIdentityService()
    CeleryIdentity(app, service=service)
    start_child()
    assert service.peek_token() is not None


def test_a_child_that_cannot_start_the_service_logs_the_cause(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    service = FakeIdentityService()
    service.close()
    CeleryIdentity(app, service=service)
    start_child()
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.name == "identity_client"
    assert "cannot start the identity service in this process: " in record.getMessage()


@pytest.mark.parametrize("wait", [5.0, 0.0])
def test_a_worker_that_must_wait_does_not_start_without_a_token(app: Celery, wait: float) -> None:
    CeleryIdentity(app, service=failing(), wait=wait)
    with pytest.raises(WorkerShutdown, match=rf"within {wait:g} s: the token endpoint is down"):
        start_worker(app)


def test_a_worker_that_need_not_wait_starts_without_a_token(app: Celery) -> None:
    service = failing()
    CeleryIdentity(app, service=service)
    start_worker(app)
    service.recover()
    assert service.get_access_token()


def test_a_worker_that_must_wait_starts_with_a_token(app: Celery) -> None:
    CeleryIdentity(app, service=FakeIdentityService(), wait=5)
    start_worker(app)


def test_settings_are_those_of_the_app_and_of_the_environment(
    app: Celery, api: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_API_INTERNAL_TOKEN", INTERNAL_TOKEN)
    monkeypatch.setenv("SERVICE_NAME", "of-the-environment")
    identity = CeleryIdentity(app)
    app.conf.identity_client = {"SERVICE_NAME": "orders", "IDENTITY_API_URL": api.url}
    with identity.service as service:
        assert identity.get_access_token() == service.get_access_token()
        assert service.status().service_name == "orders"
        assert CeleryIdentity(app).service is service


def test_settings_that_are_missing_stop_the_worker(app: Celery) -> None:
    CeleryIdentity(app)
    with pytest.raises(WorkerShutdown, match=r"start: .*app\.conf\.identity_client.*SERVICE"):
        start_worker(app)


def test_settings_that_are_no_dictionary_are_refused(app: Celery) -> None:
    app.conf.identity_client = "orders"
    with pytest.raises(
        ConfigurationError, match=r"app\.conf\.identity_client must be a dictionary"
    ):
        CeleryIdentity(app).get_access_token()


def test_a_service_that_cannot_be_made_stops_the_worker(app: Celery) -> None:
    def make() -> IdentityBootstrapService:
        raise LookupError("no such secret: orders")

    CeleryIdentity(app, service=make)
    with pytest.raises(WorkerShutdown, match="not start: LookupError: no such secret: orders"):
        start_worker(app)


def test_a_service_in_the_settings_comes_before_others(app: Celery) -> None:
    identity = CeleryIdentity(app, service=failing())
    for fake in (FakeIdentityService(), FakeIdentityService()):
        app.conf.identity_client = {"SERVICE": fake}
        assert identity.get_access_token() == fake.get_access_token()


def test_auth_objects_of_a_module_use_the_service_of_the_settings(app: Celery) -> None:
    identity = CeleryIdentity(app)
    auth = identity.auth({"inventory"})
    fake = FakeIdentityService()
    app.conf.identity_client = {"SERVICE": fake}
    request = requests.Request("GET", "http://inventory/", auth=auth).prepare()
    assert request.headers["Authorization"] == f"Bearer {fake.get_access_token()}"


def test_a_rejected_token_is_replaced(app: Celery, canned: StartCanned) -> None:
    fake = FakeIdentityService()
    inventory = canned(reply({}, 401), reply({}))
    session = CeleryIdentity(app, service=fake).session()
    assert session.get(inventory.url, timeout=5).status_code == 200
    assert len(fake.tokens) == 2
