"""Buying from a real gate with a real purse and a sandbox wallet: both halves of farebox, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget
from farebox.core.errors import OverBudget, PaymentFailed, PaymentUnresolved
from farebox.core.payment import DrawState
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.http.buy import AsyncClient
from farebox.http.buyer import open_buyer
from farebox.http.paywall import Paywall
from farebox.lightning.sandbox.trouble import Trouble
from farebox.stores import open_purse
from farebox.stores.purse import SqlitePurse
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio

URL = "http://shop.test/api/dvm"
PRICE = Amount.sats(21)


@dataclass
class Stall:
    """A seller and a buyer."""

    market: Market
    service: Service
    purse: SqlitePurse
    client: AsyncClient
    waits: list[float]

    async def call(self, prompt: str = "hi") -> httpx.Response:
        return await self.client.post(URL, json={"prompt": prompt})

    async def earned(self) -> Amount:
        return (await self.market.gate.ledger.balance()).earned


@asynccontextmanager
async def stall(budget: str = "500 sat/day", **terms: Any) -> AsyncIterator[Stall]:
    market, service, waits = Market.open(), Service(), []
    app = Paywall(service, gate=market.gate, prices={"POST /api/dvm": "21 sat"})
    purse = open_purse(":memory:", market.clock)
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 4711))

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    try:
        buyer = open_buyer(wallet=market.sandbox.buyer, budget=budget, purse=purse, clock=market.clock, **terms)
        buyer.drivers.awaiting = replace(buyer.drivers.awaiting, pause=pause)
        async with AsyncClient(buyer=buyer, transport=transport) as client:
            yield Stall(market, service, purse, client, waits)
    finally:
        purse.close()
        await market.close()


async def test_what_the_buyer_spends_is_what_the_seller_earns() -> None:
    async with stall() as shop:
        answer = await shop.call()

        assert answer.json() == {"result": "hi #1"}
        bought = answer.extensions["farebox"]
        assert (PRICE, "L402") == (bought.paid, bought.dialect)
        assert PRICE == await shop.earned()
        (window,) = Budget.read("500 sat/day").windows
        assert PRICE + bought.fee == shop.purse.spent(window)
        assert shop.purse.unfinished() == []


@pytest.mark.parametrize("dialect", [L402(), PaymentAuth(), PaymentHash()])
async def test_the_gate_is_paid_in_every_dialect(dialect: Any) -> None:
    async with stall(dialects=[dialect]) as shop:
        bought = (await shop.call()).extensions["farebox"]

        assert dialect.name == bought.dialect
        assert (dialect.name == "Payment") == (bought.receipt is not None)


async def test_the_same_call_made_twice_is_bought_twice() -> None:
    async with stall() as shop:
        answers = [(await shop.call()).json()["result"] for _ in range(2)]

        assert answers == ["hi #1", "hi #2"]
        assert PRICE * 2 == await shop.earned()


async def test_a_service_that_fails_once_is_charged_once() -> None:
    async with stall() as shop:
        shop.service.failing = 1

        answer = await shop.call()

        assert answer.json() == {"result": "hi #2"}
        assert PRICE == await shop.earned()
        assert not answer.extensions["farebox"].replayed
        assert len(shop.waits) == 1


async def test_a_payment_whose_reply_was_lost_is_found_again_and_not_made_twice() -> None:
    async with stall() as shop:
        shop.market.sandbox.script(None, Trouble.LOSE_REPLY)
        with pytest.raises(PaymentUnresolved):
            await shop.call()

        answer = await shop.call()

        assert answer.extensions["farebox"].replayed
        assert answer.json() == {"result": "hi #1"}
        assert PRICE == await shop.earned()


async def test_a_payment_in_flight_bars_the_call_until_it_has_arrived() -> None:
    async with stall() as shop:
        shop.market.sandbox.script(None, Trouble.STAY_IN_FLIGHT)
        for _ in range(2):
            with pytest.raises(PaymentUnresolved):
                await shop.call()
        (held,) = shop.purse.unfinished()
        shop.market.sandbox.release(held.payment_hash)

        answer = await shop.call()

        assert answer.extensions["farebox"].replayed
        assert PRICE == await shop.earned()


async def test_a_payment_that_fails_costs_nothing() -> None:
    async with stall() as shop:
        shop.market.sandbox.script(None, Trouble.FAIL)
        with pytest.raises(PaymentFailed):
            await shop.call()

        (row,) = shop.purse.history(9)
        assert DrawState.RELEASED is row.state
        assert NOTHING == await shop.earned()


async def test_equal_calls_at_once_are_all_answered_and_every_payment_is_served() -> None:
    async with stall() as shop:
        answers = await asyncio.gather(*[shop.call() for _ in range(16)])

        assert {200} == {answer.status_code for answer in answers}
        payments = {answer.extensions["farebox"].payment_hash for answer in answers}
        assert PRICE * len(payments) == await shop.earned()
        assert len(payments) == len(shop.purse.history(99))
        assert shop.purse.unfinished() == []


async def test_calls_at_once_never_spend_more_than_the_budget() -> None:
    async with stall("100 sat/day") as shop:
        outcomes = await asyncio.gather(*[shop.call(str(n)) for n in range(16)], return_exceptions=True)

        served = [outcome for outcome in outcomes if isinstance(outcome, httpx.Response)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, OverBudget)]
        assert (4, 12) == (len(served), len(refused))
        assert PRICE * 4 == await shop.earned()
