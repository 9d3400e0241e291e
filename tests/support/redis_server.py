"""A real Redis server on a free port of the loopback interface, which keeps nothing on disk."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from typing import Any, Self

import redis

from .needs import needs

PASSWORD = "password-of-redis"


class RedisServer:
    """Starts, stops and restarts a server; a restarted one is empty."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self._program = needs("redis-server", "apt install redis-server")
        self._options = options
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", port)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [self._program, *arguments, "--dir", self._folder.name, *self._options],
            stdout=subprocess.DEVNULL,
        )
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port)):
                    return
            except ConnectionRefusedError:
                assert self._process.poll() is None, "redis-server does not start"
                time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
