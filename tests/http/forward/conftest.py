"""A proxy in front of a market, and callers who speak to it in bytes; nothing here opens a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.purse_token import PurseToken
from farebox.core.secret import Secret
from farebox.http.buy import AsyncClient
from farebox.http.buyer import open_buyer
from farebox.http.forward.proxy import ForwardProxy
from farebox.http.forward.server import ForwardServer
from farebox.http.forward.target import Here
from farebox.http.forward.wire import Caller, Line, Patience
from farebox.http.paywall import Paywall
from farebox.stores import open_purse
from farebox.stores.purse import SqlitePurse
from farebox.testing.market import Market, Service
from farebox.testing.raw_http import RawMessage, read_message

HERE = "127.0.0.1:8403"
KEY = Secret(bytes(range(32)))
TOKEN = PurseToken.mint("agent", KEY).reveal()


class Mouth:
    """A caller who says all this, and hangs up when more is waited for."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    async def read(self, n: int) -> bytes:
        part, self._said = self._said[:n], self._said[n:]
        return part

    async def ended(self) -> None:
        await asyncio.Event().wait()


class Ear:
    """What an asyncio.StreamWriter would send."""

    def __init__(self) -> None:
        self.heard = asyncio.StreamReader()

    def write(self, data: bytes) -> None:
        self.heard.feed_data(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Nothing more."""


@dataclass
class Told:
    """What a caller heard."""

    answers: list[RawMessage]
    rest: bytes = b""

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


@dataclass
class Agency:
    """A proxy, the seller whom its calls are for, and what it spends from."""

    market: Market
    service: Service
    purse: SqlitePurse
    proxy: ForwardProxy
    sent: list[httpx.Request] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)

    async def hear(self, *said: bytes, heads: int = 0) -> Told:
        """Say this on one connection, hear all that is answered, and hang up. heads: so many answers have no body."""
        ear = Ear()
        server = ForwardServer(self.proxy)
        await server.converse(Caller(Mouth(b"".join(said)), ear, self.patience))
        ear.heard.feed_eof()
        answers: list[RawMessage] = []
        while (answer := await read_message(ear.heard, without_body=len(answers) < heads)) is not None:
            answers.append(answer)
        return Told(answers)

    async def stays(self, said: bytes, *, for_s: float) -> bool:
        """Whether a connection on which this was said, and nothing more, is still there after so many seconds."""
        line = Line()
        line.feed_data(said)
        there = asyncio.ensure_future(ForwardServer(self.proxy).converse(Caller(line, Ear(), self.patience)))
        await asyncio.wait([there], timeout=for_s)
        stays = not there.done()
        line.feed_eof()
        await there
        return stays

    async def earned(self) -> Amount:
        return (await self.market.gate.ledger.balance()).earned


@asynccontextmanager
async def opened_agency(
    app: Callable[..., Any] | None = None, *, budget: str = "500 sat/day", tunnels: bool = False
) -> AsyncIterator[Agency]:
    """app: the seller; a service for 21 sat, unless one is given."""
    market, service = Market.open(), Service()
    sold = app or Paywall(service, gate=market.gate, prices={"POST /api/dvm": "21 sat"})
    purse = open_purse(":memory:", market.clock)
    sent: list[httpx.Request] = []
    inner = httpx.ASGITransport(app=sold, client=("192.0.2.7", 4711))

    class Noting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return await inner.handle_async_request(request)

    purse.add_purse("agent", [Window.read("1000 sat/day")], KEY)
    buyer = open_buyer(wallet=market.sandbox.buyer, budget=budget, purse=purse, clock=market.clock, time_zone=UTC)
    async with AsyncClient(buyer=buyer, transport=Noting(), trust_env=False) as client:
        proxy = ForwardProxy(client=client, here=Here(names=frozenset((HERE,))), tunnels=lambda _: tunnels)
        try:
            yield Agency(market, service, purse, proxy, sent, Patience(idle=timedelta(seconds=5)))
        finally:
            purse.close()
            await market.close()


@pytest.fixture
def open_agency() -> Any:
    """Opens one: `async with open_agency(budget="30 sat/day") as agency`."""
    return opened_agency
