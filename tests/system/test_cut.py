"""The line that the other tests cut: what passes, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from farebox.testing.cut import Cut, Line, Way, cut_line

pytestmark = [pytest.mark.system, pytest.mark.anyio]

QUESTION = b"0123456789"
ANSWER = b"abcdefghij"


class Server:
    """Hears a question, answers it, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard = b""
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while len(self.heard) < len(QUESTION) and (chunk := await reader.read(100)):
                self.heard += chunk
            writer.write(ANSWER)
            await reader.read()
        except ConnectionError:
            self.heard += b" reset"
        writer.close()
        self.left.set()


@asynccontextmanager
async def lined(cut: Cut) -> AsyncIterator[tuple[Server, Line]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        async with cut_line("127.0.0.1", listening.sockets[0].getsockname()[1], cut) as line:
            yield server, line
            async with asyncio.timeout(5):
                await server.left.wait()
    finally:
        listening.close()


async def ask(line: Line) -> bytes:
    """All that comes back, and how it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    heard = b""
    try:
        writer.write(QUESTION)
        while chunk := await reader.read(100):
            heard += chunk
            if heard == ANSWER:
                writer.write_eof()
    except ConnectionResetError:
        heard += b" reset"
    writer.close()
    return heard


@pytest.mark.parametrize("after", [0, 1, 9])
async def test_an_answer_is_cut_after_so_many_bytes(after: int) -> None:
    async with lined(Cut(Way.ANSWER, after=after, reset=False)) as (server, line):
        heard = await ask(line)
    assert (ANSWER[:after], QUESTION) == (heard, server.heard)
    assert (1, after) == (line.cuts, line.carried)


async def test_a_reset_is_one_at_both_ends() -> None:
    async with lined(Cut(Way.ANSWER, after=3, reset=True)) as (server, line):
        heard = await ask(line)
    assert (ANSWER[:3] + b" reset", QUESTION + b" reset") == (heard, server.heard)


@pytest.mark.parametrize("after", [0, 9])
async def test_a_request_is_cut_after_so_many_bytes(after: int) -> None:
    async with lined(Cut(Way.REQUEST, after=after, reset=False)) as (server, line):
        heard = await ask(line)
    assert (QUESTION[:after], b"") == (server.heard, heard.removesuffix(b" reset"))
    assert 1 == line.cuts


async def test_what_is_short_enough_is_not_cut() -> None:
    async with lined(Cut(Way.ANSWER, after=len(ANSWER), reset=True)) as (server, line):
        heard = await ask(line)
    assert (ANSWER, QUESTION, 0) == (heard, server.heard, line.cuts)
