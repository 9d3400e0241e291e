"""The reference identity-api, over real HTTP."""

from __future__ import annotations

import base64
import logging
import os
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import pytest
import requests
from cheroot import wsgi
from joserfc import jwt
from joserfc.jwk import KeySet
from support.services import INTERNAL_TOKEN

from identity_client import IdentityError
from identity_client.server import (
    AppServer,
    EmbeddedBackend,
    IdentityServer,
    ServerSettings,
    create_app,
)

REGISTER = "/internal/services/register"
VERIFY = "/internal/memberships/verify"
ORGANIZATIONS = "/internal/organizations/system"
SETTINGS = "/dev/settings"
ISSUER = "/realms/xema"
TOKEN = f"{ISSUER}/protocol/openid-connect/token"

ORDERS = {"name": "orders", "displayName": "Orders"}
GRANT = {"grant_type": "client_credentials"}
TOO_DEEP = "it is nested too deeply"
HARD_SECRET = "a+b/c%d:e&f ü"


def call(
    api: IdentityServer,
    method: str,
    path: str,
    *,
    authorization: str | bytes | None = f"Bearer {INTERNAL_TOKEN}",
    **request: Any,
) -> requests.Response:
    headers = {**request.pop("headers", {}), "Authorization": authorization}
    return requests.request(method, api.url + path, headers=headers, timeout=10, **request)


def register(api: IdentityServer, **members: Any) -> dict[str, Any]:
    answer = call(api, "POST", REGISTER, json={**ORDERS, **members})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def ask_for_token(
    api: IdentityServer, form: dict[str, str], authorization: str | bytes | None = None
) -> requests.Response:
    return call(api, "POST", TOKEN, authorization=authorization, data=form)


def basic(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return f"Basic {base64.b64encode(raw).decode()}"


@pytest.fixture
def secret(api: IdentityServer) -> str:
    """The secret of the registered service orders."""
    text: str = register(api)["clientSecret"]
    return text


def granted(api: IdentityServer, secret: str, **form: str) -> dict[str, Any]:
    """Get a token for orders."""
    answer = ask_for_token(api, {**GRANT, "client_id": "orders", "client_secret": secret, **form})
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply


class TestRegistration:
    def test_a_new_service_gets_a_client_and_its_secret(self, api: IdentityServer) -> None:
        reply = register(api)
        assert reply.pop("id")
        assert len(reply.pop("clientSecret")) >= 32
        assert reply == {
            "clientId": "orders",
            "tokenEndpoint": api.url + TOKEN,
            "roles": ["micro-service"],
            "alreadyExisted": False,
            "secretRegenerated": False,
        }

    def test_a_service_that_exists_keeps_its_secret_untold(self, api: IdentityServer) -> None:
        first = register(api)
        again = register(api)
        assert "clientSecret" not in again
        assert again["id"] == first["id"]
        assert (again["alreadyExisted"], again["secretRegenerated"]) == (True, False)
        assert granted(api, first["clientSecret"])

    def test_a_regenerated_secret_replaces_the_old_one_at_once(
        self, api: IdentityServer, secret: str
    ) -> None:
        again = register(api, regenerateSecret=True)
        assert (again["alreadyExisted"], again["secretRegenerated"]) == (True, True)
        assert again["clientSecret"] != secret
        assert granted(api, again["clientSecret"])
        old = {**GRANT, "client_id": "orders", "client_secret": secret}
        assert ask_for_token(api, old).status_code == 401

    def test_a_new_service_that_asks_to_regenerate_has_nothing_regenerated(
        self, api: IdentityServer
    ) -> None:
        reply = register(api, regenerateSecret=True)
        assert "clientSecret" in reply
        assert (reply["alreadyExisted"], reply["secretRegenerated"]) == (False, False)

    def test_the_token_endpoint_has_the_name_by_which_the_caller_knows_the_server(
        self, api: IdentityServer
    ) -> None:
        headers = {"Host": "identity-api:3053"}
        answer = call(api, "POST", REGISTER, json=ORDERS, headers=headers)
        assert answer.json()["data"]["tokenEndpoint"] == f"http://identity-api:3053{TOKEN}"

    def test_a_deleted_client_is_registered_anew(self, api: IdentityServer, secret: str) -> None:
        assert api.backend.delete_client("orders")
        assert not api.backend.delete_client("orders")
        again = register(api)
        assert again["alreadyExisted"] is False
        assert again["clientSecret"] != secret


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param(b"", "it is empty", id="nothing"),
        pytest.param(b"{", "it is not JSON", id="half an object"),
        pytest.param(b"<html>", "it is an HTML page", id="a page"),
        pytest.param(b"\xff", "it is not JSON", id="no UTF-8"),
        pytest.param(b"[" * 25_000 + b"]" * 25_000, TOO_DEEP, id="deep nesting"),
        pytest.param(b"[]", "it is a list where an object is expected", id="a list"),
        pytest.param(b"null", "it is null where an object is expected", id="null"),
        pytest.param(b'{"name": "a"}', "its member 'displayName' is missing", id="half of it"),
        pytest.param(
            b'{"name": 7, "displayName": "b"}', "its member 'name' must be a string", id="a number"
        ),
        pytest.param(
            b'{"name": null, "displayName": "b"}',
            "its member 'name' must be a string",
            id="null for a name",
        ),
        pytest.param(
            b'{"name": "a", "displayName": " "}',
            "its member 'displayName' is blank, contains a control character, "
            "or has more than 255 characters",
            id="a blank",
        ),
    ],
)
@pytest.mark.parametrize("path", [REGISTER, ORGANIZATIONS])
def test_a_body_that_cannot_be_used_is_refused_with_the_reason(
    api: IdentityServer, path: str, body: bytes, problem: str
) -> None:
    answer = call(api, "POST", path, data=body)
    assert answer.status_code == 400
    assert answer.json() == {
        "statusCode": 400,
        "message": f"invalid request: {problem}",
        "error": "Bad Request",
    }


def in_parts() -> Iterator[bytes]:
    for _ in range(65):
        yield b" " * 1024


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", REGISTER), ("POST", ORGANIZATIONS), ("PATCH", SETTINGS), ("POST", TOKEN)],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_body_above_64_kib_is_refused(
    api: IdentityServer, method: str, path: str, chunked: bool
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = in_parts() if chunked else b"".join(in_parts())
    answer = call(api, method, path, data=body, headers=form)
    assert answer.status_code == 413
    assert answer.json()["statusCode"] == 413


def test_a_connection_whose_chunks_are_malformed_is_closed(api: IdentityServer) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0)) as connection:
        lines = ("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "", "no length", "")
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(1) == b""


def test_a_path_that_does_not_exist_is_not_found(api: IdentityServer) -> None:
    answer = call(api, "GET", "/internal/nothing")
    assert answer.status_code == 404
    assert answer.json()["statusCode"] == 404


def test_a_method_that_does_not_exist_is_not_allowed(api: IdentityServer) -> None:
    answer = call(api, "GET", REGISTER)
    assert answer.status_code == 405
    assert answer.json()["error"] == "Method Not Allowed"
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_health_needs_no_token(api: IdentityServer) -> None:
    assert call(api, "GET", "/health", authorization=None).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="no header"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer wrong", id="a wrong token"),
        pytest.param(f"Bearer {INTERNAL_TOKEN}x", id="a longer token"),
        pytest.param(f"Bearer {INTERNAL_TOKEN[:-1]}", id="a shorter token"),
        pytest.param(INTERNAL_TOKEN, id="a token without a scheme"),
        pytest.param(basic(f"{INTERNAL_TOKEN}:"), id="another scheme"),
        pytest.param(b"Bearer \xff\xfe", id="a token that is not ASCII"),
    ],
)
def test_without_the_internal_token_everything_is_unauthorized(
    api: IdentityServer, authorization: str | bytes | None
) -> None:
    guarded = [
        ("POST", REGISTER),
        ("GET", f"{VERIFY}?userId=u&orgId=o"),
        ("POST", ORGANIZATIONS),
        ("GET", f"{ORGANIZATIONS}/platform"),
        ("GET", "/internal/nothing"),
        ("GET", "/internal/"),
        ("GET", SETTINGS),
        ("PATCH", SETTINGS),
        ("POST", "/dev/services/orders/rotate-secret"),
        ("GET", "/dev/nothing"),
    ]
    refusal = {"statusCode": 401, "message": "Unauthorized", "error": "Unauthorized"}
    for method, path in guarded:
        answer = call(api, method, path, authorization=authorization, json=ORDERS)
        assert (answer.status_code, answer.json()) == (401, refusal), path
    assert api.backend.client("orders") is None


@pytest.mark.slow
def test_the_time_of_a_refusal_tells_nothing_of_the_internal_token() -> None:
    client = create_app(INTERNAL_TOKEN, EmbeddedBackend()).test_client()
    given = [
        "x",
        "x" * len(INTERNAL_TOKEN),
        INTERNAL_TOKEN[:-1] + "x",
        INTERNAL_TOKEN[: len(INTERNAL_TOKEN) // 2],
        INTERNAL_TOKEN + "x",
    ]

    def spread() -> float:
        took: dict[str, list[float]] = {token: [] for token in given}
        for _ in range(3000):
            for token, times in took.items():
                began = time.perf_counter()
                client.get("/dev/settings", headers={"Authorization": f"Bearer {token}"})
                times.append(time.perf_counter() - began)
        medians = [statistics.median(times) for times in took.values()]
        return max(medians) / min(medians) - 1

    # Each takes tens of microseconds, of which a comparison byte by byte would take one, and in
    # every try; other programs on the machine are in some only.
    tries = [spread()]
    while tries[-1] >= 0.03 and len(tries) < 5:
        tries.append(spread())
    assert tries[-1] < 0.03, tries


def test_a_doubled_slash_does_not_bypass_the_internal_token(api: IdentityServer) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0)) as connection:
        connection.sendall(b"GET //dev/settings HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"
    # Other servers pass it on.
    client = create_app(INTERNAL_TOKEN, api.backend).test_client()
    environ = {"PATH_INFO": "//dev/settings", "REQUEST_URI": "//dev/settings"}
    assert client.get("/", environ_overrides=environ).status_code == 401


class TestMemberships:
    def test_a_member_has_a_role(self, api: IdentityServer) -> None:
        api.backend.add_member("u", "o", "ADMIN")
        answer = call(api, "GET", VERIFY, params={"userId": "u", "orgId": "o"})
        assert answer.json() == {"data": {"isMember": True, "role": "ADMIN"}}

    @pytest.mark.parametrize(("user", "organization"), [("u", "p"), ("v", "o"), ("o", "u")])
    def test_nobody_else_is_a_member(
        self, api: IdentityServer, user: str, organization: str
    ) -> None:
        api.backend.add_member("u", "o", "ADMIN")
        answer = call(api, "GET", VERIFY, params={"userId": user, "orgId": organization})
        assert answer.json() == {"data": {"isMember": False, "role": None}}

    @pytest.mark.parametrize(
        ("params", "problem"),
        [
            pytest.param({"orgId": "o"}, "'userId' is missing", id="no user"),
            pytest.param({"userId": "u"}, "'orgId' is missing", id="no organization"),
            pytest.param({"userId": "", "orgId": "o"}, "'userId' is blank", id="an empty user"),
        ],
    )
    def test_half_a_question_is_refused(
        self, api: IdentityServer, params: dict[str, str], problem: str
    ) -> None:
        answer = call(api, "GET", VERIFY, params=params)
        assert answer.status_code == 400
        assert problem in answer.json()["message"]


class TestOrganizations:
    def test_an_organization_is_made_once(self, api: IdentityServer) -> None:
        made = call(api, "POST", ORGANIZATIONS, json={"name": "platform", "displayName": "One"})
        again = call(api, "POST", ORGANIZATIONS, json={"name": "platform", "displayName": "Two"})
        got = call(api, "GET", f"{ORGANIZATIONS}/platform")
        assert made.json() == again.json() == got.json()
        assert made.json()["data"].pop("id")
        assert made.json()["data"]["displayName"] == "One"

    def test_an_organization_that_does_not_exist_is_not_found(self, api: IdentityServer) -> None:
        answer = call(api, "GET", f"{ORGANIZATIONS}/platform")
        assert answer.status_code == 404
        assert answer.json() == {
            "statusCode": 404,
            "message": "no system organization named 'platform'",
            "error": "Not Found",
        }

    @pytest.mark.parametrize("name", ["\x00", "\x9f", " ", "x" * 256])
    def test_a_name_that_no_organization_can_have_is_not_found(
        self, api: IdentityServer, name: str
    ) -> None:
        answer = call(api, "GET", f"{ORGANIZATIONS}/{quote(name, safe='')}")
        assert answer.status_code == 404

    @pytest.mark.parametrize("name", ["a/b", "/a", "a//b", "a/", "a b", "?#%2F", "größe", "😀"])
    def test_any_name_can_be_asked_for(self, api: IdentityServer, name: str) -> None:
        made = call(api, "POST", ORGANIZATIONS, json={"name": name, "displayName": "One"})
        got = call(api, "GET", f"{ORGANIZATIONS}/{quote(name, safe='')}")
        assert got.json() == made.json()
        assert got.json()["data"]["name"] == name


class TestToken:
    def test_a_token_is_for_the_service_and_signed_with_a_published_key(
        self, api: IdentityServer, secret: str
    ) -> None:
        reply = granted(api, secret)
        discovered = call(api, "GET", f"{ISSUER}/.well-known/openid-configuration").json()
        keys = call(api, "GET", urlsplit(discovered["jwks_uri"]).path).json()
        assert all(key.keys() == {"kty", "n", "e", "use", "alg", "kid"} for key in keys["keys"])
        token = jwt.decode(reply["access_token"], KeySet.import_key_set(keys), ["RS256"])
        assert token.header["kid"] == keys["keys"][0]["kid"]
        assert token.claims["iss"] == discovered["issuer"] == api.url + ISSUER
        assert token.claims["azp"] == token.claims["client_id"] == "orders"
        assert token.claims["realm_access"] == {"roles": ["micro-service"]}
        assert token.claims["scope"] == reply["scope"] == "email profile"
        assert token.claims["iat"] <= time.time()
        assert (reply["token_type"], reply["expires_in"]) == ("Bearer", 300)

    def test_two_tokens_of_a_service_differ_in_their_id_and_not_in_their_subject(
        self, api: IdentityServer, secret: str
    ) -> None:
        keys = KeySet.import_key_set(
            call(api, "GET", f"{ISSUER}/protocol/openid-connect/certs").json()
        )
        one, two = (jwt.decode(granted(api, secret)["access_token"], keys).claims for _ in range(2))
        assert one["sub"] == two["sub"]
        assert one["jti"] != two["jti"]

    @pytest.mark.parametrize(
        ("lifetime", "ends_after"),
        [
            pytest.param(0.4, {1, 2}, id="parts of a second, rounded up"),
            pytest.param(9.0, {9, 10}, id="a few seconds, rounded up"),
            pytest.param(10, {10}, id="as Keycloak has it"),
            pytest.param(60.5, {61, 62}, id="half a second more, rounded up"),
            pytest.param(300.0, {300}, id="minutes, as Keycloak has it"),
        ],
    )
    def test_a_token_ends_when_it_says_in_whole_seconds(
        self, api: IdentityServer, secret: str, lifetime: float, ends_after: set[int]
    ) -> None:
        assert api.backend.change(token_lifetime=lifetime).token_lifetime == lifetime
        reply = granted(api, secret)
        keys = call(api, "GET", f"{ISSUER}/protocol/openid-connect/certs").json()
        claims = jwt.decode(reply["access_token"], KeySet.import_key_set(keys)).claims
        assert reply["expires_in"] == lifetime
        assert isinstance(reply["expires_in"], int) is float(lifetime).is_integer()
        assert claims["exp"] - claims["iat"] in ends_after

    @pytest.mark.parametrize(
        ("asked", "scope"), [("roles email", "email profile"), ("openid", "openid email profile")]
    )
    def test_scopes_that_are_granted_by_default_are_granted_always(
        self, api: IdentityServer, secret: str, asked: str, scope: str
    ) -> None:
        assert granted(api, secret, scope=asked)["scope"] == scope

    def test_a_token_is_not_to_be_stored_on_its_way(self, api: IdentityServer, secret: str) -> None:
        form = {**GRANT, "client_id": "orders", "client_secret": secret}
        assert ask_for_token(api, form).headers["Cache-Control"] == "no-store"

    def test_the_discovery_document_says_where_everything_is(self, api: IdentityServer) -> None:
        path = f"{ISSUER}/.well-known/openid-configuration"
        assert call(api, "GET", path, authorization=None).json() == {
            "issuer": api.url + ISSUER,
            "token_endpoint": api.url + TOKEN,
            "jwks_uri": f"{api.url}{ISSUER}/protocol/openid-connect/certs",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "scopes_supported": [
                "email",
                "profile",
                "openid",
                "roles",
                "basic",
                "service_account",
            ],
        }

    def test_plain_http_is_enough_under_any_name(self, api: IdentityServer, secret: str) -> None:
        form = {**GRANT, "client_id": "orders", "client_secret": secret}
        answer = requests.post(
            api.url + TOKEN, data=form, headers={"Host": "identity-api:3053"}, timeout=10
        )
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "Bearer"


class TestClientAuthentication:
    @pytest.mark.parametrize("name", ["orders", "orders & co: ü/%2B+"])
    def test_both_methods_take_secrets_of_any_characters(
        self, api: IdentityServer, name: str
    ) -> None:
        register(api, name=name)
        client = api.backend.client(name)
        assert client is not None
        client.secret = HARD_SECRET
        posted = ask_for_token(api, {**GRANT, "client_id": name, "client_secret": HARD_SECRET})
        header = basic(f"{quote_plus(name)}:{quote_plus(HARD_SECRET)}")
        as_basic = ask_for_token(api, GRANT, header)
        for answer in (posted, as_basic):
            assert answer.status_code == 200, answer.text

    def test_the_scheme_is_basic_in_any_case(self, api: IdentityServer, secret: str) -> None:
        header = basic(f"orders:{secret}").replace("Basic", "bASIC")
        assert ask_for_token(api, GRANT, header).status_code == 200

    def test_the_form_wins_over_basic(self, api: IdentityServer, secret: str) -> None:
        form = {**GRANT, "client_id": "orders", "client_secret": secret}
        assert ask_for_token(api, form, basic("orders:wrong")).status_code == 200
        form["client_secret"] = "wrong"
        assert ask_for_token(api, form, basic(f"orders:{secret}")).status_code == 401

    @pytest.mark.usefixtures("secret")
    def test_basic_that_is_not_form_encoded_is_refused(self, api: IdentityServer) -> None:
        answer = ask_for_token(api, GRANT, basic("orders:100%"))
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "unauthorized_client",
            "error_description": "Unexpected error when authenticating client",
        }

    @pytest.mark.parametrize(
        ("form", "authorization", "error"),
        [
            pytest.param({}, None, "invalid_client", id="no credentials"),
            pytest.param({}, "Basic", "invalid_client", id="Basic without a value"),
            pytest.param({}, "Basic !!!", "invalid_client", id="Basic that is no base64"),
            pytest.param({}, b"Basic \xff\xfe", "invalid_client", id="Basic that is no ASCII"),
            pytest.param({}, basic(b"\xff:x"), "invalid_client", id="Basic that is no UTF-8"),
            pytest.param({}, basic("nobody:x"), "invalid_client", id="an unknown client in Basic"),
            pytest.param({}, basic("orders"), "invalid_client", id="Basic without a colon"),
            pytest.param(
                {}, basic("orders:wrong"), "unauthorized_client", id="a wrong secret in Basic"
            ),
            pytest.param(
                {"client_id": "nobody", "client_secret": "x"},
                None,
                "invalid_client",
                id="an unknown client",
            ),
            pytest.param(
                {"client_id": "orders", "client_secret": "wrong"},
                None,
                "unauthorized_client",
                id="a wrong secret",
            ),
            pytest.param(
                {"client_id": "orders"}, None, "unauthorized_client", id="a missing secret"
            ),
            pytest.param(
                {"client_secret": "wrong"}, None, "invalid_client", id="a missing client_id"
            ),
            pytest.param({}, "Bearer x", "invalid_client", id="another scheme"),
        ],
    )
    @pytest.mark.usefixtures("secret")
    def test_a_client_that_does_not_prove_itself_is_refused_as_keycloak_does(
        self,
        api: IdentityServer,
        form: dict[str, str],
        authorization: str | bytes | None,
        error: str,
    ) -> None:
        answer = ask_for_token(api, {**GRANT, **form}, authorization)
        assert answer.status_code == 401
        assert answer.json() == {
            "error": error,
            "error_description": "Invalid client or Invalid client credentials",
        }

    def test_a_disabled_client_is_refused(self, api: IdentityServer, secret: str) -> None:
        assert api.backend.disable_client("orders")
        form = {**GRANT, "client_id": "orders", "client_secret": secret}
        answer = ask_for_token(api, form)
        assert answer.status_code == 401
        assert answer.json()["error"] == "invalid_client"
        assert api.backend.enable_client("orders")
        assert ask_for_token(api, form).status_code == 200

    def test_credentials_in_the_query_do_not_count(self, api: IdentityServer, secret: str) -> None:
        query = f"?client_id=orders&client_secret={secret}"
        answer = call(api, "POST", TOKEN + query, data=GRANT)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("form", "error"),
    [
        pytest.param({"grant_type": ""}, "unsupported_grant_type", id="an empty grant"),
        pytest.param({"grant_type": "password"}, "unsupported_grant_type", id="another grant"),
        pytest.param({**GRANT, "scope": "email evil"}, "invalid_scope", id="an unknown scope"),
        pytest.param({**GRANT, "scope": 'ü"\\'}, "invalid_scope", id="a scope that is not ASCII"),
        pytest.param({}, "invalid_request", id="no grant"),
    ],
)
def test_a_token_request_that_cannot_be_used_is_refused(
    api: IdentityServer, secret: str, form: dict[str, str], error: str
) -> None:
    answer = ask_for_token(api, {"client_id": "orders", "client_secret": secret, **form})
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert answer.json()["error_description"]


def test_a_parameter_that_comes_twice_is_refused(api: IdentityServer, secret: str) -> None:
    form = [*GRANT.items(), ("client_id", "orders"), ("client_secret", secret)]
    answer = requests.post(api.url + TOKEN, data=[*form, ("client_id", "orders")], timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error_description"] == "duplicated parameter"


def test_a_token_request_in_json_has_no_form_parameters(api: IdentityServer) -> None:
    answer = call(api, "POST", TOKEN, json=GRANT)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_request",
        "error_description": "Missing form parameter: grant_type",
    }


def test_tokens_are_not_to_be_had_with_get(api: IdentityServer) -> None:
    assert call(api, "GET", TOKEN).status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/realms/other/protocol/openid-connect/token"),
        ("GET", "/realms/other/.well-known/openid-configuration"),
        ("GET", "/realms/other"),
        ("GET", "/realms/xema-2/protocol/openid-connect/certs"),
    ],
)
def test_another_realm_does_not_exist(api: IdentityServer, method: str, path: str) -> None:
    answer = call(api, method, path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Realm does not exist"}


@pytest.mark.parametrize("path", [ISSUER, f"{ISSUER}/nothing"])
def test_what_the_realm_does_not_have_is_not_found(api: IdentityServer, path: str) -> None:
    answer = call(api, "GET", path)
    assert answer.status_code == 404
    assert answer.json()["error"] == "Not Found"


class TestSettings:
    def test_they_can_be_read(self, api: IdentityServer) -> None:
        assert call(api, "GET", SETTINGS).json() == {
            "data": {
                "tokenLifetime": 300.0,
                "apiLatency": 0.0,
                "apiOutage": False,
                "apiErrorRate": 0.0,
                "tokenLatency": 0.0,
                "tokenOutage": False,
                "tokenErrorRate": 0.0,
            }
        }

    def test_some_can_be_changed_and_the_others_stay(self, api: IdentityServer) -> None:
        call(api, "PATCH", SETTINGS, json={"tokenLifetime": 60, "apiLatency": 0.01})
        answer = call(api, "PATCH", SETTINGS, json={"tokenLifetime": 86400})
        assert answer.status_code == 200
        assert answer.json() == call(api, "GET", SETTINGS).json()
        assert api.backend.settings == ServerSettings(token_lifetime=86400, api_latency=0.01)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            pytest.param(b"", "it is empty", id="nothing"),
            pytest.param(b"{", "it is not JSON", id="half an object"),
            pytest.param(b"[" * 25_000 + b"]" * 25_000, TOO_DEEP, id="deep nesting"),
            pytest.param(b"[]", "it is a list where an object is expected", id="a list"),
            pytest.param(b'{"speed": 1}', "its member 'speed' is not known", id="unknown"),
            pytest.param(
                b'{"token_lifetime": 1}', "its member 'token_lifetime' is not known", id="snake"
            ),
            pytest.param(
                b'{"apiOutage": 1}', "its member 'apiOutage' must be true or false", id="no boolean"
            ),
            pytest.param(
                b'{"apiLatency": true}', "its member 'apiLatency' must be a number", id="a boolean"
            ),
            pytest.param(
                b'{"apiLatency": null}', "its member 'apiLatency' must be a number", id="null"
            ),
            *(
                pytest.param(
                    b'{"tokenLifetime": %s}' % value.encode(),
                    "the token lifetime must be above 0 and at most 86400 seconds",
                    id=f"a lifetime of {value} s",
                )
                for value in ("0", "-1", "86400.5", "NaN", "Infinity")
            ),
            *(
                pytest.param(
                    b'{"%s": %s}' % (rate.encode(), value.encode()),
                    f"the {words} error rate must be between 0 and 1",
                    id=f"an {rate} of {value}",
                )
                for rate, words in (("apiErrorRate", "api"), ("tokenErrorRate", "token"))
                for value in ("-0.1", "1.1", "NaN")
            ),
            *(
                pytest.param(
                    b'{"%s": %s}' % (latency.encode(), value.encode()),
                    f"the {words} latency must be between 0 and 60",
                    id=f"a {latency} of {value} s",
                )
                for latency, words in (("apiLatency", "api"), ("tokenLatency", "token"))
                for value in ("-0.1", "60.1", "NaN")
            ),
        ],
    )
    def test_a_change_that_cannot_be_used_is_refused_and_changes_nothing(
        self, api: IdentityServer, change: bytes, problem: str
    ) -> None:
        answer = call(api, "PATCH", SETTINGS, data=change)
        assert answer.status_code == 400
        assert answer.json()["message"] == f"invalid request: {problem}"
        assert api.backend.settings == ServerSettings()

    def test_they_can_be_changed_for_a_while(self, api: IdentityServer) -> None:
        api.backend.change(token_latency=1)
        with api.backend.changed(token_outage=True, token_lifetime=7) as settings:
            assert settings == api.backend.settings
            assert (settings.token_outage, settings.token_lifetime) == (True, 7)
        assert api.backend.settings == ServerSettings(token_latency=1)

    @pytest.mark.parametrize("value", [float("nan"), -1, 61])
    def test_a_value_out_of_its_range_is_an_error(self, api: IdentityServer, value: float) -> None:
        with pytest.raises(ValueError, match="the api latency must be between 0 and 60"):
            api.backend.change(api_latency=value)
        assert api.backend.settings == ServerSettings()

    def test_a_server_can_begin_with_others(self) -> None:
        with IdentityServer(INTERNAL_TOKEN, settings=ServerSettings(token_lifetime=7)) as api:
            assert call(api, "GET", SETTINGS).json()["data"]["tokenLifetime"] == 7


class TestRotation:
    def test_a_rotated_secret_stops_working_at_once(self, api: IdentityServer, secret: str) -> None:
        answer = call(api, "POST", "/dev/services/orders/rotate-secret")
        assert (answer.status_code, answer.content) == (204, b"")
        form = {**GRANT, "client_id": "orders", "client_secret": secret}
        assert ask_for_token(api, form).json()["error"] == "unauthorized_client"

    def test_a_service_that_does_not_exist_has_no_secret_to_rotate(
        self, api: IdentityServer
    ) -> None:
        answer = call(api, "POST", "/dev/services/orders/rotate-secret")
        assert answer.status_code == 404
        assert answer.json()["message"] == "no service named 'orders'"


def seconds(api: IdentityServer, method: str, path: str) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call(api, method, path)
    return time.perf_counter() - began


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "status"), [({"api_outage": True}, 503), ({"api_error_rate": 1.0}, 500)]
    )
    def test_identity_api_fails_when_told_and_nothing_else_does(
        self, api: IdentityServer, secret: str, fault: dict[str, Any], status: int
    ) -> None:
        api.backend.change(**fault)
        answer = call(api, "POST", REGISTER, json=ORDERS)
        assert answer.status_code == answer.json()["statusCode"] == status
        assert granted(api, secret)
        assert call(api, "GET", SETTINGS).status_code == 200
        assert call(api, "GET", "/health").status_code == 200

    @pytest.mark.parametrize(
        ("fault", "status", "error"),
        [
            ({"token_outage": True}, 503, "temporarily_unavailable"),
            ({"token_error_rate": 1.0}, 500, "unknown_error"),
        ],
    )
    def test_the_token_endpoint_fails_when_told_and_nothing_else_does(
        self, api: IdentityServer, fault: dict[str, Any], status: int, error: str
    ) -> None:
        api.backend.change(**fault)
        answer = ask_for_token(api, GRANT)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert register(api)
        assert call(api, "GET", f"{ISSUER}/protocol/openid-connect/certs").status_code == 200

    @pytest.mark.parametrize(
        ("fault", "slow", "quick"),
        [
            ("api_latency", ("POST", REGISTER), ("POST", TOKEN)),
            ("token_latency", ("POST", TOKEN), ("POST", REGISTER)),
        ],
    )
    def test_latency_holds_up_what_it_is_for_and_nothing_else(
        self, api: IdentityServer, fault: str, slow: tuple[str, str], quick: tuple[str, str]
    ) -> None:
        api.backend.change(**{fault: 0.5})
        assert min(seconds(api, *quick) for _ in range(3)) < 0.5 <= seconds(api, *slow)

    def test_a_fault_ends_when_it_is_told_to(self, api: IdentityServer) -> None:
        call(api, "PATCH", SETTINGS, json={"apiOutage": True})
        assert call(api, "POST", REGISTER, json=ORDERS).status_code == 503
        call(api, "PATCH", SETTINGS, json={"apiOutage": False})
        assert register(api)


def test_requests_are_counted_by_endpoint(api: IdentityServer) -> None:
    secret = register(api)["clientSecret"]
    granted(api, secret)
    ask_for_token(api, GRANT)
    call(api, "GET", f"{ORGANIZATIONS}/platform")
    call(api, "GET", "/health")
    call(api, "POST", REGISTER, authorization=None, json=ORDERS)
    call(api, "POST", REGISTER, json={})
    assert api.backend.requests == {"api": 3, "register": 1, "token": 2}


def accepts(host: str, url: str) -> bool:
    """Whether a server has a connection for an address of this machine, on its port."""
    try:
        socket.create_connection((host, urlsplit(url).port or 0), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


class TestServing:
    # All of 127.0.0.0/8 is this machine; a server on 127.0.0.1 alone does not answer for the rest.
    # A server on 0.0.0.0 connects to itself when it stops.
    @pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "0.0.0.0"])
    def test_it_listens_on_loopback_unless_told_otherwise(self, api: IdentityServer) -> None:
        assert api.url.startswith("http://127.0.0.1:")
        assert accepts("127.0.0.1", api.url)
        assert not accepts("127.0.0.2", api.url)
        with IdentityServer(INTERNAL_TOKEN, host="0.0.0.0") as everywhere:
            assert accepts("127.0.0.2", everywhere.url)

    def test_it_works_with_ipv6(self) -> None:
        with IdentityServer(INTERNAL_TOKEN, host="::1") as api:
            assert api.url.startswith("http://[::1]:")
            reply = register(api)
            assert reply["tokenEndpoint"] == api.url + TOKEN
            assert granted(api, reply["clientSecret"])

    def test_a_free_port_that_another_process_took_is_replaced(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listen, ports = AppServer._listen_on, list[int]()

        def fail_once(server: AppServer, app: Any, host: str, port: int, threads: int) -> Any:
            ports.append(port)
            if len(ports) == 1:
                raise OSError("No socket could be created")
            return listen(server, app, host, port, threads)

        monkeypatch.setattr(AppServer, "_listen_on", fail_once)
        with IdentityServer(INTERNAL_TOKEN) as api:
            assert requests.get(f"{api.url}/health", timeout=10).ok
            assert len(ports) == 2
            assert urlsplit(api.url).port == ports[1]

    def test_a_port_that_is_taken_is_an_error(self, api: IdentityServer) -> None:
        with pytest.raises(OSError, match="in use"):
            IdentityServer(INTERNAL_TOKEN, port=urlsplit(api.url).port or 0)

    def test_two_servers_can_share_what_they_keep(self, api: IdentityServer, secret: str) -> None:
        with IdentityServer(INTERNAL_TOKEN, backend=api.backend) as other:
            assert register(other)["alreadyExisted"] is True
            assert granted(other, secret)

    def test_a_backend_of_ones_own_is_used(self) -> None:
        backend = EmbeddedBackend(ServerSettings(api_outage=True))
        with IdentityServer(INTERNAL_TOKEN, backend=backend) as api:
            assert api.backend is backend
            assert call(api, "POST", REGISTER, json=ORDERS).status_code == 503

    def test_a_failure_outside_the_app_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        app = create_app(INTERNAL_TOKEN, EmbeddedBackend())

        def fail(*_: object) -> Any:
            raise RuntimeError("broken")

        app.wsgi_app = fail  # type: ignore[assignment,method-assign]  # as Flask's middlewares do
        with AppServer(app) as server:
            assert requests.get(f"{server.url}/health", timeout=10).status_code == 500
        assert "HTTP server: RuntimeError('broken')" in caplog.messages

    def test_a_client_that_goes_away_in_the_middle_leaves_no_trace(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with IdentityServer(INTERNAL_TOKEN) as api:
            assert requests.get(f"{api.url}/health", timeout=10).ok  # all its threads run by now
            before = set(threading.enumerate())
            for _ in range(20):
                with socket.create_connection(
                    ("127.0.0.1", urlsplit(api.url).port or 0)
                ) as connection:
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert requests.get(f"{api.url}/health", timeout=10).ok
            assert set(threading.enumerate()) <= before
            assert all(thread.is_alive() for thread in api._server.requests._threads)
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_stopping_ends_its_threads_and_its_connections(self) -> None:
        before = set(threading.enumerate())
        api = IdentityServer(INTERNAL_TOKEN)
        api.start()
        with requests.Session() as session:
            assert session.get(f"{api.url}/health", timeout=10).ok
            own = set(threading.enumerate()) - before
            assert "identity-api" in {thread.name for thread in own}
            api.stop()
            for thread in own:
                thread.join(10)
            assert not [thread for thread in own if thread.is_alive()]
            with pytest.raises(requests.ConnectionError):
                session.get(f"{api.url}/health", timeout=10)

    def test_its_port_is_free_as_soon_as_it_has_stopped(self) -> None:
        port = 0
        with requests.Session() as session:
            for _ in range(3):
                with IdentityServer(INTERNAL_TOKEN, port=port) as api:
                    port = urlsplit(api.url).port or 0
                    # The connection stays open, so that it is the server that closes it.
                    assert session.get(f"{api.url}/health", timeout=10).ok
                session.close()

    def test_stopping_cuts_off_the_requests_in_flight(self) -> None:
        class Backend(EmbeddedBackend):
            asked = threading.Event()

            def count(self, endpoint: str) -> None:
                self.asked.set()

        backend = Backend(ServerSettings(api_latency=30.0))
        api = IdentityServer(INTERNAL_TOKEN, backend=backend)
        outcomes: list[object] = []

        def ask() -> None:
            try:
                outcomes.append(call(api, "POST", REGISTER, json=ORDERS))
            except requests.ConnectionError as error:
                outcomes.append(type(error))

        asking = threading.Thread(target=ask)
        api.start()
        asking.start()
        assert backend.asked.wait(10)
        api.stop()
        asking.join()
        assert outcomes == [requests.ConnectionError]

    def test_stopping_twice_or_before_the_start_is_harmless(self) -> None:
        api = IdentityServer(INTERNAL_TOKEN)
        api.stop()
        assert not accepts("127.0.0.1", api.url)
        with IdentityServer(INTERNAL_TOKEN) as other:
            other.stop()
        assert not accepts("127.0.0.1", other.url)

    def test_running_ends_when_another_thread_stops_it(self) -> None:
        api = IdentityServer(INTERNAL_TOKEN)
        seen: list[int] = []

        def ask_and_stop() -> None:
            seen.append(requests.get(f"{api.url}/health", timeout=10).status_code)
            api.stop()

        asking = threading.Thread(target=ask_and_stop)
        asking.start()
        api.run()
        asking.join()
        assert seen == [200]
        assert not accepts("127.0.0.1", api.url)

    def test_running_ends_with_an_error_when_the_server_s_thread_has_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wsgi.Server, "serve", lambda _: None)
        api = IdentityServer(INTERNAL_TOKEN)
        with pytest.raises(IdentityError, match="the HTTP server ended unexpectedly"):
            api.run()
        api.stop()
        assert not accepts("127.0.0.1", api.url)

    def test_running_ends_with_an_interrupt(self) -> None:
        api = IdentityServer(INTERNAL_TOKEN)
        seen: list[int] = []

        def ask_and_interrupt() -> None:
            seen.append(requests.get(f"{api.url}/health", timeout=10).status_code)
            os.kill(os.getpid(), signal.SIGINT)

        # A shell starts what runs in the background with interrupts ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            asking = threading.Thread(target=ask_and_interrupt)
            asking.start()
            api.run()
            asking.join()
            api.stop()
        finally:
            signal.signal(signal.SIGINT, before)
        assert seen == [200]
        assert not accepts("127.0.0.1", api.url)
