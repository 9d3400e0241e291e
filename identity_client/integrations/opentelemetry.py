"""Metrics for OpenTelemetry; needs its API only, and exports what a meter provider collects.

Needs the extra ``opentelemetry``: ``pip install "xemahq-identity-client[opentelemetry]"``.

All instruments are observable ones, read from ``status()`` when a reader collects. A forked child
whose reader starts anew so exports its own figures, and not the parent's once more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from .. import _fork
from .._version import __version__
from ..events import ServiceState, ServiceStatus
from ..service import IdentityBootstrapService

__all__ = ["instrument"]

_Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(
    service: IdentityBootstrapService, *, meter_provider: MeterProvider | None = None
) -> Callable[[], None]:
    """Export the metrics of a service from now on; a second call for the same service does nothing.

    ======================================== =====================================================
    ``identity_client.token.expiry``         when the token expires, in seconds since the epoch;
                                             nothing while there is no usable token
    ``identity_client.state``                1 for the current ``state``, 0 for the others
    ``identity_client.token.requests``       by ``outcome``: ``issued`` or ``failed``
    ``identity_client.registrations``        by ``outcome``: ``registered`` or ``failed``
    ``identity_client.secret.regenerations`` registrations with a new secret
    ``identity_client.tokens.invalidated``   tokens that a server rejected
    ======================================== =====================================================

    Each has the attribute ``service``, the service's name. Makes no request and starts nothing;
    when a reader collects in a forked child, a service that was started gets its worker back there,
    as with each ``status()``.

    Args:
        service: the service.
        meter_provider: what collects; None for the global one.

    Returns:
        A function that ends this.
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    with _lock.of_this_process():
        services = _services.get(provider)
        if services is None:
            services = _services[provider] = {}
            _create_instruments(provider, services)
    key = id(service)

    def forget(reference: weakref.ref[IdentityBootstrapService]) -> None:
        if services.get(key) is reference:  # the identity may be another service's by now
            del services[key]

    reference = services.get(key)
    if reference is None or reference() is not service:
        services[key] = reference = weakref.ref(service, forget)
    return lambda: forget(reference)


# By identity; a plain dictionary, because a weak set cannot be copied while a thread adds to it.
_Services = dict[int, weakref.ref[IdentityBootstrapService]]

# A provider accepts an instrument once, so all services of one share them.
_services: weakref.WeakKeyDictionary[MeterProvider, _Services] = weakref.WeakKeyDictionary()
_lock = _fork.ForkSafeLock()


def _create_instruments(provider: MeterProvider, services: _Services) -> None:
    meter = provider.get_meter("identity_client", __version__)

    def each(observe: Callable[[IdentityBootstrapService], Iterable[_Figure]]) -> list[_Callback]:
        return [lambda _: _observations(services, observe)]

    meter.create_observable_gauge(
        "identity_client.token.expiry",
        each(_expiry),
        unit="s",
        description="When the access token expires, in seconds since the epoch.",
    )
    meter.create_observable_gauge(
        "identity_client.state",
        each(_states),
        description="1 for the state that the service is in.",
    )
    meter.create_observable_counter(
        "identity_client.token.requests",
        each(_counts(issued="tokens_issued", failed="token_requests_failed")),
        description="Requests for a token.",
    )
    meter.create_observable_counter(
        "identity_client.registrations",
        each(_counts(registered="registrations", failed="registrations_failed")),
        description="Attempts to register.",
    )
    meter.create_observable_counter(
        "identity_client.secret.regenerations",
        each(lambda service: [(service.status().secrets_regenerated, {})]),
        description="Client secrets regenerated.",
    )
    meter.create_observable_counter(
        "identity_client.tokens.invalidated",
        each(lambda service: [(service.status().tokens_invalidated, {})]),
        description="Tokens that a server rejected.",
    )


_Figure = tuple[float, dict[str, str]]


def _observations(
    services: _Services, observe: Callable[[IdentityBootstrapService], Iterable[_Figure]]
) -> Iterator[Observation]:
    living = [service for ref in tuple(services.values()) if (service := ref()) is not None]
    for service in living:
        name = service.status().service_name
        for value, attributes in observe(service):
            yield Observation(value, {"service": name, **attributes})


def _expiry(service: IdentityBootstrapService) -> list[_Figure]:
    token = service.peek_token()
    return [] if token is None else [(token.expires_at, {})]


def _states(service: IdentityBootstrapService) -> list[_Figure]:
    current = service.status().state
    return [(float(state is current), {"state": state.value}) for state in ServiceState]


def _counts(**members: str) -> Callable[[IdentityBootstrapService], list[_Figure]]:
    """Return a function that observes a member of the status for each outcome."""

    def observe(service: IdentityBootstrapService) -> list[_Figure]:
        status: ServiceStatus = service.status()
        return [(getattr(status, member), {"outcome": name}) for name, member in members.items()]

    return observe
