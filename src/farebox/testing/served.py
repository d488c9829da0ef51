"""Fakes behind real sockets on loopback, for clients that others made: over HTTP, and as a JSON-RPC socket.

A fake answers one call after the other. Where it gives no reply, the connection is closed without one.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn

from farebox.core.conversation import HttpCall, HttpReply, Line
from farebox.core.secret import Secret

Answer = Callable[[HttpCall], HttpReply]


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """A fake at an address of its own, which is given out."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = Secret("\n".join(f"{name.lower()}: {value}" for name, value in self.headers.items()))
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:
                reply = answer(HttpCall(method=self.command, url=f"http://fake{self.path}", headers=headers, body=body))
            if reply.status == 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_PATCH = do_POST

        def log_message(self, *told: object) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with _running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@contextmanager
def served_socket(answer: Answer, path: Path) -> Iterator[None]:
    """A fake of Core Lightning at its JSON-RPC socket."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked, text = _first_object(self.connection), ""
            if asked is None:
                return
            call = HttpCall(
                method="POST",
                url=f"unix:///rpc/{asked['method']}",
                body=json.dumps(asked["params"]).encode(),
                line=Line(socket=str(path)),
            )
            reply = answer(call)
            if reply.status:
                member = "error" if reply.status >= 400 else "result"
                text = json.dumps({"jsonrpc": "2.0", "id": asked["id"], member: json.loads(reply.body)})
                self.wfile.write(f"{text}\n\n".encode())

    with _running(socketserver.ThreadingUnixStreamServer(str(path), Handler)):
        yield


@contextmanager
def served_app(app: Any) -> Iterator[str]:
    """An ASGI application at an address of its own, which is given out."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the application can't be served"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _first_object(connection: socket.socket) -> dict[str, Any] | None:
    """What is asked: nothing says that it has ended but that it is whole."""
    read = b""
    while chunk := connection.recv(65_536):
        read += chunk
        with suppress(ValueError):
            asked: dict[str, Any] = json.loads(read)
            return asked
    return None
