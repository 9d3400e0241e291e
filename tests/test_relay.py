"""The demo's way to Keycloak; tests/keycloak plays the whole of it."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from support.canned import Canned, reply, token_reply
from support.hostile import closed_port
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client import IdentityApiClient
from identity_client.cli.demo_environments import KeycloakEnvironment
from identity_client.models import EnsureSystemOrgRequest, VerifyMembershipParams
from identity_client.server.relay import RelayedBackend, RelayServer

TOKEN = "/realms/xema/protocol/openid-connect/token"
CERTS = "/realms/xema/protocol/openid-connect/certs"
CLIENT = [
    reply([{"id": "1", "clientId": "orders"}]),
    reply({"id": "1", "attributes": {"identity-api.service-type": "BACKEND"}}),
]


def relayed(url: str) -> RelayedBackend:
    return RelayedBackend(url, "xema", "a", "b")


def ask(server: Any) -> requests.Response:
    form = {"grant_type": "client_credentials"}
    return requests.post(server.url + TOKEN, data=form, auth=("orders", "secret"), timeout=10)


def test_the_relay_is_named_as_the_token_endpoint_and_leads_to_keycloak(
    canned: StartCanned,
) -> None:
    keycloak = canned(
        token_reply(),
        *CLIENT,
        reply({"id": "2"}),
        reply({"id": "3"}),
        Canned(204),
        reply({"value": "new"}),
        reply({"token_endpoint": f"https://sso.example.org{TOKEN}"}),
        token_reply("relayed"),
        reply({"keys": []}),
        reply({"error": "invalid_client"}, 401),
    )
    with RelayServer(INTERNAL_TOKEN, relayed(keycloak.url)) as server:
        with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
            credentials = client.register_service(
                name="orders", display_name="Orders", regenerate_secret=True
            )
        assert credentials.token_endpoint == server.url + TOKEN
        assert ask(server).json()["access_token"] == "relayed"
        asked = keycloak.asked[-1]
        assert (asked.path, asked.form) == (TOKEN, {"grant_type": "client_credentials"})
        assert asked.headers["Authorization"].startswith("Basic ")
        assert asked.headers["Host"] == server.url.removeprefix("http://")
        assert requests.get(server.url + CERTS, timeout=10).json() == {"keys": []}
        refused = ask(server)
        assert (refused.status_code, refused.json()) == (401, {"error": "invalid_client"})
        assert server.backend.requests == {"api": 1, "register": 1, "token": 2}


def test_faults_are_made_on_the_way(canned: StartCanned) -> None:
    keycloak = canned(token_reply())
    with RelayServer(INTERNAL_TOKEN, relayed(keycloak.url)) as server:
        server.backend.change(token_outage=True)
        assert ask(server).status_code == 503
        assert keycloak.asked == []
        server.backend.change(token_outage=False)
        assert ask(server).status_code == 200


def test_the_other_calls_are_keycloaks(canned: StartCanned) -> None:
    platform = reply([{"id": "5", "name": "platform"}])
    secret = reply({"value": "new"})
    answers = [platform, platform, reply({"id": "u"}), reply([])]
    backend = relayed(canned(token_reply(), *answers, *CLIENT, secret).url)
    found = backend.organization("platform")
    wanted = EnsureSystemOrgRequest(name="platform", display_name="Platform")
    assert found == backend.ensure_organization(wanted)
    assert backend.membership(VerifyMembershipParams(user_id="u", org_id="5")).is_member
    assert backend.rotate_secret("orders")


def test_a_keycloak_that_is_down_is_told() -> None:
    with (
        closed_port() as port,
        RelayServer(INTERNAL_TOKEN, relayed(f"http://127.0.0.1:{port}")) as server,
    ):
        answer = ask(server)
    assert answer.status_code == 503
    assert answer.json()["error"] == "temporarily_unavailable"


@pytest.mark.parametrize("end", [[*CLIENT, Canned(204)], [reply([])], [reply({}, 500)]])
def test_the_demo_deletes_its_client_in_the_end(canned: StartCanned, end: list[Canned]) -> None:
    who = {"IDENTITY_KEYCLOAK_CLIENT_ID": "a", "IDENTITY_KEYCLOAK_CLIENT_SECRET": "b"}
    keycloak = canned(token_reply(), *end)
    stage = KeycloakEnvironment(keycloak.url, "xema", 9.5, who)
    assert stage.lifetime == 10
    if end[:-1]:
        keycloak.answers[1] = reply([{"id": "1", "clientId": stage.service}])
    with stage.serve(INTERNAL_TOKEN, 0) as server:
        assert requests.get(f"{server.url}/health", timeout=10).ok
    deleted = [asked.path for asked in keycloak.asked if asked.method == "DELETE"]
    assert deleted == (["/admin/realms/xema/clients/1"] if end[:-1] else [])


ADMIN = "admin/realms/xema"
PROTOCOL = "/realms/xema/protocol"


@pytest.mark.parametrize(
    "path",
    [
        f"/realms/../{ADMIN}",
        f"/realms/xema/../../{ADMIN}",
        f"{PROTOCOL}/../../../{ADMIN}",
        f"/realms/%2e%2e/{ADMIN}",
        f"{PROTOCOL}/%2e%2e/%2E%2E/.%2e/{ADMIN}",
        f"{PROTOCOL}/%2e%2e%2f%2e%2e%2f%2e%2e%2f{ADMIN}",
        f"{PROTOCOL}/..%2f..%2f..%2f{ADMIN}",
        f"{PROTOCOL}/%252e%252e/%252e%252e/%252e%252e/{ADMIN}",
        f"{PROTOCOL}/%25252e%25252e/{ADMIN}",
        f"{PROTOCOL}/..;/..;a=b/..;/{ADMIN}",
        f"{PROTOCOL}/..%3b/..%3b/..%3b/{ADMIN}",
        f"{PROTOCOL}/..%5c..%5c..%5c{ADMIN}",
        f"{PROTOCOL}/..\\..\\..\\{ADMIN}",
        f"{PROTOCOL}/%c0%ae%c0%ae/%c0%ae%c0%ae/%c0%ae%c0%ae/{ADMIN}",
        f"{PROTOCOL}/%ef%bc%8e%ef%bc%8e/{ADMIN}",
        f"{PROTOCOL}/%u002e%u002e/{ADMIN}",
        f"{PROTOCOL}/..%00/{ADMIN}",
        f"{PROTOCOL}/x%0d%0aHost:elsewhere/{ADMIN}",
        f"http://127.0.0.1/realms/../{ADMIN}",
        f"//realms/../{ADMIN}",
        f"{PROTOCOL}/.",
        f"{PROTOCOL}/",
        "/realms/.",
        "/realms/xema",
        "/realms/xema/account",
        "/realms/xema/clients-registrations/default",
        "/realms/master/protocol/openid-connect/token",
        f"/realms/master/..{PROTOCOL.removeprefix('/realms')}/openid-connect/token",
        f"/{ADMIN}/clients",
    ],
)
def test_the_relay_leads_to_the_protocol_endpoints_of_its_realm_only(
    canned: StartCanned, path: str
) -> None:
    keycloak = canned(reply({"realms": "all"}))
    with RelayServer(INTERNAL_TOKEN, relayed(keycloak.url)) as server:
        address = urlsplit(server.url)
        # requests would resolve the dots itself.
        with closing(HTTPConnection(address.hostname or "", address.port, timeout=10)) as client:
            client.putrequest("GET", path)
            client.endheaders()
            assert client.getresponse().status in (308, 400, 404)
    assert keycloak.asked == []


def test_the_relay_passes_a_redirect_on(canned: StartCanned) -> None:
    elsewhere = canned(reply({"stolen": True}))
    keycloak = canned(reply({}, 302, Location=elsewhere.url))
    with RelayServer(INTERNAL_TOKEN, relayed(keycloak.url)) as server:
        assert (
            requests.get(server.url + CERTS, allow_redirects=False, timeout=10).status_code == 302
        )
    assert elsewhere.asked == []
