"""The public names as users write them; checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Callable

import requests

from identity_client import (
    CredentialStore,
    CredentialStoreError,
    IdentityApiClient,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    NotReadyError,
    Organization,
    RegisterServiceResponse,
    ServiceCredentials,
    ServiceEvent,
    ServiceState,
    ServiceStatus,
    ServiceType,
    StoredCredentials,
    VerifyMembershipResponse,
    open_store,
)

config: IdentityBootstrapConfig = IdentityBootstrapConfig(
    service_name="orders",
    identity_api_url="http://identity-api:3053",
    identity_api_internal_token="token",
    service_type=ServiceType.BACKEND,
)
config = IdentityBootstrapConfig.from_env({}, service_name="orders")


def listener(event: ServiceEvent) -> None:
    print(event.kind.value, event.message, event.next_attempt_in)


with IdentityBootstrapService(config) as service:
    token: str = service.get_access_token(timeout=2)
    provider: Callable[[], str] = service.get_access_token
    ready: bool = service.wait_for_ready(30)
    client_id: str | None = service.get_client_id()
    status: ServiceStatus = service.status()
    state: ServiceState = status.state
    stop: Callable[[], None] = service.on_event(listener)
    requests.get("http://other", auth=service.auth(), timeout=5)
    try:
        service.start()
    except NotReadyError as error:
        seconds: float | None = error.next_attempt_in

with IdentityApiClient("http://identity-api:3053", "token", timeout=5) as client:
    credentials: ServiceCredentials = client.register_service(name="a", display_name="A")
    reply: RegisterServiceResponse = client.register_service_full(name="a", display_name="A")
    membership: VerifyMembershipResponse = client.verify_membership("user", "org")
    organization: Organization = client.ensure_system_org(name="a", display_name="A")

store: CredentialStore = open_store(
    "redis://redis:6379/0",
    service_name="orders",
    identity_api_url="http://identity-api:3053",
    key=None,
    timeout=5,
)
try:
    with store.lock(10):
        stored: StoredCredentials = store.save(store.load())
        found: ServiceCredentials | None = stored.credentials
except CredentialStoreError as store_error:
    print(store_error.message)
store.close()
