"""A service as users write it: one object for the module, and a call of another service."""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from typing import Any

import requests
from flask import Flask

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

faulthandler.enable()  # see `Deployment.show_stacks`
logging.basicConfig(level=logging.INFO, format="%(process)d %(threadName)s %(message)s")

service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
service.start()
if "WAIT_AT_BOOT" in os.environ:
    assert service.wait_for_ready(10)

application = Flask(__name__)


@application.get("/")
def call_another_service() -> dict[str, Any]:
    began = time.monotonic()
    answer = requests.get(os.environ["RESOURCE_URL"], auth=service.auth(), timeout=10)
    return {
        "pid": os.getpid(),
        "status": answer.status_code,
        "seconds": time.monotonic() - began,
    }
