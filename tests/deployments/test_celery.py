"""Celery: the service made before the pool forks, tasks that need it, on a Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from contracts.deployment import DeploymentContract, Run
from support.deployment import STARTS_WITHIN, Answer, Deployment
from support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class CeleryDeployment(Deployment):
    def __init__(self, command: str, environment: dict[str, str], log: Path) -> None:
        super().__init__(command, environment, log)
        url = environment["BROKER_URL"]
        self._celery = Celery(broker=url, backend=url)

    def _ask(self) -> Answer:
        result = self._celery.send_task("deployments.tasks.call")
        return Answer(**result.get(timeout=STARTS_WITHIN))

    def _wait_until_ready(self) -> None:
        pass  # tasks wait in the queue


@pytest.fixture
def run(redis: RedisServer, environment: dict[str, str], tmp_path: Path) -> Run:
    def run(workers: int, *, recycle_after: int = 0, **settings: str) -> Deployment:
        redis.client.flushall()
        command = (
            "celery --app=deployments.tasks worker --pool=prefork --loglevel=INFO "
            f"--concurrency={workers}"
        )
        if recycle_after:
            command += f" --max-tasks-per-child={recycle_after}"
        told = {**environment, "BROKER_URL": redis.url, **settings}
        return CeleryDeployment(command, told, tmp_path / "log")

    return run


class TestCelery(DeploymentContract):
    """What is true under every server."""
