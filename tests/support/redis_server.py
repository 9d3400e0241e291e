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
from .ports import reserve_port

PASSWORD = "password-of-redis"


class RedisServer:
    """Starts, stops and restarts a server; a restarted one is empty.

    With a certificate, a file with its key and authority, too, it speaks TLS only.
    """

    def __init__(self, *options: str, port: int = 0, certificate: str | None = None) -> None:
        self._program = needs("redis-server", "apt install redis-server")
        self._options = options
        self._certificate = certificate
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = reserve_port(port)
        scheme = "redis" if certificate is None else "rediss"
        self.url = f"{scheme}://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def start(self) -> None:
        arguments = [*self._listen(), "--bind", "127.0.0.1", "--save", ""]
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

    def _listen(self) -> list[str]:
        if self._certificate is None:
            return ["--port", str(self.port)]
        files = [f"--tls-{kind}-file" for kind in ("cert", "key", "ca-cert")]
        return [
            *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *(argument for option in files for argument in (option, self._certificate)),
        ]

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
