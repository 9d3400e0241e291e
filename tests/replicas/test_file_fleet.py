"""Replicas on one machine that share a file, and, beside them, those that share nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contracts.fleet import FleetContract, MakeReplicas, figures

from identity_client.server import IdentityServer


class TestFileFleet(FleetContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "credentials.json"

    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"file://{path}"

    @pytest.fixture
    def empty(self, path: Path) -> Callable[[], object]:
        return lambda: path.unlink(missing_ok=True)

    def test_those_that_share_nothing_take_each_others_secret_away(
        self, api: IdentityServer, replicas: MakeReplicas
    ) -> None:
        backend: Any = api.backend
        replies = replicas(64, credential_store="memory:").do("token", timeout=5)
        served = sum("token" in reply for reply in replies)
        print(f"\n64 replicas on memory:, new: {served} tokens, {figures(api)}")
        assert served < 64
        assert backend.secrets_made > 1
