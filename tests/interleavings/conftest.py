"""The scheduler repeats schedules, so nothing else may be left to chance."""

from __future__ import annotations

import backoff
import pytest


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "full_jitter", lambda value: value / 2)
