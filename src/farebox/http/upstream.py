"""Upstream: the seller's own HTTP/1.1 service, asked over a pool of connections.

Rules
1. `UpstreamFailed` says `sent=False` only when the service certainly never saw the request: there was no connection, or
   it was closed before anything was written.
2. A request is sent a second time only when a pooled connection closed before the first byte of the answer, the method
   is idempotent (RFC 9110, 9.2.2) and the body is not a stream; once, and on a new connection.
3. Because any other request can't be sent again, it rides only on a new connection or on one in use a second ago.
4. Spans are looked at four times per span, so silence ends up to a quarter of one late; there is no timer per call.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from farebox.core.errors import ConfigError, MalformedRequest, UpstreamFailed
from farebox.http.connection import Connection, Reply

Fields = Sequence[tuple[bytes, bytes]]

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_FRESH_S: Final = 1.0
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._~%:\[\]-]+")
_PATH: Final = re.compile(r"[\x21-\x7e]*")


class Upstream:
    """One `http://` or `https://` service, and the keep-alive connections to it.

    connect_timeout: the most that DNS, TCP and TLS may take together. idle_timeout: the longest silence, before or
    within an answer, and the longest wait for one of `most_connections`; an answer as a whole has no limit.
    keep_alive: how long an unused connection is kept. Raises ConfigError for a URL that can't be an upstream.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: timedelta = timedelta(seconds=5),
        idle_timeout: timedelta = timedelta(seconds=60),
        keep_alive: timedelta = timedelta(seconds=30),
        most_connections: int = 256,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.origin = _Origin.read(url)
        self._pool = _Pool(self.origin, tls, connect_timeout, idle_timeout, keep_alive, most_connections)

    async def send(
        self,
        method: str,
        target: bytes,
        fields: Fields,
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        length: int | None = None,
    ) -> Reply:
        """Send a request and wait for the head of the answer; read the reply to its end, or close it.

        target: path and query, as on the wire. fields: header fields with Host, without the framing, which is written
        here. length: what a streamed body will come to, when that is known; it goes in chunks otherwise.
        Raises UpstreamFailed with `sent` and `reason`; MalformedRequest for what does not fit on a wire, and for a
        stream of another length. What a body's stream raises comes out of here, or of the reply.
        """
        head = _write_head(method, target, fields, body, length)
        repeatable = isinstance(body, bytes) and method in _IDEMPOTENT
        connection, pooled = self._pool.take_used(repeatable=repeatable), True
        if connection is None:
            connection, pooled = await self._pool.take(repeatable=repeatable)
        while True:
            reply = connection.begin(method, head, body, length)
            try:
                await reply.started()
            except UpstreamFailed:
                if not (pooled and repeatable and connection.stale):
                    raise
            except BaseException:  # also when cancelled: nobody is left to read the answer
                reply.close()
                raise
            else:
                return reply
            try:
                connection, pooled = await self._pool.take_new(), False
            except UpstreamFailed as failed:  # the first connection may have carried it, whatever became of the second
                raise failed.with_evidence(sent=True) from None

    async def aclose(self) -> None:
        """Close every connection, also those in use, and wait until they are gone."""
        await self._pool.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where an upstream is. authority: as in a Host field. base_path: what its URL has before every path."""

    host: str
    port: int
    secure: bool
    authority: bytes
    base_path: bytes

    @classmethod
    def read(cls, url: str) -> _Origin:
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise ConfigError("An upstream is a URL like http://127.0.0.1:9000") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("An upstream is a URL like http://127.0.0.1:9000", scheme=parts.scheme)
        if "@" in parts.netloc:
            raise ConfigError(
                "Put an upstream's password into a header of its own, not into its URL", host=parts.hostname
            )
        if parts.query or parts.fragment or not _AUTHORITY.fullmatch(parts.netloc) or not _PATH.fullmatch(parts.path):
            raise ConfigError("An upstream is a host and at most a path, in ASCII", host=parts.hostname)
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (443 if secure else 80),
            secure=secure,
            authority=parts.netloc.encode(),
            base_path=parts.path.rstrip("/").encode(),
        )


class _Pool:
    """The connections to one origin. A slot is taken for an exchange, and given back when it is over."""

    def __init__(
        self,
        origin: _Origin,
        tls: ssl.SSLContext | None,
        connect_timeout: timedelta,
        idle_timeout: timedelta,
        keep_alive: timedelta,
        most: int,
    ) -> None:
        self._origin = origin
        self._tls = (tls or ssl.create_default_context()) if origin.secure else None
        self._connect_timeout_s = connect_timeout.total_seconds()
        self._idle_timeout_s = idle_timeout.total_seconds()
        self._keep_alive_s = keep_alive.total_seconds()
        self._most = self._free = most
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: list[Connection] = []  # used last, taken first
        self._all: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied = asyncio.Event()

    def take_used(self, *, repeatable: bool) -> Connection | None:
        """A connection that was used before, if there is a good one at once."""
        connection = self._pop(repeatable=repeatable) if self._free else None
        if connection is not None:
            self._free -= 1
        return connection

    async def take(self, *, repeatable: bool) -> tuple[Connection, bool]:
        """A connection, and whether it was used before."""
        await self._take_slot()
        connection = self._pop(repeatable=repeatable)
        if connection is not None:
            return connection, True
        return await self._open(), False

    async def take_new(self) -> Connection:
        """A connection that was never used."""
        await self._take_slot()
        return await self._open()

    async def close(self) -> None:
        self._closed = True
        for connection in tuple(self._all):
            connection.give_up("closing", "farebox is closing")
        self._emptied.clear()
        if self._all:
            await self._emptied.wait()

    async def _take_slot(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came at the very moment
                self._give_slot()
            if isinstance(error, TimeoutError):
                raise _unsent("busy", "every connection to it is in use") from None
            raise

    def _give_slot(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _pop(self, *, repeatable: bool) -> Connection | None:
        if not self._idle:
            return None
        oldest = self._idle[-1].loop.time() - (self._keep_alive_s if repeatable else _FRESH_S)
        while self._idle:
            connection = self._idle.pop()
            if connection.active_at >= oldest and not connection.transport.is_closing():
                return connection
            connection.transport.close()
        return None

    async def _open(self) -> Connection:
        if self._idle and len(self._all) >= self._most:
            self._idle.pop(0).transport.close()
        try:
            connection = await self._connect()
        except BaseException:
            self._give_slot()
            raise
        if self._closed:
            self._give_slot()
            connection.transport.abort()
            raise _unsent("closing", "farebox is closing")
        if connection.transport.is_closing():  # before this got its turn; nobody would be told of it any more
            self._give_slot()
            raise _unsent("closed", "it closed the connection at once")
        return connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._origin.host if self._tls is not None else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop),
                    self._origin.host,
                    self._origin.port,
                    ssl=self._tls,
                    server_hostname=name,
                )
        except TimeoutError:
            raise _unsent("connect-timeout", "it does not take the connection") from None
        except ssl.SSLError as error:
            raise _unsent("tls", error.reason or "no TLS connection") from None
        except socket.gaierror:
            raise _unsent("name", "its name is not known") from None
        except ConnectionRefusedError:
            raise _unsent("refused", "it refuses connections") from None
        except OSError as error:
            raise _unsent("unreachable", error.strerror or "it can't be reached") from None
        return connection

    # --- told by a connection -----------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        self._all.add(connection)
        if self._timer is None:
            self._look_later()

    def put(self, connection: Connection, *, reusable: bool) -> None:
        self._give_slot()
        if reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.transport.close()

    def drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._all:
            self._emptied.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look_later(self) -> None:
        span = min(self._idle_timeout_s, self._keep_alive_s) / 4
        self._timer = asyncio.get_running_loop().call_later(span, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._all):
            connection.look(now, idle_timeout_s=self._idle_timeout_s, keep_alive_s=self._keep_alive_s)
        self._look_later()


def _write_head(
    method: str, target: bytes, fields: Fields, body: bytes | AsyncIterator[bytes], length: int | None
) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target)]
    lines += [b"%b: %b" % field for field in fields]
    if not isinstance(body, bytes):
        lines.append(b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length)
    elif body or method in _WITH_BODY:
        lines.append(b"content-length: %d" % len(body))
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head or lines[0].count(b" ") != 2:
        raise MalformedRequest("a request line or header field has a character that can't be in one")
    return head


def _unsent(reason: str, detail: str) -> UpstreamFailed:
    return UpstreamFailed(detail, reason=reason, sent=False)
