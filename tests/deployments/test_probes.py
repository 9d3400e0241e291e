"""Pods that nothing but a readiness probe asks: they become ready, and stay it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.deployment import WebDeployment

from identity_client.server import IdentityServer

LIFETIME = 10.0
REFRESH_RATIO = "0.5"  # leaves a slow machine two seconds for each refresh
READY_WITHIN = 5.0  # as a probe sees it that is made each 0.1 s
WORKERS = 2


class ProbedDeployment(WebDeployment):
    """One whose workers may answer that they are not ready."""

    def probe(self) -> tuple[int, bool]:
        """Return the worker that answered, and whether it is ready."""
        answer = self._ask()
        self.answers.append(answer)
        return answer.pid, answer.status == 204


@pytest.mark.parametrize(
    ("made", "path"),
    [
        ("before the fork", "/status"),
        ("and waited for", "/status"),
        ("by the first probe", "/is-ready"),
    ],
)
def test_a_worker_that_is_only_probed_becomes_ready_and_stays_it(
    api: IdentityServer,
    environment: dict[str, str],
    tmp_path: Path,
    made: str,
    path: str,
) -> None:
    api.backend.change(token_lifetime=LIFETIME)
    command = f"gunicorn --bind={{address}} --workers={WORKERS} --preload deployments.probed"
    environment |= {"MADE": made, "IDENTITY_REFRESH_RATIO": REFRESH_RATIO}
    with ProbedDeployment(command, environment, tmp_path / "log", path) as server:
        ready: set[int] = set()
        first_asked: dict[int, float] = {}
        deadline = time.monotonic() + 60
        while len(ready) < WORKERS:
            assert time.monotonic() < deadline
            pid, is_ready = server.probe()
            now = time.monotonic()
            first_asked.setdefault(pid, now)
            if is_ready and pid not in ready:
                ready.add(pid)
                assert now - first_asked[pid] <= READY_WITHIN
            time.sleep(0.1)
        tokens_before = api.backend.requests["token"]
        until = time.monotonic() + 3 * LIFETIME
        while time.monotonic() < until:
            pid, is_ready = server.probe()
            assert is_ready, pid
            time.sleep(0.1)
        assert api.backend.requests["token"] - tokens_before >= 2 * WORKERS
