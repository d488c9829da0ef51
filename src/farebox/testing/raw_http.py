"""HTTP/1.1 as bytes: a caller who says anything at all, and an upstream that writes down what it is told.

Neither uses the parser under test for what it sends; answers are taken apart by a second, small one of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Self

PATIENCE_S = 20.0


class NotHttp(Exception):
    """What came is not an HTTP message, or not a whole one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMessage:
    """One message, taken apart: its first line, its fields with their names in lower case, its body."""

    line: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.line.split(b" ")[1])

    @property
    def path(self) -> str:
        """Of a request, with its query."""
        return self.line.split(b" ")[1].decode("latin-1")

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field."""
        return [value for each, value in self.fields if each == name]


async def read_message(reader: asyncio.StreamReader, *, without_body: bool = False) -> RawMessage | None:
    """The next message; None when there is none. Raises NotHttp."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise NotHttp(f"only {error.partial[:200]!r}") from None
        return None
    line, *lines = head[:-4].split(b"\r\n")
    fields = []
    for each in lines:
        name, colon, value = each.partition(b":")
        if not colon or not name.strip() or b"\n" in each or b"\r" in each or b"\0" in each:
            raise NotHttp(f"a field {each[:200]!r}")
        fields.append((name.lower(), value.strip()))
    head_only = RawMessage(line=line, fields=tuple(fields))
    if without_body or (line.startswith(b"HTTP/") and (head_only.status in (204, 304) or head_only.status < 200)):
        return head_only
    return RawMessage(line=line, fields=tuple(fields), body=await _read_body(reader, head_only))


async def _read_body(reader: asyncio.StreamReader, head: RawMessage) -> bytes:
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise NotHttp(f"two framings: {lengths}, {codings}")
    try:
        if lengths:
            return await reader.readexactly(int(lengths[0]))
        body = b""
        while codings:
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise NotHttp(f"a body that breaks off: {error}") from None
    return body


class RawCaller:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def call(cls, port: int, host: str = "127.0.0.1") -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection(host, port))

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def hear(self, *, without_body: bool = False) -> RawMessage | None:
        """The next answer; None when the server has closed instead. Raises NotHttp, TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await read_message(self.reader, without_body=without_body)
            except ConnectionError:
                return None

    async def hear_all(self) -> list[RawMessage]:
        """Every answer until the server closes."""
        heard = []
        while (answer := await self.hear()) is not None:
            heard.append(answer)
        return heard

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[RawCaller]:
    """A connection: `async with calling(port) as caller`."""
    caller = await RawCaller.call(port)
    try:
        yield caller
    finally:
        await caller.close()


@dataclass
class Backroom:
    """An upstream on a socket of its own, which answers each request with its path and writes down all it is told.

    broken: connections on which something came that is not HTTP.
    """

    port: int = 0
    seen: list[RawMessage] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_message(reader)) is not None:
                self.seen.append(request)
                told = request.path.encode("latin-1")
                body = b"" if request.line.startswith(b"HEAD ") else told
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), body))
        except NotHttp as error:
            self.broken.append(str(error))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _run(self, opened: threading.Event, leave: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        opened.set()
        await leave.wait()
        server.close()


@contextmanager
def opened_backroom() -> Iterator[Backroom]:
    """A backroom in a thread of its own."""
    room, opened, leave = Backroom(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_until_complete(room._run(opened, leave))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert opened.wait(PATIENCE_S)
    try:
        yield room
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()
