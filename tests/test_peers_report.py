"""The tables of the benchmark beside the peers: their ids, their order and their markup."""

from typing import Any

import pytest
from peers import report
from peers.rows import BY_ID, ROWS, Runs, ranking


@pytest.fixture
def results() -> dict[str, Any]:
    runs = {
        "floor": [{"ratio": 1.0, "ns": 100}],
        "identity-client": [{"ratio": 1.1, "ns": 110}, {"ratio": 1.3, "ns": 130}],
        "slow": [{"ratio": 40.0, "ns": 4000}],
        "equal": [{"ratio": 1.25, "ns": 125}],
    }
    return {
        "command": "tox -e bench",
        "measured_at": "2026-01-02T03:04:05Z",
        "seconds": 1,
        "note": "",
        "machine": {"python": "3.13", "system": "Linux", "cores": 2, "memory_gib": 8},
        "versions": {"slow": "1.0"},
        "notes": {},
        "rows": {"cached-1": {"runs": runs, "not_measured": {"mute": "no auth class"}}},
    }


def test_ids_of_rows_are_unique() -> None:
    assert len(BY_ID) == len(ROWS)


def test_libraries_that_differ_by_noise_share_a_rank_in_alphabetical_order() -> None:
    runs: dict[str, Runs] = {
        "b": [{"ratio": 1.0, "ns": 1}],
        "a": [{"ratio": 1.05, "ns": 2}],
        "c": [{"ratio": 9.0, "ns": 3}],
    }
    assert ranking(BY_ID["cached-1"], runs) == [(1, "a"), (1, "b"), (3, "c")]


def test_a_later_column_decides_where_the_first_does_not() -> None:
    runs: dict[str, Runs] = {
        "many": [{"failed": 0, "requests": 64, "seconds": 0.2}],
        "one": [{"failed": 0, "requests": 1, "seconds": 0.3}],
        "broken": [{"failed": 64, "requests": 1, "seconds": 0.1}],
    }
    order = [name for _, name in ranking(BY_ID["stampede-64"], runs)]
    assert order == ["one", "many", "broken"]


def test_a_table_holds_medians_and_begins_with_the_floor(results: dict[str, Any]) -> None:
    assert list(report.lines_of(BY_ID["cached-1"], results)) == [
        ["—", "floor", "1.00 x", "100 ns"],
        ["1", "equal", "1.25 x", "125 ns"],
        ["1", "identity-client", "1.20 x", "120 ns"],
        ["3", "slow", "40.0 x", "4,000 ns"],
    ]


def test_each_row_of_the_page_has_an_anchor_and_tells_what_is_missing(
    results: dict[str, Any],
) -> None:
    page = report.as_rst(results)
    assert "\n.. _peers-cached-1:\n" in page
    assert "Not measured: mute (no auth class)." in page


def recovery(ours: list[float], others: list[float]) -> dict[str, Any]:
    runs = {
        name: [{"seconds": seconds, "requests": 5} for seconds in figures]
        for name, figures in (("ours", ours), ("other", others), ("floor", [1, 1, 1]))
    }
    return {"rows": {"recovery": {"runs": runs, "not_measured": {}}}}


BEFORE = recovery([1, 1, 2], [7, 8, 9])


def test_libraries_that_changed_places_are_told() -> None:
    assert report.order_changes(BEFORE, BEFORE) == []
    (change,) = report.order_changes(recovery([8, 9, 9], [2, 3, 3]), BEFORE)
    assert change == "recovery: ours was better than other, now other is"


@pytest.mark.parametrize(
    ("ours", "others"), [([1, 8, 9], [2, 3, 3]), ([3, 3, 3], [2.9, 2.9, 2.9]), ([1, 2], [8, 9])]
)
def test_libraries_whose_runs_overlap_or_are_close_have_no_order(
    ours: list[float], others: list[float]
) -> None:
    assert report.order_changes(recovery(ours, others), BEFORE) == []
