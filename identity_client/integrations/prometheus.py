"""Metrics for Prometheus, with prometheus-client; also in its multiprocess mode.

Needs the extra ``prometheus``: ``pip install "xemahq-identity-client[prometheus]"``.

They are written at each event of a service, in its worker's thread. Nothing is computed when a
scrape comes, which multiprocess mode would not allow. The token's end is a moment and not a
duration, so that it stays right between two events.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from .. import _fork
from ..events import ServiceEvent, ServiceState, ServiceStatus
from ..service import IdentityBootstrapService

__all__ = ["instrument"]

# Seconds after which a forked child looks again whether it exports metrics.
_LOOK_INTERVAL = 0.5


def instrument(
    service: IdentityBootstrapService, *, registry: CollectorRegistry = REGISTRY
) -> Callable[[], None]:
    """Export the metrics of a service from now on; a second call for the same service does nothing.

    ==================================================== ==========================================
    ``identity_client_token_expiry_timestamp_seconds``   when the token expires, in seconds since
                                                         the epoch; missing before the first token,
                                                         ``+Inf`` after the service was closed
    ``identity_client_state``                            by ``state``: 1 for the current one, 0 for
                                                         others; in multiprocess mode how many
                                                         processes are in it
    ``identity_client_token_requests_total``             by ``outcome``: ``issued``, ``failed``
    ``identity_client_registrations_total``              by ``outcome``: ``registered``, ``failed``
    ``identity_client_secret_regenerations_total``       registrations with a new secret
    ``identity_client_tokens_invalidated_total``         tokens that a server rejected
    ==================================================== ==========================================

    All have the label ``service``, the service's name, so the names of the services of one process
    have to differ. Makes no request and starts nothing. Close the service, or call what this
    returns, before you drop it: the metrics stay as they are otherwise.

    Args:
        service: the service.
        registry: where to register the metrics. In multiprocess mode leave it out, and do not use
            the registry of a ``MultiProcessCollector``.

    Returns:
        A function that ends this.

    Raises:
        ValueError: the registry has metrics of these names that are not ours.
    """
    with _lock.of_this_process():
        metrics = _metrics.get(registry)
        if metrics is None:
            metrics = _metrics[registry] = _Metrics(registry)
        exporter = metrics.exporters.get(service)
        if exporter is None or exporter.is_stopped:
            counted = {} if exporter is None else exporter.counted()
            exporter = metrics.exporters[service] = _Exporter(service, metrics, counted)
        return exporter.stop


class _Metrics:
    """The metrics of one registry, which accepts a name once only, for all services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            name = f"identity_client_{name}"
            return Counter(name, documentation, ["service", *labels], registry=registry)

        self.expiry = Gauge(
            "identity_client_token_expiry_timestamp_seconds",
            "When the access token expires, in seconds since the epoch.",
            ["service"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.state = Gauge(
            "identity_client_state",
            "1 for the state that the service is in.",
            ["service", "state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.token_requests = counter("token_requests", "Requests for a token.", "outcome")
        self.registrations = counter("registrations", "Attempts to register.", "outcome")
        self.regenerations = counter("secret_regenerations", "Client secrets regenerated.")
        self.invalidated = counter("tokens_invalidated", "Tokens that a server rejected.")
        self.exporters: weakref.WeakKeyDictionary[IdentityBootstrapService, _Exporter] = (
            weakref.WeakKeyDictionary()
        )


_metrics: weakref.WeakKeyDictionary[CollectorRegistry, _Metrics] = weakref.WeakKeyDictionary()
_lock = _fork.ForkSafeLock()


class _Exporter:
    """Writes the metrics of one service, which it does not keep alive."""

    def __init__(
        self, service: IdentityBootstrapService, metrics: _Metrics, counted: dict[str, int]
    ) -> None:
        self.is_stopped = False
        self._service = weakref.ref(service)
        self._metrics = metrics
        self._name = service.status().service_name
        self._counted = counted
        self._lock = _fork.ForkSafeLock()
        self._fork_guard = _fork.ForkGuard(self._at_fork_reinit)
        self._stop_listening = service.on_event(self._on_event)
        self._write(service.status())
        key = id(self)
        _exporters[key] = weakref.ref(self, lambda _: _exporters.pop(key, None) and None)

    def stop(self) -> None:
        """Export no more of this service."""
        self._stop_listening()
        self.is_stopped = True
        self._end()

    def counted(self) -> dict[str, int]:
        """Return what the registry's counters have of this service, in this process."""
        self._fork_guard.check()
        with self._lock.of_this_process():
            return self._counted.copy()

    def write_in_child(self) -> None:
        """Write the gauges of a forked child, whose files begin with zeros in multiprocess mode.

        It starts no worker there: most children never ask for a token.
        """
        self._fork_guard.check()
        with self._lock.of_this_process():
            self._write_expiry()

    def _on_event(self, _: ServiceEvent) -> None:
        service = self._service()
        if service is not None:  # it may be on its way out
            self._write(service.status())

    def _write(self, status: ServiceStatus) -> None:
        self._fork_guard.check()
        metrics, name = self._metrics, self._name
        with self._lock.of_this_process():
            self._count(metrics.token_requests.labels(name, "issued"), status, "tokens_issued")
            self._count(
                metrics.token_requests.labels(name, "failed"), status, "token_requests_failed"
            )
            self._count(metrics.registrations.labels(name, "registered"), status, "registrations")
            self._count(
                metrics.registrations.labels(name, "failed"), status, "registrations_failed"
            )
            self._count(metrics.regenerations.labels(name), status, "secrets_regenerated")
            self._count(metrics.invalidated.labels(name), status, "tokens_invalidated")
            for state in ServiceState:
                metrics.state.labels(name, state.value).set(state is status.state)
            self._write_expiry()
        if status.state is ServiceState.CLOSED:
            self._end()

    def _count(self, counter: Counter, status: ServiceStatus, member: str) -> None:
        """Add what the service has counted since the last time, in this process."""
        count: int = getattr(status, member)
        new = count - self._counted.get(member, 0)
        if new > 0:
            self._counted[member] = count  # first: a finalizer may write in between
            counter.inc(new)

    def _write_expiry(self) -> None:
        service = self._service()
        token = service.peek_token() if service is not None else None
        if token is not None:  # else the last one's end, which is over, says just that
            self._metrics.expiry.labels(self._name).set(token.expires_at)

    def _end(self) -> None:
        """Raise no alarm on account of a service that has ended."""
        for state in ServiceState:
            self._metrics.state.labels(self._name, state.value).set(0)
        self._metrics.expiry.labels(self._name).set(math.inf)

    def _at_fork_reinit(self) -> None:
        self._counted = {}


# By identity; a plain dictionary, because a weak set cannot be copied while a thread adds to it.
_exporters: dict[int, weakref.ref[_Exporter]] = {}


def _watch_in_child() -> None:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder and _exporters:
        # In a thread: prometheus-client's lock may be held for ever in a child.
        threading.Thread(target=_write_in_child, args=(folder,), daemon=True).start()


def _write_in_child(folder: str) -> None:
    """Write the gauges once the child has files, which it begins with zeros for all metrics.

    A child that exports nothing, such as one that becomes another program, must leave none behind:
    what is in them would never change again.
    """
    pattern = f"*_{os.getpid()}.db"
    while not any(Path(folder).glob(pattern)):
        time.sleep(_LOOK_INTERVAL)
    living = [exporter for ref in tuple(_exporters.values()) if (exporter := ref()) is not None]
    for exporter in living:
        exporter.write_in_child()


_fork.in_child(_watch_in_child)
