"""The credentials for azure-core, in the pipelines that its clients are made of."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken, TokenCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline import AsyncPipeline, Pipeline
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    BearerTokenCredentialPolicy,
)
from azure.core.pipeline.transport import AsyncioRequestsTransport, RequestsTransport
from azure.core.rest import HttpRequest
from support.canned import Canned, token_reply
from support.revoking import RevokingResource
from support.services import MakeService, Preconfigured, StartCanned

from identity_client import IdentityBootstrapService, ServiceClosedError
from identity_client.integrations.azure import AsyncIdentityCredential, IdentityCredential
from identity_client.server import IdentityServer

SCOPE = "https://orders/.default"
CLAIMS = base64.urlsafe_b64encode(b'{"access_token":{"nbf":{"essential":true}}}').decode()
CHALLENGE = f'Bearer realm="xema", error="insufficient_claims", claims="{CLAIMS}"'


@pytest.fixture
def resource() -> Iterator[RevokingResource]:
    with RevokingResource() as server:
        yield server


@pytest.fixture
def service(preconfigured: Preconfigured) -> IdentityBootstrapService:
    """A service whose tokens are "first", and then "second" for ever."""
    made, _ = preconfigured(token_reply("first"), token_reply("second"))
    return made


def pipeline(service: IdentityBootstrapService) -> Any:
    policy: Any = BearerTokenCredentialPolicy(IdentityCredential(service), SCOPE)
    return Pipeline(RequestsTransport(), [policy])


def get(pipe: Any, url: str) -> int:
    response = pipe.run(HttpRequest("GET", url), enforce_https=False)
    status: int = response.http_response.status_code
    return status


def test_azure_core_takes_them_for_its_own() -> None:
    service: Any = None  # making them touches nothing
    assert isinstance(IdentityCredential(service), TokenCredential)
    assert isinstance(AsyncIdentityCredential(service), AsyncTokenCredential)
    assert not hasattr(IdentityCredential(service), "get_token_info")


def test_a_token_has_its_end_and_does_not_show_in_its_repr(
    service: IdentityBootstrapService,
) -> None:
    token = IdentityCredential(service).get_token(SCOPE, tenant_id="t", enable_cae=True)
    assert isinstance(token, AccessToken)
    assert token.token == "first"
    assert isinstance(token.expires_on, int)
    assert 290 < token.expires_on - time.time() <= 300
    assert repr(token) == str(token)
    assert "first" not in repr(token)


def test_a_pipeline_makes_1000_calls_over_a_rotation_of_the_secret(
    api: IdentityServer, make_service: MakeService, resource: RevokingResource
) -> None:
    api.backend.change(token_lifetime=200)  # which azure-core asks for before each request
    service = make_service(api)
    with pipeline(service) as pipe:
        for number in range(1000):
            if number == 500:
                api.backend.rotate_secret("orders")
                resource.revoke(service.get_access_token())
                service.invalidate_token(service.get_access_token())
            assert get(pipe, resource.url) == 200
    assert len(set(resource.tokens())) == 2
    assert service.status().secrets_regenerated == 1
    assert service.status().tokens_issued == 2


def test_a_challenge_for_claims_brings_another_token(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(Canned(401, b"", (("WWW-Authenticate", CHALLENGE),)), Canned(200))
    with pipeline(service) as pipe:
        assert get(pipe, resource.url) == 200
    sent = [asked.headers["Authorization"] for asked in resource.asked]
    assert sent == ["Bearer first", "Bearer second"]


def test_claims_for_a_first_token_invalidate_nothing(service: IdentityBootstrapService) -> None:
    assert IdentityCredential(service).get_token(SCOPE, claims="{}").token == "first"
    assert service.status().tokens_invalidated == 0


def test_a_401_without_a_challenge_is_returned(
    service: IdentityBootstrapService, resource: RevokingResource
) -> None:
    resource.revoke("first")
    with pipeline(service) as pipe:
        assert get(pipe, resource.url) == 401
        service.invalidate_token("first")  # as the documentation says
        assert get(pipe, resource.url) == 200


def test_an_async_pipeline_over_a_rotation_and_a_challenge(
    service: IdentityBootstrapService, canned: StartCanned
) -> None:
    resource = canned(Canned(401, b"", (("WWW-Authenticate", CHALLENGE),)), Canned(200))

    async def main() -> list[int]:
        async with AsyncIdentityCredential(service) as credential:
            policy: Any = AsyncBearerTokenCredentialPolicy(credential, SCOPE)
            async with AsyncPipeline(AsyncioRequestsTransport(), [policy]) as pipe:
                statuses = []
                for _ in range(10):
                    request = HttpRequest("GET", resource.url)
                    answer: Any = await pipe.run(request, enforce_https=False)
                    statuses.append(answer.http_response.status_code)
                return statuses

    assert asyncio.run(main()) == [200] * 10
    sent = [asked.headers["Authorization"] for asked in resource.asked]
    assert sent == ["Bearer first"] + ["Bearer second"] * 10
    assert service.get_access_token() == "second"  # closing the credential closes no service


def test_the_errors_of_the_service_reach_the_caller(service: IdentityBootstrapService) -> None:
    service.close()
    with pytest.raises(ServiceClosedError):
        IdentityCredential(service).get_token(SCOPE)
    with pytest.raises(ServiceClosedError):
        asyncio.run(AsyncIdentityCredential(service).get_token(SCOPE))
