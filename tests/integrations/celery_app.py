"""The app of the tests: tasks that report their process, and one that fails."""

from __future__ import annotations

import os
import time
from typing import Any

import requests
from celery import Celery

from identity_client import NotReadyError
from identity_client.integrations import celery as integration
from identity_client.integrations.celery import CeleryIdentity

# The seconds that a worker waits for its first token are few for a busy machine.
integration._GRACE = float(os.environ.get("GRACE", "30"))

app = Celery("orders", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
# Seconds for a child to come up: more than a busy machine takes, less than a request that hangs.
app.conf.worker_proc_alive_timeout = 8
wait = os.environ.get("WAIT")
identity = CeleryIdentity(app, wait=None if wait is None else float(wait))


@app.task
def call() -> dict[str, Any]:
    began = time.monotonic()
    response = requests.get(os.environ["RESOURCE_URL"], auth=identity.auth(), timeout=10)
    return {
        "pid": os.getpid(),
        "status": response.status_code,
        "seconds": time.monotonic() - began,
    }


@app.task(throws=(NotReadyError,))
def fail() -> None:
    raise NotReadyError("identity-api is down", state="UNAVAILABLE", attempts=3)


@app.task
def pid() -> int:
    return os.getpid()
