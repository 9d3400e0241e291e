"""What identity-api makes of Keycloak: clients, roles, organizations."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.hostile import closed_port
from support.keycloak import ADMIN_SECRET, Realm

from identity_client._http.codec import CodecError
from identity_client.models import (
    EnsureSystemOrgRequest,
    RegisterServiceRequest,
    RegisterServiceResponse,
    VerifyMembershipParams,
)
from identity_client.server import BackendError
from identity_client.server.keycloak import KeycloakBackend

OFF = ("publicClient", "standardFlowEnabled", "implicitFlowEnabled", "directAccessGrantsEnabled")


def register(backend: KeycloakBackend, name: str, **members: Any) -> RegisterServiceResponse:
    request = RegisterServiceRequest(name=name, display_name="Orders", **members)
    return backend.register(request, "http://identity-api")


def test_a_client_has_a_service_account_with_the_role_and_nothing_else(realm: Realm) -> None:
    reply = register(realm.backend(), "orders", description="Takes orders.")
    client = realm.client("orders")
    assert client["serviceAccountsEnabled"]
    assert [name for name in OFF if client[name]] == []
    assert (client["name"], client["description"]) == ("Orders", "Takes orders.")
    assert client["attributes"]["identity-api.service-type"] == "BACKEND"
    assert client["secret"] == reply.client_secret
    assert (reply.id, reply.token_endpoint) == (client["id"], realm.token_endpoint)
    path = f"/{realm.name}/clients/{client['id']}/service-account-user"
    account = realm.admin.call("GET", path).json()
    roles = realm.admin.call("GET", f"/{realm.name}/users/{account['id']}/role-mappings").json()
    assert {role["name"] for role in roles["realmMappings"]} == {
        "micro-service",
        f"default-roles-{realm.name}",
    }
    assert "clientMappings" not in roles


def test_tokens_of_new_clients_live_as_long_as_the_backend_says(realm: Realm) -> None:
    register(realm.backend(token_lifetime=17), "orders")
    assert realm.client("orders")["attributes"]["access.token.lifespan"] == "17"


def test_concurrent_registrations_of_one_name_make_one_client(realm: Realm) -> None:
    backend = realm.backend()
    gate = threading.Barrier(12)
    replies: list[RegisterServiceResponse] = []

    def go() -> None:
        gate.wait()
        replies.append(register(backend, "orders"))

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({reply.id for reply in replies}) == 1
    assert len(replies) == 12
    assert [reply.client_secret for reply in replies if not reply.already_existed] == [
        realm.client("orders")["secret"]
    ]


def test_a_client_that_was_not_registered_here_keeps_its_secret(realm: Realm) -> None:
    for name in ("identity-api", "realm-management"):
        with pytest.raises(BackendError, match="was not registered here") as caught:
            register(realm.backend(), name, regenerate_secret=True)
        assert caught.value.status == 409
    assert realm.client("identity-api")["secret"] == ADMIN_SECRET


def test_a_name_that_differs_in_case_only_is_refused(realm: Realm) -> None:
    # Keycloak makes a user for each client, and writes its name in lower case.
    backend = realm.backend()
    register(backend, "orders")
    with pytest.raises(BackendError, match="conflicts with another") as caught:
        register(backend, "Orders")
    assert caught.value.status == 409


def test_a_text_that_is_too_long_for_keycloak_is_refused(realm: Realm) -> None:
    backend = realm.backend()
    assert register(backend, "x" * 239).client_secret
    for name in ("x" * 240, "\N{GRINNING FACE}" * 120):
        with pytest.raises(CodecError, match="239"):
            register(backend, name)
    wanted = EnsureSystemOrgRequest(name="\N{GRINNING FACE}" * 127, display_name="x" * 255)
    assert backend.ensure_organization(wanted) == backend.organization(wanted.name)
    with pytest.raises(CodecError, match="255"):
        backend.ensure_organization(
            EnsureSystemOrgRequest(name=wanted.name + "xx", display_name="x")
        )


@pytest.mark.parametrize("name", ["platform", "Platform", "a/b", "//a b?#%2F*/", "größe", " x"])
def test_an_organization_is_one_of_keycloaks(realm: Realm, name: str) -> None:
    backend = realm.backend()
    assert backend.organization(name) is None
    made = backend.ensure_organization(EnsureSystemOrgRequest(name=name, display_name="Größe"))
    again = backend.ensure_organization(EnsureSystemOrgRequest(name=name, display_name="Other"))
    assert made == again == backend.organization(name)
    found = realm.admin.call("GET", f"/{realm.name}/organizations/{made.id}").json()
    assert (made.name, made.display_name) == (found["name"], "Größe")


def test_an_alias_that_is_taken_is_told(realm: Realm) -> None:
    realm.admin.call("POST", f"/{realm.name}/organizations", {"name": "One", "alias": "platform"})
    with pytest.raises(BackendError, match="alias") as caught:
        realm.backend().ensure_organization(
            EnsureSystemOrgRequest(name="platform", display_name="Platform")
        )
    assert caught.value.status == 409


class TestMembership:
    def test_the_role_is_the_first_group_in_the_organization(self, realm: Realm) -> None:
        backend = realm.backend()
        organization = backend.ensure_organization(
            EnsureSystemOrgRequest(name="platform", display_name="Platform")
        )
        user = realm.add_user("alice")
        path = f"/{realm.name}/organizations/{organization.id}"
        question = VerifyMembershipParams(user_id=user, org_id=organization.id)
        assert not backend.membership(question).is_member
        realm.admin.call("POST", f"{path}/members", user)
        answer = backend.membership(question)
        assert (answer.is_member, answer.role) == (True, None)
        for name in ("OWNER", "ADMIN"):
            group = realm.admin.call("POST", f"{path}/groups", {"name": name}).json()
            realm.admin.call("PUT", f"{path}/groups/{group['id']}/members/{user}")
        assert backend.membership(question).role == "ADMIN"
        for other in ("..", ".", "nobody", "../..", "%2e%2e", ";", "a/b", f"{user};x", "😀"):
            for params in (
                VerifyMembershipParams(user_id=other, org_id=organization.id),
                VerifyMembershipParams(user_id=user, org_id=other),
            ):
                assert not backend.membership(params).is_member, other


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "status", "said"),
        [
            pytest.param(
                {"client_secret": "wrong"}, 502, "IDENTITY_KEYCLOAK_CLIENT_SECRET", id="secret"
            ),
            pytest.param({"client_id": "nobody"}, 502, "IDENTITY_KEYCLOAK_CLIENT_ID", id="client"),
            pytest.param(
                {"client_id": "account"}, 502, "IDENTITY_KEYCLOAK_CLIENT_ID", id="a public client"
            ),
            pytest.param({"realm": "nowhere/.."}, 502, "check IDENTITY_KEYCLOAK_URL", id="realm"),
        ],
    )
    def test_what_is_wrong_with_the_settings_is_told(
        self, realm: Realm, change: dict[str, str], status: int, said: str
    ) -> None:
        settings: dict[str, Any] = {
            "url": realm.admin.url,
            "realm": realm.name,
            "client_id": "identity-api",
            "client_secret": ADMIN_SECRET,
            **change,
        }
        with pytest.raises(BackendError, match=said) as caught:
            register(KeycloakBackend(**settings), "orders")
        assert caught.value.status == status
        assert settings["client_secret"] not in caught.value.message

    def test_a_role_that_is_missing_is_told(self, realm: Realm) -> None:
        with pytest.raises(BackendError, match=r"HTTP 403; give the client .* the roles") as caught:
            register(realm.backend("identity-api-least"), "orders")
        assert caught.value.status == 502

    def test_an_address_where_nobody_listens_is_told(self, realm: Realm) -> None:
        with closed_port() as port:
            backend = KeycloakBackend(f"http://127.0.0.1:{port}", realm.name, "a", "b")
            with pytest.raises(BackendError, match="is unreachable") as caught:
                register(backend, "orders")
        assert caught.value.status == 503

    def test_a_realm_that_is_gone_is_no_answer_to_any_question(self, realm: Realm) -> None:
        backend = realm.backend()
        register(backend, "orders")
        realm.delete()
        question = VerifyMembershipParams(user_id="u", org_id="o")
        wanted = EnsureSystemOrgRequest(name="platform", display_name="Platform")
        calls = (
            lambda: backend.membership(question),
            lambda: backend.organization("platform"),
            lambda: backend.ensure_organization(wanted),
            lambda: register(backend, "orders"),
        )
        for call in calls:
            with pytest.raises(BackendError) as caught:
                call()
            assert caught.value.status == 502
        realm.create()
        assert register(backend, "orders").client_secret


def test_the_least_roles_are_enough_once_the_realm_has_the_role(realm: Realm) -> None:
    realm.admin.call("POST", f"/{realm.name}/roles", {"name": "micro-service"})
    backend = realm.backend("identity-api-least")
    assert register(backend, "orders").client_secret
    assert register(backend, "orders", regenerate_secret=True).client_secret
    wanted = EnsureSystemOrgRequest(name="platform", display_name="Platform")
    organization = backend.ensure_organization(wanted)
    user = realm.add_user("alice")
    realm.admin.call("POST", f"/{realm.name}/organizations/{organization.id}/members", user)
    question = VerifyMembershipParams(user_id=user, org_id=organization.id)
    assert backend.membership(question).is_member


def do_everything(backend: KeycloakBackend, name: str) -> None:
    register(backend, name)
    backend.ensure_organization(EnsureSystemOrgRequest(name=name, display_name=name))


@pytest.mark.parametrize("client_id", ["identity-api", "identity-api-least"])
def test_no_role_of_the_client_is_more_than_it_takes(realm: Realm, client_id: str) -> None:
    if client_id == "identity-api-least":
        realm.admin.call("POST", f"/{realm.name}/roles", {"name": "micro-service"})
    client = realm.client(client_id)
    account = realm.admin.call(
        "GET", f"/{realm.name}/clients/{client['id']}/service-account-user"
    ).json()
    management = realm.client("realm-management")["id"]
    path = f"/{realm.name}/users/{account['id']}/role-mappings/clients/{management}"
    for number, role in enumerate(realm.admin.call("GET", path).json()):
        realm.admin.call("DELETE", path, [role])
        backend = realm.backend(client_id)
        with pytest.raises(BackendError, match="403"):
            do_everything(backend, f"orders-{number}")
        realm.admin.call("POST", path, [role])
