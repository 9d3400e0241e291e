"""The event hub of the examples with the tokens of a real Keycloak."""

from __future__ import annotations

import pytest
from support.event_hub import CLOUD_EVENT, Receiver, produce
from support.keycloak import Realm
from support.services import MakeService

from identity_client.server import AppServer


def test_events_arrive_with_the_tokens_of_a_realm(
    realm: Realm, served: AppServer, make_service: MakeService
) -> None:
    with Receiver(TOKEN_ISSUER=realm.issuer) as receiver:
        done = produce(served.url, receiver, "1001", "1002")
        assert (done.returncode, done.stderr) == (0, "")

        token = make_service(served.url, service_name="billing").get_access_token(30)
        assert receiver.post(token, CLOUD_EVENT).status_code == 403  # its azp is not allowed
        assert receiver.post(token[:-8] + "AAAAAAAA").status_code == 401


@pytest.mark.parametrize("settings", [{"TOKEN_AUDIENCE": "events"}, {"TOKEN_ROLE": "publisher"}])
def test_a_realms_token_for_another_audience_or_without_the_role_is_refused(
    realm: Realm, served: AppServer, settings: dict[str, str]
) -> None:
    with Receiver(TOKEN_ISSUER=realm.issuer, **settings) as receiver:
        done = produce(served.url, receiver, "1001")
    assert done.returncode == 1
    assert ("401" if "TOKEN_AUDIENCE" in settings else "403") in done.stderr
