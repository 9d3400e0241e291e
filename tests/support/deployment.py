"""Runs a server as its operators would, and asks its workers until all of them have answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import requests

from .ports import reserve_port

TESTS = Path(__file__).parent.parent

STARTS_WITHIN = 60.0
ANSWERS_WITHIN = 20.0
ENDS_WITHIN = 25.0  # less than the 30 s after which gunicorn kills its workers


class Answer(NamedTuple):
    """What a worker says of its call of the protected resource."""

    pid: int
    status: int
    seconds: float


class Deployment(ABC):
    """A server and its workers; a context manager that ends all of them, and checks how they end.

    Args:
        command: the server's program, which is one of this Python's, and its options.
        environment: what is added to the environment.
        log: the file for what they write.
    """

    def __init__(self, command: str, environment: Mapping[str, str], log: Path) -> None:
        program, *arguments = command.split()
        self._command = [str(Path(sys.executable).with_name(program)), *arguments]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes]
        self.answers: list[Answer] = []

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def pids_of_all(self, count: int, *, without: Collection[int] = ()) -> set[int]:
        """Ask until `count` workers have answered that are not among those to be replaced."""
        found: set[int] = set()
        began = time.monotonic()
        deadline = began + STARTS_WITHIN

        def ask_on() -> None:
            while len(found) < count:
                assert time.monotonic() < deadline, f"only {len(found)} workers answer"
                pid = self.ask().pid
                if pid not in without:
                    found.add(pid)

        with ThreadPoolExecutor(2 * count) as askers:
            waiting = [askers.submit(ask_on) for _ in range(2 * count)]
            if any(asker.exception() for asker in waiting):
                self.show_stacks()
            for asker in waiting:
                asker.result()
        print(f"{len(found)} workers answered in {time.monotonic() - began:.2f} s")
        return found

    def show_stacks(self) -> None:
        """Let workers that hang write to the log where they do; it ends them."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text(encoding="ascii").split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGABRT)
        time.sleep(2)

    def ask(self) -> Answer:
        answer = self._ask()
        self.answers.append(answer)
        assert answer.status == 204, answer
        assert answer.seconds < ANSWERS_WITHIN, answer
        return answer

    @abstractmethod
    def _ask(self) -> Answer:
        """Ask a worker, whichever it is."""

    @abstractmethod
    def _wait_until_ready(self) -> None: ...

    def tell_to_reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=TESTS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                slowest = max((answer.seconds for answer in self.answers), default=0.0)
                print(f"{len(self.answers)} answers, the slowest in {slowest:.2f} s")
                if self._process.returncode is None:
                    self._end()
                assert "Traceback" not in self.log
        finally:
            self.kill()
            print(self.log)

    def _end(self) -> None:
        self._process.terminate()
        assert self._process.wait(ENDS_WITHIN) == 0
        deadline = time.monotonic() + ENDS_WITHIN
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.01)
            raise AssertionError("a process is left")


class WebDeployment(Deployment):
    """One that is asked over HTTP, each time over a connection of its own.

    Args:
        command: the same, with ``{address}`` for where to listen.
        environment: what is added to the environment.
        log: the file for what they write.
        path: what is asked for.
    """

    def __init__(
        self, command: str, environment: Mapping[str, str], log: Path, path: str = "/"
    ) -> None:
        self._port = reserve_port()
        self._path = path
        address = f"127.0.0.1:{self._port}"
        super().__init__(command.format(address=address), environment, log)

    def _ask(self) -> Answer:
        url = f"http://127.0.0.1:{self._port}{self._path}"
        return Answer(**requests.get(url, timeout=STARTS_WITHIN).json())

    def _wait_until_ready(self) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, self.log
                time.sleep(0.02)
            else:
                return
