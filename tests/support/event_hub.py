"""The event hub of the examples: its receiver and its producer, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests

from .services import INTERNAL_TOKEN

FOLDER = Path(__file__).parents[2] / "examples" / "event-hub"
LIMIT = 60.0
CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "/test", "type": "example.test"}


class Receiver:
    """The receiver under Flask's own server; a context manager that ends it.

    Args:
        settings: its environment variables.
    """

    def __init__(self, **settings: str) -> None:
        self._environment = {**os.environ, **settings}
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "receiver", "run", "--port", "0"],
            cwd=FOLDER,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if " * Running on " in line:
                self.url = f"{line.split()[3]}/events"
                break
        self._reader = threading.Thread(target=self._process.stderr.read)
        self._reader.start()
        assert self.url, "the receiver does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(LIMIT)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def post(self, token: str | None, event: object = None, **headers: str) -> requests.Response:
        """Publish an event with a token, or without one."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return requests.post(
            self.url,
            json=CLOUD_EVENT if event is None else event,
            headers={"Content-Type": "application/cloudevents+json", **headers},
            timeout=LIMIT,
        )

    def events(self, token: str) -> list[dict[str, Any]]:
        """Return what it has accepted."""
        response = requests.get(
            self.url, headers={"Authorization": f"Bearer {token}"}, timeout=LIMIT
        )
        events: list[dict[str, Any]] = response.json()
        return events


def produce(api_url: str, receiver: Receiver, *numbers: str) -> subprocess.CompletedProcess[str]:
    """Run the producer, and wait for its end."""
    environment: Mapping[str, str] = {
        **os.environ,
        "IDENTITY_API_URL": api_url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "SERVICE_NAME": "orders",
        "EVENT_HUB_URL": receiver.url,
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "producer.py", *numbers],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
