"""Prices in fiat, through a whole shop: the source of its rates goes away, lies, hangs, and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount
from farebox.core.errors import RateUnavailable
from farebox.core.payment import PaymentState
from farebox.http.rates import RateUrl, read_source
from farebox.http.request import Receive, Scope, Send

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PATIENCE_S = 20.0
STALE_S = 3


@dataclass
class Teller:
    """A service that says what a bitcoin costs."""

    says: str = "64000"
    asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self.asked += 1
        body = json.dumps({"data": {"amount": self.says}}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def written(folder: Path, source: str, upstream: str) -> str:
    file = folder / "farebox.toml"
    routes = "".join(
        f'[[route]]\npath = "{path}"\nprice = "{price}"\nupstream = "{upstream}"\n'
        for path, price in (("/fiat", "0.5 US cent"), ("/sats", "21 sat"))
    )
    rates = f'[rates]\nUSD = "{source}"\nrefresh_s = 1\nstale_after_s = {STALE_S}\n'
    file.write_text(f"free_calls = 0\n{rates}{routes}")
    return str(file)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    began_s = time.monotonic()
    while not await condition():
        assert time.monotonic() - began_s < PATIENCE_S
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "workers"])
async def test_without_a_rate_paid_calls_and_prices_in_satoshis_go_on_and_it_is_back_when_its_source_is(
    open_shop: Any,
    serve_app: Any,
    writer_url: str,
    payer: Any,
    read_books: Any,
    tmp_path: Path,
    workers: tuple[str, ...],
) -> None:
    teller = Teller()
    with closing(create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    file = written(tmp_path, f"http://127.0.0.1:{port}/spot#/data/amount", writer_url)

    async def answered(shop: Any, status: int) -> bool:
        # Every worker has to see it: each of these goes over a connection of its own.
        async with httpx.AsyncClient(trust_env=False, headers={"connection": "close"}) as http:
            calls = [http.post(f"{shop.url}/fiat", content="x") for _ in range(12)]
            return {status} == {each.status_code for each in await asyncio.gather(*calls)}

    with serve_app(teller, port=port) as _, open_shop(file, *workers) as shop:
        first = await payer.challenge(f"{shop.url}/fiat", "early")
        assert (8, "64000", f"127.0.0.1:{port}") == (
            first["amount_sats"],
            first["rate"]["per_btc"],
            first["rate"]["source"],
        )
        early = await payer.buy(shop, "early", "/fiat")
        teller.says = "60000"
        await until(lambda: asked_for(payer, shop, "9"))
        teller.says = "<html>"
        await until(lambda: answered(shop, 503))
        turned_away = await payer.http.post(f"{shop.url}/fiat", content="late")
        paid = await payer.http.post(f"{shop.url}/fiat", content="early", headers=early)
        in_sats = await payer.http.post(f"{shop.url}/sats", content="x")
        (listed, _) = (await payer.http.get(f"{shop.url}/pricing")).json()["priced_endpoints"]
        teller.says = "63000"
        await until(lambda: answered(shop, 402))
        late = await payer.buy(shop, "late", "/fiat")
        served = await payer.http.post(f"{shop.url}/fiat", content="late", headers=late)
        _, payments = await read_books(shop)
    assert ("rate-unavailable", "10") == (turned_away.json()["error"], turned_away.headers["retry-after"])
    assert (200, 402, 21) == (paid.status_code, in_sats.status_code, in_sats.json()["amount_sats"])
    assert ({"amount": "0.005", "currency": "USD"}, False) == (listed["price"], "price_sats" in listed)
    assert 200 == served.status_code
    assert [Amount.sats(8)] * 2 == [each.captured for each in payments if each.state is PaymentState.SPENT]
    assert "rate-not-read" in shop.told
    assert "Traceback" not in shop.told


async def asked_for(payer: Any, shop: Any, sats: str) -> bool:
    told = (await payer.http.post(f"{shop.url}/fiat", content=f"{time.monotonic()}")).json()
    return bool(told.get("amount_sats") == int(sats))


async def test_a_shop_that_sells_for_satoshis_asks_nobody_for_a_rate(
    open_shop: Any, serve_app: Any, writer_url: str, payer: Any, tmp_path: Path
) -> None:
    teller = Teller()
    with serve_app(teller) as url:
        file = Path(written(tmp_path, f"{url}/#/data/amount", writer_url))
        file.write_text(file.read_text().replace("0.5 US cent", "5 sat"))
        with open_shop(str(file)) as shop:
            await payer.challenge(f"{shop.url}/fiat", "x")
            await asyncio.sleep(1.5)  # longer than it takes until rates are looked at again
    assert 0 == teller.asked


# --- sources that are no good, over a socket --------------------------------------------------------------------------


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


async def redirect(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 5\r\n\r\n64000")


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff")


async def nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("behave", "told"),
    [
        (drip, "it took too long"),
        (nothing, "it took too long|ReadTimeout"),
        (flood, "larger than"),
        (redirect, "it answered 302"),
        (garbage, "RemoteProtocolError"),
    ],
)
async def test_a_source_that_drips_floods_sends_on_or_speaks_no_http_tells_no_rate_in_time(
    behave: Callable[[asyncio.StreamWriter], Awaitable[None]], told: str
) -> None:
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())  # type: ignore[arg-type] # there is one
        await reader.readuntil(b"\r\n\r\n")
        both = asyncio.ensure_future(behave(writer)), asyncio.ensure_future(reader.read())
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        both[0].cancel()
        writer.close()
        await asyncio.gather(*both, writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    source = read_source(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/#")
    assert isinstance(source, RateUrl)
    began_s = time.monotonic()
    with pytest.raises(RateUnavailable, match=told):
        await source.read(None)  # type: ignore[arg-type] # nothing is seen, so at no instant
    took_s = time.monotonic() - began_s
    await asyncio.wait(serving, timeout=PATIENCE_S)
    server.close()
    assert (1, True) == (len(serving), took_s < PATIENCE_S)
