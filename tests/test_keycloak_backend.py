"""What identity-api makes of Keycloak's answers; tests/keycloak has the real ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support import fake_keycloak
from support.canned import Canned, CannedServer, reply, token_reply
from support.fake_keycloak import FakeKeycloak
from support.hostile import closed_port
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client import ConfigurationError
from identity_client._http.codec import CodecError
from identity_client.models import (
    EnsureSystemOrgRequest,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
)
from identity_client.server import AppServer, BackendError, create_app
from identity_client.server.keycloak import KeycloakBackend
from identity_client.server.wsgi import AccessSettings, KeycloakSettings, create_keycloak_app

ADMIN_SECRET = "secret-of-identity-api"
SECRET = "secret-of-orders"

NONE = reply([])
GONE = reply({"error": "not found"}, 404)
TAKEN = reply({"errorMessage": "it exists"}, 409)
FAILURE = reply({"error": "unknown_error"}, 500)
MADE = reply(None, 201, Location="http://keycloak/made/1")
DONE = Canned(204)
CLIENT = [
    reply([{"id": "1", "clientId": "orders"}]),
    reply({"id": "1", "attributes": {"identity-api.service-type": "BACKEND"}}),
]
ROLE = [reply({"id": "3", "name": "micro-service"}), DONE]
ACCOUNT = reply({"id": "2"})
KEY = reply({"type": "secret", "value": SECRET})
DISCOVERY = reply({"token_endpoint": "http://keycloak/token"})
ORGANIZATION = reply([{"id": "5", "name": "platform", "attributes": {"displayName": ["Platform"]}}])

ORDERS = RegisterServiceRequest(name="orders", display_name="Orders")
AGAIN = RegisterServiceRequest(name="orders", display_name="Orders", regenerate_secret=True)
PLATFORM = EnsureSystemOrgRequest(name="platform", display_name="Platform")
MEMBER = VerifyMembershipParams(user_id="u", org_id="o")


def backend_on(server: CannedServer, **options: Any) -> KeycloakBackend:
    return KeycloakBackend(server.url, "xema", "identity-api", ADMIN_SECRET, **options)


@pytest.fixture
def told(canned: StartCanned) -> Callable[..., tuple[KeycloakBackend, CannedServer]]:
    """Makes a backend whose Keycloak answers so, once it has given a token."""

    def make(*answers: Canned, **options: Any) -> tuple[KeycloakBackend, CannedServer]:
        server = canned(token_reply("admin-token"), *answers)
        return backend_on(server, **options), server

    return make


Told = Callable[..., tuple[KeycloakBackend, CannedServer]]


def register(backend: KeycloakBackend, request: Any = ORDERS) -> RegisterServiceResponse:
    return backend.register(request, "http://identity-api")


class TestRegistration:
    def test_a_new_client_is_told_its_secret(self, told: Told) -> None:
        backend, server = told(
            NONE, MADE, *CLIENT, ACCOUNT, *ROLE, KEY, DISCOVERY, token_lifetime=60
        )
        answer = register(backend)
        assert (answer.client_secret, answer.token_endpoint) == (SECRET, "http://keycloak/token")
        assert (answer.already_existed, answer.secret_regenerated) == (False, False)
        made = json.loads(server.asked[2].body)
        assert made["clientId"] == "orders"
        assert made["serviceAccountsEnabled"] is True
        assert made["attributes"] == {
            "identity-api.service-type": "BACKEND",
            "access.token.lifespan": 60,
        }

    def test_a_client_that_exists_keeps_its_secret_untold(self, told: Told) -> None:
        backend, _ = told(*CLIENT, ACCOUNT, *ROLE, DISCOVERY)
        answer = register(backend)
        assert (answer.client_secret, answer.already_existed) == (None, True)

    def test_a_secret_is_regenerated_where_that_is_asked_for(self, told: Told) -> None:
        backend, server = told(*CLIENT, ACCOUNT, *ROLE, KEY, DISCOVERY)
        answer = register(backend, AGAIN)
        assert (answer.client_secret, answer.secret_regenerated) == (SECRET, True)
        asked = server.asked[-2]
        assert (asked.method, asked.path) == ("POST", "/admin/realms/xema/clients/1/client-secret")

    def test_who_comes_second_finds_what_the_first_one_made(self, told: Told) -> None:
        role = [GONE, TAKEN, *ROLE]
        backend, _ = told(NONE, TAKEN, *CLIENT, ACCOUNT, *role, DISCOVERY)
        assert register(backend).already_existed

    @pytest.mark.parametrize("status", [400, 404, 409])
    def test_a_service_account_that_another_request_is_still_making_is_waited_for(
        self, told: Told, status: int
    ) -> None:
        unfinished = reply({"error": "unknown_error"}, status)
        backend, server = told(
            NONE, TAKEN, *CLIENT, unfinished, unfinished, ACCOUNT, *ROLE, DISCOVERY
        )
        assert register(backend).already_existed
        assert [asked.path for asked in server.asked].count(
            "/admin/realms/xema/clients/1/service-account-user"
        ) == 3

    def test_concurrent_registrations_of_one_new_name_make_one_client(self) -> None:
        keycloak = FakeKeycloak()
        with (
            AppServer(keycloak.app, threads=32) as server,
            ThreadPoolExecutor(12) as instances,
        ):
            # Each call in a backend of its own, as behind a load balancer.
            backends = [
                KeycloakBackend(server.url, "xema", "identity-api", ADMIN_SECRET) for _ in range(12)
            ]
            made = list(instances.map(register, backends))
        assert keycloak.gaps > 0
        assert {response.id for response in made} == {"1"}
        new = [response for response in made if not response.already_existed]
        assert [response.client_secret for response in new] == [fake_keycloak.SECRET]

    def test_a_client_that_never_gets_a_service_account_is_an_error(self, told: Told) -> None:
        backend, _ = told(*CLIENT, reply({"error": "unknown_error"}, 400), timeout=3)
        with pytest.raises(BackendError, match="returned HTTP 400") as caught:
            register(backend)
        assert caught.value.status == 502

    def test_what_another_request_made_in_the_same_moment_is_used(self, told: Told) -> None:
        backend, _ = told(NONE, FAILURE, *CLIENT, *CLIENT, ACCOUNT, *ROLE, DISCOVERY)
        assert register(backend).already_existed
        backend, _ = told(*CLIENT, ACCOUNT, GONE, FAILURE, ROLE[0], *ROLE, DISCOVERY)
        assert register(backend).already_existed

    def test_a_failure_of_keycloak_while_a_client_is_made_is_an_error(self, told: Told) -> None:
        backend, _ = told(NONE, FAILURE, NONE)
        with pytest.raises(BackendError, match="returned HTTP 500") as caught:
            register(backend)
        assert caught.value.status == 503

    def test_a_name_that_is_taken_and_not_found_is_a_conflict(self, told: Told) -> None:
        backend, _ = told(NONE, TAKEN, NONE)
        with pytest.raises(BackendError, match="conflicts with") as caught:
            register(backend)
        assert caught.value.status == 409

    def test_a_client_that_was_not_registered_here_is_left_alone(self, told: Told) -> None:
        backend, server = told(CLIENT[0], reply({"id": "1", "secret": SECRET}))
        with pytest.raises(BackendError, match=r"identity-api\.service-type") as caught:
            register(backend, AGAIN)
        assert caught.value.status == 409
        assert [asked.method for asked in server.asked[1:]] == ["GET", "GET"]

    def test_a_name_that_is_too_long_is_refused(self, told: Told) -> None:
        backend, _ = told(NONE)
        with pytest.raises(CodecError, match="239"):
            register(backend, RegisterServiceRequest(name="x" * 240, display_name="x"))

    def test_one_connection_and_token_serve_many_calls_of_a_thread(self, told: Told) -> None:
        backend, server = told(*CLIENT, ACCOUNT, *ROLE, DISCOVERY, *CLIENT, KEY, NONE)
        register(backend)
        assert backend.rotate_secret("orders")
        assert not backend.rotate_secret("nobody")
        assert [asked.path for asked in server.asked].count(
            "/realms/xema/protocol/openid-connect/token"
        ) == 1


class TestOrganizations:
    @pytest.mark.parametrize(
        ("name", "alias"), [("platform", "platform"), ("plat form", None), ("größe", None)]
    )
    def test_one_is_made_where_there_is_none(
        self, told: Told, name: str, alias: str | None
    ) -> None:
        found = reply([{"id": "4", "name": "Platform"}, {"id": "5", "name": name}])
        backend, server = told(NONE, MADE, found, NONE)
        wanted = EnsureSystemOrgRequest(name=name, display_name="Shown")
        made = backend.ensure_organization(wanted)
        assert (made.id, made.name, made.display_name) == ("5", name, name)
        sent = json.loads(server.asked[2].body)
        assert sent["name"] == name
        assert sent["attributes"] == {"displayName": ["Shown"]}
        assert (sent["alias"] == name) is (alias is not None)

    def test_one_that_exists_is_returned(self, told: Told) -> None:
        backend, _ = told(ORGANIZATION, NONE)
        assert backend.ensure_organization(PLATFORM).display_name == "Platform"

    def test_one_that_another_request_made_in_the_same_moment_is_returned(self, told: Told) -> None:
        backend, _ = told(NONE, FAILURE, ORGANIZATION, ORGANIZATION, NONE)
        assert backend.ensure_organization(PLATFORM).id == "5"

    def test_an_alias_that_is_anothers_is_a_conflict(self, told: Told) -> None:
        backend, _ = told(NONE, TAKEN, NONE)
        with pytest.raises(BackendError, match="alias") as caught:
            backend.ensure_organization(PLATFORM)
        assert caught.value.status == 409

    def test_none_of_that_name_is_none(self, told: Told) -> None:
        backend, _ = told(ORGANIZATION, NONE)
        assert backend.organization("Platform") is None


class TestMembership:
    @pytest.mark.parametrize(
        ("groups", "role"),
        [
            (reply([{"name": "OWNER"}, {"name": "ADMIN"}]), "ADMIN"),
            (reply([]), None),
            (GONE, None),
        ],
        ids=["two groups", "no group", "no groups in this Keycloak"],
    )
    def test_the_role_is_the_first_group(
        self, told: Told, groups: Canned, role: str | None
    ) -> None:
        backend, _ = told(reply({"id": "u"}), groups)
        answer = backend.membership(MEMBER)
        assert (answer.is_member, answer.role) == (True, role)

    @pytest.mark.parametrize("found", [GONE, reply({"id": "v"})], ids=["nobody", "another"])
    def test_who_is_not_found_is_no_member(self, told: Told, found: Canned) -> None:
        backend, _ = told(found, NONE)
        assert not backend.membership(MEMBER).is_member

    @pytest.mark.parametrize("dots", [".", ".."])
    def test_dots_are_no_steps_in_a_path(self, told: Told, dots: str) -> None:
        backend, server = told(NONE)
        assert not backend.membership(VerifyMembershipParams(user_id=dots, org_id="o")).is_member
        assert len(server.asked) == 2

    def test_the_ids_stay_in_their_places(self, told: Told) -> None:
        backend, server = told(GONE, NONE)
        backend.membership(VerifyMembershipParams(user_id="../a?b", org_id="c/d#e"))
        assert server.asked[1].path.endswith("/organizations/c%2Fd%23e/members/..%2Fa%3Fb")

    def test_in_a_realm_that_is_gone_nothing_is_known(self, told: Told) -> None:
        backend, _ = told(GONE)
        with pytest.raises(BackendError) as caught:
            backend.membership(MEMBER)
        assert caught.value.status == 502


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        pytest.param([reply({}, 401)], 502, "IDENTITY_KEYCLOAK_CLIENT_SECRET", id="no token"),
        pytest.param([token_reply(), reply({}, 403)], 502, "the roles", id="no role"),
        pytest.param([token_reply(), GONE], 502, "IDENTITY_KEYCLOAK_URL", id="no realm"),
        pytest.param([token_reply(), reply({}, 418)], 502, "see its log", id="another status"),
        pytest.param([token_reply(), reply({}, 500)], 503, "returned HTTP 500", id="a failure"),
        pytest.param(
            [token_reply(), Canned(200, b"<html>")],
            502,
            "returned an invalid response",
            id="a page",
        ),
        pytest.param(
            [token_reply(), *CLIENT, ACCOUNT, *ROLE, reply({"other": SECRET})],
            502,
            "returned an invalid response",
            id="no secret",
        ),
        pytest.param(
            [token_reply(), *CLIENT, ACCOUNT, *ROLE, reply([SECRET])],
            502,
            "returned an invalid response",
            id="a list",
        ),
        pytest.param(
            [token_reply(), *CLIENT, ACCOUNT, GONE, reply({}, 403)], 502, "the roles", id="no roles"
        ),
        pytest.param(
            [token_reply(), *CLIENT, ACCOUNT, reply({}, 403)], 502, "the roles", id="hidden roles"
        ),
    ],
)
def test_a_fault_of_keycloak_is_told_without_secrets(
    canned: StartCanned,
    caplog: pytest.LogCaptureFixture,
    answers: list[Canned],
    status: int,
    said: str,
) -> None:
    app = create_app(INTERNAL_TOKEN, backend_on(canned(*answers)))
    order = {"name": "orders", "displayName": "Orders", "regenerateSecret": True}
    with caplog.at_level(logging.DEBUG), AppServer(app) as server:
        answer = requests.post(
            f"{server.url}/internal/services/register",
            json=order,
            headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"},
            timeout=10,
        )
    assert answer.status_code == answer.json()["statusCode"] == status
    assert said in answer.json()["message"]
    (warning,) = [r for r in caplog.records if r.name == "identity_client.server"]
    assert said in warning.getMessage()
    for secret in (SECRET, ADMIN_SECRET, INTERNAL_TOKEN, "a-token"):
        assert secret not in caplog.text + answer.text


def test_a_keycloak_that_is_down_is_told() -> None:
    with closed_port() as port:
        backend = KeycloakBackend(f"http://127.0.0.1:{port}", "xema", "a", "b")
        with pytest.raises(BackendError, match="is unreachable") as caught:
            register(backend)
    assert caught.value.status == 503


ENVIRONMENT = {
    "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    "IDENTITY_KEYCLOAK_URL": "http://keycloak:8080",
    "IDENTITY_KEYCLOAK_REALM": "xema",
    "IDENTITY_KEYCLOAK_CLIENT_ID": "identity-api",
    "IDENTITY_KEYCLOAK_CLIENT_SECRET": ADMIN_SECRET,
}


class TestSettings:
    def test_they_come_from_the_environment(self) -> None:
        settings = KeycloakSettings.from_env(ENVIRONMENT, realm="other", url=None)
        assert (settings.url, settings.realm) == ("http://keycloak:8080", "other")
        assert ADMIN_SECRET not in repr(settings)
        assert INTERNAL_TOKEN not in repr(AccessSettings.from_env(ENVIRONMENT))

    @pytest.mark.parametrize("variable", ENVIRONMENT)
    def test_each_is_required(self, variable: str) -> None:
        rest = {name: value for name, value in ENVIRONMENT.items() if name != variable}
        with pytest.raises(ConfigurationError, match=variable):
            create_keycloak_app(rest)

    def test_an_address_that_is_not_a_url_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="IDENTITY_KEYCLOAK_URL"):
            KeycloakSettings.from_env(ENVIRONMENT, url="keycloak:8080")

    @pytest.mark.parametrize(("lifetime", "sent"), [(None, None), (9.5, 10)])
    def test_an_app_for_a_wsgi_server_is_made_of_them(
        self, canned: StartCanned, tmp_path: Any, lifetime: float | None, sent: int | None
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text(f"{ADMIN_SECRET}\n")
        keycloak = canned(token_reply(), NONE, MADE, *CLIENT, ACCOUNT, *ROLE, KEY, DISCOVERY)
        environ = {**ENVIRONMENT, "IDENTITY_KEYCLOAK_CLIENT_SECRET_FILE": str(secret)}
        del environ["IDENTITY_KEYCLOAK_CLIENT_SECRET"]
        app = create_keycloak_app(environ, url=keycloak.url, token_lifetime=lifetime)
        answer = app.test_client().post(
            "/internal/services/register",
            json={"name": "orders", "displayName": "Orders"},
            headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"},
        )
        assert answer.get_json()["data"]["clientSecret"] == SECRET
        assert keycloak.asked[0].form["client_secret"] == ADMIN_SECRET
        attributes = json.loads(keycloak.asked[2].body)["attributes"]
        assert attributes.get("access.token.lifespan") == sent
