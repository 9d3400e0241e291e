"""The Flask extension, in one process."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest
from flask import Flask
from flask.typing import ResponseReturnValue
from support.services import INTERNAL_TOKEN, MakeService
from werkzeug.exceptions import ServiceUnavailable

from identity_client import (
    ConfigurationError,
    IdentityApiError,
    IdentityBootstrapService,
    IdentityError,
    NotReadyError,
    TokenEndpointError,
)
from identity_client.integrations.flask import FlaskIdentity, current_identity
from identity_client.server import IdentityServer


class MakeApp:
    """Makes applications, and closes their services after the test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: list[IdentityBootstrapService] = []

    def __call__(
        self, identity: FlaskIdentity | None = None, *, testing: bool = False, **settings: Any
    ) -> Flask:
        app = Flask("application")
        app.testing = testing
        app.config.from_mapping(
            IDENTITY_API_URL=self._url,
            IDENTITY_API_INTERNAL_TOKEN=INTERNAL_TOKEN,
            SERVICE_NAME="orders",
            IDENTITY_BASE_RETRY_DELAY=0.05,
            IDENTITY_MAX_RETRY_DELAY=0.4,
        )
        app.config.from_mapping(settings)
        (identity or FlaskIdentity()).init_app(app)
        self._made.append(service_of(app))
        app.add_url_rule("/token", view_func=show_token)
        app.add_url_rule("/", "index", lambda: "no token is needed here")
        return app

    def close(self) -> None:
        for service in self._made:
            service.close()

    def forget(self) -> None:
        self._made.clear()


@pytest.fixture
def make_app(api: IdentityServer) -> Iterator[MakeApp]:
    make = MakeApp(api.url)
    yield make
    make.close()


def service_of(app: Flask) -> IdentityBootstrapService:
    return cast("IdentityBootstrapService", app.extensions["identity_client"])


def show_token() -> str:
    return current_identity.get_access_token()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "orders" in thread.name]


@pytest.fixture(autouse=True)
def no_thread_of_another_test() -> None:
    """A command leaves its service to the collector; its thread ends after that."""
    gc.collect()
    for thread in threading.enumerate():
        if "orders" in thread.name:
            thread.join(10)


class TestInitialisation:
    def test_makes_no_request_and_starts_no_thread(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app()
        assert service_of(app).status().started is False
        assert not api.backend.requests
        assert threads() == []

    def test_gives_two_applications_two_services(self, make_app: MakeApp) -> None:
        identity = FlaskIdentity()
        orders, billing = make_app(identity), make_app(identity, SERVICE_NAME="billing")
        assert service_of(orders).status().service_name == "orders"
        assert service_of(billing).status().service_name == "billing"

    def test_gives_two_applications_with_the_same_settings_one_service(
        self, make_app: MakeApp
    ) -> None:
        assert service_of(make_app()) is service_of(make_app())

    def test_twice_is_an_error_that_leaves_the_first_in_place(self, make_app: MakeApp) -> None:
        app = make_app()
        service = service_of(app)
        with pytest.raises(RuntimeError, match=r"from app\.extensions\['identity_client'\]"):
            FlaskIdentity(app)
        assert service_of(app) is service
        assert service.get_access_token()

    def test_takes_a_service_that_is_given(self, make_service: MakeService) -> None:
        given = make_service("http://127.0.0.1:9")
        app = Flask("application")
        app.config["IDENTITY_SERVICE"] = given
        FlaskIdentity(app)
        assert service_of(app) is given

    def test_without_settings_says_which_are_missing_and_where(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SERVICE_NAME", raising=False)
        with pytest.raises(
            ConfigurationError, match=r"app\.config and the environment: .*\(SERVICE_NAME\) is miss"
        ):
            FlaskIdentity(Flask("application"))

    def test_keeps_no_application_alive(self, make_app: MakeApp) -> None:
        app = make_app()
        assert app.test_client().get("/token").status_code == 200
        assert threads() != []
        service = weakref.ref(service_of(app))
        worker = next(t for t in threading.enumerate() if "orders" in t.name)
        make_app.forget()
        del app
        gc.collect()
        worker.join(10)
        assert service() is None
        assert not worker.is_alive()


class TestStart:
    def test_happens_with_the_first_request_whatever_it_is_for(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app()
        client = app.test_client()
        assert not service_of(app).status().started
        assert client.get("/").status_code == 200
        assert service_of(app).status().started
        assert client.get("/").status_code == 200
        assert service_of(app).wait_for_ready(10)
        assert api.backend.requests["register"] == 1

    def test_happens_with_the_first_use_outside_of_a_request(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        with make_app(IDENTITY_AUTOSTART=False).app_context():
            assert current_identity.get_access_token()
        assert api.backend.requests["register"] == 1

    @pytest.mark.parametrize(
        "settings", [{"testing": True}, {"IDENTITY_AUTOSTART": False}], ids=["TESTING", "AUTOSTART"]
    )
    def test_does_not_happen_where_it_is_switched_off(
        self, settings: dict[str, Any], make_app: MakeApp, api: IdentityServer
    ) -> None:
        assert make_app(**settings).test_client().get("/").status_code == 200
        assert not api.backend.requests
        assert threads() == []

    def test_does_not_happen_when_testing_is_set_after_the_application_was_made(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app()
        app.config.update(TESTING=True)
        assert app.test_client().get("/").status_code == 200
        assert not api.backend.requests
        assert threads() == []


class TestCurrentIdentity:
    def test_outside_of_an_application_says_what_to_do(self) -> None:
        with pytest.raises(RuntimeError, match=r"with app\.app_context\(\)"):
            current_identity.status()

    def test_of_an_application_without_a_service_says_what_to_do(self) -> None:
        with (
            Flask("other").app_context(),
            pytest.raises(RuntimeError, match=r"FlaskIdentity\(\)\.init_app\(app\)"),
        ):
            current_identity.status()


class TestHealth:
    def test_is_503_then_200_and_stays_so_in_an_outage(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        api.backend.change(token_lifetime=2.0, api_outage=True)
        app = make_app()
        app.register_blueprint(FlaskIdentity().health_blueprint())
        client = app.test_client()
        assert client.get("/health/identity").status_code == 503
        api.backend.change(api_outage=False)
        assert service_of(app).wait_for_ready(10)
        assert client.get("/health/identity").status_code == 200
        api.backend.change(token_outage=True)
        seen = set()
        while "UNAVAILABLE" not in seen:
            response = client.get("/health/identity")
            assert response.status_code == 200
            seen.add(response.json["state"] if response.json else "")
        assert seen <= {"READY", "DEGRADED", "UNAVAILABLE"}

    def test_may_be_strict_and_elsewhere_and_shows_no_secret(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app()
        app.register_blueprint(FlaskIdentity.health_blueprint("/ready", name="x", strict=True))
        token = service_of(app).get_access_token()
        response = app.test_client().get("/ready")
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        client = api.backend.client("orders")
        assert client is not None
        for secret in (token, INTERNAL_TOKEN, client.secret, api.url):
            assert secret not in response.text
        service_of(app).close()
        assert app.test_client().get("/ready").status_code == 503


class TestWithoutAToken:
    def test_a_request_gets_a_503_with_the_time_of_the_next_attempt(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        api.backend.change(api_outage=True)
        response = make_app(IDENTITY_TOKEN_TIMEOUT=0.2).test_client().get("/token")
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1

    def test_the_handlers_of_the_application_show_it(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        api.backend.change(api_outage=True)
        app = make_app(IDENTITY_TOKEN_TIMEOUT=0.2)

        @app.errorhandler(503)
        def show(error: ServiceUnavailable) -> ResponseReturnValue:
            return {"error": error.name}, 503

        assert app.test_client().get("/token").json == {"error": "Service Unavailable"}

    @pytest.mark.parametrize("kind", [NotReadyError, IdentityError])
    @pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
    def test_a_handler_of_the_application_wins(
        self, kind: type[IdentityError], is_before: bool
    ) -> None:
        app = Flask("application")
        app.config.from_mapping(
            IDENTITY_API_URL="http://127.0.0.1:9",
            IDENTITY_API_INTERNAL_TOKEN=INTERNAL_TOKEN,
            SERVICE_NAME="orders",
            IDENTITY_TOKEN_TIMEOUT=0.2,
            TESTING=True,
        )
        if is_before:
            app.register_error_handler(kind, lambda error: (type(error).__name__, 418))
        FlaskIdentity(app)
        if not is_before:
            app.register_error_handler(kind, lambda error: (type(error).__name__, 418))
        app.add_url_rule("/token", view_func=show_token)
        response = app.test_client().get("/token")
        assert (response.status_code, response.text) == (418, "NotReadyError")
        service_of(app).close()

    def test_other_errors_of_the_package_are_errors_of_the_application(
        self, make_app: MakeApp
    ) -> None:
        app = make_app(testing=True)

        @app.get("/organization")
        def show() -> ResponseReturnValue:
            raise IdentityApiError("no such organization", status_code=404)

        with pytest.raises(IdentityApiError, match="no such organization"):
            app.test_client().get("/organization")

    def test_the_pause_of_a_failed_token_request_is_the_retry_after(
        self, make_app: MakeApp
    ) -> None:
        app = make_app(testing=True)

        @app.get("/failed")
        def fail() -> str:
            raise TokenEndpointError("HTTP 503", status_code=503, retry_after=6.2)

        assert app.test_client().get("/failed").headers["Retry-After"] == "7"


class TestCommands:
    def test_print_a_token_and_the_status(self, make_app: MakeApp) -> None:
        runner = make_app().test_cli_runner()
        token = runner.invoke(args=["identity", "token"])
        assert (token.exit_code, token.output.count(".")) == (0, 2)

    def test_use_a_service_that_is_given(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        service = make_service(api)
        app = Flask("application")
        app.config["IDENTITY_SERVICE"] = service
        FlaskIdentity(app)
        status = app.test_cli_runner().invoke(args=["identity", "status", "--json"])
        assert status.exit_code == 0
        assert json.loads(status.output)["state"] == "READY"
        token = app.test_cli_runner().invoke(args=["identity", "token"])
        assert token.output.strip() == service.get_access_token()

    def test_never_regenerate_the_secret_that_replicas_use(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app(IDENTITY_BASE_RETRY_DELAY=60.0, IDENTITY_MAX_RETRY_DELAY=60.0)
        service_of(app).get_access_token()
        token = app.test_cli_runner().invoke(args=["identity", "token"])
        assert token.exit_code == 1
        assert "IDENTITY_ALLOW_SECRET_REGENERATION" in token.output
        assert api.backend.requests["register"] == 2

    def test_do_not_lose_a_secret_that_may_not_be_regenerated(
        self, make_app: MakeApp, api: IdentityServer
    ) -> None:
        app = make_app()
        app.config["IDENTITY_ALLOW_SECRET_REGENERATION"] = False
        for name in ("token", "status"):
            result = app.test_cli_runner().invoke(args=["identity", name])
            assert result.exit_code == 2
            assert "(IDENTITY_CREDENTIAL_STORE) is memory:" in result.output
        assert api.backend.requests["register"] == 0

    def test_exit_as_those_of_identity_client(self, make_app: MakeApp, api: IdentityServer) -> None:
        api.backend.change(api_latency=5)
        runner = make_app().test_cli_runner()
        assert runner.invoke(args=["identity", "token", "--timeout", "0.1"]).exit_code == 3
        status = runner.invoke(args=["identity", "status", "--timeout", "0.1"])
        assert status.exit_code == 1
        assert "state: PENDING" in status.output

    def test_say_what_is_wrong_with_the_settings(self, make_app: MakeApp) -> None:
        app = make_app()
        app.config["IDENTITY_CREDENTIAL_STORE"] = "nonsense:"
        token = app.test_cli_runner().invoke(args=["identity", "token"])
        assert token.exit_code == 2
        assert "IDENTITY_CREDENTIAL_STORE" in token.output
