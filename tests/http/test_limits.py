"""What is too large is refused before anything is made of it (target E7): no invoice, and no free call used up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from farebox.gate import Terms
from farebox.http.paywall import Paywall
from farebox.http.server import strict_http
from farebox.testing.market import Market, Service
from farebox.testing.raw_http import RawCaller, RawMessage, calling

pytestmark = [pytest.mark.anyio, pytest.mark.system]

BODY = 2**20
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EXPECT = b"Expect: 100-continue\r\n"
CHUNK = b"10000\r\n" + b" " * 2**16 + b"\r\n"


def fields(count: int, size: int) -> bytes:
    """So many fields of so many bytes together, names and values."""
    name = b"x-%04d"
    each, rest = divmod(size, count)
    sizes = [each + (number < rest) for number in range(count)]
    return b"".join(b"%b: %b\r\n" % (name % number, b"y" * (size - 6)) for number, size in enumerate(sizes))


TOO_LARGE = {
    "100 fields besides Host": (HEAD + fields(100, 5_000) + b"\r\n", 431),
    "16 KiB of fields besides Host": (HEAD + fields(10, 16 * 1024) + b"\r\n", 431),
    "one field of 20 KB": (HEAD + fields(1, 20_000) + b"\r\n", 431),
    "a field name of 20 KB": (HEAD + b"x" * 20_000 + b": y\r\n\r\n", 431),
    "a target of 8193 bytes": (b"POST /x?" + b"y" * 8_190 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a target of 60 KB": (b"POST /x?" + b"y" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a path of 4097 bytes": (b"POST /y/" + b"y" * 4_094 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a body of a byte more than 1 MiB": (HEAD + b"Content-Length: %d\r\n\r\n" % (BODY + 1), 413),
    "the same, to be asked for": (HEAD + EXPECT + b"Content-Length: %d\r\n\r\n" % (BODY + 1), 413),
    "a body of 2 to the 62nd": (HEAD + b"Content-Length: %d\r\n\r\n" % 2**62, 413),
    "chunks of more than 1 MiB": (HEAD + CHUNKED + b"\r\n" + CHUNK * 16 + b"1\r\n ", 413),
    "chunks that never end": (HEAD + CHUNKED + b"\r\n" + CHUNK * 40, 413),
}
JUST_RIGHT = {
    "99 fields besides Host": HEAD + fields(98, 5_000) + b"content-length: 2\r\n\r\n{}",
    "16 KiB of fields with Host": HEAD + fields(10, 16 * 1024 - 20) + b"content-length: 2\r\n\r\n{}",
    "a target of 8192 bytes": b"POST /x?" + b"y" * 8_189 + b" HTTP/1.1\r\nHost: a\r\ncontent-length: 2\r\n\r\n{}",
    "a body of 1 MiB": HEAD + b"Content-Length: %d\r\n\r\n" % BODY + b'{"a": 1}' + b" " * (BODY - 8),
    "chunks of 1 MiB": HEAD + CHUNKED + b"\r\n" + CHUNK * 16 + b"0\r\n\r\n",
}


@asynccontextmanager
async def shop(market: Market, service: Any) -> AsyncIterator[int]:
    app = Paywall(service, gate=market.gate, prices={"/x": "21 sat", "/y/*": "21 sat"})
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, http=strict_http(), ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def answer(caller: RawCaller, said: bytes) -> RawMessage:
    caller.say(said)
    with contextlib.suppress(ConnectionError):
        await caller.writer.drain()
    heard = await caller.hear()
    assert heard is not None
    return heard


async def test_what_is_too_large_costs_neither_an_invoice_nor_the_free_call(tell: Callable[[str], object]) -> None:
    market, service = Market.open(Terms(free_calls=1)), Service()
    statuses = {}
    async with shop(market, service) as port:
        for name, (said, _) in TOO_LARGE.items():
            async with calling(port) as caller:
                statuses[name] = (await answer(caller, said)).status
        made = await market.gate.ledger.recent_payments(10)
        async with calling(port) as caller:
            free = await answer(caller, HEAD + b"Content-Length: 16\r\n\r\n" + b'{"prompt": "hi"}')
    await market.close()
    tell(f"E7: {statuses}; {len(made)} invoices, and the free call still {free.status}")
    assert {name: status for name, (_, status) in TOO_LARGE.items()} == statuses
    assert ([], 1) == (made, service.calls)
    assert 200 == free.status


@pytest.mark.parametrize("name", JUST_RIGHT)
async def test_what_just_fits_is_let_in(name: str) -> None:
    market, service = Market.open(), Service()
    async with shop(market, service) as port, calling(port) as caller:
        asked = await answer(caller, JUST_RIGHT[name])
    await market.close()
    assert 402 == asked.status


async def test_a_body_that_would_be_too_large_is_not_even_asked_for() -> None:
    market = Market.open()
    async with shop(market, Service()) as port, calling(port) as caller:
        heard = await answer(caller, HEAD + EXPECT + b"Content-Length: %d\r\n\r\n" % (BODY + 1))
        assert 413 == heard.status  # not 100
    await market.close()


async def test_chunks_are_refused_as_soon_as_they_are_too_many() -> None:
    market = Market.open()
    async with shop(market, Service()) as port, calling(port) as caller:
        caller.say(HEAD + CHUNKED + b"\r\n" + CHUNK * 15)
        heard = asyncio.ensure_future(caller.hear())
        await asyncio.wait([heard], timeout=0.05)
        assert not heard.done()
        caller.say(CHUNK + b"1\r\n ")  # and not the end of the body
        refused = await heard
    await market.close()
    assert refused is not None
    assert 413 == refused.status
