"""Faults: an upstream that fails in every way that can be told apart on a wire, a request at a time.

    async with faulty([Fault.RESET, None]) as upstream:     # resets the first request, answers the second
        Proxy(upstream.url)

Every fault comes after the request was read whole, so nobody knows what became of it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Final

from farebox.testing.raw_http import NotHttp, RawMessage, read_message

_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close with RST
_EVENTS: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BODY: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n"
EVENT: Final = b"data: 1\n\n"
WHOLE: Final = b"sixteen bytes, !"


class Fault(StrEnum):
    """What goes wrong with one request."""

    STATUS_500 = "500"
    CLOSE = "closes without a word"
    RESET = "resets"
    SILENCE = "hangs"
    GARBAGE = "garbage"
    CUT_HEAD = "cut in the head"
    CUT_BODY = "cut in the body"
    RESET_BODY = "reset in the body"
    HANG_BODY = "hangs in the body"
    CUT_STREAM = "cut in the stream"
    RESET_STREAM = "reset in the stream"
    HANG_STREAM = "hangs in the stream"
    GARBAGE_STREAM = "garbage in the stream"

    @property
    def is_known(self) -> bool:
        """Whether the service itself says that it failed."""
        return self is Fault.STATUS_500

    @property
    def flows(self) -> bool:
        """Whether a part of the answer is out by then."""
        return "stream" in self


class Faulty:
    """An upstream that goes through a list of faults, a request each, None for a good answer, and then is good.

    It answers 16 bytes, or a stream of two events where it was asked for one by `/stream` or by the fault.
    seen: the requests. ended: how many connections are over.
    """

    def __init__(self, faults: Sequence[Fault | None]) -> None:
        self.faults = list(faults)
        self.seen: list[RawMessage] = []
        self.ended = 0
        self.url = ""
        self._writers: set[StreamWriter] = set()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection."""
        self._writers.add(writer)
        with suppress(OSError, NotHttp):
            while (request := await read_message(reader)) is not None:
                self.seen.append(request)
                fault = self.faults.pop(0) if self.faults else None
                if fault is not None:
                    await self._fail(fault, reader, writer)
                    break
                stream = request.path.startswith("/stream")
                writer.write(_EVENTS + _chunk(EVENT) * 2 + b"0\r\n\r\n" if stream else _BODY + WHOLE)
        self.ended += 1
        self._writers.discard(writer)
        writer.close()

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _fail(self, fault: Fault, reader: StreamReader, writer: StreamWriter) -> None:
        match fault:
            case Fault.STATUS_500:
                writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\nconnection: close\r\n\r\noops")
            case Fault.GARBAGE:
                writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            case Fault.CUT_HEAD:
                writer.write(_BODY[:-10])
            case Fault.CUT_BODY | Fault.RESET_BODY | Fault.HANG_BODY:
                writer.write(_BODY + WHOLE[:-1])
            case Fault.CUT_STREAM | Fault.RESET_STREAM | Fault.HANG_STREAM:
                writer.write(_EVENTS + _chunk(EVENT))
            case Fault.GARBAGE_STREAM:
                writer.write(_EVENTS + _chunk(EVENT) + b"not a length\r\n")
            case Fault.CLOSE | Fault.RESET | Fault.SILENCE:
                pass
        await writer.drain()
        if "hangs" in fault:
            await reader.read()  # until it is left
        elif "reset" in fault:
            told: socket.socket = writer.get_extra_info("socket")
            told.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def faulty(faults: Sequence[Fault | None] = ()) -> AsyncIterator[Faulty]:
    """A faulty upstream on a loopback port of its own."""
    upstream = Faulty(faults)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        upstream.hang_up()
        await server.wait_closed()
