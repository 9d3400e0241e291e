"""A small fleet in the simulation: what came in step goes on out of step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIMULATION = Path(__file__).parents[1] / "benchmarks" / "fleet.py"
REPLICAS = 500
EVEN_PACE = REPLICAS / 270
# The longest pause between token requests is drawn from 15 s to 30 s.
RETURN_PACE = REPLICAS / 22.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Any]:
    """What was seen, by scenario, without and with jitter."""
    done = subprocess.run(
        [sys.executable, str(SIMULATION), "--replicas", str(REPLICAS), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("fleet"),
    )
    return {(run["scenario"], run["jitter"]): run for run in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("scenario", "phase", "at_most"),
    [
        pytest.param("boot", "minutes 2 to 15", 8 * EVEN_PACE, id="the refreshes after a boot"),
        pytest.param("boot", "minutes 16 to 40", 8 * EVEN_PACE, id="and the later ones"),
        pytest.param("outage", "the outage", 0.2 * REPLICAS, id="retries while nobody answers"),
        pytest.param(
            "outage", "6 minutes after it", 2 * RETURN_PACE, id="the return from an outage"
        ),
        pytest.param("overload", "up to minute 4", 0.2 * REPLICAS, id="the end of a Retry-After"),
        pytest.param("overload", "the rest", 8 * EVEN_PACE, id="and the refreshes after it"),
    ],
)
def test_a_fleet_that_was_in_step_does_not_stay_in_step(
    runs: dict[tuple[str, bool], Any], scenario: str, phase: str, at_most: float
) -> None:
    assert runs[scenario, False]["peaks"][phase] > 0.5 * REPLICAS
    assert runs[scenario, True]["peaks"][phase] < at_most


def test_jitter_costs_few_requests_and_keeps_nobody_waiting_beyond_the_longest_pause(
    runs: dict[tuple[str, bool], Any],
) -> None:
    assert runs["boot", True]["total"] < 1.15 * runs["boot", False]["total"]
    assert runs["boot", True]["all_served_after"] <= 1
    assert runs["outage", True]["all_served_after"] <= 30
