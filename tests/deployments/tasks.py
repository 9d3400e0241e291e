"""The same service, with a task in the place of the web application's view."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from deployments.app import call_another_service

celery = Celery("deployment", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])


@celery.task
def call() -> dict[str, Any]:
    return call_another_service()
