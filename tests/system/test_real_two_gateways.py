"""Two gateways on one PostgreSQL and one lnd node are one shop, paid over real channels."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice
from farebox.core.payment import PaymentState
from farebox.core.ports import PayOutcome
from farebox.http.converse import Lines, aconverse
from farebox.lightning.lnd import Lnd
from farebox.testing.postgres import Postgres
from farebox.testing.regtest import Regtest
from farebox.testing.regtest_payments import attempts, funds
from farebox.testing.street import FEE_LIMIT, PATIENCE_S, Street

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

PRICE = Amount.sats(21)
BUYERS = 6
MANY = 100
KNOWN_WITHIN_S = 5.0


class RealStreet(Street):
    """Buyers with a node of their own, who go to either gateway each time they call."""

    def __init__(self, urls: list[str], regtest: Regtest, chance: random.Random) -> None:
        super().__init__("", None, insisting=True)
        self._urls, self._chance = urls, chance
        self._wallet, self._lines = Lnd.from_url(regtest.buyer.url()), Lines()

    @property
    def url(self) -> str:
        return self._chance.choice(self._urls)

    @url.setter
    def url(self, _: str) -> None: ...

    async def pay(self, invoice: Invoice) -> PayOutcome:
        return await aconverse(self._wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), self._lines)

    async def close(self) -> None:
        await super().close()
        await self._lines.aclose()


@pytest.mark.parametrize(
    ("kills", "calls"), [(1, 20), pytest.param(30, 1000, marks=pytest.mark.full)], ids=["quick", "whole"]
)
async def test_each_payment_is_answered_once_though_one_of_two_gateways_is_killed_again_and_again(
    regtest: Regtest,
    open_shop_in: Any,
    lnd_config: Any,
    postgres: Postgres,
    writer: Any,
    read_books: Any,
    seed: int,
    tell: Callable[[str], object],
    kills: int,
    calls: int,
) -> None:
    chance, config = random.Random(seed), str(lnd_config(store=postgres.new_database()))
    had, got, before = funds(regtest.buyer), funds(regtest.seller), attempts(regtest.buyer)
    with open_shop_in("first", config) as first, open_shop_in("second", config) as second:
        street = RealStreet([first.url, second.url], regtest, chance)
        async with street.busy(BUYERS):
            for _ in range(kills):
                await answered(street, street.tally["200"] + chance.randrange(1, 2 * calls // (kills + 1)))
                shop = chance.choice([first, second])
                await asyncio.to_thread(shop.kill)
                await asyncio.to_thread(shop.start)
            await answered(street, calls)
        if calls > MANY:
            await street.catch_up()  # when the leases of the calls that were killed have run out
        await street.close()
        ends = time.monotonic() + KNOWN_WITHIN_S
        while (books := await read_books(first))[0].received != PRICE * len(street.purchases):
            assert time.monotonic() < ends, f"seed {seed}: {books[0]}"
            await asyncio.sleep(0.05)
        balance, payments = books
    spent = {payment.payment_hash for payment in payments if payment.state is PaymentState.SPENT}
    funded = {payment.payment_hash for payment in payments if payment.state is PaymentState.FUNDED}
    later = {purchase.payment_hash for purchase in street.later}
    again = sum(len(runs) > 1 for runs in writer.runs.values())
    tell(
        f"two gateways, one lnd: {kills} kill -9, {len(street.purchases)} paid calls, {dict(street.tally)}, "
        f"{again} run again after a kill, {len(later)} to be claimed yet (seed {seed})"
    )
    assert spent | funded == {purchase.payment_hash for purchase in street.purchases}, f"seed {seed}"
    assert funded <= later, f"seed {seed}"
    for purchase in street.purchases:
        answered_once = purchase.payment_hash not in later
        assert answered_once == len(set(purchase.answers)), f"seed {seed}: {purchase}"
        assert len(writer.runs.get(purchase.prompt, ())) <= 1 + purchase.hits, f"seed {seed}: {purchase}"
    assert (PRICE * len(spent), NOTHING) == (balance.earned, balance.credit), f"seed {seed}"
    assert balance.received == had.less(funds(regtest.buyer)) == funds(regtest.seller).less(got), f"seed {seed}"
    assert len(street.purchases) == len(set(attempts(regtest.buyer)) - set(before)), f"seed {seed}"


async def answered(street: Street, calls: int) -> None:
    """Until so many calls were answered."""
    async with asyncio.timeout(10 * PATIENCE_S):
        while street.tally["200"] < calls:
            await asyncio.sleep(0.01)
