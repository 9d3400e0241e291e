"""The demo: its checks pass, fail when they have to, and are readable everywhere."""

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
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from support.services import MakeService

from identity_client import IdentityBootstrapService
from identity_client.cli import demo, demo_report
from identity_client.cli.demo_load import LoadGenerator
from identity_client.cli.demo_report import Report
from identity_client.server import IdentityServer

CallForAWhile = Callable[[Callable[[], str], float], LoadGenerator]

# The demo's own limits are for a machine that does little else.
LATENCY = 0.8
HERD_LIMIT = 10.0  # one after the other, 200 requests would take 160 s

CLAIMS = [
    "start() returns at once",
    "retry delays double, with jitter",
    "no request more than needed",
    "signed, and issued to this service",
    "single-flight: one token request",
    f"all served within {HERD_LIMIT:g} s",
    "refreshed before expiry",
    "no call waits for the refresh",
    "new token in time, no failed call",
    "recovers by itself, no failed call",
    "no failed call, no expired token",
]


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    log = logging.getLogger("identity_client")
    handlers = log.handlers[:]
    yield
    log.handlers[:] = handlers


@pytest.fixture
def run_demo() -> Callable[[float, bool], tuple[bool, str]]:
    """Runs the demo; returns whether all checks passed, and what was printed."""

    def run(lifetime: float, terminal: bool) -> tuple[bool, str]:
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=terminal, width=80, highlight=False)
        return demo.run(console, lifetime), shown.getvalue()

    return run


def rows_of(shown: str) -> list[tuple[str, str]]:
    """Return mark and claim of each row of the table at the end."""
    _, _, table = re.sub(r"\x1b\[[\d;?]*\w", "", shown).partition("Summary")
    return re.findall(r"^[│|] (\S) [│|] (.*?) +[│|] .*? +[│|]$", table, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False], ids=["on a terminal", "into a file"])
def test_every_check_passes(
    run_demo: Callable[[float, bool], tuple[bool, str]],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    monkeypatch.setattr(demo, "BASE_DELAY", 0.2)
    monkeypatch.setattr(demo, "LATENCY", LATENCY)
    monkeypatch.setattr(demo, "HERD_LIMIT", HERD_LIMIT)
    threads = set(threading.enumerate())
    # With tokens that expire sooner, their last twentieth is over before the endpoint has answered,
    # or a refresh is due while the 200 threads call.
    done, shown = run_demo(10.0, terminal)
    assert rows_of(shown) == [("✓", claim) for claim in CLAIMS], shown
    assert done
    assert re.search(r"all 11 checks passed, in \d+ s\s*$", shown)
    # On a terminal the token's age is redrawn many times; elsewhere each is a line.
    assert (shown.count(" s old") > 60) is terminal
    assert ("\x1b" in shown) is terminal
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads


def test_an_event_that_does_not_happen_ends_the_demo_and_fails_it(
    run_demo: Callable[[float, bool], tuple[bool, str]],
) -> None:
    # The demo waits for two lifetimes at most: here, less than the delay between two attempts.
    done, shown = run_demo(0.05, False)
    assert not done
    *_, (mark, claim) = rows_of(shown)
    assert (mark, claim) == ("✗", "demo completed")
    assert re.search(r"timed\s+out\s+after\s+0\.1\s+s\s+waiting", shown)
    assert re.search(r"1 of \d checks failed, in \d+ s\s*$", shown)


@pytest.mark.parametrize(
    ("encoding", "marks"),
    [("utf-8", "✓✗"), ("ascii", "+x"), ("cp1252", "+x"), ("cp437", "+x"), ("shift_jis", "+x")],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_the_report_uses_what_the_encoding_has(encoding: str, marks: str, terminal: bool) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding=encoding, newline="\n") as file:
        console = Console(file=file, force_terminal=terminal, width=40)
        report = Report(console)
        report.title("a title")
        report.check("passes", "a" * 50, holds=True)
        report.check("fails", "b", holds=False)
        with report.progress(lambda: "waiting"):
            pass
        assert not report.summarize()
        file.flush()
        shown = written.getvalue().decode(encoding)
    assert [mark for mark, _ in rows_of(shown)] == list(marks)


@pytest.fixture
def call_for_a_while() -> CallForAWhile:
    """Lets the demo's threads call until there were some calls."""

    def call(get_token: Callable[[], str], expires_at: float) -> LoadGenerator:
        enough = threading.Event()
        asked: list[None] = []

        def get_and_count() -> str:
            asked.append(None)
            if len(asked) > 20:
                enough.set()
            return get_token()

        with LoadGenerator(get_and_count, lambda token: expires_at) as load:
            assert enough.wait(10)
        assert load.calls > 20
        assert load.slowest > 0
        return load

    return call


@pytest.fixture
def ready(api: IdentityServer, make_service: MakeService) -> IdentityBootstrapService:
    service = make_service(api)
    service.get_access_token()
    return service


def test_the_load_generator_counts_calls(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    load = call_for_a_while(ready.get_access_token, time.time() + 60)
    assert (load.failed, load.expired) == (0, 0)


def test_the_load_generator_notices_expired_tokens(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    load = call_for_a_while(ready.get_access_token, time.time() - 1)
    assert (load.failed, load.expired) == (0, load.calls)


def test_the_load_generator_notices_failures(
    call_for_a_while: CallForAWhile, ready: IdentityBootstrapService
) -> None:
    ready.close()
    load = call_for_a_while(ready.get_access_token, time.time() + 60)
    assert (load.failed, load.expired) == (load.calls, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "✓"), ("ascii", "+"), ("cp1252", "+")])
def test_the_command_never_pauses_silently_and_fits_80_columns(
    tmp_path: Path, encoding: str, mark: str
) -> None:
    code = (
        "from identity_client.cli import demo, main; "
        f"demo.LATENCY, demo.HERD_LIMIT = {LATENCY}, {HERD_LIMIT}; print('imported'); main()"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, "demo"],
        env={
            **{name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
            "COLUMNS": "80",
            "PYTHONIOENCODING": encoding,
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        (began, _), *lines = [(time.perf_counter(), line.rstrip("\n")) for line in started.stdout]
        assert started.stderr.read() == ""
    shown = "\n".join(line for _, line in lines)
    assert time.perf_counter() - began < 40
    assert rows_of(shown) == [(mark, claim) for claim in CLAIMS], shown
    assert [line for _, line in lines if len(line) > 80] == []
    # A wrapped line would begin with what is left of it.
    assert not re.search(r"^[a-z]+$", shown, re.MULTILINE), shown
    moments = [began, *(moment for moment, _ in lines)]
    # 1.5 s, on a machine that does nothing else; without progress, a wait for a token takes 7 s.
    assert max(later - sooner for sooner, later in pairwise(moments)) < 5, shown
    assert started.returncode == 0


def test_without_a_terminal_progress_is_told_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_report, "PROGRESS_INTERVAL", 0.01)
    told = threading.Event()

    def describe() -> str:
        told.set()
        return "half of it"

    output = io.StringIO()
    with Report(Console(file=output)).progress(describe):
        assert told.wait(10)
    assert "half of it" in output.getvalue()
