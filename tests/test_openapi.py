"""The contract in docs/identity-api.openapi.yaml is what the server and the client do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator
from support.canned import CannedServer, reply
from support.services import INTERNAL_TOKEN

from identity_client import IdentityApiClient, InvalidResponseError, SecretNotReturnedError
from identity_client.server import (
    AppServer,
    BackendError,
    EmbeddedBackend,
    IdentityServer,
    create_app,
)

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "docs" / "identity-api.openapi.yaml").read_text("utf-8")
)
COMPONENTS: dict[str, Any] = DOCUMENT["components"]


class Operation(NamedTuple):
    method: str
    path: str
    spec: dict[str, Any]

    @property
    def query(self) -> dict[str, Any]:
        listed = [item for item in self.spec.get("parameters", ()) if item["in"] == "query"]
        return {
            "properties": {item["name"]: item["schema"] for item in listed},
            "required": [item["name"] for item in listed if item["required"]],
            "additionalProperties": False,
        }

    @property
    def body(self) -> dict[str, Any]:
        schema: dict[str, Any] = self.spec["requestBody"]["content"]["application/json"]["schema"]
        return schema

    def response(self, status: int) -> dict[str, Any]:
        found = self.spec["responses"][str(status)]
        if "$ref" in found:
            found = COMPONENTS["responses"][found["$ref"].rpartition("/")[2]]
        schema: dict[str, Any] = found["content"]["application/json"]["schema"]
        return schema


OPERATIONS = {
    spec["operationId"]: Operation(method.upper(), path, spec)
    for path, item in DOCUMENT["paths"].items()
    for method, spec in item.items()
}

REQUESTS: dict[str, dict[str, Any]] = {
    "registerService": {
        "json": {
            "name": "orders",
            "displayName": "Orders",
            "description": "Takes orders.",
            "serviceType": "BACKEND",
            "regenerateSecret": False,
        }
    },
    "verifyMembership": {"params": {"userId": "u-1", "orgId": "o-1"}},
    "ensureSystemOrganization": {"json": {"name": "platform", "displayName": "Platform"}},
    "getSystemOrganization": {},
    "health": {},
}
INTERNAL = [name for name, operation in OPERATIONS.items() if "security" not in operation.spec]


def problems(schema: dict[str, Any], document: object) -> list[str]:
    """Say what makes a document invalid."""
    whole = Draft202012Validator({**schema, "components": COMPONENTS})
    return [error.message for error in whole.iter_errors(document)]


def ask(
    api: AppServer, operation_id: str, *, token: str = INTERNAL_TOKEN, name: str = "platform"
) -> Callable[..., requests.Response]:
    operation = OPERATIONS[operation_id]
    url = api.url + operation.path.format(name=quote(name, safe=""))

    def send(**request: Any) -> requests.Response:
        return requests.request(
            operation.method,
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
            **(request or REQUESTS[operation_id]),
        )

    return send


@pytest.fixture
def furnished(api: IdentityServer) -> IdentityServer:
    """An identity-api that knows an organization and its member."""
    ask(api, "ensureSystemOrganization")()
    api.backend.add_member("u-1", "o-1", "ADMIN")
    return api


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Case(NamedTuple):
    operation_id: str
    status: int
    request: Mapping[str, Any] = NOTHING
    name: str = "platform"
    token: str = INTERNAL_TOKEN
    faults: Mapping[str, Any] = NOTHING
    broken: bool = False


class Broken:
    """A backend that has one answer to everything."""

    def __init__(self, status: int) -> None:
        self._status = status

    def _fail(self, *_: object) -> Any:
        raise BackendError(self._status, "this is why")

    register = membership = ensure_organization = organization = _fail


@contextmanager
def server_of(case: Case, furnished: IdentityServer) -> Iterator[AppServer]:
    furnished.backend.change(**case.faults)
    if not case.broken:
        yield furnished
    else:
        with AppServer(create_app(INTERNAL_TOKEN, Broken(case.status))) as server:
            yield server


SECOND = {**REQUESTS["registerService"]["json"], "name": "registered"}

CASES = {
    "a new service": Case("registerService", 200),
    "a service in few words": Case(
        "registerService", 200, {"json": {"name": "few", "displayName": "Few"}}
    ),
    "a service without a description": Case(
        "registerService", 200, {"json": {**SECOND, "description": None}}
    ),
    "a member that nobody knows": Case("registerService", 200, {"json": {**SECOND, "more": 1}}),
    "a service without a name": Case("registerService", 400, {"json": {"displayName": "Few"}}),
    "a body that is not JSON": Case("registerService", 400, {"data": b"{"}),
    "no body": Case("registerService", 400, {"data": b""}),
    "a registration above 64 KiB": Case("registerService", 413, {"data": b" " * 65537}),
    "a member": Case("verifyMembership", 200),
    "no member": Case("verifyMembership", 200, {"params": {"userId": "u-2", "orgId": "o-1"}}),
    "half a question": Case("verifyMembership", 400, {"params": {"userId": "u-1"}}),
    "an organization that exists": Case("ensureSystemOrganization", 200),
    "a new organization": Case(
        "ensureSystemOrganization", 200, {"json": {"name": "new", "displayName": "New"}}
    ),
    "an organization without a name": Case(
        "ensureSystemOrganization", 400, {"json": {"displayName": "New"}}
    ),
    "an organization above 64 KiB": Case("ensureSystemOrganization", 413, {"data": b" " * 65537}),
    "an organization by its name": Case("getSystemOrganization", 200),
    "no organization of that name": Case("getSystemOrganization", 404, name="a/b"),
    "health": Case("health", 200, token="wrong"),
    "a service whose name is another's": Case("registerService", 409, broken=True),
    "an organization whose name is another's": Case("ensureSystemOrganization", 409, broken=True),
    **{f"{name} of a backend that fails": Case(name, 502, broken=True) for name in INTERNAL},
    **{f"{name} with a wrong token": Case(name, 401, token="wrong") for name in INTERNAL},
    **{f"{name} that fails": Case(name, 500, faults={"api_error_rate": 1.0}) for name in INTERNAL},
    **{f"{name} in an outage": Case(name, 503, faults={"api_outage": True}) for name in INTERNAL},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_the_server_answers_is_in_the_contract(furnished: IdentityServer, case: Case) -> None:
    with server_of(case, furnished) as server:
        send = ask(server, case.operation_id, token=case.token, name=case.name)
        answer = send(**case.request)
    assert answer.status_code == case.status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    schema = OPERATIONS[case.operation_id].response(case.status)
    assert problems(schema, answer.json()) == []


@pytest.mark.parametrize("regenerate", [False, True], ids=["that is kept", "that is replaced"])
def test_what_a_second_registration_answers_is_in_the_contract_for_a_secret(
    furnished: IdentityServer, regenerate: bool
) -> None:
    send = ask(furnished, "registerService")
    send(json=SECOND)
    answer = send(json={**SECOND, "regenerateSecret": regenerate}).json()
    assert ("clientSecret" in answer["data"]) is regenerate
    assert problems(OPERATIONS["registerService"].response(200), answer) == []


def test_every_status_of_every_operation_was_seen() -> None:
    promised = {
        (name, int(status))
        for name, operation in OPERATIONS.items()
        for status in operation.spec["responses"]
    }
    assert {(case.operation_id, case.status) for case in CASES.values()} == promised


def test_the_paths_of_the_contract_are_the_paths_of_the_server() -> None:
    rules = create_app(INTERNAL_TOKEN, EmbeddedBackend()).url_map.iter_rules()
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        if not rule.rule.startswith(("/dev/", "/realms/"))
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(operation.method, operation.path) for operation in OPERATIONS.values()} == served


@pytest.mark.parametrize("name", COMPONENTS["schemas"])
def test_the_schemas_and_their_examples_are_valid(name: str) -> None:
    schema = COMPONENTS["schemas"][name]
    Draft202012Validator.check_schema(schema)
    for document in schema.get("examples", ()):
        assert problems(schema, document) == []


@pytest.mark.parametrize("name", COMPONENTS["responses"])
def test_the_examples_of_errors_are_valid(name: str) -> None:
    content = COMPONENTS["responses"][name]["content"]["application/json"]
    assert problems(content["schema"], content["example"]) == []


MISSING = object()
VALUES = [
    MISSING,
    None,
    True,
    1,
    [],
    ["text"],
    [1],
    {},
    "",
    " ",
    "\N{NO-BREAK SPACE}",
    "text",
    "Größe \N{SNOWMAN}\N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{GRINNING FACE}" * 255,
    "\N{GRINNING FACE}" * 256,
    "text\n",
    "\ttext",
    "te\0xt",
    "te\x7fxt",
    "te\x9fxt",
    "te\ud800xt",
]


def is_unicode(document: object) -> bool:
    """Whether all text is text: a schema cannot refuse half of a surrogate pair."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def variants(document: dict[str, Any], member: str) -> Iterator[dict[str, Any]]:
    for value in VALUES:
        if value is MISSING:
            yield {name: kept for name, kept in document.items() if name != member}
        else:
            yield {**document, member: value}


@pytest.mark.parametrize(
    ("operation_id", "member"),
    [
        pytest.param(name, member, id=f"{member} of {name}")
        for name, request in REQUESTS.items()
        for member in request.get("json", ())
    ],
)
def test_the_server_refuses_the_bodies_that_are_not_in_the_contract(
    api: IdentityServer, operation_id: str, member: str
) -> None:
    send = ask(api, operation_id)
    schema = OPERATIONS[operation_id].body
    statuses = set()
    for document in variants(REQUESTS[operation_id]["json"], member):
        status = send(json=document).status_code
        assert status == (400 if problems(schema, document) else 200), document
        statuses.add(status)
    assert statuses == {200, 400}


@pytest.mark.parametrize("member", REQUESTS["verifyMembership"]["params"])
def test_the_server_refuses_the_queries_that_are_not_in_the_contract(
    api: IdentityServer, member: str
) -> None:
    send = ask(api, "verifyMembership")
    schema = OPERATIONS["verifyMembership"].query
    statuses = set()
    for document in variants(REQUESTS["verifyMembership"]["params"], member):
        value = document.get(member, "")
        if isinstance(value, str) and "\ud800" not in value:
            status = send(params=document).status_code
            assert status == (400 if problems(schema, document) else 200), document
            statuses.add(status)
    assert statuses == {200, 400}


Call = Callable[[IdentityApiClient], object]
CALLS: list[tuple[str, str, Call]] = [
    (
        "a registration",
        "registerService",
        lambda client: client.register_service(name="orders", display_name="Orders"),
    ),
    (
        "a registration that replaces the secret",
        "registerService",
        lambda client: client.register_service(
            name="orders",
            display_name="Orders",
            description="Takes orders.",
            service_type="WORKER",
            regenerate_secret=True,
        ),
    ),
    (
        "a registration of which all is wanted",
        "registerService",
        lambda client: client.register_service_full(name="größe", display_name="Größe"),
    ),
    (
        "a membership",
        "verifyMembership",
        lambda client: client.verify_membership("u&1=2", "o 1+ü"),
    ),
    (
        "an organization to ensure",
        "ensureSystemOrganization",
        lambda client: client.ensure_system_org(name="platform", display_name="Platform"),
    ),
    (
        "an organization to get",
        "getSystemOrganization",
        lambda client: client.get_system_org("platform"),
    ),
    (
        "an organization with slashes",
        "getSystemOrganization",
        lambda client: client.get_system_org("//a/b?c#d/"),
    ),
]


def example(operation_id: str) -> Any:
    schema = OPERATIONS[operation_id].response(200)
    return COMPONENTS["schemas"][schema["$ref"].rpartition("/")[2]]["examples"][0]


@pytest.mark.parametrize(
    ("operation_id", "call"),
    [pytest.param(operation_id, call, id=title) for title, operation_id, call in CALLS],
)
def test_what_the_client_sends_is_in_the_contract(operation_id: str, call: Call) -> None:
    with (
        CannedServer(reply(example(operation_id))) as server,
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
    ):
        call(client)
    (asked,) = server.asked
    parts = urlsplit(asked.path)
    matching = [
        name
        for name, operation in OPERATIONS.items()
        if operation.method == asked.method
        and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation.path), parts.path)
    ]
    assert matching == [operation_id]
    operation = OPERATIONS[operation_id]
    assert asked.headers["Authorization"] == f"Bearer {INTERNAL_TOKEN}"
    assert problems(operation.query, dict(parse_qsl(parts.query, keep_blank_values=True))) == []
    if "requestBody" in operation.spec:
        assert asked.headers["Content-Type"] == "application/json"
        assert problems(operation.body, json.loads(asked.body)) == []
    else:
        assert asked.body == b""


def test_the_client_makes_every_call_of_the_contract() -> None:
    assert {operation_id for _, operation_id, _ in CALLS} == set(INTERNAL)


@pytest.mark.parametrize(
    ("operation_id", "member"),
    [
        pytest.param(name, member, id=f"{member} of {name}")
        for name in INTERNAL
        for member in example(name)["data"]
    ],
)
def test_the_client_refuses_the_replies_that_are_not_in_the_contract(
    operation_id: str, member: str
) -> None:
    call = next(call for _, name, call in CALLS if name == operation_id)
    schema = OPERATIONS[operation_id].response(200)
    with (
        CannedServer(reply(None)) as server,
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
    ):
        for data in variants(example(operation_id)["data"], member):
            document = {"data": data}
            server.answers[0] = reply(document)
            refused = False
            try:
                call(client)
            except InvalidResponseError:
                refused = True
            except SecretNotReturnedError:
                assert member == "clientSecret"
            is_valid = problems(schema, document) == [] and is_unicode(document)
            assert refused != is_valid, document
