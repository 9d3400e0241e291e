"""A service that logs JSON; it needs the variables of a service."""

import json
import logging.config
from pathlib import Path

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

if __name__ == "__main__":
    settings = Path(__file__).with_name("logging.json").read_text(encoding="utf-8")
    logging.config.dictConfig(json.loads(settings))
    with IdentityBootstrapService(IdentityBootstrapConfig.from_env()) as service:
        service.wait_for_ready(10)
