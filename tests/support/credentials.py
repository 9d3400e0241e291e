"""Credentials as the tests store them, and the stores of one service."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from identity_client import CredentialStore, ServiceCredentials, StoredCredentials, open_store

API = "http://identity-api:3053"


def credentials(secret: str = "a-client-secret") -> ServiceCredentials:
    return ServiceCredentials(
        client_id="orders",
        client_secret=secret,
        token_endpoint="http://keycloak/token",
        roles=("micro-service",),
    )


def store_at(url: str, **arguments: Any) -> CredentialStore:
    return open_store(url, **{"service_name": "orders", "identity_api_url": API, **arguments})


def save(store: CredentialStore, secret: str = "a-client-secret") -> StoredCredentials:
    with store.lock(1):
        return store.save(evolve(store.load(), credentials=credentials(secret)))
