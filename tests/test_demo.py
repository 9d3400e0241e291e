"""The demo: it shows what it claims, and says so when it does not."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from support.services import MakeService

from identity_client import IdentityBootstrapService
from identity_client.cli import demo
from identity_client.server import IdentityServer

CLAIMS = [
    "start() does not wait",
    "pauses double, with jitter",
    "as few requests as can be",
    "signed, and issued to this service",
    "200 threads, one token request",
    "all served within its time plus 150 ms",
    "refreshed before it expires",
    "no call waits for that",
    "a new token in time, 0 failed calls",
    "it recovers by itself, 0 failed calls",
    "calls that failed or got an expired token",
]


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    logs = [logging.getLogger(name) for name in ("identity_client", "waitress.queue")]
    handlers = [log.handlers[:] for log in logs]
    yield
    for log, before in zip(logs, handlers, strict=True):
        log.handlers[:] = before


@pytest.fixture
def tell() -> Callable[[float, bool], tuple[bool, str]]:
    """Runs the demo; returns whether all was as told, and what was shown."""

    def run(lifetime: float, terminal: bool) -> tuple[bool, str]:
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=terminal, width=120, highlight=False)
        return demo.run(console, lifetime), shown.getvalue()

    return run


def rows_of(shown: str) -> list[tuple[str, str]]:
    """Return sign and claim of each row of the table at the end."""
    _, _, table = re.sub(r"\x1b\[[\d;?]*\w", "", shown).partition("What was seen")
    return re.findall(r"^│ (\S) │ (.*?) +│ .*? +│$", table, re.MULTILINE)


@pytest.mark.parametrize(
    "terminal",
    [
        pytest.param(True, id="on a terminal"),
        pytest.param(False, id="into a file", marks=pytest.mark.slow),
    ],
)
def test_everything_is_as_told(
    tell: Callable[[float, bool], tuple[bool, str]],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    monkeypatch.setattr(demo, "BASE_DELAY", 0.2)
    threads = set(threading.enumerate())
    # With tokens that live shorter, their last twentieth is over before the endpoint has answered,
    # or one is due while the 200 threads ask.
    done, shown = tell(6.0, terminal)
    assert rows_of(shown) == [("✓", claim) for claim in CLAIMS], shown
    assert done
    assert re.search(r"all checks passed, in \d+ s\s*$", shown)
    # The token's age is drawn many times, and only where it can be wiped away again.
    assert (shown.count(" s old") > 10) is terminal
    assert ("\x1b" in shown) is terminal
    assert set(threading.enumerate()) <= threads


def test_what_does_not_happen_is_told_and_ends_the_story(
    tell: Callable[[float, bool], tuple[bool, str]],
) -> None:
    # The demo waits for two lifetimes at most: here, less than the pause between two attempts.
    done, shown = tell(0.05, False)
    assert not done
    *_, (sign, claim) = rows_of(shown)
    assert (sign, claim) == ("✗", "the story comes to its end")
    assert re.search(r"registration_failed number \d did not come within 0\.1 s", shown)
    assert re.search(r"1 of \d checks failed, in \d+ s\s*$", shown)


@pytest.fixture
def call_for_a_while() -> Callable[[Callable[[], str], float], demo.Callers]:
    """Lets the demo's threads ask until there were some calls."""

    def call(ask: Callable[[], str], expires_at: float) -> demo.Callers:
        enough = threading.Event()
        asked: list[None] = []

        def ask_and_count() -> str:
            asked.append(None)
            if len(asked) > 20:
                enough.set()
            return ask()

        with demo.Callers(ask_and_count, lambda token: expires_at) as callers:
            assert enough.wait(10)
        assert callers.calls > 20
        assert callers.slowest > 0
        return callers

    return call


CallForAWhile = Callable[[Callable[[], str], float], demo.Callers]


@pytest.fixture
def ready(api: IdentityServer, make_service: MakeService) -> IdentityBootstrapService:
    service = make_service(api)
    service.get_access_token()
    return service


def test_the_callers_count_calls(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    callers = call_for_a_while(ready.get_access_token, time.time() + 60)
    assert (callers.failed, callers.expired) == (0, 0)


def test_the_callers_notice_expired_tokens(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    callers = call_for_a_while(ready.get_access_token, time.time() - 1)
    assert (callers.failed, callers.expired) == (0, callers.calls)


def test_the_callers_notice_failures(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    ready.close()
    callers = call_for_a_while(ready.get_access_token, time.time() + 60)
    assert (callers.failed, callers.expired) == (callers.calls, 0)


@pytest.mark.slow
def test_the_command_shows_it_all_in_under_40_seconds(tmp_path: Path) -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "identity_client.cli", "demo"],
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert time.perf_counter() - began < 40
    assert rows_of(done.stdout) == [("✓", claim) for claim in CLAIMS], done.stdout
    assert done.stderr == ""
    assert done.returncode == 0
