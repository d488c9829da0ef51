"""No text from anywhere ends a header field early or makes a second answer (target E5)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
import uvicorn

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.gate import Terms
from farebox.http.paywall import Paywall
from farebox.http.proxy import Proxy
from farebox.http.request import AsgiApp, Message, Receive, Scope, Send
from farebox.http.selling import open_gate
from farebox.http.server import strict_http
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.testing.market import Market, Service
from farebox.testing.raw_http import RawMessage, calling

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SPLIT = "\r\nX-Split: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Split: 2\r\nContent-Length: 0\r\n\r\n"
NO_TEXT = "\udc80"
TEXTS = (
    *("a\r\nX-Split: 1", "a\nX-Split: 1", "a\rX-Split: 1", "a\r\n X-Split: 1", SPLIT, "a\0b", "a\x0bb\x0cc\x1bd\x7fe"),
    *(
        "\u010d\u010aX-Split: 1",
        "\u2028X-Split: 1",
        "\x85X-Split: 1",
        "価格 é ü \U0001f4b0",
        "\udc80",
        '"',
        "\\",
        '\\", x="',
        "a, b=c",
    ),
    *("", " ", "\t", "x" * 5_000),
)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
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


class Changing:
    """An app that is now this one and now that one."""

    app: AsgiApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self.app(scope, receive, send)


async def one_answer(port: int, fields: bytes = b"", target: bytes = b"/x") -> RawMessage:
    """The answer to a call; the only one, and without a field that somebody slipped in."""
    async with calling(port) as caller:
        caller.say(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n" % (target, fields))
        (heard,) = await caller.hear_all()
    assert not heard.values(b"x-split")
    assert all(each.isascii() for name, each in heard.fields if name == b"www-authenticate")
    return heard


def proof(market: Market, asked: RawMessage) -> bytes:
    told = json.loads(asked.body)
    return f"Authorization: L402 {told['macaroon']}:{market.pay(told['invoice']).hex()}\r\n".encode()


async def test_a_route_may_be_called_anything_and_still_asks_for_money() -> None:
    texts = [text for text in TEXTS if text != NO_TEXT]
    market = Market.open()
    routes = [
        dataclasses.replace(Route.read(f"GET /{where}/{number}", "21 sat"), **{where: text})
        for number, text in enumerate(texts)
        for where in ("name", "summary")
    ]
    statuses = {}
    async with served(Paywall(Service(), gate=market.gate, routes=RouteTable(routes))) as port:
        for route in routes:
            asked = await one_answer(port, target=route.path.encode())
            paid = await one_answer(port, proof(market, asked), target=route.path.encode())
            statuses[route.path] = (asked.status, paid.status)
    await market.close()
    assert {route.path: (402, 200) for route in routes} == statuses


def test_a_route_is_called_by_text() -> None:
    for where in ("name", "summary"):
        with pytest.raises(ConfigError):
            dataclasses.replace(Route.read("GET /x", "21 sat"), **{where: NO_TEXT})


@pytest.mark.parametrize("path", ["/über/価格", "/a b", "/a'b", "/a,b", "/a%22b"])
async def test_a_path_of_any_letters_can_be_sold(path: str) -> None:
    market = Market.open()
    async with served(Paywall(Service(), gate=market.gate, prices={f"GET {quote(path, safe='/%')}": "21 sat"})) as port:
        target = quote(path, safe="/%'").encode()
        asked = await one_answer(port, target=target)
        paid = await one_answer(port, proof(market, asked), target=target)
    await market.close()
    assert (402, 200) == (asked.status, paid.status)


@pytest.mark.parametrize("text", TEXTS)
def test_a_price_of_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        RouteTable.read({"GET /x": f"21 sat{text}" if text.strip() else text})


async def test_a_realm_of_any_text_is_written_or_refused_when_the_gate_is_opened() -> None:
    refused, market, shop = 0, Market.open(), Changing()
    terms = Terms(free_calls=0)
    async with served(shop) as port:
        for text in TEXTS:
            try:
                gate = open_gate(receiver=market.sandbox.seller, realm=text, clock=market.clock, terms=terms)
            except ConfigError:
                refused += 1
                continue
            shop.app = Paywall(Service(), gate=gate, prices={"GET /x": "21 sat"})
            assert 402 == (await one_answer(port)).status, repr(text)
            await gate.close()
    await market.close()
    assert 0 < refused < len(TEXTS)


async def test_a_node_whose_invoice_is_no_invoice_is_not_believed() -> None:
    said = ""

    async def node(scope: Scope, receive: Receive, send: Send) -> None:
        """phoenixd, which adds something to its invoices."""

        async def adding(message: Message) -> None:
            if b"serialized" in message.get("body", b""):
                told = json.loads(message["body"])
                message["body"] = json.dumps(told | {"serialized": told["serialized"] + said}).encode()
            elif message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"content-length"]
            await send(message)

        await api(scope, receive, adding)

    market = Market.open()
    api = phoenixd_api(market.sandbox, {"key": "seller"})
    statuses = {}
    shop = Changing()
    async with served(node) as node_port, served(shop) as port:
        for said in TEXTS:
            url = f"phoenixd+http://:key@127.0.0.1:{node_port}"
            gate = open_gate(receiver=url, clock=market.clock, terms=Terms(free_calls=0))
            shop.app = Paywall(Service(), gate=gate, prices={"GET /x": "21 sat"})
            statuses[said] = (await one_answer(port)).status
            await gate.close()
    await market.close()
    assert {said: 503 if said else 402 for said in TEXTS} == statuses


# --- what is behind ---------------------------------------------------------------------------------------------------


async def reflecting(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that puts what its caller says into a header field."""
    said = unquote_to_bytes(scope["query_string"])
    name, _, value = said.partition(b"=")
    headers = [(b"content-length", b"2"), (b"x-said" + name, value)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_an_app_that_lets_its_caller_write_a_header_field_is_not_paid_for_it(
    tell: Callable[[str], object],
) -> None:
    market, statuses = Market.open(), {}
    async with served(Paywall(reflecting, gate=market.gate, prices={"GET /x": "21 sat"})) as port:
        for text in TEXTS:
            for target in (
                f"/x?={quote(text, errors='surrogateescape')}",
                f"/x?{quote(text, errors='surrogateescape')}=y",
            ):
                asked = await one_answer(port, target=target.encode())
                heard = await one_answer(port, proof(market, asked), target=target.encode())
                statuses[heard.status] = statuses.get(heard.status, 0) + 1
                assert 402 == asked.status
                assert heard.status in (200, 502), repr(text)
    payments = await market.gate.ledger.recent_payments(100)
    await market.close()
    captured = sum(payment.captured > Amount(0) for payment in payments)
    tell(f"E5: {sum(statuses.values())} texts in header fields of paid answers: {statuses}, {captured} charged")
    assert statuses[200] == captured


@pytest.mark.parametrize(
    "field",
    [
        *(
            b"X: a\rX-Split: 1",
            b"X: a\0b",
            b"X: a\n X-Split: 1",
            b"X : a",
            b"X-Split\r: 1",
            b"X: a\x0bb",
            b"X\xff: a",
            b": a",
        ),
        *(b"X: a\r\n X-Split: 1", b"X: a\x7fb"),
    ],
)
async def test_an_upstream_with_a_crooked_header_field_has_not_answered(field: bytes) -> None:
    async def crooked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + field + b"\r\n\r\nok")
        writer.close()

    market = Market.open()
    upstream = await asyncio.start_server(crooked, "127.0.0.1", 0)
    proxy = Proxy(f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}")
    async with served(Paywall(proxy, gate=market.gate, prices={"GET /x": "21 sat"})) as port:
        asked = await one_answer(port)
        heard = await one_answer(port, proof(market, asked))
    (payment,) = await market.gate.ledger.recent_payments(1)
    await proxy.aclose()
    upstream.close()
    await market.close()
    assert (502, Amount(0)) == (heard.status, payment.captured)


async def test_letters_beyond_ascii_in_an_upstreams_field_are_passed_on() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \xe9\xff\r\n\r\nok")
        writer.close()

    market = Market.open()
    upstream = await asyncio.start_server(old, "127.0.0.1", 0)
    proxy = Proxy(f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}")
    async with served(Paywall(proxy, gate=market.gate, prices={"GET /x": "21 sat"})) as port:
        shown = proof(market, await one_answer(port))
        heard = [await one_answer(port, shown) for _ in range(2)]
    await proxy.aclose()
    upstream.close()
    await market.close()
    assert [(200, [b"\xe9\xff"])] * 2 == [(each.status, each.values(b"x")) for each in heard]


async def test_what_a_browser_asks_for_is_told_back_without_a_split() -> None:
    market = Market.open()
    app = Paywall(Service(), gate=market.gate, prices={"/x": "21 sat"})
    async with served(app) as port, calling(port) as caller:
        caller.say(
            b"OPTIONS /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: a\xff\r\n"
            b'Access-Control-Request-Headers: x-a, \xff\t"y\r\nAccess-Control-Request-Method: POST\r\n\r\n'
        )
        (heard,) = await caller.hear_all()
    await market.close()
    assert 204 == heard.status
