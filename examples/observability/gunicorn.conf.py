"""gunicorn with Prometheus in multiprocess mode: the gauges of a worker end with it."""

from typing import Any

from prometheus_client import multiprocess


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)
