"""Pay on success over real channels: a failed call costs its buyer nothing, to the millisatoshi, whatever is killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import decode
from farebox.core.payment import PaymentState
from farebox.core.ports import Failed, Paid, PayOutcome
from farebox.http.converse import Lines, aconverse
from farebox.lightning.lnd import Lnd
from farebox.testing.regtest import Regtest

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

PRICE = Amount.sats(21)
FEE_LIMIT = Amount.sats(1)
PATIENCE_S = 60.0
ENDED_WITHIN_S = 90.0  # a lease of 30 s, and then as long as it takes to look after it
_BEFORE_THE_ANSWER = 0.2
CONFIG = """
receiver = "{receiver}"
store = "sqlite:///farebox.db"
free_calls = 0
unpaid_per_client = 10000
calls_at_once = 10000
calls_per_client_s = 1000

[[route]]
path = "/*"
price = "21 sat"
upstream = "{upstream}"
settle = "on-success"
"""


@dataclass
class Sold:
    """One call, and what came of it."""

    prompt: str
    asked: Any
    outcome: PayOutcome | None = None


@pytest.fixture
def shop(regtest: Regtest, open_shop: Any, writer_url: str, tmp_path: Any) -> Iterator[Any]:
    narrow = regtest.seller.bake("invoices:read", "invoices:write")
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(receiver=regtest.seller.url(narrow), upstream=writer_url))
    with open_shop(str(config)) as shop:
        yield shop


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    lines = Lines()
    yield lines
    await lines.aclose()


async def _paid(regtest: Regtest, lines: Lines, asked: Any) -> PayOutcome:
    wallet = Lnd.from_url(regtest.buyer.url())
    return await aconverse(wallet.pay_invoice(decode(asked["invoice"]), fee_limit=FEE_LIMIT), lines)


def test_a_call_that_succeeds_is_bought_like_any_other(regtest: Regtest, shop: Any, writer: Any, tmp_path: Any) -> None:
    with farebox.Client(
        wallet=regtest.buyer.url(),
        budget="500 sat/day",
        purse=tmp_path / "purse.db",
        trust_env=False,
        timeout=PATIENCE_S,
    ) as client:
        answer = client.post(shop.url, content="hello")
        assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
        assert PRICE == answer.extensions["farebox"].paid


async def test_a_hundred_calls_that_fail_cost_their_buyer_nothing_to_the_millisatoshi(
    regtest: Regtest, shop: Any, writer: Any, payer: Any, lines: Lines, read_books: Any
) -> None:
    writer.failing = True
    wallet = Lnd.from_url(regtest.buyer.url())
    before = await aconverse(wallet.balance(), lines)
    turns = asyncio.Semaphore(8)  # a channel carries so many at once

    async def buy(number: int) -> PayOutcome:
        async with turns:
            return await _paid(regtest, lines, await payer.challenge(shop.url, f"call {number}"))

    outcomes = await asyncio.gather(*[buy(number) for number in range(100)])
    assert Counter({"Failed": 100}) == Counter(type(each).__name__ for each in outcomes), outcomes
    assert 100 == len(writer.runs)
    assert before == await aconverse(wallet.balance(), lines)
    balance, payments = await read_books(shop)
    assert (NOTHING, {PaymentState.EXPIRED}) == (balance.received, {each.state for each in payments})


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
async def test_killed_between_answer_and_money_nobody_loses_either(
    regtest: Regtest, shop: Any, writer: Any, payer: Any, lines: Lines, read_books: Any, kills: int, tell: Any
) -> None:
    wallet = Lnd.from_url(regtest.buyer.url())
    before = await aconverse(wallet.balance(), lines)
    calls: list[Sold] = []
    chance = random.Random(kills)

    async def buy(prompt: str) -> Sold:
        sold = Sold(prompt, await payer.challenge(shop.url, prompt))
        sold.outcome = await _paid(regtest, lines, sold.asked)
        return sold

    paying: list[asyncio.Task[Sold]] = []
    for kill in range(kills):
        running = len(writer.runs)
        paying += [asyncio.ensure_future(buy(f"kill {kill} call {number}")) for number in range(2)]
        writer.held = True
        until = time.monotonic() + PATIENCE_S
        while len(writer.runs) < running + 2:
            assert time.monotonic() < until, shop.told
            await asyncio.sleep(0.005)
        if chance.random() < _BEFORE_THE_ANSWER:
            await asyncio.to_thread(shop.kill)
        writer.held = False
        await asyncio.sleep(chance.uniform(0, 0.05))  # the answers are kept, and the money taken, in about this time
        await asyncio.to_thread(shop.kill)
        await asyncio.to_thread(shop.start)
    done, late = await asyncio.wait(paying, timeout=ENDED_WITHIN_S)
    assert not late, f"{len(late)} payments are still under way"
    calls = [task.result() for task in done]
    by_kind = Counter(type(sold.outcome).__name__ for sold in calls)
    tell(f"pay on success: {kills} kills, {len(calls)} calls: {dict(by_kind)}")
    paid = [sold for sold in calls if isinstance(sold.outcome, Paid)]
    for sold in paid:
        assert isinstance(sold.outcome, Paid)
        proof = f"L402 {sold.asked['macaroon']}:{sold.outcome.preimage.reveal().hex()}"
        answer = await _answered(payer.http, shop.url, sold.prompt, proof)
        assert [answer.json()["text"]] == writer.runs[sold.prompt]
    assert len(calls) == len(paid) + sum(isinstance(sold.outcome, Failed) for sold in calls)
    assert before == PRICE * len(paid) + await aconverse(wallet.balance(), lines)
    balance, payments = await read_books(shop)
    assert (PRICE * len(paid), NOTHING, NOTHING) == (balance.earned, balance.credit, balance.held)
    spent = {each.payment_hash for each in payments if each.state is PaymentState.SPENT}
    assert {decode(sold.asked["invoice"]).payment_hash for sold in paid} == spent


async def _answered(http: httpx.AsyncClient, url: str, prompt: str, proof: str) -> httpx.Response:
    """The answer to a proof, which may have to be shown again while what was begun is being ended."""
    until = time.monotonic() + ENDED_WITHIN_S
    while True:
        answer = await http.post(url, content=prompt, headers={"authorization": proof})
        if answer.status_code == 200:
            return answer
        assert answer.status_code in (409, 503), answer.text
        assert time.monotonic() < until, answer.text
        await asyncio.sleep(0.5)
