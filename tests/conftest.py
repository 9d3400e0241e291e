"""The fixtures of all tests; their types are in support/services.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from support.canned import Canned, CannedServer, reply, token_reply
from support.resource import ProtectedResource
from support.scripted import Scripted
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured, StartCanned

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client._tokens.clock import Clock
from identity_client.server import IdentityServer

# The scheduler of these needs Python 3.12.
collect_ignore = [] if sys.version_info >= (3, 12) else ["interleavings"]


@pytest.fixture
def api() -> Iterator[IdentityServer]:
    """An identity-api with its own token endpoint.

    Half of its usual threads: on Python 3.11, one that starts while another sets its trace function
    for coverage may die of that.
    """
    with IdentityServer(INTERNAL_TOKEN, threads=8) as server:
        yield server


@pytest.fixture
def make_service() -> Iterator[MakeService]:
    """Makes services from an `IdentityServer` or a URL, and closes them."""
    made = []

    def make(
        where: IdentityServer | str, *, clock: Clock | None = None, **settings: Any
    ) -> IdentityBootstrapService:
        url = where if isinstance(where, str) else where.url
        values: dict[str, Any] = {
            "service_name": "orders",
            "identity_api_url": url,
            "identity_api_internal_token": INTERNAL_TOKEN,
            "base_retry_delay": 0.05,
            "max_retry_delay": 0.4,
            **settings,
        }
        service = IdentityBootstrapService(IdentityBootstrapConfig(**values), clock=clock)
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


@pytest.fixture
def canned() -> Iterator[StartCanned]:
    """Starts `CannedServer`s and stops them."""
    started: list[CannedServer] = []

    def start(*answers: Canned) -> CannedServer:
        server = CannedServer(*answers)
        started.append(server)
        return server.__enter__()

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def preconfigured(make_service: MakeService, canned: StartCanned) -> Preconfigured:
    """Makes a service with pre-configured credentials and the token endpoint it asks."""

    def make(*answers: Canned, **settings: Any) -> tuple[IdentityBootstrapService, CannedServer]:
        endpoint = canned(*(answers or (token_reply(),)))
        given = {
            "client_id": "orders",
            "client_secret": "a-client-secret",
            "token_endpoint": f"{endpoint.url}/token",
        }
        service = make_service("http://127.0.0.1:9", **{**given, **settings})
        return service, endpoint

    return make


@pytest.fixture
def scripted(canned: StartCanned) -> Scripted:
    return Scripted(canned)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key, its certificate for 127.0.0.1 and the authority that signed it, in one file.

    A server presents it, and a client that is given it trusts the server.
    """
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    authority.cert_pem.write_to_path(path, append=True)
    return str(path)


@pytest.fixture
def tls_server(certificate: str) -> Iterator[str]:
    """An identity-api behind TLS that knows one organization."""
    organization = reply({"id": "1", "name": "system", "displayName": "System"})
    with CannedServer(organization, certificate=certificate) as server:
        yield server.url


@pytest.fixture
def resource(api: IdentityServer) -> Iterator[ProtectedResource]:
    """A service that lets in what brings a valid token; in the end it has rejected no request."""
    with ProtectedResource(api) as resource:
        yield resource
        assert resource.rejected == []
