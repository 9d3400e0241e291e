"""The adapters as users write them; mypy and pyright check it, it is never run."""

from __future__ import annotations

import grpc
import grpc.aio
import httpx
import httpx2
from azure.core.credentials import TokenCredential
from azure.core.credentials_async import AsyncTokenCredential
from google.auth.credentials import Credentials

from identity_client import IdentityBootstrapService
from identity_client.integrations import httpx as for_httpx
from identity_client.integrations import httpx2 as for_httpx2
from identity_client.integrations.azure import AsyncIdentityCredential, IdentityCredential
from identity_client.integrations.google import IdentityCredentials
from identity_client.integrations.grpc import (
    IdentityInterceptor,
    aio_interceptors,
    call_credentials,
)
from identity_client.testing import FakeIdentityService


def clients(service: IdentityBootstrapService, fake: FakeIdentityService) -> None:
    httpx.Client(auth=for_httpx.IdentityAuth(service))
    httpx.AsyncClient(auth=for_httpx.IdentityAuth(fake, hosts=["*.internal.example"]))
    httpx2.Client(auth=for_httpx2.IdentityAuth(service, ["orders:8080"]))
    httpx2.AsyncClient(auth=for_httpx2.IdentityAuth(fake))


def credentials(service: IdentityBootstrapService) -> tuple[object, ...]:
    sync: TokenCredential = IdentityCredential(service)
    coroutines: AsyncTokenCredential = AsyncIdentityCredential(service)
    google: Credentials = IdentityCredentials(service)
    call: grpc.CallCredentials = call_credentials(service)
    return sync, coroutines, google, call


def channels(service: IdentityBootstrapService) -> None:
    grpc.intercept_channel(grpc.insecure_channel("orders:50051"), IdentityInterceptor(service))
    grpc.aio.insecure_channel("orders:50051", interceptors=aio_interceptors(service))
