"""What the demo prints: steps, checks, progress and a summary, in any encoding and width."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from attrs import frozen
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

# Where nothing can be redrawn, a line at least this often shows that the demo goes on.
PROGRESS_INTERVAL = 1.5


@frozen
class Check:
    """A claim, what was measured, and whether the claim holds."""

    claim: str
    seen: str
    holds: bool


class Report:
    """Prints the course of the demo, and collects its checks.

    Args:
        console: where to print.

    Attributes:
        checks: the checks so far.
    """

    def __init__(self, console: Console) -> None:
        self.checks: list[Check] = []
        self._console = console
        self._began = time.perf_counter()
        self._marks = _marks(console.encoding)

    def title(self, text: str) -> None:
        """Print what is about to be shown."""
        self._console.print(Panel.fit(text, title="identity-client demo", border_style="cyan"))

    def section(self, title: str, text: str) -> None:
        """Begin a step."""
        self._console.print(Text.assemble("\n", (title, "bold cyan"), (f"  {text}", "dim")))

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        moment = time.perf_counter() - self._began
        self._console.print(Text.assemble((f"{moment:6.1f} s  ", "blue"), text))

    def check(self, claim: str, seen: str, holds: bool) -> None:
        """Print a check and remember it."""
        self.checks.append(Check(claim, seen, holds))
        mark = self._mark(holds)
        self._console.print(Text.assemble("       ", mark, f"  {claim}: ", (seen, "bold")))

    @contextmanager
    def progress(
        self, describe: Callable[[], str], draw: Callable[[], RenderableType] | None = None
    ) -> Generator[None, None, None]:
        """Show progress while a ``with`` block waits: redrawn on a terminal, else line by line.

        Args:
            describe: returns the progress in a few words.
            draw: returns what a terminal shows instead.
        """
        if self._console.is_terminal:
            picture = draw or (lambda: Text(f"          {describe()}", style="dim"))
            with Live(
                get_renderable=picture,
                console=self._console,
                refresh_per_second=12,
                transient=True,
            ):
                yield
            return
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(PROGRESS_INTERVAL):
                self.say(describe())

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def summarize(self) -> bool:
        """Print all checks in a table, and return whether all hold."""
        self._console.print(Text("\nSummary", style="bold"))
        table = Table()
        table.add_column("")
        table.add_column("check", overflow="fold")
        table.add_column("measured", style="bold", overflow="fold")
        for check in self.checks:
            table.add_row(Text.assemble(self._mark(check.holds)), check.claim, Text(check.seen))
        self._console.print(table)
        failed = sum(not check.holds for check in self.checks)
        took = time.perf_counter() - self._began
        count = len(self.checks)
        verdict = f"{failed} of {count} checks failed" if failed else f"all {count} checks passed"
        self._console.print(f"{verdict}, in {took:.0f} s")
        return not failed

    def _mark(self, holds: bool) -> tuple[str, str]:
        passed, failed = self._marks
        return (passed, "bold green") if holds else (failed, "bold red")


def _marks(encoding: str) -> tuple[str, str]:
    try:
        "✓✗".encode(encoding)
    except UnicodeEncodeError:
        return "+", "x"
    return "✓", "✗"
