"""What a service does inside uWSGI, as far as that can be told by the module that uWSGI brings.

`deployments/test_uwsgi.py` has the real one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.canned import reply, token_reply
from support.hostile import closed_port
from support.scripted import registered
from support.services import MakeService, StartCanned

from identity_client import IdentityBootstrapService, NotReadyError, _fork
from identity_client.server import IdentityServer


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The module of a worker process that has threads."""
    module = SimpleNamespace(has_threads=1, masterpid=os.getppid)
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    _fork.warn_without_threads.cache_clear()
    yield module
    _fork.warn_without_threads.cache_clear()


@pytest.fixture
def master(module: SimpleNamespace) -> SimpleNamespace:
    """The module of the process that forks the workers."""
    module.masterpid = os.getpid
    return module


def workers(service: IdentityBootstrapService) -> int:
    """Count the threads of a service with a name of its own: those of other tests may end late."""
    name = f"identity-client {service._config.service_name}"
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize(("has_threads", "warnings"), [(0, 1), (1, 0)])
def test_a_process_without_threads_gets_one_warning(
    has_threads: int,
    warnings: int,
    module: SimpleNamespace,
    make_service: MakeService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module.has_threads = has_threads
    for name in ("orders", "billing"):
        make_service("http://127.0.0.1:9", service_name=name)
    assert caplog.text.count("enable-threads = true") == warnings
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_in_a_worker_process_a_thread_works_ahead(
    module: SimpleNamespace, api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api, service_name="working-ahead")
    service.start()
    assert service.wait_for_ready(5)
    assert workers(service) == 1


def test_in_the_master_nothing_is_started(
    master: SimpleNamespace, api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api, service_name="in-the-master")
    service.start()
    service.force_reregistration()
    assert workers(service) == 0
    assert api.backend.requests["api"] == 0


def test_in_the_master_a_thread_lives_as_long_as_somebody_waits(
    master: SimpleNamespace, api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api, service_name="waited-for")
    assert service.wait_for_ready(5)
    assert workers(service) == 0
    token = service.get_access_token()
    service.invalidate_token(token)
    assert service.get_access_token(5) != token
    assert workers(service) == 0
    assert api.backend.requests["register"] == 1


def test_in_the_master_who_waits_gets_as_many_attempts_as_elsewhere(
    master: SimpleNamespace, make_service: MakeService, canned: StartCanned
) -> None:
    server = canned(reply({}, 503), reply({}, 503), token_reply())
    server.answers.insert(2, registered(server.url))
    service = make_service(server.url, service_name="attempts-in-the-master")
    assert service.wait_for_ready(5)
    assert workers(service) == 0


def test_in_the_master_no_thread_is_left_when_nothing_can_be_had(
    master: SimpleNamespace, make_service: MakeService
) -> None:
    with closed_port() as port:
        service = make_service(f"http://127.0.0.1:{port}", service_name="closed-port")
        assert not service.wait_for_ready(0.2)
        with pytest.raises(NotReadyError):
            service.get_access_token(0.1)
    assert workers(service) == 0
