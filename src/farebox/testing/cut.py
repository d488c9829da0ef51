"""Cut: a TCP line to a server that is cut after so many bytes, to prove what becomes of a call that gets lost.

    async with cut_line("127.0.0.1", 8402, Cut(Way.ANSWER, after=37, reset=True)) as line:
        await client.get(line.url)      # hears 37 bytes, then the connection is reset

Rules
1. `after` bytes pass, in the direction that is to be cut; the one behind them never does, and instead of it both ends
   are disconnected. So 0 lets the server answer and the caller hear nothing; a line that carries less is never cut.
2. Every connection of a line is cut alike.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close with RST
_MOST_READ: Final = 64 * 1024


class Way(Enum):
    """Which way a line is cut."""

    REQUEST = auto()  # while the caller is sending
    ANSWER = auto()  # while the server is answering


@dataclass(frozen=True, slots=True)
class Cut:
    """Where and how to cut.

    after: bytes that still pass. reset: both ends see a reset (RST), where otherwise the other one seems to have closed
    the connection in good order (FIN).
    """

    way: Way
    after: int
    reset: bool


class Line:
    """A line under way. port: where to connect. cuts: how many connections were cut. carried: bytes of answers."""

    def __init__(self, host: str, port: int, cut: Cut) -> None:
        self.port = 0
        self.cuts = 0
        self.carried = 0
        self._target = host, port
        self._cut = cut
        self._writers: set[StreamWriter] = set()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    async def carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one connection until it ends or is cut."""
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            ends = (writer, there_writer)
            self._writers.update(ends)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(Way.REQUEST, reader, there_writer, ends))
                    pumps.create_task(self._pump(Way.ANSWER, there_reader, writer, ends))
            finally:
                self._writers.difference_update(ends)
                for end in ends:
                    end.close()

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(
        self, way: Way, source: StreamReader, target: StreamWriter, ends: tuple[StreamWriter, StreamWriter]
    ) -> None:
        left = self._cut.after if way is self._cut.way else None
        with suppress(OSError):
            while chunk := await source.read(_MOST_READ):
                passing = chunk if left is None else chunk[:left]
                target.write(passing)
                await target.drain()
                if way is Way.ANSWER:
                    self.carried += len(passing)
                if left is not None:
                    left -= len(passing)
                    if len(passing) < len(chunk):
                        self.cuts += 1
                        self._sever(ends)
                        return
            target.close()

    def _sever(self, ends: tuple[StreamWriter, StreamWriter]) -> None:
        for end in ends:
            if self._cut.reset:
                told: socket.socket = end.get_extra_info("socket")
                told.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                end.transport.abort()
            else:
                end.close()


@asynccontextmanager
async def cut_line(host: str, port: int, cut: Cut) -> AsyncIterator[Line]:
    """A line to a server, open on a loopback port of its own until the context is left."""
    line = Line(host, port, cut)
    listening = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    line.port = listening.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        listening.close()
        line.hang_up()
        await listening.wait_closed()
