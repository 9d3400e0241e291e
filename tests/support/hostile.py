"""Peers that a client should survive, each a listener on loopback."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

from .ports import reserve_port

Behaviour = Callable[[socket.socket, threading.Event], None]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def _drip(connection: socket.socket, stopped: threading.Event, text: bytes) -> None:
    for byte in text:
        connection.sendall(bytes([byte]))
        if stopped.wait(1.0):
            return


def says_nothing(connection: socket.socket, stopped: threading.Event) -> None:
    stopped.wait(30)


def drips_headers(connection: socket.socket, stopped: threading.Event) -> None:
    _drip(connection, stopped, _HEAD + b"Content-Length: 2\r\n\r\n{}")


def drips_body(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"Content-Length: 100\r\n\r\n")
    _drip(connection, stopped, b" " * 100)


def sends_without_end(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"\r\n")
    while not stopped.is_set():
        connection.sendall(b" " * 65536)


def redirects_without_end(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n")
    while not stopped.is_set():
        connection.sendall(b" " * 65536)


def trickles_fast(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"\r\n")
    while not stopped.is_set():
        connection.sendall(b" ")


def reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def resets_in_the_middle(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"Content-Length: 100\r\n\r\n{")
    reset_on_close(connection)


def breaks_off(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"Content-Length: 100\r\n\r\n{")


def closes_unanswered(connection: socket.socket, stopped: threading.Event) -> None:
    pass


def speaks_no_http(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"220 smtp.example.org ESMTP ready\r\n")


def sends_bad_gzip(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd")


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)


class HostileServer:
    """Lets `behaviour` deal with each connection, after the request has come.

    After all of it: closing a connection with something unread resets it.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            received = b""
            while not _is_whole(received) and not self._stopped.is_set():
                chunk = connection.recv(65536)
                if not chunk:
                    return
                received += chunk
            self._behaviour(connection, self._stopped)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    yield reserve_port()


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that never completes a connection: a listener whose queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(address)
        yield address[1]
