"""One set of cases for Keycloak and the embedded server: both answer what docs/keycloak.rst has."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests
from support.environments import IdentityEnvironment
from support.services import INTERNAL_TOKEN

GRANT = {"grant_type": "client_credentials"}
HARD_NAME = "orders & co: ü/%2B+"
HARD_SECRET = "a+b/c%d:e&f ü"
ORGANIZATIONS = "/internal/organizations/system"

Case = Callable[["Asker"], requests.Response]


class Asker:
    """Asks one server."""

    def __init__(self, environment: IdentityEnvironment) -> None:
        self.environment = environment

    def api(self, method: str, path: str, token: str = INTERNAL_TOKEN, **request: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        url = self.environment.url + path
        return requests.request(method, url, headers=headers, timeout=30, **request)

    def register(self, name: str = "orders", **members: Any) -> requests.Response:
        order = {"name": name, "displayName": "Orders", **members}
        answer: requests.Response = self.api("POST", "/internal/services/register", json=order)
        return answer

    def secret(self, name: str = "orders") -> str:
        """Register a service and return its secret."""
        text: str = self.register(name).json()["data"]["clientSecret"]
        return text

    def token(self, form: Any = (), **request: Any) -> requests.Response:
        """Ask the token endpoint."""
        data = {**GRANT, **dict(form)}
        return requests.post(
            self.environment.token_endpoint, **{"data": data, "timeout": 30, **request}
        )

    def post(self, secret: str, client_id: str = "orders", **form: str) -> requests.Response:
        return self.token({"client_id": client_id, "client_secret": secret, **form})

    def basic(self, text: str, **form: Any) -> requests.Response:
        value = base64.b64encode(text.encode()).decode()
        return self.token(form, headers={"Authorization": f"Basic {value}"})

    def after(self, change: Callable[[str], None]) -> requests.Response:
        """Ask with a secret that was right until something changed."""
        secret = self.secret()
        change("orders")
        return self.post(secret)

    def hard(self) -> None:
        self.register(HARD_NAME)
        self.environment.set_secret(HARD_NAME, HARD_SECRET)

    def organization(self, name: str = "platform", **request: Any) -> requests.Response:
        order = {"name": name, "displayName": "Platform"}
        answer: requests.Response = self.api("POST", ORGANIZATIONS, json=order, **request)
        return answer

    def membership(self, user: str | None = None) -> requests.Response:
        organization = self.organization().json()["data"]["id"]
        member = self.environment.add_member(organization, "ADMIN")
        params = {"userId": user or member, "orgId": organization}
        answer: requests.Response = self.api("GET", "/internal/memberships/verify", params=params)
        return answer


def hard(ask: Callable[[Asker], requests.Response]) -> Case:
    """Ask as a client whose name and secret are full of special characters."""

    def case(asker: Asker) -> requests.Response:
        asker.hard()
        return ask(asker)

    return case


CASES: dict[str, Case] = {
    # identity-api
    "a first registration": lambda ask: ask.register(),
    "an existing client": lambda ask: (ask.register(), ask.register())[1],
    "a regenerated secret": lambda ask: (ask.register(), ask.register(regenerateSecret=True))[1],
    "a registration without a name": lambda ask: ask.api(
        "POST", "/internal/services/register", json={"displayName": "Orders"}
    ),
    "a wrong internal token": lambda ask: ask.api(
        "POST", "/internal/services/register", token="wrong"
    ),
    "a new organization": lambda ask: ask.organization(),
    "an existing organization": lambda ask: (ask.organization(), ask.organization())[1],
    "an organization by its name": lambda ask: (
        ask.organization("a/b"),
        ask.api("GET", f"{ORGANIZATIONS}/a%2Fb"),
    )[1],
    "no organization of that name": lambda ask: ask.api("GET", f"{ORGANIZATIONS}/platform"),
    "a member": lambda ask: ask.membership(),
    "no member": lambda ask: ask.membership("nobody"),
    # the token endpoint
    "the right secret in the form": lambda ask: ask.post(ask.secret()),
    "the right secret with Basic": lambda ask: ask.basic(f"orders:{ask.secret()}"),
    "special characters in the form": hard(lambda ask: ask.post(HARD_SECRET, HARD_NAME)),
    "special characters with Basic": hard(
        lambda ask: ask.basic(f"{quote_plus(HARD_NAME)}:{quote_plus(HARD_SECRET)}")
    ),
    "special characters with Basic, not form-encoded": hard(
        lambda ask: ask.basic(f"orders:{HARD_SECRET}")
    ),
    "the right secret in the form, a wrong one with Basic": lambda ask: ask.basic(
        "orders:wrong", client_id="orders", client_secret=ask.secret()
    ),
    "a wrong secret in the form, the right one with Basic": lambda ask: ask.basic(
        f"orders:{ask.secret()}", client_secret="wrong"
    ),
    "a known scope": lambda ask: ask.post(ask.secret(), scope="email"),
    "an unknown scope": lambda ask: ask.post(ask.secret(), scope="nothing"),
    "a wrong secret": lambda ask: (ask.register(), ask.post("wrong"))[1],
    "a wrong secret with Basic": lambda ask: (ask.register(), ask.basic("orders:wrong"))[1],
    "no secret": lambda ask: (ask.register(), ask.token({"client_id": "orders"}))[1],
    "an unknown client": lambda ask: ask.post("secret", "nobody"),
    "no client": lambda ask: ask.token(),
    "Basic without a colon": lambda ask: ask.basic("orders"),
    "a disabled client": lambda ask: ask.after(ask.environment.disable),
    "a deleted client": lambda ask: ask.after(ask.environment.delete),
    "a secret that was rotated": lambda ask: ask.after(ask.environment.rotate),
    "a secret that was regenerated": lambda ask: ask.after(
        lambda name: (ask.register(name, regenerateSecret=True), None)[1]
    ),
    "no grant_type": lambda ask: ask.token(data={}),
    "an unknown grant_type": lambda ask: ask.post(ask.secret(), grant_type="magic"),
    "a parameter twice": lambda ask: ask.basic(f"orders:{ask.secret()}", scope=["email"] * 2),
    "JSON in place of a form": lambda ask: ask.token(data=None, json=GRANT),
    "GET in place of POST": lambda ask: requests.get(ask.environment.token_endpoint, timeout=30),
    "a realm that does not exist": lambda ask: requests.post(
        ask.environment.token_endpoint.replace("/realms/", "/realms/no-"), timeout=30
    ),
}


def form_of(answer: requests.Response) -> tuple[str, str]:
    """Return the status, and the body without what differs each time."""
    document = answer.json()
    data = document.get("data")
    if data is not None:
        flags = ("alreadyExisted", "secretRegenerated", "isMember", "role")
        shown = {name: data[name] for name in flags if name in data}
        text = ", ".join(sorted(data)) + "".join(f"; {k}: {v}" for k, v in shown.items())
    elif "access_token" in document:
        scope = " ".join(sorted(document["scope"].split()))
        text = ", ".join(sorted(document)) + f"; scope: {scope}"
    else:
        members = ("error", "error_description", "message")
        text = "; ".join(f"{name}: {document[name]}" for name in members if name in document)
    return str(answer.status_code), text


DOCS = Path(__file__).parents[2] / "docs" / "keycloak.rst"


def documented() -> dict[str, tuple[str, str]]:
    """Read the table of the docs."""
    rows = re.findall(
        r"^   \* - (.+)\n     - (\d+)\n     - (.+(?:\n       .+)*)",
        DOCS.read_text("utf-8"),
        re.MULTILINE,
    )
    return {case: (status, " ".join(text.split())) for case, status, text in rows}


@pytest.mark.parametrize("name", CASES)
def test_both_servers_answer_what_the_docs_say(environment: IdentityEnvironment, name: str) -> None:
    assert form_of(CASES[name](Asker(environment))) == documented()[name]


def test_the_docs_have_no_other_cases() -> None:
    assert list(documented()) == list(CASES)


def test_a_token_of_either_server_is_for_the_service(environment: IdentityEnvironment) -> None:
    asker = Asker(environment)
    claims = environment.claims(asker.post(asker.secret()).json()["access_token"])
    assert claims["iss"] == environment.issuer
    assert claims["azp"] == claims["client_id"] == "orders"
    assert "micro-service" in claims["realm_access"]["roles"]
    assert (claims["typ"], claims["aud"]) == ("Bearer", "account")
    assert claims["preferred_username"] == "service-account-orders"


@pytest.mark.parametrize("lifetime", [10, 60, 300])
def test_a_token_of_either_server_ends_in_whole_seconds(
    environment: IdentityEnvironment, lifetime: int
) -> None:
    asker = Asker(environment)
    environment.set_lifetime(lifetime)
    reply = asker.post(asker.secret()).json()
    claims = environment.claims(reply["access_token"])
    assert reply["expires_in"] == claims["exp"] - claims["iat"] == lifetime
