"""The cache against its model, under random sequences of what can happen."""

from __future__ import annotations

from support.cache_model import explore_cache


def test_the_cache_does_what_its_model_does() -> None:
    explore_cache()
