"""A service that only probes ask: made before the fork or by the first probe."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from flask import Flask

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService, ServiceState

logging.basicConfig(level=logging.INFO, format="%(process)d %(threadName)s %(message)s")


@cache
def service() -> IdentityBootstrapService:
    return IdentityBootstrapService(IdentityBootstrapConfig.from_env())


if os.environ["MADE"] != "by the first probe":
    service().start()
if os.environ["MADE"] == "and waited for":
    assert service().wait_for_ready(30)

application = Flask(__name__)


@application.get("/status")
def status() -> dict[str, Any]:
    return answer(service().status().state is ServiceState.READY)


@application.get("/is-ready")
def is_ready() -> dict[str, Any]:
    return answer(service().is_ready())


def answer(ready: bool) -> dict[str, Any]:
    return {"pid": os.getpid(), "status": 204 if ready else 503, "seconds": 0.0}
