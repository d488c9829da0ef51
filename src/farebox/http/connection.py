"""Connection: one HTTP/1.1 connection to a service, and the Reply that fills as its answer arrives.

Rules
1. One exchange at a time. It ends exactly once: finished, or broken with a reason; then the pool is told.
2. A connection is reusable only after an answer that ended cleanly, to a request that was sent whole, when both sides
   keep it alive. Anything else closes it; so does a byte that nobody asked for.
3. Nothing is buffered without bound: reading pauses while the caller is behind, a streamed body while the socket is.
4. Silence counts while the service is what we wait for: not while the caller is slow to read or to send its body.
5. Plain callbacks from the socket to the reply: no task, and one future, per request. A streamed body costs one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol, cast

import httptools

from farebox.core.errors import MalformedRequest, UpstreamFailed

_MOST_READ: Final = 256 * 1024  # of an answer that nobody has taken yet
_MOST_WRITTEN: Final = 64 * 1024  # of a request that the socket has not taken yet
_MOST_OVERHEAD: Final = 64 * 1024  # bytes that are not body: header, interim answers, chunk extensions, trailers


class Pool(Protocol):
    """Who owns a connection, and is told what becomes of it."""

    def add(self, connection: Connection) -> None:
        """It is open."""

    def put(self, connection: Connection, *, reusable: bool) -> None:
        """Its exchange is over."""

    def drop(self, connection: Connection) -> None:
        """It is closed."""


class Reply:
    """The answer to one request: status and header fields at once, the body as it comes.

    fields: names in lower case, as they came, hop-by-hop fields included. ended: whether all of it has arrived.
    size: bytes that arrived and were not read yet.
    """

    __slots__ = ("_chunks", "_connection", "_failure", "_loop", "_waiter", "ended", "fields", "size", "status")

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.ended = False
        self.size = 0
        self._chunks: list[bytes] = []
        self._connection = connection
        self._loop = loop
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """All that arrived since the last read, after waiting for some; nothing when the body is over.

        Raises UpstreamFailed when the answer breaks off, after everything before that was read.
        """
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self.ended:
                return b""
            await self._wait()
        chunks, self._chunks, self.size = self._chunks, [], 0
        if not self.ended:
            self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Give up an answer that is not over, and its connection with it."""
        if not self.ended and self._failure is None:
            self._connection.give_up("abandoned", "its answer is no longer wanted")

    async def started(self) -> None:
        """Wait for the status and header fields. Raises UpstreamFailed."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def hear(self, chunk: bytes) -> None:
        """For the connection: a piece of the body."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def fail(self, failure: Exception) -> None:
        """For the connection: no more will come."""
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """For the connection: there is something new to look at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter


class Connection(asyncio.Protocol):
    """One connection: the event loop and the parser call it back, the pool and the reply steer it.

    active_at: the loop's time of the last progress. stale: it closed before the first byte of an answer.
    """

    transport: asyncio.Transport

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.active_at = 0.0
        self.stale = False
        self._pool = pool
        self.loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_only = False
        self._ended = False  # the answer is over, for the parser
        self._keep = False  # and the connection can be used again
        self._problem = ""
        self._overhead = 0
        self._paused = False
        self._pump: asyncio.Task[None] | None = None
        self._sourcing = False  # the pump waits for the caller
        self._blocked: asyncio.Future[None] | None = None  # the pump waits for the socket
        self._unsent = 0

    # --- an exchange --------------------------------------------------------------------------------------------------

    def begin(self, method: str, head: bytes, body: bytes | AsyncIterator[bytes], length: int | None) -> Reply:
        """Write a request. A streamed body goes in chunks unless its length is known."""
        reply = self._reply = Reply(self, self.loop)
        self._fields = reply.fields
        self._head_only = method == "HEAD"
        self._ended = self._keep = False
        self._overhead = 0
        self.active_at = self.loop.time()
        if not isinstance(body, bytes):
            self.transport.write(head)
            self._pump = self.loop.create_task(self._write_stream(body, length))
            self._pump.add_done_callback(self._pumped)
        elif len(body) > _MOST_WRITTEN:
            self.transport.write(head)
            self.transport.write(body)
        else:
            self.transport.write(head + body)
        return reply

    def resume(self) -> None:
        """Read on, if reading was paused."""
        if self._paused:
            self._paused = False
            self.active_at = self.loop.time()
            self.transport.resume_reading()

    def look(self, now: float, *, idle_timeout_s: float, keep_alive_s: float) -> None:
        """Close it if it has been silent, or unused, for too long."""
        unsent = self.transport.get_write_buffer_size()
        if self._paused or self._sourcing or unsent != self._unsent:
            self._unsent = unsent
            self.active_at = now
        elif self._reply is None:
            if now - self.active_at > keep_alive_s:
                self.transport.close()
        elif now - self.active_at > idle_timeout_s:
            self.give_up("idle-timeout", "it has been silent for too long")

    def give_up(self, reason: str, detail: str) -> None:
        """Close it now; the exchange, if there is one, fails."""
        self._break(UpstreamFailed(detail, reason=reason, sent=True))

    def _break(self, failure: Exception) -> None:
        self.transport.abort()
        reply = self._leave(reusable=False)
        if reply is not None:
            reply.fail(failure)

    def _finish(self) -> None:
        sent = self._pump is None or self._pump.done()
        if not sent:  # an answer that did not wait for the whole request
            self.transport.abort()
        if self._head_only:  # this parser waits for the body that the header fields promise
            self._parser = httptools.HttpResponseParser(self)
        reply = self._leave(reusable=sent and self._keep)
        if reply is not None:
            reply.ended = True
            reply.wake()

    def _leave(self, *, reusable: bool) -> Reply | None:
        reply, self._reply = self._reply, None
        if reply is None:
            return None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
        if reusable:
            self.resume()
        self._pool.put(self, reusable=reusable)
        return reply

    # --- a streamed body ----------------------------------------------------------------------------------------------

    async def _write_stream(self, body: AsyncIterator[bytes], length: int | None) -> None:
        written = 0
        self._sourcing = True
        async for chunk in body:
            self._sourcing = False
            written += len(chunk)
            if length is not None and written > length:
                break
            if chunk:
                self.transport.write(chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.active_at = self.loop.time()
            if self._blocked is not None:
                await self._blocked
            self._sourcing = True
        if length is None:
            self.transport.write(b"0\r\n\r\n")
        elif written != length:
            raise MalformedRequest("the body is not as long as its Content-Length says")
        self.active_at = self.loop.time()

    def _pumped(self, pump: asyncio.Task[None]) -> None:
        self._sourcing = False
        failure = None if pump.cancelled() else pump.exception()
        if isinstance(failure, Exception):
            self._break(failure)

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not instances of it
        self.transport.set_write_buffer_limits(high=_MOST_WRITTEN)
        self.active_at = self.loop.time()  # or it would be taken for long unused until it is used
        self._pool.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, or of something else."""
        reply = self._reply
        if reply is None:  # nobody asked
            self.transport.abort()
            return
        self.active_at = self.loop.time()
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._problem = "it changes to another protocol"
        except httptools.HttpParserError as error:
            self._problem = f"it does not speak HTTP/1.1: {error}"
        if self._ended:
            self._keep = self._keep and not self._problem
            self._finish()
        elif self._problem:
            self.give_up("malformed", self._problem)
        elif self._overhead > _MOST_OVERHEAD:
            self.give_up("malformed", "its header is too large")
        else:
            reply.wake()
            if reply.size > _MOST_READ and not self._paused:
                self._paused = True
                self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._pool.drop(self)
        reply = self._reply
        if reply is not None and exc is None and reply.status and _ends_at_close(reply.fields):
            self._finish()
        elif reply is not None:
            self.stale = not self._overhead and not reply.status
            self.give_up("closed", "it closed the connection before the answer was over")

    def pause_writing(self) -> None:
        """The socket is behind."""
        self._blocked = self.loop.create_future()

    def resume_writing(self) -> None:
        """The socket has caught up."""
        if self._blocked is not None and not self._blocked.done():
            self._blocked.set_result(None)
        self._blocked = None

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins; the second one to the same request is one too many."""
        if self._ended:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field."""
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is over: of the answer, or of an interim one (1xx)."""
        status = self._parser.get_status_code()
        reply = self._reply
        if reply is None or self._ended or 100 <= status < 200:
            return
        if not 200 <= status < 600:
            self._problem = f"{status} is not a status"
        elif self._overhead > _MOST_OVERHEAD and sum(len(n) + len(v) for n, v in self._fields) > _MOST_OVERHEAD:
            self._problem = "its header is too large"
        else:
            reply.status = status
            self._fields = []  # trailers go here, and no further
            if self._head_only:
                self._ended = True
                self._keep = self._parser.get_http_version() == "1.1" and not _names(
                    reply.fields, b"connection", b"close"
                )
            reply.wake()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._ended:  # where there can be none
            self._keep = False
        elif self._reply is not None:
            self._overhead = 0
            self._reply.hear(body)

    def on_message_complete(self) -> None:
        """The answer is over, or an interim one."""
        if self._ended or self._reply is None:
            return
        if self._reply.status:
            self._ended = True
            self._keep = self._parser.should_keep_alive()  # the parser knows only in this very callback
        else:
            self._fields.clear()


def _names(fields: list[tuple[bytes, bytes]], name: bytes, token: bytes) -> bool:
    return any(token in value.lower() for field, value in fields if field == name)


def _ends_at_close(fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether the body is what comes until the connection closes (RFC 9112, 6.3)."""
    names = {name for name, _ in fields}
    if b"transfer-encoding" in names:
        return not _names(fields, b"transfer-encoding", b"chunked")
    return b"content-length" not in names
