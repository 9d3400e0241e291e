"""The Django app, in one process."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.checks.registry import registry
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client, RequestFactory, override_settings
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import ConfigurationError, IdentityBootstrapService, ServiceState
from identity_client.integrations._shared import shared_service
from identity_client.integrations.django import get_identity
from identity_client.integrations.django._identity import _services, read_config
from identity_client.integrations.django.views import IdentityHealthView
from identity_client.server import IdentityServer

SETTINGS = {
    "IDENTITY_API_URL": "http://identity-api:3053",
    "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    "SERVICE_NAME": "orders",
    "BASE_RETRY_DELAY": 0.05,
    "MAX_RETRY_DELAY": 0.4,
}

HEALTH = "/health/identity"


def identity_client(**settings: Any) -> override_settings:
    return override_settings(IDENTITY_CLIENT={**SETTINGS, **settings})


@pytest.fixture(autouse=True)
def no_service_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("IDENTITY_API_URL", "IDENTITY_API_INTERNAL_TOKEN", "SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert not _services


@pytest.fixture
def configured(api: IdentityServer) -> Iterator[IdentityServer]:
    with identity_client(IDENTITY_API_URL=api.url):
        yield api


@pytest.fixture
def given(api: IdentityServer, make_service: MakeService) -> IdentityBootstrapService:
    return make_service(api)


def make_given() -> IdentityBootstrapService:
    return _given[0]


_given: list[IdentityBootstrapService] = []


class TestGetIdentity:
    def test_makes_and_starts_one_service(self, configured: IdentityServer) -> None:
        service = get_identity()
        assert get_identity() is service
        assert service.wait_for_ready(10)
        assert configured.backend.requests["register"] == 1

    def test_shares_the_service_with_other_integrations(self, configured: IdentityServer) -> None:
        assert get_identity() is shared_service(read_config(), get_identity)

    def test_gives_threads_that_come_at_once_the_same_service(
        self, configured: IdentityServer
    ) -> None:
        barrier = threading.Barrier(8)

        def get(_: int) -> str:
            barrier.wait()
            return get_identity().get_access_token()

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(get, range(8)))) == 1
        assert configured.backend.requests == {"api": 1, "register": 1, "token": 1}

    def test_reads_the_environment_where_there_are_no_settings(
        self, api: IdentityServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IDENTITY_API_URL", api.url)
        monkeypatch.setenv("IDENTITY_API_INTERNAL_TOKEN", INTERNAL_TOKEN)
        monkeypatch.setenv("SERVICE_NAME", "billing")
        with override_settings(IDENTITY_CLIENT={}):
            assert get_identity().status().service_name == "billing"

    def test_replaces_the_service_when_the_setting_changes(self, api: IdentityServer) -> None:
        with identity_client(IDENTITY_API_URL=api.url):
            orders = get_identity()
            with identity_client(IDENTITY_API_URL=api.url, SERVICE_NAME="billing"):
                billing = get_identity()
                assert orders.status().state is ServiceState.CLOSED
                assert billing.status().service_name == "billing"
            assert billing.status().state is ServiceState.CLOSED
            again = get_identity()
            assert again.get_access_token()
        assert again is not orders

    def test_keeps_the_service_when_another_setting_changes(
        self, configured: IdentityServer
    ) -> None:
        service = get_identity()
        with override_settings(DEBUG=True):
            assert get_identity() is service

    @pytest.mark.parametrize(
        "how",
        [
            lambda service: service,
            lambda service: lambda: service,
            lambda service: f"{__name__}.make_given",
        ],
        ids=["object", "callable", "path"],
    )
    def test_returns_the_service_that_is_given(
        self,
        how: Callable[[IdentityBootstrapService], object],
        given: IdentityBootstrapService,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
        monkeypatch.setattr(sys.modules[__name__], "_given", [given])
        with override_settings(IDENTITY_CLIENT={"SERVICE": how(given)}):
            assert get_identity() is given
            assert get_identity().get_access_token()

    def test_says_which_settings_are_missing_and_where(self) -> None:
        with (
            override_settings(IDENTITY_CLIENT={}),
            pytest.raises(
                ConfigurationError, match=r"settings\.IDENTITY_CLIENT and the env.*\(SERVICE_NAME\)"
            ),
        ):
            get_identity()

    def test_refuses_keys_that_are_not_known(self) -> None:
        with (
            identity_client(CREDENTIAL_STOER="memory:"),
            pytest.raises(ConfigurationError, match="has the unknown key 'CREDENTIAL_STOER'"),
        ):
            get_identity()

    def test_refuses_a_setting_that_is_not_a_dictionary(self) -> None:
        with (
            override_settings(IDENTITY_CLIENT=["SERVICE_NAME"]),
            pytest.raises(ConfigurationError, match="must be a dictionary"),
        ):
            get_identity()


def found(*, deploy: bool = False) -> dict[str, str]:
    messages = run_checks(include_deployment_checks=deploy)
    ours = [message for message in messages if str(message.id).startswith("identity_client.")]
    texts: dict[str, str] = {}
    for message in ours:
        name = str(message.id).partition(".")[2]
        texts[name] = f"{texts.get(name, '')} {message.msg} {message.hint}"
    return texts


class TestChecks:
    def test_find_nothing_in_good_settings(self) -> None:
        with identity_client():
            assert found() == {}

    def test_warn_of_missing_settings_which_is_an_error_in_a_deployment(self) -> None:
        with override_settings(IDENTITY_CLIENT={"IDENTITY_API_URL": "http://identity-api"}):
            assert "W001" in found()
            assert "E002" in found(deploy=True)

    def test_warn_of_half_of_the_credentials(self) -> None:
        with identity_client(CLIENT_ID="orders"):
            assert found().keys() == {"W002"}
            assert "client_secret (SERVICE_CLIENT_SECRET) is missing" in found()["W002"]

    @pytest.mark.parametrize(
        "settings", [{"TOKEN_TIMEOUT": "10s"}, {"NONSENSE": 1}, {"IDENTITY_API_URL": "nonsense"}]
    )
    def test_refuse_what_cannot_be_used(self, settings: dict[str, object]) -> None:
        with identity_client(**settings):
            assert found().keys() == {"E001"}

    @pytest.mark.parametrize(
        ("url", "ids"),
        [
            ("http://identity.example.com", {"W003"}),
            ("http://93.184.216.34", {"W003"}),
            ("https://identity.example.com", set()),
            ("http://identity-api", set()),
            ("http://identity-api.auth.svc.cluster.local", set()),
            ("http://10.0.0.7:3053", set()),
            ("http://[::1]:3053", set()),
        ],
    )
    def test_warn_of_a_public_host_without_tls(
        self, url: str, ids: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_ENVIRONMENT", INTERNAL_TOKEN)
        with identity_client(IDENTITY_API_URL=url):
            assert found(deploy=True).keys() == ids

    @pytest.mark.parametrize(
        ("environ", "settings", "ids"),
        [
            ({"WEB_CONCURRENCY": "4"}, {}, {"W004"}),
            ({"GUNICORN_CMD_ARGS": "--bind=:80 --workers=4"}, {}, {"W004"}),
            ({"GUNICORN_CMD_ARGS": "-w 4"}, {}, {"W004"}),
            ({"GUNICORN_CMD_ARGS": "--workers 1", "WEB_CONCURRENCY": "4"}, {}, set()),
            ({"WEB_CONCURRENCY": "many"}, {}, set()),
            ({"WEB_CONCURRENCY": "4"}, {"CREDENTIAL_STORE": "file:///tmp/orders"}, set()),
        ],
    )
    def test_warn_of_workers_that_share_no_credentials(
        self,
        environ: dict[str, str],
        settings: dict[str, str],
        ids: set[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OF_THE_ENVIRONMENT", INTERNAL_TOKEN)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with identity_client(**settings):
            assert found(deploy=True).keys() == ids

    def test_warn_of_a_secret_in_the_source(self) -> None:
        with identity_client():
            assert found(deploy=True).keys() == {"W005"}
            assert "IDENTITY_API_INTERNAL_TOKEN_FILE" in found(deploy=True)["W005"]
            assert INTERNAL_TOKEN not in str(found(deploy=True))

    def test_find_nothing_where_a_service_is_given(self) -> None:
        path = "identity_client.testing.FakeIdentityService"
        with override_settings(IDENTITY_CLIENT={"SERVICE": path}):
            assert found(deploy=True) == {}

    def test_refuse_a_service_that_cannot_be_imported(self) -> None:
        with override_settings(IDENTITY_CLIENT={"SERVICE": "somewhere.else"}):
            assert found().keys() == {"E001"}
            assert "['SERVICE'] cannot be imported: No module named 'somewhere'" in found()["E001"]
            with pytest.raises(CommandError, match="cannot be imported"):
                run_command("identity_status")

    def test_a_service_that_is_none_is_not_given(self) -> None:
        with override_settings(IDENTITY_CLIENT={"SERVICE": None}):
            assert "W001" in found()
        with identity_client(SERVICE=None):
            assert found(deploy=True).keys() == {"W005"}

    def test_name_keys_of_any_type(self) -> None:
        with override_settings(IDENTITY_CLIENT={1: "a", "FOO": "b"}):
            assert "unknown key 1" in found()["E001"]
            assert "unknown key 'FOO'" in found()["E001"]

    @pytest.mark.parametrize("store", ["redis://redis/0", "file:///run/orders@example.json"])
    def test_find_nothing_in_a_store_without_a_password(
        self, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_ENVIRONMENT", INTERNAL_TOKEN)
        with identity_client(CREDENTIAL_STORE=store):
            assert found(deploy=True) == {}

    @pytest.mark.parametrize(
        "store",
        ["redis://:a-password@redis/0", "redis://:a-password/@redis", "redis://[a-password@"],
    )
    def test_warn_of_the_password_of_a_store_in_the_source(
        self, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_ENVIRONMENT", INTERNAL_TOKEN)
        with identity_client(CREDENTIAL_STORE=store):
            assert "IDENTITY_CREDENTIAL_STORE_FILE" in found(deploy=True)["W005"]
            assert "a-password" not in str(found(deploy=True))

    def test_are_registered_once_when_the_app_is_ready_twice(self) -> None:
        before = len(registry.get_checks(include_deployment_checks=True))
        apps.get_app_config("identity_client").ready()
        assert len(registry.get_checks(include_deployment_checks=True)) == before

    def test_load_neither_requests_nor_the_service(self) -> None:
        code = """if True:
            import sys, django
            from django.conf import settings
            settings.configure(INSTALLED_APPS=["identity_client.integrations.django"])
            django.setup()
            from django.core.checks import run_checks
            found = run_checks(include_deployment_checks=True)
            assert any(message.id == "identity_client.W001" for message in found)
            sys.exit(bool({"requests", "identity_client.service"} & set(sys.modules)))
        """
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestHealth:
    def test_is_503_and_then_200(self, configured: IdentityServer) -> None:
        configured.backend.change(api_outage=True)
        assert Client().get(HEALTH).status_code == 503
        configured.backend.change(api_outage=False)
        assert get_identity().wait_for_ready(10)
        response = Client().get(HEALTH)
        assert response.status_code == 200
        assert response.json()["state"] == "READY"
        assert "no-store" in response["Cache-Control"]
        assert Client().post(HEALTH).status_code == 405

    def test_may_be_strict(self, configured: IdentityServer) -> None:
        configured.backend.change(token_lifetime=4.0)
        assert get_identity().get_access_token()
        configured.backend.change(token_outage=True)
        lenient, strict = IdentityHealthView.as_view(), IdentityHealthView.as_view(strict=True)
        request = RequestFactory().get("/")
        while strict(request).status_code == 200:
            assert lenient(request).status_code == 200
        assert get_identity().peek_token() is None
        assert lenient(request).status_code == 200

    def test_shows_no_secret(self, configured: IdentityServer) -> None:
        token = get_identity().get_access_token()
        client = configured.backend.client("orders")
        assert client is not None
        text = Client().get(HEALTH).content.decode()
        for secret in (token, INTERNAL_TOKEN, client.secret, configured.url):
            assert secret not in text


class TestAsync:
    def test_a_view_that_waits_for_a_token_does_not_block_the_others(
        self, configured: IdentityServer
    ) -> None:
        configured.backend.change(token_latency=2.0)
        client = AsyncClient()

        async def visit() -> int:
            waiting = asyncio.create_task(client.get("/slow"))
            await asyncio.sleep(0.1)  # the view waits by now, or has blocked the loop to its end
            answered = 0
            while not waiting.done():
                assert (await client.get("/fast")).status_code == 200
                answered += 1
            assert (await waiting).content.decode() == get_identity().get_access_token()
            return answered

        assert asyncio.run(visit()) >= 3


def run_command(name: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


class TestCommands:
    def test_print_a_token_and_the_status(self, configured: IdentityServer) -> None:
        assert run_command("identity_token").count(".") == 2

    def test_use_a_service_that_is_given(self, given: IdentityBootstrapService) -> None:
        with override_settings(IDENTITY_CLIENT={"SERVICE": given}):
            assert run_command("identity_token").strip() == given.get_access_token()
            assert json.loads(run_command("identity_status", "--json"))["state"] == "READY"

    def test_never_regenerate_the_secret_that_replicas_use(self, api: IdentityServer) -> None:
        pauses = {"BASE_RETRY_DELAY": 60.0, "MAX_RETRY_DELAY": 60.0}
        with identity_client(IDENTITY_API_URL=api.url, **pauses):
            get_identity().get_access_token()
            with pytest.raises(CommandError, match="IDENTITY_ALLOW_SECRET_REGENERATION") as caught:
                run_command("identity_token")
        assert caught.value.returncode == 1
        assert api.backend.requests["register"] == 2

    @pytest.mark.parametrize("name", ["identity_token", "identity_status"])
    def test_do_not_lose_a_secret_that_may_not_be_regenerated(
        self, configured: IdentityServer, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("IDENTITY_ALLOW_SECRET_REGENERATION", "false")
        with pytest.raises(CommandError, match="is memory:") as caught:
            run_command(name)
        assert caught.value.returncode == 2
        assert configured.backend.requests["register"] == 0

    def test_exit_as_those_of_identity_client(self, configured: IdentityServer) -> None:
        configured.backend.change(api_latency=5)
        with pytest.raises(CommandError) as caught:
            run_command("identity_token", "--timeout", "0.1")
        assert caught.value.returncode == 3
        with pytest.raises(SystemExit) as ended:
            run_command("identity_status", "--timeout", "0.1")
        assert ended.value.code == 1

    def test_say_what_is_wrong_with_the_settings(self) -> None:
        with (
            identity_client(CREDENTIAL_STORE="nonsense:"),
            pytest.raises(CommandError, match="IDENTITY_CREDENTIAL_STORE") as caught,
        ):
            run_command("identity_token")
        assert caught.value.returncode == 2
