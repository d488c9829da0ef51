"""A proxy in front of a PostgreSQL that loses connections where it hurts: while a transaction is being committed.

    with PostgresProxy(server.port, choose=lambda: Loss.REPLY) as proxy:
        open_ledger(server.url("shop", port=proxy.port))

Rules
1. It reads what a client says (the frontend messages of protocol 3.0, which travel in the clear), so that it knows a
   COMMIT, prepared or not, whatever else is sent together with it.
2. Each COMMIT is asked about once; the connection is lost as `choose` says, or goes on.
3. `silent` is a network that swallows everything, both ways, on connections that stay open; new ones are swallowed too.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import Enum
from types import TracebackType
from typing import Final

_PROTOCOL: Final = 196608  # 3.0: what comes after this packet has a letter in front
_PACKET: Final = struct.Struct(">ii")
_LENGTH: Final = struct.Struct(">i")
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close with RST
_MOST_READ: Final = 1 << 16
_LOOK_S: Final = 0.05


class Loss(Enum):
    """How a connection is lost at a COMMIT."""

    NONE = "not at all"
    UNSENT = "the server never hears of it"
    SENT = "the server hears of it, and of the end of the connection"
    RESET = "the server may hear of it before the connection is reset"
    REPLY = "the server has done it, and nobody hears that"


def never() -> Loss:
    """Lose nothing."""
    return Loss.NONE


class PostgresProxy:
    """Listens on a loopback port. lost: how often a connection was lost, and how. commits: how many it saw."""

    def __init__(self, server_port: int, *, choose: Callable[[], Loss] = never) -> None:
        self.choose = choose
        self.silent = False
        self.lost: Counter[Loss] = Counter()
        self.commits = 0
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="postgres proxy", daemon=True)]

    def __enter__(self) -> PostgresProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            if not select.select((self._listening,), (), (), _LOOK_S)[0]:
                continue
            client, _ = self._listening.accept()
            thread = threading.Thread(target=self._carry, args=(client,), name="postgres proxy line", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(client)
            while self.silent:
                if self._closed.wait(_LOOK_S):
                    return
            try:
                server = stack.enter_context(socket.create_connection(("127.0.0.1", self._server_port)))
            except OSError:
                return
            said, ends = _Said(), (client, server)
            for end in ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):
                while not self._closed.is_set():
                    ready = select.select(ends, (), (), _LOOK_S)[0]
                    if self.silent:
                        self._closed.wait(_LOOK_S)
                        continue
                    if server in ready:
                        told = server.recv(_MOST_READ)
                        if not told:
                            return
                        client.sendall(told)
                    if client in ready:
                        asked = client.recv(_MOST_READ)
                        if not asked:
                            return
                        if said.hear(asked) and (loss := self._chosen()) is not Loss.NONE:
                            self._lose(loss, client, server, asked)
                            return
                        server.sendall(asked)

    def _chosen(self) -> Loss:
        self.commits += 1
        return self.choose()

    def _lose(self, loss: Loss, client: socket.socket, server: socket.socket, asked: bytes) -> None:
        self.lost[loss] += 1
        if loss is not Loss.UNSENT:
            server.sendall(asked)
        if loss is Loss.REPLY:
            server.recv(_MOST_READ)
        if loss is Loss.RESET:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


class _Said:
    """What a client has said, as far as COMMIT is concerned."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._commits: set[bytes] = set()  # names of prepared statements
        self._committing = False

    def hear(self, data: bytes) -> bool:
        """Whether a COMMIT, and all that is needed to do it, has been said with this."""
        self._rest += data
        while (message := self._next()) is not None:
            kind, body = message
            if kind == b"P":
                name, query = body.split(b"\0")[:2]
                (self._commits.add if query.upper() == b"COMMIT" else self._commits.discard)(name)
            elif kind == b"B" and body.split(b"\0")[1] in self._commits:
                self._committing = True
            elif kind == b"Q" and body.rstrip(b"\0").upper() == b"COMMIT":
                return True
            elif kind == b"S" and self._committing:
                self._committing = False
                return True
        return False

    def _next(self) -> tuple[bytes, bytes] | None:
        head = 1 if self._started else 0
        if len(self._rest) < head + _PACKET.size - (_LENGTH.size if self._started else 0):
            return None
        (length,) = _LENGTH.unpack_from(self._rest, head)
        if len(self._rest) < head + length:
            return None
        message, self._rest = self._rest[: head + length], self._rest[head + length :]
        if self._started:
            return message[:1], message[5:]
        self._started = _PACKET.unpack_from(message)[1] == _PROTOCOL
        return b"", b""
