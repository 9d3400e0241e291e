"""A real Celery worker, asked through its broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from celery.states import READY_STATES

from .deployment import STARTS_WITHIN, TESTS, Answer, Deployment

APP = "integrations.celery_app"


class CeleryWorker(Deployment):
    """A worker of an app; a context manager that ends it.

    Args:
        options: those of ``celery worker``.
        environment: what is added to the environment; ``BROKER_URL`` is the broker's and backend's.
        log: the file for what it writes.
        app: its module.
        folder: where the module is.
    """

    def __init__(
        self,
        options: str,
        environment: Mapping[str, str],
        log: Path,
        *,
        app: str = APP,
        folder: Path = TESTS,
    ) -> None:
        command = f"celery --app={app} --workdir={folder} worker --loglevel=INFO {options}"
        super().__init__(command, environment, log)
        url = environment["BROKER_URL"]
        self._module = app
        self._sender: Any = Celery(broker=url)
        self._results: Any = Celery(backend=url).backend

    def run_task(self, name: str, *arguments: object) -> Any:
        """Run a task and return its result, or raise its error."""
        return self._result(self._send(name, *arguments))

    def ask_at_once(self, count: int) -> list[Answer]:
        """Queue many calls of the protected resource, and return their answers."""
        ids = [self._send("call") for _ in range(count)]
        answers = [Answer(**self._result(each)) for each in ids]
        self.answers += answers
        assert {answer.status for answer in answers} == {204}, answers
        return answers

    def wait_for(self, line: str) -> None:
        """Wait until the worker has logged ``line``."""
        deadline = time.monotonic() + STARTS_WITHIN
        while line not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def run_to_end(self) -> int:
        """Start it, wait until it has ended by itself, and return its exit status."""
        self.__enter__()
        status = self._process.wait(STARTS_WITHIN)
        self.kill()
        return status

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            super().__exit__(kind)
        finally:
            self._results.client.connection_pool.disconnect()

    def _send(self, name: str, *arguments: object) -> str:
        with self._sender.connection_for_write() as connection:
            task = f"{self._module}.{name}"
            sent = self._sender.send_task(task, arguments, connection=connection)
        task_id: str = sent.id
        return task_id

    def _result(self, task_id: str) -> Any:
        """Poll for a result: what Celery has to wait for one leaves its connections open."""
        deadline = time.monotonic() + STARTS_WITHIN
        while (found := self._results.get_task_meta(task_id))["status"] not in READY_STATES:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        if isinstance(found["result"], Exception):
            raise found["result"]
        return found["result"]

    def _ask(self) -> Answer:
        return Answer(**self.run_task("call"))

    def _wait_until_ready(self) -> None:
        pass  # tasks wait in the queue
