from __future__ import annotations

import sys
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandParser

from ...._commands import FAILED, status_text
from ..._identity import service_of_command


class Command(BaseCommand):
    """``manage.py identity_status``."""

    help = "Request a token and show how that went; exit with 1 without one."
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--timeout", type=float, default=10.0, help="Seconds to wait.")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")

    def handle(self, *_: Any, timeout: float, as_json: bool, **__: Any) -> None:
        with service_of_command() as service:
            text, ready = status_text(service, timeout, as_json=as_json)
        self.stdout.write(text)
        if not ready:
            sys.exit(FAILED)
