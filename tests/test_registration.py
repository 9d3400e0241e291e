"""How a service comes by its credentials, and by new ones when they are rejected."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from support.canned import reply, token_reply
from support.recorder import Recorder
from support.scripted import REJECTED, Scripted, existing, registered, wait_for
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured

from identity_client import (
    AccessToken,
    EventKind,
    IdentityApiClient,
    InvalidClientError,
    NotReadyError,
    SecretNotReturnedError,
    ServiceEvent,
    ServiceState,
    TokenEndpointError,
)
from identity_client.server import IdentityServer


def test_a_new_service_is_registered_with_one_request(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(
        scripted.url, service_display_name="Orders", service_description="takes orders"
    )
    assert not service.has_credentials()
    assert service.get_client_id() is None
    assert service.get_access_token() == "a-token"
    assert service.has_credentials()
    assert service.get_client_id() == "orders"
    assert scripted.asked == ["register", "token a-client-secret"]
    asked = scripted.server.asked[0]
    assert (asked.method, asked.path) == ("POST", "/internal/services/register")
    assert asked.headers["Authorization"] == f"Bearer {INTERNAL_TOKEN}"
    assert asked.headers["User-Agent"].startswith("identity-client/")
    assert json.loads(asked.body) == {
        "name": "orders",
        "displayName": "Orders",
        "description": "takes orders",
        "serviceType": "BACKEND",
        "regenerateSecret": False,
    }


def test_a_reply_without_envelope_or_client_id_is_understood(
    scripted: Scripted, make_service: MakeService
) -> None:
    document = json.loads(registered(scripted.url).body)["data"]
    del document["clientId"]
    scripted.registrations = [reply({**document, "unknown": {"member": 1}})]
    service = make_service(scripted.url)
    service.get_access_token()
    assert service.get_client_id() == "orders"


def test_a_service_that_exists_and_tells_its_secret_is_not_regenerated(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.registrations = [existing(scripted.url, "the-old-secret")]
    make_service(scripted.url).get_access_token()
    assert scripted.asked == ["register", "token the-old-secret"]


def test_a_service_that_exists_and_keeps_its_secret_is_regenerated_once(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url, "a-new-secret", regenerated=True),
    ]
    service = make_service(scripted.url)
    service.get_access_token()
    assert scripted.asked == ["register", "register and regenerate", "token a-new-secret"]
    assert service.status().secrets_regenerated == 1


def test_regeneration_can_be_switched_off(scripted: Scripted, make_service: MakeService) -> None:
    scripted.registrations = [existing(scripted.url)]
    service = make_service(scripted.url, allow_secret_regeneration=False)
    with pytest.raises(NotReadyError, match="IDENTITY_ALLOW_SECRET_REGENERATION") as caught:
        service.get_access_token()
    assert isinstance(caught.value.__cause__, SecretNotReturnedError)
    assert set(scripted.asked) == {"register"}


def test_an_identity_api_that_never_tells_a_secret_is_a_clear_failure(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.registrations = [existing(scripted.url)]
    service = make_service(scripted.url)
    with pytest.raises(NotReadyError, match="did not return a secret"):
        service.get_access_token()


def test_new_credentials_are_kept_when_their_proof_fails_for_another_reason(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.tokens = [reply({"error": "server_error"}, 503, Retry_After="60"), token_reply()]
    service = make_service(scripted.url, max_retry_delay=60.0)
    with pytest.raises(TokenEndpointError):
        service.get_access_token()
    assert service.status().state is ServiceState.PENDING
    service._cache.reset_failure()
    assert service.wait_for_ready(5)
    assert scripted.asked == ["register", "token a-client-secret", "token a-client-secret"]


def test_a_token_endpoint_that_is_no_url_is_refused(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.registrations = [registered(scripted.url, tokenEndpoint="file:///etc/passwd")]
    with pytest.raises(NotReadyError, match="its member 'tokenEndpoint' is not an http"):
        make_service(scripted.url).get_access_token()


def test_a_rotated_secret_is_replaced_while_the_old_token_is_served(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    first = service.get_access_token()
    api.backend.rotate_secret("orders")
    rejected = threading.Event()
    served: list[str] = []

    def look(event: ServiceEvent) -> None:
        if event.kind == "credentials_rejected":
            served.append(service.get_access_token())
            rejected.set()

    service.on_event(look)
    service._cache.request_refresh()
    assert rejected.wait(5)
    assert served[0] != first  # the listener is called after the new token was published
    wait_for(service, lambda: service.status().registrations == 2 and service.has_credentials())
    assert service.get_access_token() != first
    # One with the rotated secret, and once more before another is regenerated.
    assert api.backend.requests["token"] == 4


def test_a_secret_that_identity_api_tells_again_is_not_regenerated(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url)
    token = service.get_access_token()
    scripted.registrations = [existing(scripted.url, "rotated-by-somebody")]
    scripted.tokens = [REJECTED, token_reply("second")]
    service.invalidate_token(token)
    assert service.get_access_token() == "second"
    assert scripted.asked[2:] == [
        "token a-client-secret",
        "register",
        "token rotated-by-somebody",
    ]


def test_the_very_secret_that_was_rejected_is_regenerated(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(scripted.url)
    token = service.get_access_token()
    scripted.registrations = [
        existing(scripted.url, "a-client-secret"),
        existing(scripted.url, "new", regenerated=True),
    ]
    scripted.tokens = [REJECTED, REJECTED, token_reply("second")]
    service.invalidate_token(token)
    assert service.get_access_token() == "second"
    assert scripted.asked[2:] == [
        "token a-client-secret",
        "register",
        "token a-client-secret",
        "register and regenerate",
        "token new",
    ]


def test_replicas_that_take_each_others_secret_away_regenerate_once_per_pause(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.registrations = [
        existing(scripted.url),
        existing(scripted.url, "new", regenerated=True),
        existing(scripted.url),
    ]
    service = make_service(scripted.url, base_retry_delay=60.0, max_retry_delay=60.0)
    token = service.get_access_token()
    scripted.tokens = [REJECTED]
    service.invalidate_token(token)
    assert service.get_access_token() == token  # no other one can be had
    status = service.status()
    assert "not regenerating for" in (status.last_error or "")
    # The store and the known secret are tried again soon, and identity-api after its pause.
    assert (status.next_attempt_in or 0.0) <= 1
    asked, deadline = len(scripted.asked), time.monotonic() + 30
    while len(scripted.asked) < asked + 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert scripted.asked[asked:] == ["token new"] * len(scripted.asked[asked:])
    assert scripted.asked.count("register and regenerate") == 1


def test_credentials_that_are_rejected_from_the_start_are_registered_again_after_a_pause(
    scripted: Scripted, make_service: MakeService
) -> None:
    scripted.tokens = [REJECTED, REJECTED, REJECTED, token_reply("at-last")]
    scripted.registrations = [
        registered(scripted.url, clientSecret="first"),
        existing(scripted.url),
        existing(scripted.url, "second", regenerated=True),
    ]
    service = make_service(scripted.url)
    with pytest.raises(InvalidClientError):
        service.get_access_token()
    assert service.wait_for_ready(5)
    assert scripted.asked == [
        "register",
        "token first",
        "token first",
        "register",
        "token first",
        "register and regenerate",
        "token second",
    ]


def test_forced_reregistration_serves_the_old_token_and_regenerates(
    api: IdentityServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(api)
    first = service.get_access_token()
    obtain, was_served = service._source.obtain, threading.Event()

    def obtain_once_the_old_one_was_served(deadline: float) -> AccessToken:
        assert was_served.wait(10)
        return obtain(deadline)

    monkeypatch.setattr(service._source, "obtain", obtain_once_the_old_one_was_served)
    service.force_reregistration()
    assert service.get_access_token(timeout=0) == first
    was_served.set()
    wait_for(service, lambda: service.status().tokens_issued == 2)
    while service.get_access_token() == first:
        pass
    status = service.status()
    assert (status.registrations, status.secrets_regenerated) == (2, 1)


def test_forced_reregistration_is_repeated_until_it_succeeds(
    api: IdentityServer, make_service: MakeService
) -> None:
    service = make_service(api)
    first = service.get_access_token()
    api.backend.change(api_outage=True)
    service.force_reregistration()
    wait_for(service, lambda: service.status().tokens_issued > 1)
    assert service.status().state is ServiceState.READY  # with the credentials that work
    assert service.get_access_token() != first
    assert service.has_credentials()
    api.backend.change(api_outage=False)
    wait_for(service, lambda: service.status().registrations == 2)


def test_forced_reregistration_is_refused_where_nothing_is_registered(
    preconfigured: Preconfigured, make_service: MakeService
) -> None:
    service, endpoint = preconfigured()
    with pytest.raises(ValueError, match="pre-configured"):
        service.force_reregistration()
    assert endpoint.asked == []


def test_a_renewal_sends_the_parameters_of_the_first_request(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured(token_reply("1"), token_reply("2"), scope="a b")
    service.invalidate_token(service.get_access_token())
    assert service.get_access_token() == "2"
    first, second = endpoint.asked
    assert first.body == second.body
    assert first.headers == second.headers
    assert first.form == {
        "grant_type": "client_credentials",
        "scope": "a b",
        "client_id": "orders",
        "client_secret": "a-client-secret",
    }


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize("secret", ["plain", "a+b/c%d:e&f=g", "ü€ 漢", " blank "])
def test_any_secret_round_trips_with_both_auth_methods(
    secret: str, method: str, api: IdentityServer, make_service: MakeService
) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        endpoint = client.register_service(name="odd:name", display_name="Odd").token_endpoint
    record = api.backend.client("odd:name")
    assert record is not None
    record.secret = secret
    service = make_service(
        api,
        client_id="odd:name",
        client_secret=secret,
        token_endpoint=endpoint,
        token_endpoint_auth_method=method,
    )
    service.start()
    assert service.status().state is ServiceState.READY


def test_preconfigured_credentials_never_register(
    scripted: Scripted, make_service: MakeService
) -> None:
    service = make_service(
        scripted.url,
        client_id="orders",
        client_secret="given",
        token_endpoint=f"{scripted.url}/token",
    )
    assert service.has_credentials()
    service.start()
    scripted.tokens = [REJECTED]
    token = service.get_access_token()
    service.invalidate_token(token)
    assert service.get_access_token() == token  # no other one can be had
    assert set(scripted.asked) == {"token given"}


def test_every_failed_attempt_is_logged_with_its_reason(
    caplog: pytest.LogCaptureFixture, make_service: MakeService
) -> None:
    service = make_service("http://127.0.0.1:9")
    recorder = Recorder(service)
    with caplog.at_level(logging.WARNING, "identity_client"):
        service.start()
        recorder.wait_for(EventKind.REGISTRATION_FAILED)
        with pytest.raises(NotReadyError):
            service.get_access_token(0.5)
    first = caplog.messages[0]
    assert "attempt 1 failed" in first
    assert "http://127.0.0.1:9" in first
    assert "connection refused" in first
    assert "retrying in" in first
