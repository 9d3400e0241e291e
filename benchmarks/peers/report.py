"""From the figures to the JSON file, the tables and the plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

from .rows import BY_ID, Column, Figures, Row, Runs, median, precedes, ranking

OURS = "identity-client"
FLOOR = "floor"
DASH = "—"


def save(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, default=dict)
    (folder / "peers.json").write_text(text + "\n")


def load(folder: Path) -> dict[str, Any]:
    return load_file(folder / "peers.json")


def load_file(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def medians(row: Row, results: dict[str, Any]) -> dict[str, Figures]:
    """Return the median of each figure of a row, for each library that was measured."""
    return {
        name: {column.key: median(column, runs) for column in row.columns}
        for name, runs in runs_of(row, results).items()
    }


def runs_of(row: Row, results: dict[str, Any]) -> dict[str, Runs]:
    runs: dict[str, Runs] = results["rows"][row.id]["runs"]
    return runs


def ranked(row: Row, results: dict[str, Any]) -> list[tuple[int, str]]:
    runs = runs_of(row, results)
    return ranking(row, {name: runs[name] for name in runs if name != FLOOR})


def order_changes(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Return a line for each two libraries that stand in one order in one run, and not by noise,
    and in the other order in the other.
    """
    lines = []
    for row in measured_rows(new):
        if row.id in old["rows"]:
            before, now = runs_of(row, old), runs_of(row, new)
            lines += [
                f"{row.id}: {one} was better than {other}, now {other} is"
                for one, other in permutations(sorted(before.keys() & now.keys()), 2)
                if precedes(row, before[one], before[other]) and precedes(row, now[other], now[one])
            ]
    return lines


def measured_rows(results: dict[str, Any]) -> list[Row]:
    return [BY_ID[row_id] for row_id in results["rows"]]


# --- text ---


def figure(column: Column, value: float) -> str:
    """Write a figure with two or three digits that matter, and its unit."""
    if column.unit in ("", "MiB") or (column.unit in ("ns", "ms") and value >= 10):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{text} {column.unit}".strip()


def lines_of(row: Row, results: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the lines of a row's table: rank, library, figures; the floor first."""
    figures = medians(row, results)
    floor = [(DASH, FLOOR)] if FLOOR in figures else []
    for rank, name in [*floor, *ranked(row, results)]:
        cells = [figure(column, figures[name][column.key]) for column in row.columns]
        yield [str(rank), name, *cells]


def summary(row: Row, results: dict[str, Any]) -> list[str]:
    """Return title, floor, ours, our rank, and the best and the worst of the others."""
    figures, order = medians(row, results), ranked(row, results)

    def said(name: str) -> str:
        columns = row.columns[: 2 if row.columns[0].unit == "" else 1]
        return ", ".join(
            f"{figure(column, figures[name][column.key])}{_noun(column)}" for column in columns
        )

    others = [name for _, name in order if name != OURS]
    rank = next((str(rank) for rank, name in order if name == OURS), DASH)
    return [
        row.title,
        said(FLOOR) if FLOOR in figures else DASH,
        said(OURS) if OURS in figures else DASH,
        f"{rank} of {len(order)}",
        f"{others[0]}: {said(others[0])}" if others else DASH,
        f"{others[-1]}: {said(others[-1])}" if others else DASH,
    ]


def _noun(column: Column) -> str:
    return "" if column.unit else f" {column.title.lower()}"


def as_text(results: dict[str, Any]) -> str:
    """Return all tables for a terminal."""
    blocks = []
    for row in measured_rows(results):
        header = ["", "", *(column.title for column in row.columns)]
        table = [header, *lines_of(row, results)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        blocks.append("\n".join([f"{row.title} [{row.id}]", *lines]))
    return "\n\n".join(blocks)


# --- reStructuredText ---


_INTRODUCTION = """\
.. Written by ``tox -e bench``; do not edit.

.. _peers:

Benchmarks
==========

This package beside libraries that are used for the same job, each set up as its documentation says,
all measured in one run against one token endpoint (`how <peers-conditions_>`__). The *floor* is the
least that can be done. A figure is the median of several runs, and less is better. Ranks compare
all libraries; those that differ by no more than noise share one.
"""


def as_rst(results: dict[str, Any]) -> str:
    """Return the page: a summary with a line for each row, the plots, and a table for each row."""
    rows = measured_rows(results)
    heads = ("Row", "Floor", "identity-client", "Rank", "Best of the others", "Last")
    lines = [[f"`{row.title} <peers-{row.id}_>`__", *summary(row, results)[1:]] for row in rows]
    parts = [
        _INTRODUCTION,
        _table(heads, lines),
        *(_figure(name, title) for name, title, _ in PLOTS if _panels(name, results)),
        *(_section(row, results) for row in rows),
        _conditions(results),
    ]
    return "\n".join(parts)


def _figure(name: str, title: str) -> str:
    return "\n".join(
        f".. figure:: peers-{name}-{theme}.svg\n"
        f"   :figclass: only-{theme} diagram\n   :alt: {title}\n"
        for theme in THEMES
    )


def _section(row: Row, results: dict[str, Any]) -> str:
    heads = ("Rank", "Library", *(column.title for column in row.columns))
    lines = [f".. _peers-{row.id}:\n", row.title, "-" * len(row.title), "", row.text, ""]
    lines.append(_table(heads, lines_of(row, results)))
    reasons: dict[str, list[str]] = {}
    for name, reason in results["rows"][row.id]["not_measured"].items():
        if name != FLOOR:
            reasons.setdefault(reason, []).append(name)
    lines += [
        f"Not measured: {', '.join(names)} ({reason}).\n" for reason, names in reasons.items()
    ]
    return "\n".join(lines)


def _table(heads: tuple[str, ...], lines: Any) -> str:
    quoted = (", ".join(f'"{cell}"' for cell in line) for line in (heads, *lines))
    body = "\n".join(f"   {line}" for line in quoted)
    return f".. csv-table::\n   :header-rows: 1\n\n{body}\n"


def _conditions(results: dict[str, Any]) -> str:
    machine = results["machine"]
    title = "How it was measured"
    text = (
        f"``{results['command']}`` on {results['measured_at'][:10]}, in {results['seconds']} s: "
        f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB. Medians of several runs, each in a process of its own; "
        "all libraries against one token endpoint in another process, over HTTP on the loopback "
        "interface, or over TLS where a library insists on it."
    )
    note = f" {results['note']}" if results["note"] else ""
    lines = [
        [name, number, results["notes"].get(name, "")]
        for name, number in results["versions"].items()
    ]
    table = _table(("Library", "Version", "Set-up"), lines)
    return f".. _peers-conditions:\n\n{title}\n{'-' * len(title)}\n\n{text}{note}\n\n{table}"


# --- plots ---

THEMES = {
    "light": {"text": "#24292f", "bar": "#a0a8b2", "ours": "#0b69c7", "grid": "#d8dee4"},
    "dark": {"text": "#e6edf3", "bar": "#6e7681", "ours": "#58a6ff", "grid": "#3d444d"},
}

PLOTS = (
    (
        "cost",
        "What a token costs",
        (("cached-1", "ratio"), ("header", "us"), ("first-token", "ratio"), ("import", "made_ms")),
    ),
    (
        "threads",
        "Token requests of many callers at once",
        (("stampede-64", "requests"), ("stampede-1000", "requests"), ("failing-start", "requests")),
    ),
    (
        "faults",
        "What callers notice of a slow or failing endpoint",
        (
            ("slow-refresh", "stalled"),
            ("failing-refresh", "failed"),
            ("failing-refresh", "requests"),
            ("outage-past-end", "expired"),
        ),
    ),
)


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the page and the plots."""
    (folder / "peers.rst").write_text(as_rst(results))
    for name, title, _ in PLOTS:
        panels = _panels(name, results)
        for theme in THEMES if panels else ():
            _plot(panels, title, THEMES[theme], folder / f"peers-{name}-{theme}.svg")


def _panels(name: str, results: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    wanted = next(panels for plot, _, panels in PLOTS if plot == name)
    drawn = []
    for row_id, key in wanted:
        if row_id in results["rows"]:
            row = BY_ID[row_id]
            column = next(column for column in row.columns if column.key == key)
            values = {name: found[key] for name, found in medians(row, results).items()}
            drawn.append((f"{row.title}\n{_axis(column)}", values))
    return drawn


def _axis(column: Column) -> str:
    unit = f", {column.unit}" if column.unit and column.unit not in column.title else ""
    return column.title + unit


def _plot(
    panels: list[tuple[str, dict[str, float]]], title: str, colours: dict[str, str], path: Path
) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    names = sorted({name for _, values in panels for name in values} - {FLOOR, OURS})
    names = [*reversed(names), OURS]
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "peers", "font.family": "sans-serif"}
        | dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color"), colours["text"])
        | {"ytick.color": colours["text"], "axes.edgecolor": colours["grid"], "font.size": 9}
    )
    drawing, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.0 * len(panels) + 1.4, 0.27 * len(names) + 1.3),
        sharey=True,
        squeeze=False,
    )
    for axis, (label, values) in zip(axes[0], panels, strict=True):
        _draw(axis, names, label, values, colours)
    drawing.suptitle(title, fontweight="bold")
    drawing.tight_layout()
    drawing.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(drawing)


def _draw(
    axis: Any, names: list[str], label: str, values: dict[str, float], colours: dict[str, str]
) -> None:
    shown = [values.get(name, 0.0) for name in names]
    least = min((value for value in shown if value > 0), default=1.0)
    axis.set_xscale("symlog", linthresh=max(least, 0.1) if least < 1 else 1)
    hues = [colours["ours" if name == OURS else "bar"] for name in names]
    axis.barh(names, shown, color=hues, height=0.7)
    for position, name in enumerate(names):
        value = values.get(name)
        text = DASH if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
        axis.annotate(
            text,
            (value or 0, position),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if name == OURS else "normal",
        )
    if FLOOR in values:
        axis.axvline(values[FLOOR], color=colours["text"], linestyle=":", linewidth=1)
    axis.set_title(label, fontsize=9)
    axis.set_xlim(0, max([*shown, 1.0]) * 6)
    axis.tick_params(axis="x", labelbottom=False, length=0)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
