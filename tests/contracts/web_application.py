"""What is true of an example, whatever its framework: which requests it makes, and when."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from support.restarts import restarted
from support.web import EXAMPLES, WebServer, load, run_command

from identity_client.server import IdentityServer

ORDER = "/orders/apple"
HEALTH = "/health/identity"


class Application(NamedTuple):
    """An example.

    Attributes:
        folder: its folder below examples.
        develop: the command of its development server.
        started: what the development server logs when it has started.
        touched: the file that a developer saves.
        target: what gunicorn serves.
        silent: commands that need no token.
        glue: how many lines of it set the package up.
        hook: what a worker of gunicorn runs to have a token before its first request.
    """

    folder: str
    develop: str
    started: str
    touched: str
    target: str
    silent: tuple[str, ...]
    glue: int
    hook: str


_SETS_UP = re.compile(r"identity_client|FlaskIdentity|\bidentity\.")

Serve = Callable[..., WebServer]


class WebApplicationContract:
    """Tests for a class attribute `application` and the fixture `environment`."""

    application: Application

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return Path(
            shutil.copytree(
                EXAMPLES / self.application.folder,
                tmp_path / "application",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        )

    @pytest.fixture
    def serve(self, folder: Path, environment: Mapping[str, str], tmp_path: Path) -> Serve:
        def serve(command: str, **settings: str) -> WebServer:
            return WebServer(command, folder, {**environment, **settings}, tmp_path / "log")

        return serve

    def gunicorn(self, options: str) -> str:
        return f"gunicorn --bind=127.0.0.1:{{port}} {options} {self.application.target}"

    def test_few_lines_set_it_up(self, folder: Path) -> None:
        sources = [path for path in folder.rglob("*.py") if "test" not in path.name]
        lines = [line for path in sources for line in path.read_text("utf-8").splitlines()]
        glue = [line for line in lines if _SETS_UP.search(line)]
        assert len(glue) == self.application.glue, glue

    def test_commands_make_no_request(
        self, folder: Path, environment: Mapping[str, str], api: IdentityServer
    ) -> None:
        for command in self.application.silent:
            run_command(command, folder, environment)
        assert not api.backend.requests

    @pytest.mark.parametrize("preload", ["", "--preload"])
    def test_checking_the_configuration_makes_no_request(
        self, preload: str, folder: Path, environment: Mapping[str, str], api: IdentityServer
    ) -> None:
        run_command(self.gunicorn(f"--check-config {preload}").format(port=0), folder, environment)
        assert not api.backend.requests

    def test_the_development_server_registers_once_with_a_shared_store(
        self, serve: Serve, folder: Path, api: IdentityServer
    ) -> None:
        with serve(self.application.develop) as server:
            server.wait_for_log(self.application.started)
            assert not api.backend.requests
            assert server.get(ORDER).json()["can_be_delivered"] is True
            assert api.backend.requests["register"] == 1
            self._reload(server, folder)
            self._get_after_reload(server)
            assert api.backend.requests["register"] == 1

    def test_the_development_server_registers_once_per_restart_without_a_store(
        self, serve: Serve, folder: Path, api: IdentityServer
    ) -> None:
        with serve(self.application.develop, IDENTITY_CREDENTIAL_STORE="memory:") as server:
            server.wait_for_log(self.application.started)
            assert server.get(ORDER).status_code == 200
            assert api.backend.requests["register"] == 1
            self._reload(server, folder)
            self._get_after_reload(server)
            # The service exists by then, so that a second request regenerates its secret.
            assert api.backend.requests["register"] == 3

    def _reload(self, server: WebServer, folder: Path) -> None:
        """Touch a file until the development server has started once more.

        A reloader takes no notice of a file that is touched before it has looked at it once.
        """
        for _ in range(6):
            (folder / self.application.touched).touch()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if server.log.count(self.application.started) >= 2:
                    return
                time.sleep(0.05)
        raise AssertionError(f"it did not reload: {server.log}")

    def _get_after_reload(self, server: WebServer) -> None:
        server.wait_until(ORDER, 200)

    @pytest.mark.parametrize("preload", ["", "--preload"])
    def test_gunicorn_registers_once_whatever_is_reloaded(
        self, preload: str, serve: Serve, api: IdentityServer
    ) -> None:
        with serve(self.gunicorn(f"--workers=2 {preload}")) as server:
            server.wait_for_log("Booting worker", 2)
            assert not api.backend.requests
            with load(server, ORDER) as statuses:
                server.wait_until(HEALTH, 200)
                server.reload()
                server.wait_for_log("Booting worker", 4)
                server.wait_until(HEALTH, 200)
        assert set(statuses) == {200}
        assert api.backend.requests["register"] == 1

    def test_a_probe_alone_makes_the_application_ready(
        self, serve: Serve, api: IdentityServer
    ) -> None:
        api.backend.change(api_outage=True)
        with serve(self.gunicorn("--workers=1")) as server:
            assert server.get(HEALTH).status_code == 503
            api.backend.change(api_outage=False)
            server.wait_until(HEALTH, 200)
        assert api.backend.requests["register"] == 1

    def test_a_hook_of_gunicorn_gets_the_token_before_the_first_request(
        self, serve: Serve, folder: Path, api: IdentityServer
    ) -> None:
        hook = f"def post_worker_init(worker):\n    {self.application.hook}\n"
        (folder / "gunicorn.conf.py").write_text(hook, encoding="utf-8")
        with serve(self.gunicorn("--workers=2")):
            self._wait_for_tokens(api, 2)
        assert api.backend.requests["register"] == 1

    def test_an_identity_api_that_is_down_at_boot_costs_503_until_it_is_back(
        self, serve: Serve, api: IdentityServer
    ) -> None:
        api.backend.change(api_outage=True)
        command = self.gunicorn("--workers=1 --threads=4")
        with serve(command, IDENTITY_TOKEN_TIMEOUT="1") as server:
            response = server.get(ORDER)
            assert response.status_code == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert server.get(HEALTH).status_code == 503
            api.backend.change(api_outage=False)
            server.wait_until(HEALTH, 200)
            assert server.get(ORDER).status_code == 200

    def test_no_request_fails_while_the_secret_rotates_and_identity_api_restarts(
        self, serve: Serve, api: IdentityServer
    ) -> None:
        api.backend.change(token_lifetime=4.0)
        with serve(self.gunicorn("--workers=1 --threads=4")) as server:
            server.wait_until(HEALTH, 200)
            with load(server, ORDER) as statuses:
                self._wait_for_tokens(api, 2)
                assert api.backend.rotate_secret("orders")
                self._wait_for_tokens(api, 2)
                api.backend.change(token_lifetime=300.0)
                self._wait_for_a_long_token(api)
                self._wait_for_requests(statuses, 20)  # so that the token has arrived, too
                with restarted(api, while_stopped=lambda: None):
                    self._wait_for_requests(statuses, 100)
        assert set(statuses) == {200}
        assert len(statuses) > 100

    def _wait_for_a_long_token(self, api: IdentityServer) -> None:
        """Wait until no token of the short lifetime is in use; a request may be under way."""
        deadline = time.monotonic() + 60
        while (token := api.backend.clients()[0].last_token) is None or (
            token.expires_at - token.issued_at < 100
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _wait_for_requests(self, statuses: list[int], more: int) -> None:
        wanted, deadline = len(statuses) + more, time.monotonic() + 60
        while len(statuses) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _wait_for_tokens(self, api: IdentityServer, more: int) -> None:
        wanted = api.backend.requests["token"] + more
        deadline = time.monotonic() + 60
        while api.backend.requests["token"] < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)
