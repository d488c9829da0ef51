"""What was paid is known to the shop, though nobody shows a proof, and though its line to the node keeps breaking."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.payment import Payment
from farebox.core.ports import Paid
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.lightning.sandbox import Sandbox
from farebox.testing.relay import Relay, relayed
from farebox.testing.watched_shop import WatchedShop, p99

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
KNOWN_WITHIN_S = 1.0  # of the payment, for 99 of 100, while the line is there
CAUGHT_UP_WITHIN_S = 5.0  # of the line's return
MOST_IDLE_CPU = 0.05
PAID_EACH_TIME = 3  # between two kills

CONFIG = """
receiver = "phoenixd+http://:seller@127.0.0.1:{port}"
store = "sqlite:///farebox.db"
free_calls = 0
invoice_expires_in_s = 3600
unpaid_per_client = 100000

[[route]]
path = "/"
price = "21 sat"
upstream = "{upstream}"
"""


class Street(WatchedShop):
    """A shop in a process of its own, and a node behind a line that can be cut."""

    def __init__(self, shop: Any, payer: Any, sandbox: Sandbox, relay: Relay) -> None:
        super().__init__(shop.place["store"], shop.process.pid)
        self.shop, self.payer, self.sandbox, self.relay = shop, payer, sandbox, relay

    async def invoices(self, count: int) -> list[Invoice]:
        """So many calls that were asked for."""
        names = [f"{time.monotonic_ns()} {number}" for number in range(count)]
        return [decode((await self.payer.challenge(self.shop.url, name))["invoice"]) for name in names]

    async def pay(self, invoice: Invoice) -> None:
        """From the buyer's own node, whatever the shop's line to its node does."""
        outcome = await asyncio.to_thread(self.sandbox.buyer.pay, invoice, fee_limit=None)
        assert isinstance(outcome, Paid)

    def delays_s(self, rows: Sequence[Payment]) -> list[float]:
        """From each payment until it was known, sorted."""
        spans = []
        for row in rows:
            receipt = self.sandbox.seller.find_receipt(row.payment_hash)
            assert receipt is not None
            assert receipt.completed_at is not None
            assert row.settled_at is not None
            spans.append((row.settled_at - receipt.completed_at) / timedelta(seconds=1))
        return sorted(spans)


@asynccontextmanager
async def opened(
    open_shop: Any, serve_app: Any, payer: Any, writer_url: str, folder: Path, *, ws: str
) -> AsyncIterator[Street]:
    sandbox = Sandbox.open(folder / "node.db")
    with serve_app(phoenixd_api(sandbox, {"seller": "seller", "buyer": "buyer"}), ws=ws) as url:
        async with relayed("127.0.0.1", urlsplit(url).port or 0) as relay:
            config = folder / "farebox.toml"
            config.write_text(CONFIG.format(port=relay.port, upstream=writer_url))
            with open_shop(str(config), "--log-level", "info") as shop:
                yield Street(shop, payer, sandbox, relay)
    sandbox.close()


@pytest.fixture(
    params=[
        pytest.param("websockets-sansio", id="a websocket"),
        pytest.param("none", id="no websocket", marks=pytest.mark.full),
    ]
)
async def street(
    request: pytest.FixtureRequest, open_shop: Any, serve_app: Any, payer: Any, writer_url: str, tmp_path: Path
) -> AsyncIterator[Street]:
    async with opened(open_shop, serve_app, payer, writer_url, tmp_path, ws=request.param) as street:
        yield street


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.full, pytest.mark.alone])])
async def test_no_payment_is_missed_while_the_line_to_the_node_keeps_breaking(
    street: Street, seed: int, tell: Callable[[str], object], kills: int
) -> None:
    chance = random.Random(seed)
    calm = await street.invoices(kills)
    for invoice in calm:
        await street.pay(invoice)
        await asyncio.sleep(chance.uniform(0, 0.1))
    await street.known_within(calm, CAUGHT_UP_WITHIN_S)
    delays = street.delays_s(await street.rows(calm))

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
    tell(
        f"C4: {kills} kills, {len(stormy)} payments meanwhile, 0 missed, all known {caught_up:.2f} s after the last; "
        f"in peace {len(calm)} payments, p50 {delays[len(delays) // 2]:.2f} s, p99 {p99(delays):.2f} s (seed {seed})"
    )
    assert p99(delays) <= KNOWN_WITHIN_S, f"seed {seed}"


async def test_what_came_while_the_node_was_away_is_known_soon_after_and_nothing_spins(
    street: Street, tell: Callable[[str], object]
) -> None:
    invoices = await street.invoices(10)
    in_peace = await street.idle_cpu()
    await street.relay.tear_down()
    for invoice in invoices:
        await street.pay(invoice)
    while_away = await street.idle_cpu()
    await street.relay.put_up()
    caught_up = await street.known_within(invoices, CAUGHT_UP_WITHIN_S)
    tell(f"C4: idle CPU {in_peace:.1%}, with the node away {while_away:.1%}; known {caught_up:.2f} s after its return")
    assert max(in_peace, while_away) < MOST_IDLE_CPU
    assert 1 == street.shop.told.count("settlements-not-read")
