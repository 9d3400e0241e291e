"""Serves the reference identity-api: in a thread for tests and the demo, or until interrupted."""

from __future__ import annotations

import socket
import threading
from typing import Any, Self

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

from .app import create_app
from .backend import EmbeddedBackend
from .switchboard import Settings


class AppServer:
    """An app of this package on one port; a context manager.

    Args:
        app: the app.
        host: the address to listen on; loopback unless told otherwise.
        port: the port, 0 for a free one.
        threads: how many requests are handled at once.

    Attributes:
        url: its address.
    """

    def __init__(
        self, app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 16
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self._server: Any = create_server(
            app,
            sockets=[listener],
            threads=threads,
            connection_limit=1000,  # each replica of a service keeps two connections
            ident="identity-api",
            clear_untrusted_proxy_headers=True,
        )
        shown = f"[{host}]" if ":" in host else host
        self.url: str = f"http://{shown}:{listener.getsockname()[1]}"
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self.run, name="identity-api", daemon=True)

    def run(self) -> None:
        """Serve in this thread until an interrupt, or until `stop` is called in another."""
        with self._running:
            self._server.run()

    def start(self) -> None:
        """Serve in a daemon thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and end what serves; harmless when nothing does."""
        if self._server._map:
            self._server.trigger.pull_trigger(self._close_all)
        with self._running:
            self._close_all()
        self._server.task_dispatcher.shutdown()
        self._server.trigger.close()

    def _close_all(self) -> None:
        # In the thread of the server's loop, if it runs: it ends when nothing is left to poll. The
        # trigger's pipe stays open: threads that are done with a request still write to it.
        for channel in list(self._server._map.values()):
            wasyncore.dispatcher.close(channel)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class IdentityServer(AppServer):
    """An identity-api with a token endpoint, on one port; a context manager.

    For development and tests: it keeps everything in memory, and its token endpoint knows one
    grant only.

    Args:
        internal_token: the bearer token that callers must have.
        host: the address to listen on; loopback unless told otherwise.
        port: the port, 0 for a free one.
        settings: token lifetime and faults to begin with; not with a backend, which has its own.
        backend: what it keeps, if not a new `EmbeddedBackend`.
        threads: how many requests are handled at once.

    Attributes:
        backend: what it keeps; change it while the server runs.
    """

    def __init__(
        self,
        internal_token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Settings | None = None,
        backend: EmbeddedBackend | None = None,
        threads: int = 16,
    ) -> None:
        self.backend: EmbeddedBackend = backend or EmbeddedBackend(settings)
        app = create_app(internal_token, self.backend)
        super().__init__(app, host=host, port=port, threads=threads)

    def __enter__(self) -> Self:
        self.start()
        return self
