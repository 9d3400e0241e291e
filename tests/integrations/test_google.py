"""The credentials for google-auth, with its session and with a client of google-cloud."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import google.auth.credentials
import pytest
from google.auth.transport.requests import AuthorizedSession
from google.cloud.client import ClientWithProject
from support.canned import reply, token_reply
from support.revoking import RevokingResource
from support.services import Preconfigured

from identity_client import IdentityBootstrapService, TokenEndpointError
from identity_client.integrations.google import IdentityCredentials

LIMIT = 20.0


@pytest.fixture
def resource() -> Iterator[RevokingResource]:
    with RevokingResource() as server:
        yield server


@pytest.fixture
def service(preconfigured: Preconfigured) -> IdentityBootstrapService:
    """A service whose tokens are "first", and then "second" for ever."""
    made, _ = preconfigured(token_reply("first"), token_reply("second"))
    return made


@pytest.fixture
def credentials(service: IdentityBootstrapService) -> IdentityCredentials:
    return IdentityCredentials(service)


def test_google_auth_takes_them_for_its_own(
    credentials: IdentityCredentials, service: IdentityBootstrapService
) -> None:
    assert isinstance(credentials, google.auth.credentials.Credentials)
    client: Any = ClientWithProject(project="p", credentials=credentials)
    assert client._credentials is credentials
    assert not service.status().started


def test_a_token_of_five_minutes_is_not_refreshed_before_each_request(
    preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, endpoint = preconfigured(token_reply(expires_in=200))  # expired, to google-auth
    with AuthorizedSession(IdentityCredentials(service)) as session:
        for _ in range(10):
            assert session.get(resource.url, timeout=LIMIT).status_code == 200
    assert resource.tokens() == ["a-token"] * 10
    assert len(endpoint.asked) == 1


def test_state_and_expiry_are_those_of_the_service(
    credentials: IdentityCredentials, service: IdentityBootstrapService
) -> None:
    assert (credentials.valid, credentials.expired) == (False, True)
    assert credentials.token_state.name == "INVALID"
    credentials.refresh(None)
    assert (credentials.valid, credentials.expired) == (True, False)
    assert credentials.token_state.name == "FRESH"
    assert credentials.token == "first"
    assert credentials.expiry is not None
    left = (credentials.expiry - datetime.now(UTC).replace(tzinfo=None)).total_seconds()
    assert 290 < left <= 300
    assert "first" not in repr(credentials)


def test_a_refresh_without_a_request_before_it_invalidates_nothing(
    credentials: IdentityCredentials, service: IdentityBootstrapService
) -> None:
    for _ in range(3):
        credentials.refresh(None)
    assert service.status().tokens_issued == 1


def test_a_401_in_20_threads_causes_one_token_request(
    credentials: IdentityCredentials, service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    together = threading.Barrier(20)
    statuses: list[int] = []

    def request() -> None:
        with AuthorizedSession(credentials) as session:
            statuses.append(session.get(resource.url, timeout=LIMIT).status_code)
            together.wait(LIMIT)
            resource.revoke("first")
            statuses.append(session.get(resource.url, timeout=LIMIT).status_code)

    threads = [threading.Thread(target=request) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert statuses == [200] * 40
    assert service.status().tokens_issued == 2
    assert service.status().tokens_invalidated == 1


def test_a_late_401_of_another_thread_does_not_invalidate_the_new_token(
    credentials: IdentityCredentials, service: IdentityBootstrapService
) -> None:
    with ThreadPoolExecutor(1) as late:
        late.submit(credentials.before_request, None, "GET", "http://orders", {}).result(LIMIT)
        service.invalidate_token("first", was_accepted=True)  # revoked: no pause follows
        headers: dict[str, str] = {}
        credentials.before_request(None, "GET", "http://orders", headers)
        assert headers["authorization"] == "Bearer second"
        late.submit(credentials.refresh, None).result(LIMIT)
    assert service.status().tokens_invalidated == 1


def test_a_server_that_rejects_each_token_costs_no_token_per_request(
    preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, endpoint = preconfigured(
        token_reply("first"), token_reply("second"), base_retry_delay=60.0, max_retry_delay=60.0
    )
    resource.revoked |= {"first", "second"}
    with AuthorizedSession(IdentityCredentials(service)) as session:
        for _ in range(5):
            assert session.get(resource.url, timeout=LIMIT).status_code == 401
    assert len(endpoint.asked) == 2


def test_the_errors_of_the_service_reach_the_caller(
    preconfigured: Preconfigured, resource: RevokingResource
) -> None:
    service, _ = preconfigured(reply({"error": "server_error"}, 503))
    session = AuthorizedSession(IdentityCredentials(service))
    with session, pytest.raises(TokenEndpointError):
        session.get(resource.url, timeout=LIMIT)
    assert resource.received == []
