from __future__ import annotations

from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandParser

from ..._identity import service_of_command


class Command(BaseCommand):
    """``manage.py identity_token``."""

    help = "Print an access token, and nothing else; never regenerates the secret."
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--timeout", type=float, default=10.0, help="Seconds to wait.")

    def handle(self, *_: Any, timeout: float, **__: Any) -> None:
        with service_of_command() as service:
            self.stdout.write(service.get_access_token(timeout))
