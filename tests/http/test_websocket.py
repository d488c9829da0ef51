"""Websockets that stay open between two questions, over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from farebox.core.conversation import Conversation, HttpReply, WakeCall
from farebox.core.secret import Secret
from farebox.http import websocket
from farebox.http.converse import Lines, aconverse, converse
from farebox.http.websocket import MOST_MESSAGE_BYTES, Websockets

pytestmark = [pytest.mark.system, pytest.mark.anyio]

MOMENT, LONG = timedelta(milliseconds=50), timedelta(seconds=5)
SAID, QUIET = HttpReply(status=200), HttpReply(status=204)
CLOSED = HttpReply(status=0, reason="the websocket was closed")


@dataclass
class Backend:
    """A backend that says what it is told to. answer: instead of a websocket."""

    answer: Response | None = None
    asked: list[Request] = field(default_factory=list)
    sockets: list[ServerConnection] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator[str]:
        async with serve(
            self._talk, "127.0.0.1", port, close_timeout=0.2, process_request=self._process, ping_interval=None
        ) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/websocket"
            yield self.url

    def _process(self, _: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        return self.answer

    async def _talk(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        await socket.wait_closed()


Wait = Callable[..., Awaitable[HttpReply]]


@asynccontextmanager
async def waiting(again_after: timedelta = LONG) -> AsyncIterator[Wait]:
    websockets = Websockets(httpx.create_ssl_context, again_after=again_after)

    async def wait(url: str, within: timedelta = LONG) -> HttpReply:
        return await websockets.wait(WakeCall(url=url, headers=Secret("authorization: Basic Og=="), timeout=within))

    try:
        yield wait
    finally:
        await websockets.aclose()


async def test_whoever_opens_it_is_told_to_ask_and_then_waits_until_something_is_said() -> None:
    backend = Backend()
    async with backend.open() as url, waiting() as wait:
        assert await wait(url) == SAID
        assert await wait(url, MOMENT) == QUIET
        asked = asyncio.create_task(wait(url))
        await asyncio.sleep(0.02)
        await backend.sockets[0].send('{"type":"payment_received"}')
        assert await asked == SAID
        assert await wait(url, MOMENT) == QUIET
    assert ["Basic Og=="] == [each.headers["authorization"] for each in backend.asked]  # over one connection


async def test_what_is_said_between_two_questions_is_not_missed() -> None:
    backend = Backend()
    async with backend.open() as url, waiting() as wait:
        await wait(url)
        for _ in range(100):
            await backend.sockets[0].send("{}")
        await backend.sockets[0].ping()
        await asyncio.sleep(0.05)
        assert await wait(url, MOMENT) == SAID
        assert await wait(url, MOMENT) == QUIET


async def test_a_connection_that_ends_is_told_at_once_and_opened_again_after_a_while() -> None:
    backend = Backend()
    async with backend.open() as url, waiting(again_after=timedelta(milliseconds=200)) as wait:
        await wait(url)
        asked = asyncio.create_task(wait(url))
        await asyncio.sleep(0.02)
        await backend.sockets[0].close()
        assert await asked == CLOSED
        assert await wait(url) == CLOSED  # too soon
        await asyncio.sleep(0.2)
        assert await wait(url) == SAID
        assert len(backend.sockets) == 2


async def test_a_message_that_is_too_large_ends_the_connection() -> None:
    backend = Backend()
    async with backend.open() as url, waiting() as wait:
        await wait(url)
        await backend.sockets[0].send("." * (MOST_MESSAGE_BYTES + 1))
        assert await wait(url) == CLOSED


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_a_backend_that_refuses_is_not_asked_again_at_once(status: int) -> None:
    backend = Backend(answer=Response(status, "no", Headers()))
    async with backend.open() as url, waiting() as wait:
        for _ in range(3):
            assert await wait(url) == HttpReply(status=status)
    assert len(backend.asked) == 1


async def test_a_redirect_is_not_followed() -> None:
    other = Backend()
    async with other.open() as elsewhere:
        backend = Backend(answer=Response(302, "Found", Headers(location=elsewhere)))
        async with backend.open() as url, waiting() as wait:
            assert await wait(url) == HttpReply(status=302)
    assert [] == other.asked


async def test_a_backend_that_is_away_is_told_at_once_and_found_when_it_is_back() -> None:
    backend = Backend()
    async with waiting(again_after=MOMENT) as wait:
        async with backend.open() as url:
            port = int(url.split(":")[2].split("/")[0])
        assert await wait(url) == HttpReply(status=0, sent=False, reason="connection refused")
        async with backend.open(port):
            await asyncio.sleep(MOMENT.total_seconds())
            assert await wait(url) == SAID


async def test_something_that_is_no_websocket_is_none() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, waiting() as wait:
        reply = await wait(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/websocket")
    assert (0, False) == (reply.status, reply.sent)


async def test_a_connection_on_which_nobody_answers_a_ping_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_PING_EVERY_S", 0.05)

    async def shake_hands_and_fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        key = next(line.partition(": ")[2] for line in head if line.lower().startswith("sec-websocket-key"))
        answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{answer}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(shake_hands_and_fall_silent, "127.0.0.1", 0)
    async with server, waiting() as wait:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/websocket"
        assert await wait(url) == SAID
        assert await wait(url) == CLOSED


def asked(url: str, within: timedelta = LONG) -> Conversation[HttpReply]:
    return (yield WakeCall(url=url, timeout=within))


async def test_lines_keep_it_open_and_whoever_has_none_is_told_that_there_is_none() -> None:
    backend = Backend()
    async with backend.open() as url:
        lines = Lines()
        assert await aconverse(asked(url), lines) == SAID
        assert await aconverse(asked(url, MOMENT), lines) == QUIET
        await lines.aclose()
        await asyncio.wait_for(backend.sockets[0].wait_closed(), 2)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await aconverse(asked(url), client)).status == 0
        with httpx.Client(trust_env=False) as blocking:
            assert converse(asked(url), blocking).status == 0
    assert len(backend.asked) == 1


async def test_whoever_is_cancelled_while_waiting_leaves_it_open() -> None:
    backend = Backend()
    async with backend.open() as url, waiting() as wait:
        await wait(url)
        given_up = asyncio.create_task(wait(url))
        await asyncio.sleep(0.02)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await backend.sockets[0].send("{}")
        assert await wait(url) == SAID
    assert len(backend.asked) == 1
