"""What the integrations share: settings of a framework, one service per configuration, probes."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import pytest
from attrs import evolve
from support.canned import reply
from support.clock import FakeClock
from support.processes import run
from support.recorder import Recorder
from support.services import INTERNAL_TOKEN, MakeService, StartCanned

from identity_client import (
    ConfigurationError,
    EventKind,
    IdentityBootstrapConfig,
    IdentityBootstrapService,
    IdentityError,
    NotReadyError,
    ServiceState,
    ServiceType,
    TokenEndpointError,
)
from identity_client.integrations._commands import command_service, exit_code, status_text
from identity_client.integrations._shared import (
    ServiceRegistry,
    config_from_settings,
    readiness,
    setting_names,
    shared_service,
)
from identity_client.server import IdentityServer

REQUIRED = {
    "IDENTITY_API_URL": "http://identity-api:3053",
    "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
    "SERVICE_NAME": "orders",
}


def config(settings: dict[str, Any], **environ: str) -> IdentityBootstrapConfig:
    return config_from_settings(settings, where="app.config", environ=environ)


class TestSettings:
    def test_have_the_names_of_the_environment(self) -> None:
        made = config(REQUIRED)
        assert made.identity_api_url == "http://identity-api:3053"
        assert made.service_name == "orders"

    def test_win_over_the_environment_which_gives_the_others(self) -> None:
        made = config(
            {"SERVICE_NAME": "billing"}, **REQUIRED, IDENTITY_CREDENTIAL_STORE="file:///a"
        )
        assert made.service_name == "billing"
        assert made.credential_store == "file:///a"

    def test_win_over_an_alias_in_the_environment(self) -> None:
        made = config(REQUIRED, IDENTITY_SERVICE_NAME="billing")
        assert made.service_name == "orders"

    def test_an_alias_wins_over_the_name_that_others_may_use(self) -> None:
        made = config({**REQUIRED, "IDENTITY_SERVICE_NAME": "billing"})
        assert made.service_name == "billing"

    def test_a_secret_wins_over_a_file_that_the_environment_names(self) -> None:
        made = config(REQUIRED, IDENTITY_API_INTERNAL_TOKEN_FILE="/nowhere")
        assert made.identity_api_internal_token == INTERNAL_TOKEN

    @pytest.mark.parametrize("kind", [str, Path, PurePath])
    def test_a_file_wins_over_a_secret_of_the_environment(
        self, kind: Callable[[Path], object], tmp_path: Path
    ) -> None:
        file = tmp_path / "token"
        file.write_text("from-a-file\n")
        made = config({"IDENTITY_API_INTERNAL_TOKEN_FILE": kind(file)}, **REQUIRED)
        assert made.identity_api_internal_token == "from-a-file"

    @pytest.mark.parametrize("value", [b"/run/key", False, 7])
    def test_a_file_that_is_no_path_is_refused_and_hides_nothing(self, value: object) -> None:
        name = "IDENTITY_CREDENTIAL_STORE_KEY_FILE"
        problem = f"{name} must be the path of a file, as text or a path object"
        with pytest.raises(ConfigurationError, match=problem):
            config({**REQUIRED, name: value})
        with pytest.raises(ConfigurationError, match=f"2 problems: {problem}"):
            config({**REQUIRED, name: value, "IDENTITY_TOKEN_TIMEOUT": "10s"})

    def test_may_be_text_or_of_the_type_of_the_field(self) -> None:
        texts = config({**REQUIRED, "IDENTITY_TOKEN_TIMEOUT": "5", "SERVICE_TYPE": "WORKER"})
        typed = config(
            {**REQUIRED, "IDENTITY_TOKEN_TIMEOUT": 5, "SERVICE_TYPE": ServiceType.BACKEND}
        )
        assert texts.token_timeout == typed.token_timeout == 5.0
        assert (texts.service_type, typed.service_type) == ("WORKER", ServiceType.BACKEND)

    def test_none_is_not_set(self) -> None:
        made = config({"SERVICE_NAME": None, "IDENTITY_SCOPE": None}, **REQUIRED)
        assert made.service_name == "orders"

    def test_short_names_are_for_mappings_that_hold_nothing_else(self) -> None:
        short = {"CREDENTIAL_STORE": "file:///a", "CLIENT_ID": "of another extension"}
        assert config({**REQUIRED, **short}).credential_store == "memory:"
        made = config_from_settings(
            {**REQUIRED, "CREDENTIAL_STORE": "file:///a"}, where="settings", short=True, environ={}
        )
        assert made.credential_store == "file:///a"

    def test_short_names_cover_each_field(self) -> None:
        names = setting_names(short=True)
        assert names["CREDENTIAL_STORE_KEY_FILE"] == "IDENTITY_CREDENTIAL_STORE_KEY_FILE"
        assert names["IDENTITY_SERVICE_NAME"] == names["SERVICE_NAME"] == "SERVICE_NAME"

    def test_that_have_no_variable_are_no_keys(self) -> None:
        assert "ENV_PREFIX" not in setting_names(short=True)
        assert all(setting_names(short=True).values())

    def test_come_from_the_environment_of_the_process(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERVICE_NAME", "billing")
        made = config_from_settings(
            {**REQUIRED, "SERVICE_NAME": None}, where="app.config", environ=None
        )
        assert made.service_name == "billing"

    def test_that_are_wrong_are_all_named_with_where_they_come_from(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            config({"IDENTITY_API_URL": 5, "IDENTITY_TOKEN_TIMEOUT": "10s"})
        message = str(caught.value)
        assert message.startswith(
            "identity_client is not configured, by app.config and the environment: 4 problems: "
        )
        assert len(caught.value.problems) == 4
        assert "identity_api_url (IDENTITY_API_URL) must be a string" in message
        assert "token_timeout (IDENTITY_TOKEN_TIMEOUT) must be a number" in message

    def test_that_look_misspelt_are_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            config({**REQUIRED, "IDENTITY_CREDENTIAL_STOER": "file:///a"})
        assert "is IDENTITY_CREDENTIAL_STORE meant?" in caplog.text

    def test_leave_no_secret_in_the_frames_of_their_error(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            config({**REQUIRED, "IDENTITY_API_URL": "nonsense"})
        frames = []
        trace = caught.value.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        of_the_package = [
            f for f in frames if f.f_code.co_filename.endswith("integrations/_shared.py")
        ]
        assert INTERNAL_TOKEN not in repr([frame.f_locals for frame in of_the_package])


class Holder:
    """Stands for an application."""


HOLDER = Holder()


class TestRegistry:
    def test_gives_one_service_per_configuration(self) -> None:
        registry = ServiceRegistry()
        orders, again = (
            registry.acquire(config(REQUIRED), self),
            registry.acquire(config(REQUIRED), self),
        )
        billing = registry.acquire(config({**REQUIRED, "SERVICE_NAME": "billing"}), self)
        assert orders is again
        assert orders is not billing
        assert orders.status().started is False

    def test_is_shared_by_the_process(self) -> None:
        made = config(REQUIRED)
        service = shared_service(made, self)
        assert shared_service(made, self) is service

    def test_gives_threads_that_come_at_once_the_same_service(self) -> None:
        registry = ServiceRegistry()
        barrier = threading.Barrier(8)

        def get(_: int) -> object:
            barrier.wait()
            return registry.acquire(config(REQUIRED), self)

        with ThreadPoolExecutor(8) as pool:
            assert len({id(service) for service in list(pool.map(get, range(8)))}) == 1

    def test_replaces_a_closed_service(self) -> None:
        registry = ServiceRegistry()
        first = registry.acquire(config(REQUIRED), self)
        first.close()
        assert registry.acquire(config(REQUIRED), self) is not first

    def test_closes_a_service_when_its_last_holder_is_done_with_it(self) -> None:
        registry, first, second = ServiceRegistry(), Holder(), Holder()
        service = registry.acquire(config(REQUIRED), first)
        assert registry.acquire(config(REQUIRED), first) is service
        registry.acquire(config(REQUIRED), second)
        registry.release(service, first)
        registry.release(service, first)
        assert service.status().state is not ServiceState.CLOSED
        registry.release(service, second)
        assert service.status().state is ServiceState.CLOSED

    def test_a_holder_that_is_gone_holds_nothing(self) -> None:
        registry, holder = ServiceRegistry(), Holder()
        service = registry.acquire(config(REQUIRED), holder)
        registry.acquire(config(REQUIRED), Holder())
        gc.collect()
        registry.release(service, holder)
        assert service.status().state is ServiceState.CLOSED

    def test_leaves_a_service_of_another_origin_open(self) -> None:
        service = IdentityBootstrapService(config(REQUIRED))
        ServiceRegistry().release(service, self)
        assert service.status().state is not ServiceState.CLOSED

    def test_a_finalizer_may_release_a_service_while_another_is_acquired(self) -> None:
        registry, holder = ServiceRegistry(), Holder()
        orders = registry.acquire(config(REQUIRED), holder)

        class Name(str):
            __slots__ = ()

            def __hash__(self) -> int:  # called under the lock, where the collector may run, too
                registry.release(orders, holder)
                return super().__hash__()

        made = evolve(config(REQUIRED), service_name=Name("billing"))
        assert registry.acquire(made, holder).status().service_name == "billing"
        assert orders.status().state is ServiceState.CLOSED

    def test_a_listener_may_acquire_a_service_in_another_thread_while_one_is_closed(self) -> None:
        registry, holder = ServiceRegistry(), Holder()
        closed = registry.acquire(config(REQUIRED), holder)
        acquired: list[IdentityBootstrapService] = []

        def acquire(event: object) -> None:
            with ThreadPoolExecutor(1) as pool:
                acquired.append(pool.submit(registry.acquire, config(REQUIRED), self).result(10))

        closed.on_event(acquire)
        registry.release(closed, holder)
        assert closed.status().state is ServiceState.CLOSED
        assert acquired
        assert acquired[0] is not closed

    def test_a_service_that_is_about_to_be_closed_is_not_acquired(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry, holder = ServiceRegistry(), Holder()
        closing = registry.acquire(config(REQUIRED), holder)
        acquired: list[IdentityBootstrapService] = []
        monkeypatch.setattr(
            closing, "close", lambda: acquired.append(registry.acquire(config(REQUIRED), self))
        )
        registry.release(closing, holder)
        assert acquired[0] is not closing

    def test_keeps_no_service_alive(self) -> None:
        registry = ServiceRegistry()
        service = weakref.ref(registry.acquire(config(REQUIRED), self))
        gc.collect()
        assert service() is None

    def test_shows_no_secret(self) -> None:
        registry = ServiceRegistry()
        service = registry.acquire(config(REQUIRED), self)
        assert INTERNAL_TOKEN not in repr(vars(registry)) + repr(service)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
    def test_works_in_a_child_that_was_forked_while_its_lock_was_held(self) -> None:
        code = """
            import warnings
            from identity_client.integrations._shared import ServiceRegistry
            registry, holder = ServiceRegistry(), ServiceRegistry()
            config = IdentityBootstrapConfig(
                service_name="orders", identity_api_url=url, identity_api_internal_token="x")
            inherited = registry.acquire(config, holder)
            held = threading.Event()
            def hold():
                with registry._lock.of_this_process():
                    held.set()
                    time.sleep(60)
            threading.Thread(target=hold, daemon=True).start()
            held.wait()
            warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads forks
            pid = os.fork()
            if not pid:
                os._exit(registry.acquire(config, holder) is not inherited)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
        ended = run(code, "http://127.0.0.1:9", timeout=30)
        assert ended.status == 0, ended.err


class TestReadiness:
    def test_is_503_until_the_first_token_and_starts_the_service(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        api.backend.change(api_outage=True)
        service = make_service(api)
        status, document = readiness(service)
        assert service.status().started
        assert (status, document["ready"], document["state"]) == (503, False, "PENDING")
        api.backend.change(api_outage=False)
        assert service.wait_for_ready(10)
        status, document = readiness(service)
        assert (status, document["ready"], document["state"]) == (200, True, "READY")

    def test_is_200_in_an_outage_and_after_it_unless_it_is_strict(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        clock = FakeClock()
        service = make_service(api, clock=clock)
        recorder = Recorder(service)
        service.get_access_token()
        api.backend.change(token_outage=True)
        clock.advance(280)
        recorder.wait_for(EventKind.STATE_CHANGED, 2)
        assert readiness(service)[1]["state"] == "DEGRADED"
        assert [readiness(service, strict=strict)[0] for strict in (False, True)] == [200, 200]
        clock.advance(60)
        recorder.wait_for(EventKind.STATE_CHANGED, 3)
        assert readiness(service)[1]["state"] == "UNAVAILABLE"
        assert [readiness(service, strict=strict)[0] for strict in (False, True)] == [200, 503]

    def test_is_503_when_the_service_has_failed_or_is_closed(
        self, canned: StartCanned, make_service: MakeService
    ) -> None:
        server = canned(reply({"message": "no"}, status=401))
        service = make_service(server.url, max_registration_attempts=1)
        assert not service.wait_for_ready(10)
        assert readiness(service)[0] == 503
        assert readiness(service)[1]["state"] == "FAILED"
        service.close()
        assert readiness(service)[0] == 503
        assert readiness(service)[1]["state"] == "CLOSED"

    def test_has_no_secret_and_no_address(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        service = make_service(api)
        token = service.get_access_token()
        document = json.dumps(readiness(service)[1])
        assert sorted(json.loads(document)) == [
            "next_attempt_in",
            "ready",
            "service",
            "state",
            "token_expires_in",
        ]
        for secret in (token, INTERNAL_TOKEN, api.url, "127.0.0.1"):
            assert secret not in document


class TestCommands:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (TokenEndpointError("HTTP 500"), 1),
            (ConfigurationError("service_name is missing"), 2),
            (NotReadyError("nothing yet", state=ServiceState.PENDING, attempts=0), 3),
            (
                NotReadyError("failed", state=ServiceState.PENDING, attempts=1, next_attempt_in=5),
                1,
            ),
        ],
    )
    def test_exit_as_those_of_identity_client(self, error: IdentityError, code: int) -> None:
        assert exit_code(error) == code

    def test_regenerate_no_secret(self, api: IdentityServer) -> None:
        settings = {**REQUIRED, "IDENTITY_API_URL": api.url}
        with shared_service(config(settings), HOLDER) as service:
            service.get_access_token()
            with (
                command_service(config(settings)) as of_command,
                pytest.raises(NotReadyError, match="IDENTITY_ALLOW_SECRET_REGENERATION"),
            ):
                of_command.get_access_token(10)

    def test_leave_the_status_file_of_the_service_alone(
        self, api: IdentityServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "status.json"
        file.write_text("of the service that runs")
        settings = {"IDENTITY_API_URL": api.url, "IDENTITY_STATUS_FILE": str(file)}
        with command_service(config(REQUIRED | settings)) as of_command:
            of_command.get_access_token()
        assert file.read_text() == "of the service that runs"

    def test_refuse_to_lose_a_secret_that_may_not_be_regenerated(self) -> None:
        settings = {**REQUIRED, "IDENTITY_ALLOW_SECRET_REGENERATION": "false"}
        with pytest.raises(ConfigurationError, match="register the service and lose its secret"):
            command_service(config(settings))

    def test_show_how_a_service_stands_as_lines_or_as_json(
        self, api: IdentityServer, make_service: MakeService
    ) -> None:
        service = make_service(api)
        text, ready = status_text(service, 10, as_json=False)
        assert ready
        assert "state: READY\n" in text
        assert "last error: -\n" in text
        document, ready = status_text(service, 10, as_json=True)
        assert json.loads(document)["state"] == "READY"
