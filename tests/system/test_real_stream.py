"""What is paid to a real node is known to the shop, though its line to the node keeps breaking."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.testing.regtest import Regtest
from farebox.testing.regtest_payments import attempts, funds
from farebox.testing.relay import Relay, relayed
from farebox.testing.watched_shop import WatchedShop, p99

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

PRICE = Amount.sats(21)
KNOWN_WITHIN_S = 1.0  # of the payment, for 99 of 100, while the line is there
CAUGHT_UP_WITHIN_S = 5.0  # of the line's return
MOST_IDLE_CPU = 0.05
PAID_EACH_TIME = 3  # between two kills


class Street(WatchedShop):
    """A shop in a process of its own, its node behind a line that can be cut, and a buyer who pays there."""

    def __init__(self, shop: Any, payer: Any, regtest: Regtest, relay: Relay) -> None:
        super().__init__(shop.place["store"], shop.process.pid)
        self.shop, self.payer, self.regtest, self.relay = shop, payer, regtest, relay
        self.paid_at: dict[bytes, datetime] = {}

    async def invoices(self, count: int) -> list[Invoice]:
        """So many calls that were asked for."""
        names = [f"{time.monotonic_ns()} {number}" for number in range(count)]
        return [decode((await self.payer.challenge(self.shop.url, name))["invoice"]) for name in names]

    async def pay(self, invoice: Invoice) -> None:
        """From the buyer's node, whatever the shop's line to its node does; until the buyer has the proof."""
        assert await asyncio.to_thread(self.regtest.buyer.pays, invoice.text)
        self.paid_at[invoice.payment_hash] = datetime.now(UTC)

    async def delays_s(self, invoices: Sequence[Invoice]) -> list[float]:
        """From each payment until it was known, sorted."""
        spans = []
        for row in await self.rows(invoices):
            assert row.settled_at is not None
            late = row.settled_at - self.paid_at[row.payment_hash]
            spans.append(max(0.0, late / timedelta(seconds=1)))  # the shop may know before the buyer does
        return sorted(spans)


@pytest.fixture
async def street(regtest: Regtest, open_shop: Any, lnd_config: Any, payer: Any) -> AsyncIterator[Street]:
    async with relayed("127.0.0.1", regtest.seller.rest) as relay:
        opening = open_shop(str(lnd_config(port=relay.port)), "--log-level", "info")
        shop = await asyncio.to_thread(opening.__enter__)  # it asks its node, over the relay, which is in this loop
        try:
            yield Street(shop, payer, regtest, relay)
        finally:
            await asyncio.to_thread(opening.__exit__, None, None, None)


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.full)], ids=["quick", "C4"])
async def test_no_payment_is_missed_while_the_line_to_lnd_keeps_breaking(
    street: Street, read_books: Any, seed: int, tell: Callable[[str], object], kills: int
) -> None:
    chance, got, before = random.Random(seed), funds(street.regtest.seller), attempts(street.regtest.buyer)
    calm = await street.invoices(kills)
    for invoice in calm:
        await street.pay(invoice)
        await asyncio.sleep(chance.uniform(0, 0.1))
    await street.known_within(calm, CAUGHT_UP_WITHIN_S)
    in_peace, cpu = await street.delays_s(calm), await street.idle_cpu()

    stormy = await street.invoices(kills * PAID_EACH_TIME)
    waiting = list(stormy)
    for _ in range(kills):
        paying = [asyncio.create_task(street.pay(waiting.pop())) for _ in range(PAID_EACH_TIME)]
        await asyncio.sleep(chance.uniform(0, 0.3))
        await street.relay.tear_down()
        await asyncio.sleep(chance.uniform(0, 0.2))
        await street.relay.put_up()
        await asyncio.gather(*paying)
    caught_up = await street.known_within(stormy, CAUGHT_UP_WITHIN_S)
    meanwhile = await street.delays_s(stormy)
    tell(
        f"C4, lnd: {kills} kills, {len(stormy)} payments meanwhile, 0 missed, all known {caught_up:.2f} s after the "
        f"last, each {meanwhile[-1]:.2f} s after it was paid at most; in peace {len(calm)} payments, "
        f"p50 {in_peace[len(calm) // 2]:.2f} s, p99 {p99(in_peace):.2f} s; idle CPU {cpu:.1%} (seed {seed})"
    )
    received = PRICE * (len(calm) + len(stormy))
    balance, payments = await read_books(street.shop)
    assert {each.payment_hash for each in calm + stormy} == {each.payment_hash for each in payments}
    assert received == balance.received == funds(street.regtest.seller).less(got), f"seed {seed}"
    assert len(payments) == len(set(attempts(street.regtest.buyer)) - set(before))
    assert p99(in_peace) <= KNOWN_WITHIN_S, f"seed {seed}"
    assert cpu < MOST_IDLE_CPU


async def test_what_came_while_lnd_was_out_of_reach_is_known_soon_after(
    street: Street, tell: Callable[[str], object]
) -> None:
    invoices = await street.invoices(5)
    await street.relay.tear_down()
    for invoice in invoices:
        await street.pay(invoice)
    cpu = await street.idle_cpu()
    assert [None] * 5 == [row.settled_at for row in await street.rows(invoices)]
    await street.relay.put_up()
    caught_up = await street.known_within(invoices, CAUGHT_UP_WITHIN_S)
    tell(f"C4, lnd: with the node away idle CPU {cpu:.1%}; known {caught_up:.2f} s after its return")
    assert cpu < MOST_IDLE_CPU
    assert 1 == street.shop.told.count("settlements-not-read")
