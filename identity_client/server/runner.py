"""Serves the reference identity-api: in a thread for tests and the demo, or until interrupted."""

# pyright: basic
# cheroot's types are partial.

from __future__ import annotations

import errno
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import unquote_to_bytes

from cheroot import wsgi
from cheroot.server import HTTPConnection
from flask import Flask

from ..errors import IdentityError
from .app import create_app
from .backend import EmbeddedBackend
from .faults import STOPPING, ServerSettings
from .scenario import Scenario

_T = TypeVar("_T")

_log = logging.getLogger("identity_client.server")

# How often is looked whether the server is to stop; one in a test stops within this time.
_POLL = 0.05

# How many ports are tried before the last one.
_MORE_PORTS = 3

# Each replica of a service keeps two.
_MAX_CONNECTIONS = 10_000


class _Connection(HTTPConnection):
    """A connection that forgets what its client did not take."""

    def close(self) -> None:
        super().close()
        # cheroot leaves this to the garbage collector, where the failing write would be reported.
        with suppress(OSError):
            self.wfile.close()


class _Server(wsgi.Server):
    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        _log.log(level, "HTTP server: %s", msg, exc_info=traceback)


class AppServer:
    """An app of this package on one port; a context manager.

    It listens from the moment that it is made, and answers once it is started.

    Args:
        app: the app.
        host: the address to listen on; loopback by default.
        port: the port, 0 for a free one.
        threads: how many requests are handled at once.

    Attributes:
        url: its address.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self, app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 16
    ) -> None:
        self._stopping = threading.Event()
        self._server = _in_daemon_thread(lambda: self._listen(app, host, port, threads))
        shown = f"[{host}]" if ":" in host else host
        self.url: str = f"http://{shown}:{self._server.bind_addr[1]}"
        self._thread = threading.Thread(target=self._server.serve, name="identity-api", daemon=True)

    def run(self) -> None:
        """Serve until this thread is interrupted, or until `stop` is called in another.

        Raises:
            IdentityError: the server ended by itself.
        """
        # Not in this thread: an interrupt in the middle of cheroot's loop could be lost there, or
        # leave the loop in a state that `stop` waits for.
        with suppress(KeyboardInterrupt):
            self.start()
            while self._thread.is_alive() and not self._stopping.is_set():
                time.sleep(_POLL)  # Windows interrupts a sleep, and no other wait
            # Checked again, because `stop` ends the thread, too.
            if not self._stopping.is_set():
                raise IdentityError(
                    "the HTTP server ended unexpectedly; see the log, and start it again"
                )

    def start(self) -> None:
        """Serve in a daemon thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections, cut off the requests in flight, and end all threads.

        Harmless when it was not started, or stopped before.
        """
        self._stopping.set()
        self._server.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _listen(self, app: Flask, host: str, port: int, threads: int) -> _Server:
        for _ in range(0 if port else _MORE_PORTS):
            with suppress(OSError):  # another process took the port that was free
                return self._listen_on(app, host, _free_port(host, 0), threads)
        return self._listen_on(app, host, _free_port(host, port), threads)

    def _listen_on(self, app: Flask, host: str, port: int, threads: int) -> _Server:
        server = _Server(
            (host, port),
            self._wsgi(app),
            numthreads=threads,
            server_name="identity-api",
            request_queue_size=1024,
            shutdown_timeout=0,  # what is in flight is cut off
        )
        server.ConnectionClass = _Connection
        server.expiration_interval = _POLL
        server.max_request_header_size = 64 * 1024
        server.keep_alive_conn_limit = _MAX_CONNECTIONS
        server.prepare()
        return server

    def _wsgi(self, app: Flask) -> Callable[..., Iterable[bytes]]:
        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ[STOPPING] = self._stopping
            _decode_path(environ)
            _read_chunks(environ, app.config["MAX_CONTENT_LENGTH"])
            response = app(environ, start_response)
            if self._stopping.is_set():
                raise _abort("the server stops")
            return response

        return serve

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class IdentityServer(AppServer):
    """An identity-api with a token endpoint, on one port; a context manager.

    For development and tests: it keeps everything in memory, and its token endpoint knows one
    grant only. While it runs, ``backend`` changes settings and clients, and ``backend.log`` tells
    which requests came in.

    Args:
        internal_token: the bearer token that callers must have.
        host: the address to listen on; loopback by default.
        port: the port, 0 for a free one.
        settings: token lifetime and faults to begin with; not with a backend, which has its own.
        backend: what it keeps, if not a new `EmbeddedBackend`.
        threads: how many requests are handled at once.
        scenario: faults to play from the start on.
        page_key: opens ``/dev/``, beside the internal token; None for the internal token alone.

    Attributes:
        backend: what it keeps; change it while the server runs.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self,
        internal_token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: ServerSettings | None = None,
        backend: EmbeddedBackend | None = None,
        threads: int = 16,
        scenario: Scenario | None = None,
        page_key: str | None = None,
    ) -> None:
        self.backend: EmbeddedBackend = backend or EmbeddedBackend(settings)
        self._scenario = scenario
        app = create_app(internal_token, self.backend, page_key=page_key)
        super().__init__(app, host=host, port=port, threads=threads)

    def start(self) -> None:
        if self._scenario is not None:
            play = threading.Thread(
                target=self._scenario.play,
                args=(self.backend, self._stopping),
                name="identity-api scenario",
                daemon=True,
            )
            play.start()
        super().start()


def _free_port(host: str, port: int) -> int:
    """Return a port, a free one for 0; raise the system's error if it cannot be listened on.

    cheroot raises an error without errno, and on port 0 it listens without SO_REUSEADDR: the port
    would stay unusable for a minute after the server has stopped.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        free: int = listener.getsockname()[1]
    return free


def _decode_path(environ: dict[str, Any]) -> None:
    # cheroot leaves %2F as it is, so that it cannot be told from %252F.
    path, _, _ = environ["REQUEST_URI"].partition("?")
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1")


def _read_chunks(environ: dict[str, Any], limit: int) -> None:
    # Werkzeug would cut off a chunked body at the limit; one with a length it rejects.
    if environ["wsgi.input_terminated"]:
        try:
            body = environ["wsgi.input"].read(limit + 1)
        except ValueError:
            raise _abort("the body's chunks are malformed") from None
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        del environ["HTTP_TRANSFER_ENCODING"]


def _abort(reason: str) -> ConnectionAbortedError:
    """Return the error on which cheroot closes the connection without a response."""
    return ConnectionAbortedError(errno.ECONNABORTED, reason)


def _in_daemon_thread(call: Callable[[], _T]) -> _T:
    """Call something whose threads must not keep the interpreter alive: they inherit that."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  # raised below, in the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()
