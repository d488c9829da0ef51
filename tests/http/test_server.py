"""HTTP as it comes from a socket, spoken byte by byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from farebox.http.server import strict_http
from farebox.testing.market import whole_body
from farebox.testing.raw_http import calling

pytestmark = [pytest.mark.anyio, pytest.mark.system]


class Seen:
    """An app that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Any], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await whole_body(receive)
        self.calls.append((dict(scope), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(app: Any, *, ws: Any = "none") -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, http=strict_http(), ws=ws)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def spoken(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and body of the answer to some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
    writer.close()
    return int(head[9:12]), body


async def test_a_trailer_is_no_header() -> None:
    app = Seen()
    async with served(app) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 5.5.5.5\r\ntransfer-encoding: chunked\r\n\r\n"
        status, _ = await spoken(port, head + b"2\r\nhi\r\n0\r\nx-forwarded-for: 6.6.6.6\r\nx-payment-hash: a\r\n\r\n")
    ((scope, body),) = app.calls
    assert (status, body) == (200, b"hi")
    assert [(b"host", b"a"), (b"x-forwarded-for", b"5.5.5.5"), (b"transfer-encoding", b"chunked")] == scope["headers"]


@pytest.mark.parametrize(
    "more",
    [b"x: " + b"y" * 30_000, b"\r\n".join(b"x%d: y" % n for n in range(120))],
    ids=["large", "many"],
)
async def test_too_much_of_a_head_is_431_while_it_still_arrives(more: bytes) -> None:
    app = Seen()
    async with served(app) as port:
        status, body = await spoken(port, b"GET / HTTP/1.1\r\nhost: a\r\n" + more + b"\r\nx: ")
    assert (status, json.loads(body)["error"], app.calls) == (431, "headers-too-large", [])


async def test_endless_trailers_end_the_connection() -> None:
    async with served(Seen()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        for _ in range(40):
            writer.write(b"t: " + b"x" * 1000 + b"\r\n")
        answer = b"431"
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):  # what was still on its way may be answered so
                answer = await reader.read()
        writer.close()
    assert b"431" in answer.split(b"\r\n")[0]


async def test_a_header_that_never_ends_is_431() -> None:
    async with served(Seen()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                writer.write(b"y" * 1000)
                await writer.drain()
        answer = b"431"
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
        writer.close()
    assert b"431" in answer.split(b"\r\n")[0]


async def test_a_large_body_is_no_head() -> None:
    app = Seen()
    async with served(app) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n"
        status, _ = await spoken(port, head + b"x" * 900_000)
    assert (status, len(app.calls[0][1])) == (200, 900_000)


async def test_a_body_behind_an_upgrade_is_refused_and_not_lost() -> None:
    app = Seen()
    async with served(app) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nhi"
        status, body = await spoken(port, head)
        bare = await spoken(port, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (400, "malformed-request")
    assert bare == (200, b"ok")
    assert len(app.calls) == 1


class Echo:
    """An app that says back what it is told over a websocket, and answers everything else slowly."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.1)
            return await Seen()(scope, receive, send)
        await receive()
        await send({"type": "websocket.accept"})
        while (told := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": told["text"]})


SHAKE_HANDS = (
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def test_a_websocket_is_made_where_it_is_asked_for_and_nowhere_else() -> None:
    async with served(Echo(), ws="websockets-sansio") as port:
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket:
            for word in ("one", "two"):
                await socket.send(word)
                assert await asyncio.wait_for(socket.recv(), 5) == word
        assert await spoken(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") == (200, b"ok")
    app = Seen()
    async with served(app) as port:
        assert await spoken(port, b"GET / HTTP/1.1\r\nhost: a\r\n" + SHAKE_HANDS + b"\r\n") == (200, b"ok")
    assert ["http"] == [scope["type"] for scope, _ in app.calls]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n" + SHAKE_HANDS + b"\r\nhi",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n" + SHAKE_HANDS + b"\r\n",
        b"GET / HTTP/1.1\r\n" + SHAKE_HANDS + b"\r\n",
    ],
)
async def test_a_websocket_is_asked_for_as_strictly_as_anything(request_: bytes) -> None:
    async with served(Echo(), ws="websockets-sansio") as port:
        status, _ = await spoken(port, request_)
    assert status == 400


async def test_a_websocket_is_not_made_while_an_answer_is_on_its_way() -> None:
    async with served(Echo(), ws="websockets-sansio") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ask = b"GET / HTTP/1.1\r\nhost: a\r\n"
        writer.write(ask + b"\r\n" + ask + SHAKE_HANDS + b"\r\n")
        answers = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert [b"200", b"400"] == [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]]


async def test_what_is_no_http_is_a_problem() -> None:
    async with served(Seen()) as port:
        status, body = await spoken(port, b"NONSENSE\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (400, "malformed-request")


async def test_two_requests_on_one_connection_are_two() -> None:
    app = Seen()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert ["/a", "/b"] == [scope["path"] for scope, _ in app.calls]


async def test_a_good_request_is_answered_before_the_bad_one_behind_it_is_refused() -> None:
    go_on = asyncio.Event()

    async def slowly(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await Seen()(scope, receive, send)

    async with served(slowly) as port, calling(port) as caller:
        caller.say(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\nNONSENSE\r\n\r\n")
        caller.say(b"GET /c HTTP/1.1\r\nhost: a\r\n\r\n")
        first = asyncio.ensure_future(caller.hear_all())
        await asyncio.wait([first], timeout=0.05)
        assert not first.done()
        go_on.set()
        assert [200, 200, 400] == [answer.status for answer in await first]


async def test_a_refusal_is_heard_by_a_caller_who_is_still_sending() -> None:
    async with served(Seen()) as port, calling(port) as caller:
        caller.say(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + b"x" * 2**20)
        assert [400] == [answer.status for answer in await caller.hear_all()]


async def test_a_request_whose_body_is_broken_is_told_so_and_its_call_goes_on_without_a_caller() -> None:
    messages: list[str] = []
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while messages[-1:] != ["http.disconnect"]:
            messages.append((await receive())["type"])
        left.set()

    async with served(app) as port, calling(port) as caller:
        caller.say(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        caller.say(b"-1\r\n")
        assert [400] == [answer.status for answer in await caller.hear_all()]
        async with asyncio.timeout(10):
            await left.wait()
