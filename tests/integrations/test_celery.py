"""Celery with real workers and a Redis broker: who registers, how often, and what tasks get."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.celery_worker import APP, CeleryWorker
from support.deployment import TESTS
from support.examples import EXAMPLES, lines_of_glue, run_tests_of
from support.redis_server import RedisServer
from support.resource import ProtectedResource
from support.restarts import restarted
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import NotReadyError
from identity_client.server import IdentityServer
from identity_client.server.backend import TOKEN_PATH

Worker = Callable[..., CeleryWorker]

POOLS = {
    "prefork": "--pool=prefork --concurrency=4",
    "prefork, with beat": "--pool=prefork --concurrency=4 -B --schedule={folder}/schedule",
    "solo": "--pool=solo",
    "threads": "--pool=threads --concurrency=4",
    "gevent": "--pool=gevent --concurrency=4",
}


@pytest.fixture(scope="module")
def running_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def environment(
    api: IdentityServer, resource: ProtectedResource, running_redis: RedisServer, tmp_path: Path
) -> dict[str, str]:
    running_redis.client.flushall()
    return {
        "BROKER_URL": running_redis.url,
        "HOME": str(tmp_path),
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "RESOURCE_URL": resource.url,
        "SERVICE_NAME": "orders",
    }


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Worker:
    def make(options: str, **settings: str) -> CeleryWorker:
        options = options.format(folder=tmp_path)
        return CeleryWorker(options, environment | settings, tmp_path / "log")

    return make


@pytest.fixture
def hanging_api() -> Iterator[str]:
    """An identity-api that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _preconfigured(url: str) -> dict[str, str]:
    return {
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": "a-wrong-secret",
        "SERVICE_TOKEN_ENDPOINT": f"{url}{TOKEN_PATH}",
    }


def command(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``celery`` with the app of the tests, to its end."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("celery")), f"--app={APP}", *arguments],
        env=os.environ | environment,
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_tasks_in_each_pool_have_a_token_with_one_registration(
    options: str, worker: Worker, api: IdentityServer
) -> None:
    with worker(options) as running:
        running.ask_at_once(40)
    assert api.backend.requests["register"] == 1


@pytest.mark.parametrize("is_known", [False, True], ids=["a new service", "a known service"])
def test_recycled_children_neither_register_nor_regenerate(
    is_known: bool, worker: Worker, api: IdentityServer, make_service: MakeService
) -> None:
    if is_known:
        make_service(api).get_access_token()
    registrations = api.backend.requests["register"]
    with worker("--pool=prefork --concurrency=4 --max-tasks-per-child=1") as running:
        answers = running.ask_at_once(50)
        assert len({answer.pid for answer in answers}) == 50
        running.kill()  # a child that is being replaced may miss the signal to end
    # The second is the one that regenerates the secret of a known service.
    assert api.backend.requests["register"] - registrations == (2 if is_known else 1)


def test_children_of_a_slow_registration_wait_for_it_and_do_not_register(
    worker: Worker, api: IdentityServer
) -> None:
    api.backend.change(api_latency=1.0)
    with worker("--pool=prefork --concurrency=4") as running:
        running.ask_at_once(8)
    assert api.backend.requests["register"] == 1


@pytest.mark.parametrize("is_preconfigured", [False, True], ids=["registration", "pre-configured"])
def test_children_come_up_in_time_while_identity_api_hangs(
    is_preconfigured: bool, worker: Worker, hanging_api: str
) -> None:
    options = "--pool=prefork --concurrency=4 --max-tasks-per-child=1"
    settings = {"IDENTITY_API_URL": hanging_api, "GRACE": "2"}
    if is_preconfigured:
        settings |= _preconfigured(hanging_api)
    with worker(options, **settings) as running:
        running.wait_for("ready.")
        pids = {running.run_task("pid") for _ in range(8)}
        running.kill()
    assert len(pids) == 8  # half of them came up in the place of others
    assert "SIGKILL" not in running.log
    assert "UP message" not in running.log


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_a_worker_that_must_wait_for_a_token_exits_with_the_cause(
    options: str, worker: Worker, api: IdentityServer
) -> None:
    running = worker(options, WAIT="1", **_preconfigured(api.url))
    assert running.run_to_end() == 1
    assert "the worker does not start: no access token within 1 s: " in running.log
    assert "a-wrong-secret" not in running.log


def test_a_worker_waits_until_identity_api_is_there(worker: Worker, api: IdentityServer) -> None:
    api.backend.change(api_outage=True)
    with worker("--pool=solo", WAIT="60", IDENTITY_BASE_RETRY_DELAY="0.2") as running:
        running.wait_for("simulated outage")
        api.backend.change(api_outage=False)
        running.ask()


def test_a_worker_without_settings_exits_with_what_is_missing(
    worker: Worker,
) -> None:
    running = worker("--pool=solo", SERVICE_NAME="")
    assert running.run_to_end() == 1
    assert "the worker does not start: identity_client is not configured" in running.log
    assert "SERVICE_NAME" in running.log


def test_no_call_fails_while_identity_api_is_down_and_the_secret_rotates(
    worker: Worker, api: IdentityServer, tmp_path: Path
) -> None:
    api.backend.change(token_lifetime=10.0)
    store = {
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "IDENTITY_REFRESH_RATIO": "0.5",  # leaves a slow machine four seconds
    }
    with worker("--pool=prefork --concurrency=4", **store) as running:
        running.ask_at_once(8)
        api.backend.change(api_outage=True, token_outage=True)
        running.ask_at_once(8)
        api.backend.rotate_secret("orders")
        api.backend.change(api_outage=False, token_outage=False)
        _ask_until_all_tokens_are_refreshed(running)
    # One process asked for a secret, got none, and regenerated it; the others found it.
    assert api.backend.requests["register"] == 3


def _ask_until_all_tokens_are_refreshed(running: CeleryWorker) -> None:
    end = time.monotonic() + 12.0  # they live for 10 s
    while time.monotonic() < end:
        running.ask()


def test_no_call_fails_while_identity_api_restarts(
    worker: Worker, api: IdentityServer, tmp_path: Path
) -> None:
    api.backend.change(token_lifetime=10.0)
    store = {
        "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        "IDENTITY_REFRESH_RATIO": "0.5",  # leaves a slow machine four seconds
    }
    with worker("--pool=prefork --concurrency=4", **store) as running:
        running.ask_at_once(8)
        with restarted(api, while_stopped=lambda: running.ask_at_once(8)):
            before = api.backend.requests["token"]
            _ask_until_all_tokens_are_refreshed(running)
            assert api.backend.requests["token"] > before
    assert api.backend.requests["register"] == 1


def test_what_is_not_a_worker_makes_no_request(
    environment: dict[str, str], api: IdentityServer
) -> None:
    producer = f"from {APP} import call; call.delay()"
    subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", producer],
        env=os.environ | environment,
        cwd=TESTS,
        timeout=60,
        check=True,
    )
    assert command("report", environment=environment).returncode == 0
    assert command("inspect", "ping", "--timeout=0.2", environment=environment).returncode == 69
    assert not api.backend.requests


def test_beat_makes_no_request(
    environment: dict[str, str], api: IdentityServer, tmp_path: Path
) -> None:
    celery = str(Path(sys.executable).with_name("celery"))
    schedule = f"--schedule={tmp_path}/schedule"
    with subprocess.Popen(
        [celery, f"--app={APP}", "beat", "--loglevel=INFO", schedule],
        env=os.environ | environment,
        cwd=TESTS,
        stderr=subprocess.PIPE,
        text=True,
    ) as beat:
        assert beat.stderr is not None
        for line in beat.stderr:
            if "beat: Starting" in line:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            beat.wait(5)  # it would have registered by then
        beat.send_signal(signal.SIGTERM)
    assert beat.returncode == 0
    assert not api.backend.requests


@pytest.mark.timeout(400)  # each imports the whole app
def test_twenty_probes_of_a_worker_make_no_request(
    worker: Worker, environment: dict[str, str], api: IdentityServer
) -> None:
    api.backend.change(token_lifetime=3600.0)  # no refresh is due meanwhile
    with worker("--pool=solo") as running:
        running.ask()
        before = api.backend.requests.copy()
        # With a destination it ends when that has replied; without, it waits for others.
        ping = ("inspect", "ping", "--timeout=15", f"--destination=celery@{socket.gethostname()}")
        with ThreadPoolExecutor(2) as probes:
            ended = list(probes.map(lambda _: command(*ping, environment=environment), range(20)))
        assert [probe.returncode for probe in ended] == [0] * 20, ended[0]
        assert api.backend.requests == before


def test_the_error_of_a_task_arrives_as_its_class(worker: Worker) -> None:
    with worker("--pool=solo") as running:
        running.ask()
        with pytest.raises(NotReadyError, match="identity-api is down"):
            running.run_task("fail")


def test_a_worker_of_the_example_asks_the_inventory(
    environment: dict[str, str], api: IdentityServer, resource: ProtectedResource, tmp_path: Path
) -> None:
    worker = CeleryWorker(
        "--pool=prefork --concurrency=2",
        environment
        | {
            "INVENTORY_URL": resource.url,
            # Children that are forked before the first token find the registration there.
            "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
        },
        tmp_path / "log",
        app="tasks",
        folder=EXAMPLES / "celery",
    )
    with worker as running:
        assert running.run_task("check_stock", "book") == 204
    assert resource.accepted == 1
    assert api.backend.requests["register"] == 1


def test_the_example_has_two_lines_of_glue() -> None:
    lines = lines_of_glue("celery/tasks.py", "celery")
    assert len(lines) == 2, lines


def test_the_example_passes_its_own_tests() -> None:
    run_tests_of("celery")
