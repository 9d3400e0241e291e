"""`IdentityApiClient` over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.canned import CannedServer, reply
from support.scripted import registered
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client import (
    ConfigurationError,
    Endpoints,
    IdentityApiClient,
    IdentityApiClientOptions,
    IdentityApiConnectionError,
    IdentityApiError,
    Organization,
    RegisterServiceResponse,
    SecretNotReturnedError,
    ServiceCredentials,
    VerifyMembershipResponse,
)
from identity_client.server import IdentityServer


def test_all_calls_return_what_identity_api_says(api: IdentityServer) -> None:
    api.backend.add_member("user", "org", "OWNER")
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        credentials = client.register_service(name="orders", display_name="Orders")
        assert isinstance(credentials, ServiceCredentials)
        assert (credentials.client_id, credentials.roles) == ("orders", ("micro-service",))
        reply = client.register_service_full(
            name="orders", display_name="Orders", regenerate_secret=True
        )
        assert isinstance(reply, RegisterServiceResponse)
        assert (reply.already_existed, reply.secret_regenerated) == (True, True)
        assert reply.client_secret not in (None, credentials.client_secret)
        assert client.verify_membership("user", "org") == VerifyMembershipResponse(
            is_member=True, role="OWNER"
        )
        assert client.verify_membership("user", "another").is_member is False
        organization = client.ensure_system_org(name="sys/tem ü", display_name="System")
        assert isinstance(organization, Organization)
        assert client.get_system_org("sys/tem ü") == organization
        with pytest.raises(IdentityApiError) as caught:
            client.get_system_org("none")
        assert caught.value.status_code == 404


def test_a_service_that_exists_needs_a_decision(api: IdentityServer) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.register_service(name="orders", display_name="Orders")
        with pytest.raises(SecretNotReturnedError, match="pass regenerate_secret=True"):
            client.register_service(name="orders", display_name="Orders")


def test_a_client_is_made_of_options_and_works_after_close(api: IdentityServer) -> None:
    options = IdentityApiClientOptions(base_url=f"{api.url}/", internal_token=INTERNAL_TOKEN)
    client = IdentityApiClient.from_options(options)
    client.ensure_system_org(name="system", display_name="System")
    client.close()
    client.close()
    assert client.get_system_org("system").name == "system"
    client.close()


def test_the_paths_can_be_replaced(canned: StartCanned) -> None:
    server = canned(reply({"isMember": False, "role": None}))
    endpoints = Endpoints(verify_membership="/v2/membership")
    with IdentityApiClient(server.url + "/api", INTERNAL_TOKEN, endpoints=endpoints) as client:
        client.verify_membership("a&b", "ü")
    assert server.asked[0].path == "/api/v2/membership?userId=a%26b&orgId=%C3%BC"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_ask_for_something_else_is_refused(name: str) -> None:
    with (
        IdentityApiClient("http://127.0.0.1:9", INTERNAL_TOKEN) as client,
        pytest.raises(ConfigurationError, match="name cannot be used"),
    ):
        client.get_system_org(name)


def test_every_request_carries_the_token_and_says_who_asks(
    canned: StartCanned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = canned(reply({"isMember": True, "role": "x"}, Set_Cookie="a=b"))
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        client.verify_membership("user", "org")
        client.verify_membership("user", "org")
    for asked in server.asked:
        assert asked.headers["Authorization"] == f"Bearer {INTERNAL_TOKEN}"
        assert asked.headers["User-Agent"].startswith("identity-client/")
        assert asked.headers["Accept"] == "application/json"
        assert "Cookie" not in asked.headers


def test_netrc_adds_nothing_to_a_token_request(
    preconfigured: Callable[..., tuple[object, CannedServer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    service, endpoint = preconfigured()
    service.start()  # type: ignore[attr-defined]  # the fixture is untyped
    assert "Authorization" not in endpoint.asked[0].headers


def test_a_proxy_of_the_environment_is_used(
    canned: StartCanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = canned(registered("http://keycloak"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with IdentityApiClient("http://identity-api:3053", INTERNAL_TOKEN) as client:
        client.register_service(name="orders", display_name="Orders")
    assert proxy.asked[0].path == "http://identity-api:3053/internal/services/register"
    assert json.loads(proxy.asked[0].body)["name"] == "orders"


class ClosingServer:
    """Answers the first `alive` requests of each connection and then closes without an answer."""

    def __init__(self, server: CannedServer, alive: int) -> None:
        self.connections: list[int] = []
        handler = server._server.RequestHandlerClass
        outer = self

        class Closing(handler):  # type: ignore[valid-type,misc]  # made by the server
            def setup(self) -> None:
                super().setup()
                outer.connections.append(0)

            def _handle_or_close(self) -> None:
                if outer.connections[-1] >= alive:
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.close_connection = True
                    return
                outer.connections[-1] += 1
                self._handle()

            do_GET = do_POST = _handle_or_close

        server._server.RequestHandlerClass = Closing


def test_a_kept_connection_that_was_closed_is_retried_once_on_a_fresh_one(
    canned: StartCanned,
) -> None:
    server = canned(reply({"isMember": True, "role": "x"}))
    closing = ClosingServer(server, alive=1)
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        for _ in range(3):
            assert client.verify_membership("user", "org").is_member
    assert closing.connections == [1, 1, 1]


@pytest.mark.parametrize("ago", [(61.0, 0.0), (0.0, 61.0)], ids=["awake", "asleep"])
def test_a_connection_that_idled_for_a_minute_is_not_used_again(
    canned: StartCanned, ago: tuple[float, float]
) -> None:
    # A load balancer that has forgotten it would swallow the request.
    server = canned(reply({"isMember": True, "role": "x"}))
    counting = ClosingServer(server, alive=9)
    with IdentityApiClient(server.url, INTERNAL_TOKEN) as client:
        for _ in range(2):
            client.verify_membership("user", "org")
        adapter: Any = client._transport._adapter
        monotonic, wall = adapter.used_at
        adapter.used_at = (monotonic - ago[0], wall - ago[1])
        client.verify_membership("user", "org")
    assert counting.connections == [2, 1]


def test_a_fresh_connection_that_is_closed_is_not_retried(
    canned: StartCanned,
) -> None:
    server = canned(reply({}))
    closing = ClosingServer(server, alive=0)
    with (
        IdentityApiClient(server.url, INTERNAL_TOKEN) as client,
        pytest.raises(IdentityApiConnectionError, match="closed before a response"),
    ):
        client.verify_membership("user", "org")
    assert closing.connections == [0]


def test_one_client_serves_many_threads(api: IdentityServer) -> None:
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        names = [f"org-{index}" for index in range(32)]
        threads = [
            threading.Thread(
                target=client.ensure_system_org, kwargs={"name": name, "display_name": name}
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [client.get_system_org(name).name for name in names] == names
