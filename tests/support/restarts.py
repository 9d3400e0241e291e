"""An identity-api that is stopped and started again at the same address."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from identity_client.server import IdentityServer
from support.ports import reserve_port
from support.services import INTERNAL_TOKEN


@contextmanager
def restarted(api: IdentityServer, while_stopped: Callable[[], object]) -> Generator[None]:
    """Stop a server, call a function, and let another one take its place for a ``with`` block."""
    port = urlsplit(api.url).port
    assert port is not None
    api.stop()
    reserve_port(port)
    while_stopped()
    with IdentityServer(INTERNAL_TOKEN, port=port, backend=api.backend):
        yield
