"""A resource server that revokes the token it accepts after every so many requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

_REDIRECTS = {"/to": 307, "/see": 303}


class Received(NamedTuple):
    path: str
    token: str | None
    body: bytes
    status: int


class RevokingResource:
    """Accepts each bearer token until it is revoked, and keeps what it received.

    ``/stream`` sends events until `finish_streams`; ``/to/<port>`` redirects to a port of this
    machine with the method and the body, and ``/see/<port>`` without them.

    Args:
        every: after how many accepted requests the token is revoked; None for never.
    """

    def __init__(self, every: int | None = None) -> None:
        self.received: list[Received] = []
        self.revoked: set[str] = set()
        self.revocations = 0
        self.streaming = threading.Event()
        self.before_answer: Callable[[], object] = lambda: None
        self._every = every
        self._accepted = 0
        self._lock = threading.Lock()
        self._finished = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _handle(self) -> None:
                body = b"".join(_body(self))
                scheme, _, token = self.headers.get("Authorization", "").partition(" ")
                given = token if scheme == "Bearer" else None
                status = outer._status(self.path, given)
                outer.received.append(Received(self.path, given, body, status))
                outer.before_answer()
                if status == 200 and self.path == "/stream":
                    self._stream()
                    return
                self.send_response(status)
                if status in _REDIRECTS.values():
                    port = self.path.rpartition("/")[2]
                    self.send_header("Location", f"http://127.0.0.1:{port}/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self._chunk(b"data: first\n\n")
                outer.streaming.set()
                outer._finished.wait(30)
                self._chunk(b"data: last\n\n")
                self._chunk(b"")

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            do_GET = do_POST = do_PUT = _handle

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client has gone

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.url: str = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def revoke(self, token: str) -> None:
        """Reject a token from now on."""
        self.revoked.add(token)

    def finish_streams(self) -> None:
        """Let the streams that are open come to their end."""
        self._finished.set()

    def tokens(self) -> list[str | None]:
        """Return the token of each request, in the order of the requests."""
        return [received.token for received in self.received]

    def _status(self, path: str, token: str | None) -> int:
        redirect = _REDIRECTS.get(path.rpartition("/")[0])
        if redirect is not None:
            return redirect
        with self._lock:
            if token is None or token in self.revoked:
                return 401
            self._accepted += 1
            if self._every is not None and self._accepted % self._every == 0:
                self.revoked.add(token)
                self.revocations += 1
            return 200

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish_streams()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _body(request: BaseHTTPRequestHandler) -> Iterator[bytes]:
    if request.headers.get("Transfer-Encoding") != "chunked":
        yield request.rfile.read(int(request.headers.get("Content-Length", 0)))
        return
    while length := int(request.rfile.readline(), 16):
        yield request.rfile.read(length)
        request.rfile.readline()
    request.rfile.readline()
