"""A gateway whose node is a real lnd, in this event loop: what it costs, what it sells, and what it has learnt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.ports import Clock, InvoiceState
from farebox.core.secret import KeyRing
from farebox.gate import Reconciler, Terms
from farebox.gate.terms import UNLIMITED
from farebox.http.proxy import Proxy
from farebox.http.request import Receive, Scope, Send
from farebox.http.selling import Gate, open_gate
from farebox.lightning.lnd import Lnd
from farebox.testing.gateway import gateway
from farebox.testing.market import whole_body
from farebox.testing.regtest_payments import HoldingLnd

PRICE: Final = Amount.sats(21)


@dataclass(frozen=True)
class RegtestShop:
    """A gateway, where it is, and its node. What is sold at `/failing` fails every time."""

    url: str
    gate: Gate
    node: Lnd

    async def settle(self, payment_hash: bytes) -> InvoiceState:
        """Take what the node holds; where it then stands."""
        assert isinstance(self.node, HoldingLnd)
        return (await self.gate.converse(self.node.settle_invoice(self.node.preimages[payment_hash]))).state

    async def cancel(self, payment_hash: bytes) -> InvoiceState:
        """Give back what the node holds, or let nobody pay; where it then stands."""
        return (await self.gate.converse(self.node.cancel_invoice(payment_hash))).state

    @asynccontextmanager
    async def learning(self) -> AsyncIterator[None]:
        """While inside, what the node tells is learnt."""
        reconciler = Reconciler(ledger=self.gate.ledger, receiver=self.node, converse=self.gate.converse)
        following = asyncio.create_task(reconciler.follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def received(self, amount: Amount, within: timedelta = timedelta(seconds=10)) -> None:
        """Returns when so much is in the books. Raises AssertionError."""
        ends = time.monotonic() + within.total_seconds()
        while (books := await self.gate.ledger.balance()).received != amount:
            assert time.monotonic() < ends, f"{books.received} instead of {amount}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def regtest_shop(
    node: Lnd, upstream: str, *, expires_in: timedelta = timedelta(minutes=10), clock: Clock | None = None
) -> AsyncIterator[RegtestShop]:
    """A gateway that sells each call of an upstream for 21 sat; in the end its books balance."""
    terms = Terms(free_calls=0, limits=UNLIMITED, invoice_expires_in=expires_in)
    gate = open_gate(receiver=node, keys=KeyRing.generate(), terms=terms, clock=clock)
    proxy = Proxy(upstream)
    try:
        async with gateway(
            gate, {Route.read("POST /", PRICE): proxy, Route.read("POST /failing", PRICE): _fail}
        ) as url:
            yield RegtestShop(url, gate, node)
        assert (await gate.ledger.balance()).balanced
        assert not await gate.ledger.audit()
    finally:
        await proxy.aclose()
        await gate.close()


async def _fail(scope: Scope, receive: Receive, send: Send) -> None:
    await whole_body(receive)
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
