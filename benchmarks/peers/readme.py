"""The five rows of the comparison in README.rst: ``python -m peers.readme`` writes them again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import report
from .rows import BY_ID

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
FIGURES = ROOT / "docs" / "benchmarks"
PAGE = "https://github.com/xemahq/identity-client-python/blob/main/docs/benchmarks/peers.rst"
TABLE = re.compile(r"^\.\. csv-table::\n   :header-rows: 1\n\n(?:   .*\n)+\n?", re.MULTILINE)
AFTER = "The `comparison`_ says"

# The rows that a service meets first: id, the figure, and what it is.
ROWS = (
    ("stampede-64", "requests", "token requests of 64 threads without a token"),
    ("slow-refresh", "stalled", "stalled calls while a refresh is slow"),
    ("failing-refresh", "failed", "failed calls while a refresh fails"),
    ("outage-past-end", "expired", "expired tokens served in an outage"),
    ("cached-1", "ratio", "time to return a cached token, relative to the minimum"),
)


def comparison(results: dict[str, Any]) -> str:
    """Return the table: our figure, and the range of the others."""
    lines = [_cells("of the benchmark", "this package", "the others")]
    for row_id, key, title in ROWS:
        row = BY_ID[row_id]
        column = next(column for column in row.columns if column.key == key)
        figures = {name: found[key] for name, found in report.medians(row, results).items()}
        ours = report.figure(column, figures.pop(report.OURS))
        figures.pop(report.FLOOR, None)
        least, most = (report.figure(column, pick(figures.values())) for pick in (min, max))
        span = least if least == most else f"{least.removesuffix(' x')} to {most}"
        lines.append(_cells(f"`{title} <{PAGE}#peers-{row_id}>`__", ours, span))
    return "\n".join([".. csv-table::", "   :header-rows: 1", "", *lines, ""])


def _cells(*cells: str) -> str:
    return "   " + ", ".join(f'"{cell}"' for cell in cells)


def main() -> None:
    readme = README.read_text(encoding="utf-8")
    table = comparison(report.load(FIGURES))
    text = TABLE.sub("", readme).replace(AFTER, f"{table}\n{AFTER}", 1)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
