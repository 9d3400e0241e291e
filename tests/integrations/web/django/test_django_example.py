"""The Django example under its development server, gunicorn, and its management commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contracts.web_application import Application, WebApplicationContract
from support.web import run_command

from identity_client.server import IdentityServer


class TestDjangoExample(WebApplicationContract):
    application = Application(
        folder="django",
        develop="python manage.py runserver 127.0.0.1:{port}",
        started="Quit the server with",
        touched="shop/views.py",
        target="shop.wsgi",
        silent=(
            "python manage.py check",
            "python manage.py check --deploy",
            "python manage.py makemigrations --check",
            "python manage.py migrate",
            "python manage.py collectstatic --no-input",
            "python manage.py help",
            "python manage.py test",
        ),
        glue=3,
        hook="from identity_client.integrations.django import get_identity; get_identity()",
    )

    def test_a_command_prints_a_token(
        self, folder: Path, environment: Mapping[str, str], api: IdentityServer
    ) -> None:
        done = run_command("python manage.py identity_token", folder, environment)
        assert done.stdout.count(".") == 2
        assert api.backend.requests == {"api": 1, "register": 1, "token": 1}
        done = run_command("python manage.py identity_status", folder, environment)
        assert "state: READY" in done.stdout
        assert api.backend.requests == {"api": 1, "register": 1, "token": 2}
