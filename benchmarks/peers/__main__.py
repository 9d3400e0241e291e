"""Measure all libraries in one run and write the tables and plots."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import report
from .adapters import PEERS
from .rows import BY_ID
from .run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peers", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("../docs/benchmarks"), help="the folder to write to"
    )
    parser.add_argument("--rows", default=",".join(BY_ID), help="ids of rows, with commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="libraries, with commas")
    parser.add_argument("--note", default="", help="what else there is to say of this run")
    parser.add_argument("--render", action="store_true", help="only write tables and plots again")
    parser.add_argument(
        "--compare",
        type=Path,
        help="only tell which libraries have changed places since this JSON file",
    )
    options = parser.parse_args()
    if not options.render and options.compare is None:
        rows = [BY_ID[row] for row in options.rows.split(",")]
        peers = [PEERS[peer] for peer in options.peers.split(",")]
        report.save(run(rows, peers, options.note), options.output)
    results = report.load(options.output)
    if options.compare is not None:
        changes = report.order_changes(results, report.load_file(options.compare))
        print("\n".join(changes) or "No two libraries have changed places in any row.")
        return 1 if changes else 0
    report.write(results, options.output)
    print(report.as_text(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
