"""Ports of loopback that nobody else gets, until a server of the tests listens there."""

from __future__ import annotations

import socket

_reserved: list[socket.socket] = []


def reserve_port(port: int = 0) -> int:
    """Return a port that refuses connections until a server listens there.

    A socket stays bound to it without listening, so that the system gives it to no one else. A
    server that sets ``SO_REUSEADDR``, as servers do, can listen beside it.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", port))
    _reserved.append(reserved)
    found: int = reserved.getsockname()[1]
    return found
