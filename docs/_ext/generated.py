"""Directives whose content is read from the code of the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from facts import GROUPS, Setting, commands, events, peer_rows, settings
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class _Generated(SphinxDirective):
    """A directive that writes reStructuredText and has it parsed."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the code may have changed though the page has not
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)

    def lines(self) -> Iterator[str]:
        raise NotImplementedError


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]], widths: str) -> Iterator[str]:
    """Yield a list table."""
    yield from (".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "")
    for row in (heads, *rows):
        for number, cell in enumerate(row):
            yield f"   {' ' if number else '*'} - {cell}"
    yield ""


class SettingsTable(_Generated):
    """All settings in a table: variable, field, default."""

    def lines(self) -> Iterator[str]:
        yield from table(
            ("variable", "field", "default"),
            (
                (f":envvar:`{setting.variable}`", f"``{setting.name}``", setting.default)
                for setting in settings().values()
            ),
            "50 34 16",
        )


class SettingsReference(_Generated):
    """Each setting with its meaning, in groups."""

    def lines(self) -> Iterator[str]:
        known = settings()
        missing = known.keys() - {name for names in GROUPS.values() for name in names}
        if missing:
            raise self.error(f"docs/_ext/facts.py has no group for {sorted(missing)}")
        for title, names in GROUPS.items():
            yield from (title, "-" * len(title), "")
            for name in names:
                yield from self._entry(known[name])

    @staticmethod
    def _entry(setting: Setting) -> Iterator[str]:
        text = setting.text[0].upper() + setting.text[1:]
        yield from (f".. envvar:: {setting.variable}", "", f"   {text}", "")
        yield f"   Field ``{setting.name}``; default: {setting.default}."
        if setting.is_secret:
            yield f"   A secret: ``{setting.variable}_FILE`` may name a file that holds it."
        if setting.alias:
            yield f"   Also as ``{setting.alias}``, which wins."
        yield ""


class EventsTable(_Generated):
    """The kinds of events."""

    def lines(self) -> Iterator[str]:
        yield from table(
            ("kind", "``identity_event``", "when"),
            ((f"``{kind.name}``", f"``{kind.value}``", text) for kind, text in events()),
            "30 30 40",
        )


class CommandOptions(_Generated):
    """Each command of the package with its options."""

    def lines(self) -> Iterator[str]:
        for name, text, options in commands():
            yield from (name, "-" * len(name), "", text, "")
            if options:
                yield from table(
                    ("option", "default", "what it does"),
                    (
                        (f"``{option}``", f"``{default}``" if default else "", help_text)
                        for option, default, help_text in options
                    ),
                    "35 15 50",
                )


class PeerTables(_Generated):
    """A list of the rows of the benchmark, each with its anchor as long as there are no figures."""

    def lines(self) -> Iterator[str]:
        if (Path(self.env.srcdir) / "benchmarks" / "peers.rst").exists():
            yield from (".. toctree::", "", "   /benchmarks/peers", "")
            return
        for row in peer_rows():
            yield from (f".. _peers-{row.id}:", "", f".. rubric:: {row.title}", "", row.text, "")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("settings-reference", SettingsReference)
    app.add_directive("events-table", EventsTable)
    app.add_directive("command-options", CommandOptions)
    app.add_directive("peer-tables", PeerTables)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
