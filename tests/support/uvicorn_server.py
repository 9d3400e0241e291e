"""uvicorn with an application, as a real process."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

import requests

from .deployment import ENDS_WITHIN, STARTS_WITHIN, Answer, Deployment
from .ports import reserve_port


class UvicornServer(Deployment):
    """A server of the application in ``main.py``; a context manager that ends it.

    Args:
        folder: where ``main.py`` is.
        options: those of uvicorn.
        environment: what is added to the environment.
        log: the file for what it writes.
    """

    def __init__(
        self, folder: Path, options: str, environment: Mapping[str, str], log: Path
    ) -> None:
        port = reserve_port()
        self.url = f"http://127.0.0.1:{port}"
        command = f"uvicorn --app-dir={folder} main:app --host=127.0.0.1 --port={port} {options}"
        super().__init__(command, environment, log)

    def get(self, path: str) -> requests.Response:
        """Request a path over a connection of its own."""
        return requests.get(f"{self.url}{path}", timeout=STARTS_WITHIN)

    def wait_for(self, path: str, status: int = 200) -> requests.Response:
        """Request a path until it responds with a status."""
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            response = self.get(path)
            if response.status_code == status:
                return response
            assert time.monotonic() < deadline, response.text
            time.sleep(0.05)

    def run_to_end(self) -> int:
        """Start it, wait until it has ended by itself, and return its exit status."""
        self.__enter__()
        status = self._process.wait(STARTS_WITHIN)
        self.kill()
        return status

    def _ask(self) -> Answer:
        began = time.monotonic()
        document = self.get("/stock/1").json()
        return Answer(document["pid"], document["status"], time.monotonic() - began)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while self._process.poll() is None:
            try:
                self.get("/live").raise_for_status()
            except requests.ConnectionError:
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)
            else:
                return

    def _end(self) -> None:
        self._process.terminate()
        # uvicorn ends by the signal once it has shut down.
        assert self._process.wait(ENDS_WITHIN) in (0, -signal.SIGTERM)
