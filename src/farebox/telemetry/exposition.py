"""Where metrics are read: a listener of its own, apart from the port that the public calls.

It runs on threads of its own, so that it answers while the event loop is too busy to, which is when one wants to know.
"""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

PATH: Final = "/metrics"
_TIMEOUT_S: Final = 10.0


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bound: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(bound.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asked has gone away in the middle, and will ask again."""


@contextmanager
def listening(bound: socket.socket, registry: Collector) -> Iterator[None]:
    """Answers `GET /metrics` on a bound and listening socket, which it closes in the end."""
    listener = _Listener(bound, _handler(registry))
    thread = threading.Thread(target=listener.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def _handler(registry: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version = "farebox"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self._answer(404, "text/plain", b"metrics are at /metrics\n")
                return
            encode, content_type = choose_encoder(self.headers.get("accept", ""))
            body = encode(registry)
            if gzip_accepted(self.headers.get("accept-encoding", "")):
                self._answer(200, content_type, gzip.compress(body), ("content-encoding", "gzip"))
            else:
                self._answer(200, content_type, body)

        def _answer(self, status: int, content_type: str, body: bytes, *extra: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (("content-type", content_type), ("content-length", str(len(body))), *extra):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a scrape is not worth a line."""

    return Handler
