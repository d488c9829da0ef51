"""A shop behind a transport that has no socket, and every kind of client that buys there.

Written against httpx and httpx2 alike, hence the `Any`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from farebox.core.bolt11 import Invoice
from farebox.core.exchange import Quote, Wire
from farebox.core.ports import Clock, Dialect, Purchase
from farebox.core.secret import KeyRing
from farebox.dialects import L402
from farebox.http.buy import Auth
from farebox.http.buyer import Buyer, open_buyer
from farebox.testing.buyers import Mint, ScriptedWallet
from farebox.testing.kept_purse import KeptPurse
from farebox.testing.market import StillClock
from farebox.testing.shoppers import AiohttpClient, RequestsClient

FACES = ("client", "async client", "auth httpx", "auth httpx async", "auth httpx2", "auth httpx2 async")
CLIENTS = ("client", "async client", "client httpx2", "async client httpx2")
OTHERS = ("requests", "aiohttp async")  # not shaped like httpx
ALL = (*FACES, *CLIENTS[2:], *OTHERS)

SHOP = "https://shop.example/api/dvm"
PROMPT = {"prompt": "three points about L402"}
ANSWER = {"result": "one, two, three"}


def hasten(buyer: Buyer, clock: Clock, waits: list[float]) -> None:
    """Have a buyer go by this clock, and note the seconds that it would have waited instead of waiting."""

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    buyer.payer._clock = clock
    buyer.drivers.blocking = replace(buyer.drivers.blocking, pause=waits.append)
    buyer.drivers.awaiting = replace(buyer.drivers.awaiting, pause=pause)


class Parts:
    """A body that comes in parts, and may break off before the last; counts what was taken."""

    def __init__(self, parts: Sequence[bytes], breaks: Exception | None = None) -> None:
        self.parts = parts
        self.breaks = breaks
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        """For a blocking client."""
        for part in self.parts:
            self.taken += len(part)
            yield part
        if self.breaks is not None:
            raise self.breaks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """For an awaiting one."""
        for part in self:
            yield part

    def close(self) -> None:
        """What a client does when it is done."""
        self.closed = True

    async def aclose(self) -> None:
        """The same, awaiting."""
        self.closed = True


@dataclass
class Shop:
    """A seller behind a transport.

    script: what it answers, once each, instead of serving honestly: answers, or errors to raise. seen: every request.
    """

    library: Any
    mint: Mint
    wallet: ScriptedWallet
    dialect: Dialect = field(default_factory=lambda: L402(KeyRing.generate()))
    script: list[Any] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)

    def __call__(self, request: Any) -> Any:
        """What the transport asks."""
        self.seen.append(request)
        answer = self.script.pop(0) if self.script else self.serve(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def serve(self, request: Any) -> Any:
        """A 402, or the answer to a proof."""
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        return self.asks() if self.dialect.read_credential(Wire(headers=headers)) is None else self.answers()

    def challenge(self, invoice: Invoice | None = None) -> Wire:
        """What its dialect asks for."""
        invoice = invoice or self.mint.invoice()
        assert invoice.amount is not None
        quote = Quote(amount=invoice.amount, resource="POST /api/dvm", digest=bytes(32))
        challenge = self.dialect.issue(quote, invoice, valid_until=invoice.expires_at)
        assert challenge is not None
        return self.dialect.write_challenge(challenge)

    def asks(self, invoice: Invoice | None = None) -> Any:
        """A 402."""
        wire = self.challenge(invoice)
        body = json.dumps(wire.body).encode()
        return self.answer(402, Parts([body]), dict(wire.headers) | {"content-type": "application/json"})

    def answers(self, parts: Parts | None = None) -> Any:
        """What is sold."""
        body = parts or Parts([json.dumps(ANSWER).encode()])
        return self.answer(200, body, {"content-type": "application/json"})

    def problem(self, status: int, kind: str) -> Any:
        """A problem of this type."""
        body = json.dumps({"type": kind}).encode()
        headers = {"content-type": "application/problem+json", "content-length": str(len(body))}
        return self.answer(status, Parts([body]), headers)

    def redirects(self, status: int, to: str) -> Any:
        """A redirect."""
        return self.answer(status, Parts([]), {"location": to})

    def answer(self, status: int, parts: Parts, headers: dict[str, str]) -> Any:
        """An answer as a socket would hand it over: its body not read yet."""
        kind = type("Body", (Parts, self.library.SyncByteStream, self.library.AsyncByteStream), {})
        parts.__class__ = kind
        return self.library.Response(status, headers=headers, stream=parts)

    def proofs(self) -> list[str | None]:
        """The `Authorization` of every request."""
        return [request.headers.get("authorization") for request in self.seen]


@dataclass
class Face:
    """One of the ways to buy, with all that it needs; `waits` are the seconds that it would have waited."""

    kind: str
    clock: StillClock = field(default_factory=StillClock)

    def __post_init__(self) -> None:
        self.library: Any = import_module("httpx2" if "httpx2" in self.kind else "httpx")
        self.is_async = "async" in self.kind
        self.is_own = "client" in self.kind
        self.mint = Mint(self.clock)
        self.wallet = ScriptedWallet(self.mint)
        self.purse = KeptPurse(self.clock)
        self.shop = Shop(self.library, self.mint, self.wallet)
        self.waits: list[float] = []

    def open(self, budget: str = "500 sat/day", max: str | None = None, **options: Any) -> Any:
        """A client that buys from the shop."""
        terms: dict[str, Any] = {"wallet": self.wallet, "budget": budget, "max": max, "purse": self.purse}
        if self.kind in OTHERS:
            buyer = open_buyer(**terms)
            hasten(buyer, self.clock, self.waits)
            return (AiohttpClient if self.is_async else RequestsClient)(buyer, self.shop, **options)
        options["transport"] = self.library.MockTransport(self.shop)
        if self.is_own:
            face = import_module("farebox.httpx2" if "httpx2" in self.kind else "farebox.http.buy")
            client: Any = (face.AsyncClient if self.is_async else face.Client)(**terms, **options)
            hasten(client.buyer, self.clock, self.waits)
            return client
        auth = Auth(**terms)
        hasten(auth.buyer, self.clock, self.waits)
        return (self.library.AsyncClient if self.is_async else self.library.Client)(auth=auth, **options)

    def call(self, method: str = "POST", url: str = SHOP, *, client: Any = None, **options: Any) -> Any:
        """The answer to one call, read whole; a POST asks for the prompt unless it says something else."""
        if method == "POST" and not {"json", "content", "files", "data"} & set(options):
            options["json"] = PROMPT
        client = client or self.open()
        return self.run(client.request(method, url, **options))

    def stream(self, read: Callable[[Any], Any], aread: Callable[[Any], Awaitable[Any]]) -> Any:
        """What `read` makes of an answer that is not read yet."""
        client = self.open()
        if not self.is_async:
            with client.stream("POST", SHOP, json=PROMPT) as response:
                return read(response)

        async def main() -> Any:
            async with client.stream("POST", SHOP, json=PROMPT) as response:
                return await aread(response)

        return asyncio.run(main())

    def run(self, asked: Any) -> Any:
        """What a client's method returns, awaited if need be."""
        if not self.is_async:
            return asked

        async def main() -> Any:
            return await asked

        return asyncio.run(main())

    @property
    def row(self) -> Purchase:
        """The one purchase in the purse."""
        (row,) = self.purse.rows.values()
        return row
