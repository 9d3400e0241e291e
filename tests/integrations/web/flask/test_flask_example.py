"""The Flask example under its development server, gunicorn, and Flask's commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contracts.web_application import Application, WebApplicationContract
from support.web import run_command

from identity_client.server import IdentityServer


class TestFlaskExample(WebApplicationContract):
    application = Application(
        folder="flask",
        develop="flask --app orders run --debug --port {port}",
        started="Debugger is active",
        touched="orders.py",
        target="orders:create_app()",
        silent=("flask --app orders routes", "flask --app orders --help", "python -m pytest"),
        glue=4,
        hook='worker.wsgi.extensions["identity_client"].start(validate=False)',
    )

    def test_a_shell_makes_no_request(
        self, folder: Path, environment: Mapping[str, str], api: IdentityServer
    ) -> None:
        done = run_command(
            "flask --app orders shell",
            folder,
            environment,
            stdin="import threading; print(threading.active_count(), 'thread')\n",
        )
        assert "1 thread" in done.stdout
        assert not api.backend.requests

    def test_a_command_prints_a_token_and_takes_the_secret_from_no_replica(
        self, folder: Path, environment: Mapping[str, str], api: IdentityServer
    ) -> None:
        done = run_command("flask --app orders identity token", folder, environment)
        assert done.stdout.count(".") == 2
        assert api.backend.requests == {"api": 1, "register": 1, "token": 1}
        done = run_command("flask --app orders identity status", folder, environment)
        assert "state: READY" in done.stdout
        assert api.backend.requests == {"api": 1, "register": 1, "token": 2}
