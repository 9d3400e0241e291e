"""Metrics in a real registry, under gunicorn in multiprocess mode, and in a real Prometheus."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from support.deployment import WebDeployment
from support.needs import needs
from support.ports import reserve_port
from support.recorder import Recorder
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import (
    EventKind,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    ServiceState,
)
from identity_client.integrations.prometheus import _watch_in_child, instrument
from identity_client.server import IdentityServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "observability"
EXPIRY = "identity_client_token_expiry_timestamp_seconds"
WORKERS = 3

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_that_happens_to_a_service_is_counted(
    api: IdentityServer, make_service: MakeService
) -> None:
    service, registry = make_service(api), CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"identity_client_{name}", {"service": "orders", **labels})

    instrument(service, registry=registry)
    assert value("token_expiry_timestamp_seconds") is None
    assert value("state", state="PENDING") == 1
    token = service.get_token()
    # It is written last.
    wait_until(lambda: value("token_expiry_timestamp_seconds") == token.expires_at)
    assert value("token_requests_total", outcome="issued") == 1
    assert value("registrations_total", outcome="registered") == 1
    assert value("secret_regenerations_total") == 0
    assert value("state", state="READY") == 1
    assert value("state", state="PENDING") == 0
    api.backend.change(token_outage=True)
    service.invalidate_token(token.value)
    wait_until(lambda: value("token_requests_total", outcome="failed") is not None)
    wait_until(lambda: (value("token_requests_total", outcome="failed") or 0) >= 1)
    wait_until(lambda: value("tokens_invalidated_total") == 1)
    wait_until(lambda: value("state", state="DEGRADED") == 1)
    service.close()
    assert value("token_expiry_timestamp_seconds") == math.inf
    assert [value("state", state=state.value) for state in ServiceState] == [0] * len(ServiceState)


def test_registrations_that_fail_are_counted(
    api: IdentityServer, make_service: MakeService
) -> None:
    api.backend.change(api_outage=True)
    service, registry = make_service(api), CollectorRegistry()
    instrument(service, registry=registry)
    service.start()
    labels = {"service": "orders", "outcome": "failed"}
    name = "identity_client_registrations_total"
    wait_until(lambda: (registry.get_sample_value(name, labels) or 0) >= 2)


def test_a_service_is_instrumented_once_and_can_be_left_alone_again(
    api: IdentityServer, make_service: MakeService
) -> None:
    service, registry = make_service(api), CollectorRegistry()
    service.get_access_token()  # what was counted before is exported, too
    stop = instrument(service, registry=registry)
    assert instrument(service, registry=registry) == stop
    labels = {"service": "orders", "outcome": "issued"}
    name = "identity_client_token_requests_total"
    assert registry.get_sample_value(name, labels) == 1
    stop()
    seen: list[object] = []
    service.on_event(seen.append)
    service.invalidate_token(service.get_access_token())
    service.get_access_token()
    wait_until(lambda: len(seen) >= 2)
    assert registry.get_sample_value(name, labels) == 1
    assert registry.get_sample_value(EXPIRY, {"service": "orders"}) == math.inf
    assert instrument(service, registry=registry) != stop
    assert registry.get_sample_value(name, labels) == 2


def test_threads_that_come_at_once_share_the_metrics_of_a_registry(
    api: IdentityServer, make_service: MakeService
) -> None:
    class Slow(CollectorRegistry):
        def register(self, collector: Collector) -> None:
            time.sleep(0.01)
            super().register(collector)

    registry, barrier, service = Slow(), threading.Barrier(4), make_service(api)

    def start(_: int) -> object:
        barrier.wait()
        return instrument(service, registry=registry)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(start, range(4))
    assert others == [first] * 3


def test_two_services_share_the_metrics_of_a_registry(
    api: IdentityServer, make_service: MakeService
) -> None:
    registry, names = CollectorRegistry(), ("orders", "billing")
    for name in names:
        service = make_service(api, service_name=name)
        instrument(service, registry=registry)
        service.get_access_token()

    def issued(name: str) -> float | None:
        labels = {"service": name, "outcome": "issued"}
        return registry.get_sample_value("identity_client_token_requests_total", labels)

    wait_until(lambda: [issued(name) for name in names] == [1, 1])


def test_the_metrics_show_no_secret(api: IdentityServer, make_service: MakeService) -> None:
    service, registry = make_service(api), CollectorRegistry()
    instrument(service, registry=registry)
    token = service.get_access_token()
    wait_until(lambda: registry.get_sample_value(EXPIRY, {"service": "orders"}) is not None)
    text = generate_latest(registry).decode()
    credentials = service._source.credentials
    assert credentials is not None
    for secret in (token, credentials.client_secret, INTERNAL_TOKEN):
        assert secret not in text


def test_a_registry_that_has_such_a_name_is_refused(
    api: IdentityServer, make_service: MakeService
) -> None:
    registry = CollectorRegistry()
    Counter("identity_client_registrations", "Another.", registry=registry)
    with pytest.raises(ValueError, match="identity_client_registrations"):
        instrument(make_service(api), registry=registry)


def test_the_metrics_hold_no_service_alive(api: IdentityServer, make_service: MakeService) -> None:
    registry = CollectorRegistry()
    service = IdentityBootstrapService(
        IdentityBootstrapConfig(
            service_name="orders", identity_api_url=api.url, identity_api_internal_token="token"
        )
    )
    stop = instrument(service, registry=registry)
    reference = weakref.ref(service)
    del service
    gc.collect()
    assert reference() is None
    exporter: Any = cast("Any", stop).__self__
    exporter._on_event(None)  # the worker may deliver an event while the service goes
    stop()
    assert registry.get_sample_value(EXPIRY, {"service": "orders"}) == math.inf


def test_a_forked_child_writes_what_multiprocess_mode_sets_to_zero_there(
    api: IdentityServer,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    service, registry = make_service(api), CollectorRegistry()
    stop = instrument(service, registry=registry)
    instrument(make_service(api, service_name="billing"), registry=registry)  # has no token
    recorder = Recorder(service)
    token = service.get_token()
    recorder.wait_for(EventKind.STATE_CHANGED)  # the last event, which was exported by then

    def expiry() -> float | None:
        return registry.get_sample_value(EXPIRY, {"service": "orders"})

    wait_until(lambda: expiry() == token.expires_at)
    stop()
    assert expiry() == math.inf
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    threads = set(threading.enumerate())
    _watch_in_child()
    assert set(threading.enumerate()) <= threads  # in a single process nothing is lost
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # prometheus-client has read it
    exporter: Any = cast("Any", stop).__self__
    exporter._fork_guard.expect_fork()  # stands for the other process id of a child
    _watch_in_child()
    time.sleep(0.1)
    assert expiry() == math.inf  # a child without files exports nothing
    (tmp_path / f"counter_{os.getpid()}.db").touch()
    wait_until(lambda: expiry() == token.expires_at)


# --- many processes ---


class Application(WebDeployment):
    """The example under gunicorn."""

    def order(self) -> None:
        url = f"http://127.0.0.1:{self._port}/orders"
        assert requests.post(url, timeout=30).status_code == 200

    @property
    def port(self) -> int:
        return self._port

    def samples(self) -> Samples:
        text = requests.get(f"http://127.0.0.1:{self._port}/metrics", timeout=30).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples().get((name, frozenset({"service": "orders", **labels}.items())), 0.0)

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def _wait_until_ready(self) -> None:
        super()._wait_until_ready()
        wait_until(lambda: len(self.workers()) == WORKERS)

    def __exit__(self, kind: object, *rest: object) -> None:
        self.kill()
        print(self.log)
        assert "Traceback" not in self.log


@pytest.fixture
def start(api: IdentityServer, tmp_path: Path) -> Callable[..., Application]:
    def start(*options: str) -> Application:
        shared = tmp_path / "metrics"
        shared.mkdir()
        command = (
            f"gunicorn --bind={{address}} --workers={WORKERS} --chdir={EXAMPLE} "
            f"--config={EXAMPLE}/gunicorn.conf.py {' '.join(options)} app:app"
        )
        environment = {
            "IDENTITY_API_URL": api.url,
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "IDENTITY_CREDENTIAL_STORE": f"file://{tmp_path}/credentials.json",
            "PROMETHEUS_MULTIPROC_DIR": str(shared),
            "SERVICE_NAME": "orders",
        }
        return Application(command, environment, tmp_path / "log")

    return start


@pytest.mark.parametrize("option", ["", "--preload"], ids=["loaded after the fork", "preloaded"])
def test_sums_and_minima_are_right_when_a_worker_is_killed(
    start: Callable[..., Application], api: IdentityServer, option: str
) -> None:
    requested = "identity_client_token_requests_total"
    began = time.time()
    with start(option) as application:
        wait_until(lambda: _order(application, api) >= WORKERS)
        wait_until(
            lambda: application.value(requested, outcome="issued") == api.backend.requests["token"]
        )
        victim = min(application.workers())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in application.workers())
        wait_until(lambda: len(application.workers()) == WORKERS)
        for _ in range(30):
            application.order()  # touches a metric of the application first, then asks for a token
            assert application.value(EXPIRY) >= began + 200
        wait_until(
            lambda: application.value(requested, outcome="issued") == api.backend.requests["token"]
        )
        assert application.value("identity_client_state", state="READY") <= WORKERS + 1


def _order(application: Application, api: IdentityServer) -> int:
    application.order()
    return api.backend.requests["token"]


CHILD = """
import os, subprocess, sys, time
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.integrations.prometheus import instrument

NAME, LABELS = "identity_client_token_expiry_timestamp_seconds", {"service": "orders"}
service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
instrument(service)
requests = Counter("requests", "Of the application.")

def exported():
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry.get_sample_value(NAME, LABELS)

def wait_until_exported(moment):
    deadline = time.monotonic() + 30
    while exported() != moment:
        assert time.monotonic() < deadline, exported()
        time.sleep(0.01)

moment = service.get_token().expires_at
wait_until_exported(moment)
files = os.environ["PROMETHEUS_MULTIPROC_DIR"]
subprocess.run(["sleep", "1"], preexec_fn=os.setpgrp, check=True)
idle = os.fork()
if idle == 0:
    time.sleep(1.5)
    os._exit(0)
os.waitpid(idle, 0)
assert {name.rpartition("_")[2] for name in os.listdir(files)} == {f"{os.getpid()}.db"}

end, go_on = os.pipe()
child = os.fork()
if child == 0:
    requests.inc()  # begins the child's files, with zeros
    os.close(go_on)
    os.read(end, 1)
    os._exit(0)
while f"counter_{child}.db" not in os.listdir(files):
    time.sleep(0.01)
try:
    wait_until_exported(moment)
finally:
    os.close(go_on)
    os.waitpid(child, 0)
"""


def test_a_child_that_asks_for_no_token_does_not_export_an_expiry_of_zero(
    api: IdentityServer, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "SERVICE_NAME": "orders",
    }
    subprocess.run([sys.executable, "-c", CHILD], env=environment, timeout=90, check=True)
    assert api.backend.requests["token"] == 1


# --- a Prometheus ---


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    program = needs("prometheus", "install the package prometheus of your distribution")
    processes = []

    def start(target: int) -> str:
        rules = (EXAMPLE / "alerts.yml").read_text()
        (tmp_path / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 1s", rules))
        config = (EXAMPLE / "prometheus.yml").read_text().replace(":8000", f":{target}")
        (tmp_path / "prometheus.yml").write_text(config.replace(": 15s", ": 1s"))
        port = reserve_port()
        with (tmp_path / "prometheus.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [
                        program,
                        f"--config.file={tmp_path}/prometheus.yml",
                        f"--storage.tsdb.path={tmp_path}/data",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdout=log,
                    stderr=log,
                )
            )
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.terminate()
        process.wait(30)


def test_the_alerts_fire_in_an_outage_and_clear_after_it(
    start: Callable[..., Application],
    api: IdentityServer,
    prometheus: Callable[[int], str],
) -> None:
    api.backend.change(token_lifetime=10.0)
    with start() as application:
        wait_until(lambda: _order(application, api) >= WORKERS)
        url = prometheus(application.port)

        def firing() -> set[str]:
            try:
                answer = requests.get(f"{url}/api/v1/alerts", timeout=30)
            except requests.ConnectionError:
                return {"Prometheus does not run yet"}
            if answer.status_code == 503:
                return {"Prometheus is not ready yet"}
            alerts: list[Any] = answer.json()["data"]["alerts"]
            return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

        wait_until(lambda: firing() == set())
        with api.backend.changed(token_outage=True):
            wait_until(lambda: firing() == {"AccessTokenExpired", "AccessTokenRefreshFails"})
        wait_until(lambda: firing() == set())


def test_prometheus_accepts_the_rules() -> None:
    program = needs("promtool", "install the package prometheus of your distribution")
    subprocess.run([program, "check", "rules", str(EXAMPLE / "alerts.yml")], check=True)


# By state and minutes of failing requests: whether the rule fires after 20 minutes.
@pytest.mark.parametrize(
    ("state", "failed_registrations", "failed_token_requests", "fires"),
    [
        ("PENDING", "0x20", "0x20", False),
        ("PENDING", "0+1x20", "0x20", True),
        ("PENDING", "0x20", "0+1x20", True),
        ("READY", "0+1x20", "0x20", False),
        ("DEGRADED", "0x20", "0x20", True),
        ("UNAVAILABLE", "0x20", "0+1x20", True),
        ("FAILED", "0x20", "0x20", True),
    ],
)
def test_a_service_that_cannot_obtain_a_token_is_told_from_one_that_was_never_asked(
    tmp_path: Path, state: str, failed_registrations: str, failed_token_requests: str, fires: bool
) -> None:
    program = needs("promtool", "install the package prometheus of your distribution")
    shutil.copy(EXAMPLE / "alerts.yml", tmp_path)
    labels = 'job="orders", instance="a", service="orders"'
    failed = f'{labels}, outcome="failed"'
    values = {
        f'identity_client_state{{{labels}, state="{state}"}}': "1x20",
        f"identity_client_registrations_total{{{failed}}}": failed_registrations,
        f"identity_client_token_requests_total{{{failed}}}": failed_token_requests,
    }
    alert = {
        "exp_labels": {"severity": "warning", "job": "orders", "service": "orders"},
        "exp_annotations": {
            "summary": "processes of orders that cannot obtain an access token: 1",
            "description": "Calls go on while the current token lasts. Look at the token endpoint.",
        },
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": of} for name, of in values.items()],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": "AccessTokenRefreshFails",
                "exp_alerts": [alert] if fires else [],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": [case]})
    )
    subprocess.run([program, "test", "rules", "test.yml"], check=True, cwd=tmp_path)


def test_the_dashboard_uses_metrics_that_there_are(
    api: IdentityServer, make_service: MakeService
) -> None:
    service, registry = make_service(api), CollectorRegistry()
    instrument(service, registry=registry)
    service.get_access_token()
    wait_until(lambda: registry.get_sample_value(EXPIRY, {"service": "orders"}) is not None)
    exported = {sample.name for family in registry.collect() for sample in family.samples}
    dashboard = json.loads((EXAMPLE / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (EXAMPLE / "alerts.yml").read_text()
    used = set(re.findall(r"identity_client_\w+", " ".join([*expressions, rules])))
    assert used <= exported | {"identity_client"}
    assert len(used) == 6
