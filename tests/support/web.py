"""Runs a web application as its users would: a server or a command, and requests to it."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
import requests

from identity_client.server import AppServer

from .ports import reserve_port

EXAMPLES = Path(__file__).parents[2] / "examples"

WITHIN = 60.0


def program(command: str) -> list[str]:
    """Return the words of a command whose program is one of this Python's."""
    name, *arguments = command.split()
    path = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
    return [path, *arguments]


def run_command(
    command: str, folder: Path, environment: Mapping[str, str], *, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its exit status is checked."""
    done = subprocess.run(
        program(command),
        cwd=folder,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class WebServer:
    """A server process and its children; a context manager that ends them and checks the log.

    Args:
        command: the program and its options, with ``{port}`` for where to listen.
        folder: the working directory.
        environment: what is added to the environment.
        log: the file for what it writes.
    """

    def __init__(
        self, command: str, folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        port = reserve_port()
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._command = program(command.format(port=port))
        self._folder = folder
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._log = log
        self._process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> requests.Response:
        """Request a path over a connection of its own."""
        return requests.get(self.url + path, timeout=WITHIN)

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Wait until a text is in the log that often."""
        deadline = time.monotonic() + WITHIN
        while self.log.count(text) < count:
            assert time.monotonic() < deadline, f"{text!r} is not there {count} times: {self.log}"
            assert self._process.poll() is None, self.log
            time.sleep(0.02)

    def wait_until(self, path: str, status: int) -> None:
        """Wait until a path returns an HTTP status."""
        deadline = time.monotonic() + WITHIN
        while (response := self.get(path)).status_code != status:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.05)

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        print(self.log)
        if kind is None:
            assert "Traceback" not in self.log


@contextmanager
def load(server: WebServer, path: str, threads: int = 4) -> Iterator[list[int]]:
    """Request a path from threads meanwhile, and yield the HTTP statuses that come back."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            statuses.append(server.get(path).status_code)

    callers = [threading.Thread(target=ask) for _ in range(threads)]
    for caller in callers:
        caller.start()
    try:
        yield statuses
    finally:
        ended.set()
        for caller in callers:
            caller.join()


@contextmanager
def inventory(issuer: str, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the service that the examples call, which trusts an issuer; yield its address."""
    environment.setenv("ISSUER", issuer)
    app = runpy.run_path(str(EXAMPLES / "inventory" / "inventory.py"))["app"]
    with AppServer(app) as server:
        yield server.url
