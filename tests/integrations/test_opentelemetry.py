"""Metrics that OpenTelemetry's SDK collects, also in a forked worker."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.integrations.opentelemetry import instrument
from identity_client.server import IdentityServer

Figures = dict[tuple[str, frozenset[tuple[str, Any]]], float]


class Collected:
    """A meter provider, and what it collects."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def document(self) -> str:
        """All that is exported, with the attributes of the process."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return data.to_json()

    def figures(self) -> Figures:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            (metric.name, frozenset((point.attributes or {}).items())): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }

    def value(self, name: str, service: str = "orders", **attributes: str) -> float | None:
        key = frozenset({"service": service, **attributes}.items())
        return self.figures().get((f"identity_client.{name}", key))


@pytest.fixture
def collected() -> Collected:
    return Collected()


def test_all_that_happens_to_a_service_is_exported(
    api: IdentityServer, make_service: MakeService, collected: Collected
) -> None:
    service = make_service(api)
    instrument(service, meter_provider=collected.provider)
    assert collected.value("token.expiry") is None
    assert collected.value("state", state="PENDING") == 1
    assert not service.status().started
    token = service.get_token()
    assert collected.value("token.expiry") == token.expires_at
    assert collected.value("state", state="READY") == 1
    assert collected.value("state", state="PENDING") == 0
    assert collected.value("token.requests", outcome="issued") == 1
    assert collected.value("token.requests", outcome="failed") == 0
    assert collected.value("registrations", outcome="registered") == 1
    assert collected.value("registrations", outcome="failed") == 0
    assert collected.value("secret.regenerations") == 0
    service.invalidate_token(token.value)
    service.get_access_token()
    assert collected.value("tokens.invalidated") == 1
    assert collected.value("token.requests", outcome="issued") == 2


def test_the_metrics_show_no_secret(
    api: IdentityServer, make_service: MakeService, collected: Collected
) -> None:
    service = make_service(api)
    instrument(service, meter_provider=collected.provider)
    token = service.get_access_token()
    credentials = service._source.credentials
    assert credentials is not None
    exported = collected.document()
    assert "identity_client.token.expiry" in exported
    for secret in (token, credentials.client_secret, INTERNAL_TOKEN):
        assert secret not in exported


def test_two_services_share_the_instruments_of_a_provider(
    api: IdentityServer,
    make_service: MakeService,
    collected: Collected,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ("orders", "billing")
    services = [make_service(api, service_name=name) for name in names]
    stops = [instrument(service, meter_provider=collected.provider) for service in services * 2]
    for service in services:
        service.get_access_token()
    issued = [collected.value("token.requests", name, outcome="issued") for name in names]
    assert issued == [1, 1]
    stops[0]()
    stops[0]()
    assert collected.value("token.requests", "orders", outcome="issued") is None
    assert collected.value("token.requests", "billing", outcome="issued") == 1
    assert "already been created" not in caplog.text


def test_a_service_that_is_gone_is_not_exported(api: IdentityServer, collected: Collected) -> None:
    service = IdentityBootstrapService(
        IdentityBootstrapConfig(
            service_name="orders",
            identity_api_url=api.url,
            identity_api_internal_token=INTERNAL_TOKEN,
        )
    )
    instrument(service, meter_provider=collected.provider)
    assert collected.figures()
    reference = weakref.ref(service)
    del service
    gc.collect()
    assert reference() is None
    assert not collected.figures()


def test_the_provider_of_the_process_is_used_where_none_is_given(
    api: IdentityServer, make_service: MakeService
) -> None:
    stop = instrument(make_service(api))  # the API alone: it exports nothing
    stop()


WORKER = """
import json, os, sys, time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.integrations.opentelemetry import instrument

exporter = ConsoleMetricExporter(
    formatter=lambda data: json.dumps([os.getpid(), json.loads(data.to_json(indent=None))]) + "\\n"
)
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=200)
provider = MeterProvider([reader])
service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
instrument(service, meter_provider=provider)
service.get_access_token()
child = os.fork()
if child == 0:
    service.invalidate_token(service.get_access_token())
    service.get_access_token()
time.sleep(float(sys.argv[1]))
provider.shutdown()
if child:
    os.waitpid(child, 0)
else:
    os._exit(0)
"""


def test_a_forked_worker_exports_its_own_figures(api: IdentityServer) -> None:
    environment = {
        **os.environ,
        "IDENTITY_API_URL": api.url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "SERVICE_NAME": "orders",
    }
    done = subprocess.run(
        [sys.executable, "-c", WORKER, "3"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    issued: dict[int, float] = {}
    for line in done.stdout.splitlines():
        pid, document = json.loads(line)
        for metric in document["resource_metrics"][0]["scope_metrics"][0]["metrics"]:
            if metric["name"] == "identity_client.token.requests":
                for point in metric["data"]["data_points"]:
                    if point["attributes"]["outcome"] == "issued":
                        issued[pid] = point["value"]
    assert sorted(issued.values()) == [1, 1]  # each its own request, and not the other's
    assert api.backend.requests["token"] == 2
