"""Connections with one deadline for everything, on top of urllib3's."""

from __future__ import annotations

import errno
import http.client
import io
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError

_STAGGER = 0.25  # seconds until the next address is tried beside the first (RFC 8305 section 5)
_LEAST = 0.001


class Deadline(Timeout):
    """A moment at which all ends; urllib3 would start again with each connection that it makes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(total=max(seconds, _LEAST))
        self._ends = time.monotonic() + seconds

    def clone(self) -> Deadline:
        return self

    def start_connect(self) -> float:
        return time.monotonic()

    @property
    def connect_timeout(self) -> float:
        return max(self._ends - time.monotonic(), _LEAST)

    @property
    def read_timeout(self) -> float:
        return self.connect_timeout


class StaleConnection(ConnectionError):
    """A connection that had served before was closed by the other side before it answered."""


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment, where a socket's own timeout starts anew with every byte.

    The deadline is the timeout that the socket has when the response begins; urllib3 sets it to
    what is left of the total.
    """

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(remaining)
        return cast("int | None", cast(Any, self._raw).readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach()))

    def _read_status(self) -> tuple[int, int, str]:
        """Make http.client skip every interim response, where it skips 100 only.

        The final response would otherwise stay in the connection and answer the next request.
        """
        version, status, reason = cast(Any, super())._read_status()
        if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            raise http.client.BadStatusLine("101")
        return version, 100 if 100 <= status < 200 else status, reason


class _BoundedConnection(HTTPConnection):
    response_class = _DeadlineResponse
    debuglevel = 0  # http.client's switch prints headers, and so secrets
    _has_answered = False
    _ends = 0.0

    def connect(self) -> None:
        self._has_answered = False
        self._ends = time.monotonic() + cast(float, self.timeout)
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        with self._translate_errors():
            super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        with self._translate_errors():
            response = super().getresponse()
        self._has_answered = True
        return response

    def _new_conn(self) -> socket.socket:
        try:
            addresses = socket.getaddrinfo(
                self.host.strip("[]"), self.port, type=socket.SOCK_STREAM
            )
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        return _connected(addresses, self._ends, cast(Any, self.socket_options) or ())

    def _tunnel(self) -> None:
        cast(Any, super())._tunnel()
        self.sock.settimeout(max(self._ends - time.monotonic(), _LEAST))

    @contextmanager
    def _translate_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (ConnectionResetError, BrokenPipeError) as error:
            if self._has_answered:
                raise StaleConnection from error
            raise


class _BoundedTlsConnection(_BoundedConnection, HTTPSConnection):
    pass


class _BoundedPool(HTTPConnectionPool):
    ConnectionCls = cast(Any, _BoundedConnection)


class _BoundedTlsPool(HTTPSConnectionPool):
    ConnectionCls = cast(Any, _BoundedTlsConnection)


POOLS = {"http": _BoundedPool, "https": _BoundedTlsPool}


def _connected(addresses: Sequence[Any], ends: float, options: Sequence[Any]) -> socket.socket:
    """Connect to the first address that answers; all may be under way at once (RFC 8305).

    Raises:
        OSError: none could be connected to; the last failure.
    """
    waiting = deque(addresses)
    failure = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    try:
                        _begin(waiting.popleft(), selector, options)
                    except OSError as error:  # of a family that this process may not use
                        failure = error
                        continue
                remaining = ends - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("timed out")
                for key, _ in selector.select(min(remaining, _STAGGER) if waiting else remaining):
                    sock = cast(socket.socket, key.fileobj)
                    selector.unregister(sock)
                    code = key.data or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        sock.settimeout(max(ends - time.monotonic(), _LEAST))
                        return sock
                    sock.close()
                    failure = OSError(code, os.strerror(code))
            raise failure
        finally:
            for key in list(selector.get_map().values()):
                cast(socket.socket, key.fileobj).close()


def _begin(address: Any, selector: selectors.BaseSelector, options: Sequence[Any]) -> None:
    """Begin to connect; the selector tells the end, with the error of a failure at once as data."""
    family, kind, protocol, _, target = address
    sock = socket.socket(family, kind, protocol)
    for option in options:
        sock.setsockopt(*option)
    sock.setblocking(False)
    code = sock.connect_ex(target)
    under_way = code in (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
    selector.register(sock, selectors.EVENT_WRITE, None if under_way else code)
