"""What all tests share."""

from __future__ import annotations

import datetime
import ipaddress
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.canned import Canned, CannedServer, reply, token_reply

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.server import IdentityServer

# The scheduler of these needs Python 3.12.
collect_ignore = [] if sys.version_info >= (3, 12) else ["interleavings"]

INTERNAL_TOKEN = "internal-token-of-the-tests"

MakeService = Callable[..., IdentityBootstrapService]


@pytest.fixture
def api() -> Iterator[IdentityServer]:
    """An identity-api with its own token endpoint."""
    with IdentityServer(INTERNAL_TOKEN) as server:
        yield server


@pytest.fixture
def make_service() -> Iterator[MakeService]:
    """Makes services from an `IdentityServer` or a URL, and closes them."""
    made = []

    def make(where: IdentityServer | str, *, clock: Any = None, **settings: Any) -> Any:
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
def canned() -> Iterator[Callable[..., CannedServer]]:
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
def preconfigured(make_service: MakeService, canned: Callable[..., CannedServer]) -> Any:
    """Makes a service with pre-configured credentials and the token endpoint it asks."""

    def make(*answers: Canned, **settings: Any) -> Any:
        endpoint = canned(*(answers or (token_reply(),)))
        given = {
            "client_id": "orders",
            "client_secret": "a-client-secret",
            "token_endpoint": f"{endpoint.url}/token",
        }
        service = make_service("http://127.0.0.1:9", **{**given, **settings})
        return service, endpoint

    return make


def registered(url: str, **members: Any) -> Canned:
    """The reply to a registration."""
    return reply(
        {
            "data": {
                "id": "1",
                "clientId": "orders",
                "clientSecret": "a-client-secret",
                "tokenEndpoint": f"{url}/token",
                "roles": ["micro-service"],
                "alreadyExisted": False,
                "secretRegenerated": False,
                **members,
            }
        }
    )


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(path)


@pytest.fixture
def tls_server(certificate: str) -> Iterator[str]:
    """An identity-api behind TLS that knows one organization."""
    organization = reply({"id": "1", "name": "system", "displayName": "System"})
    with CannedServer(organization, certificate=certificate) as server:
        yield server.url
