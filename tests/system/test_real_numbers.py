"""Money that is too little, not here, not ours or too late, and wallets that do not answer in time: with real nodes.

Targets A10, A11 and B4 of the reliability table, at a small number here and at their own behind the mark `full`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.budget import Budget
from farebox.core.errors import PaymentUnresolved
from farebox.core.payment import DrawState, PaymentState
from farebox.core.ports import Paid
from farebox.gate import Terms
from farebox.lightning.lnd import Lnd
from farebox.stores import open_purse
from farebox.testing.regtest import Regtest
from farebox.testing.regtest_payments import attempts, funds, holding, pay_along, under_way, until
from farebox.testing.regtest_shop import PRICE, RegtestShop, regtest_shop

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

FEE_LIMIT = Amount.sats(1)
MOST_ATTEMPTS = Terms().most_attempts
LEAST = Amount.sats(1)  # that lnd's channels forward
BUDGET = Budget.read("5000000 sat/day")
NOT_PAID = ("too little", "in part", "held", "cancelled", "unpaid", "another node's invoice", "another shop's payment")
HASTE = timedelta(milliseconds=500)
AT_ONCE = 4


@dataclass
class Clock:
    """The time, and as much later as it is told."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Sold:
    """What was asked for at a shop, and every way to show a proof for it."""

    url: str
    prompt: str
    told: dict[str, Any]

    @property
    def invoice(self) -> Invoice:
        return decode(self.told["invoice"])

    def proofs(self, preimage: bytes, payment_hash: bytes | None = None) -> list[dict[str, str]]:
        shown = payment_hash or self.invoice.payment_hash
        return [
            {"x-payment-hash": shown.hex()},
            {"authorization": f"L402 {self.told['macaroon']}:{preimage.hex()}"},
        ]


@dataclass
class Street:
    """Three shops at one node, of which one holds what it is paid; and a buyer with another node."""

    regtest: Regtest
    shop: RegtestShop
    other_shop: RegtestShop
    holding: RegtestShop
    http: httpx.AsyncClient
    clock: Clock

    async def ask(self, shop: RegtestShop, prompt: str, path: str = "/") -> Sold:
        url = shop.url + path
        asked = await self.http.post(url, content=prompt)
        assert 402 == asked.status_code, asked.text
        return Sold(url, prompt, asked.json())

    async def show(self, sold: Sold, proof: dict[str, str]) -> httpx.Response:
        return await self.http.post(sold.url, content=sold.prompt, headers=proof)

    async def pay(self, invoice: Invoice, within: timedelta = timedelta(seconds=20)) -> bytes:
        """The preimage; nothing when it is not known within this time."""
        wallet = Lnd.from_url(self.regtest.buyer.url(), pay_within=within)
        outcome = await self.shop.gate.converse(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        return outcome.preimage.reveal() if isinstance(outcome, Paid) else b""


@pytest.fixture
async def street(regtest: Regtest, writer_url: str) -> AsyncIterator[Street]:
    clock, seller = Clock(), Lnd.from_url(regtest.seller.url())
    async with (
        regtest_shop(seller, writer_url, clock=clock) as shop,
        regtest_shop(seller, writer_url) as other_shop,
        regtest_shop(holding(regtest.seller), writer_url) as holding_shop,
        httpx.AsyncClient(trust_env=False, timeout=30) as http,
    ):
        yield Street(regtest, shop, other_shop, holding_shop, http, clock)


# --- A10 --------------------------------------------------------------------------------------------------------------


async def tried(street: Street, kind: str, prompt: str, chance: random.Random) -> list[httpx.Response]:
    """Pay for a call in a way that does not count, show whatever there is to show, and hear what comes of each."""
    sold = await street.ask(street.holding if kind == "held" else street.shop, prompt)
    invoice, part = sold.invoice, Amount.msats(chance.randrange(LEAST.msat, PRICE.msat))
    proofs = sold.proofs(chance.randbytes(32))
    paying: asyncio.Task[Any] | None = None
    match kind:
        case "too little":
            assert not await asyncio.to_thread(pay_along, street.regtest, invoice, part, of=part)
        case "in part":
            paying = asyncio.create_task(asyncio.to_thread(pay_along, street.regtest, invoice, part, of=PRICE))
        case "held":
            paying = asyncio.create_task(street.pay(invoice))
        case "cancelled":
            await street.shop.cancel(invoice.payment_hash)
            assert not await street.pay(invoice)
        case "another node's invoice":
            theirs = decode(street.regtest.hub.invoice(PRICE))
            preimage = await street.pay(theirs)
            proofs = sold.proofs(preimage) + sold.proofs(preimage, theirs.payment_hash)[:1]
        case "another shop's payment":
            elsewhere = await street.ask(street.other_shop, prompt)
            preimage = await street.pay(elsewhere.invoice)
            proofs = [*elsewhere.proofs(preimage), *sold.proofs(preimage)]
    if paying is not None:
        await asyncio.to_thread(until, lambda: invoice.payment_hash in under_way(street.regtest.seller), "it is there")
    told = [await street.show(sold, proof) for proof in proofs]
    if paying is not None:
        assert not paying.done()
        await street.shop.cancel(invoice.payment_hash)
        assert not await paying
    return told


@pytest.mark.parametrize("count", [21, pytest.param(5_000, marks=pytest.mark.full)], ids=["quick", "A10"])
async def test_nobody_is_served_for_money_that_is_not_all_there_and_ours(
    street: Street, writer: Any, seed: int, tell: Callable[[str], object], count: int
) -> None:
    told, had, numbers = Counter[str](), funds(street.regtest.buyer), iter(range(count))

    async def try_on() -> None:
        for number in numbers:
            kind = NOT_PAID[number % len(NOT_PAID)]
            answers = await tried(street, kind, f"{kind} {number}", random.Random(f"{seed} {number}"))
            told.update(str(answer.status_code) for answer in answers)

    await asyncio.gather(*(try_on() for _ in range(AT_ONCE)))
    shown = told.total()
    tell(f"A10, lnd: {count} payments that do not count, {shown} proofs: {dict(told)}, 0 served (seed {seed})")
    assert 0 == told["200"], f"seed {seed}"
    assert {} == writer.runs
    assert shown > 2 * count
    for shop in (street.shop, street.holding):
        assert NOTHING == (await shop.gate.ledger.balance()).received
    paid_elsewhere = sum(NOT_PAID[number % len(NOT_PAID)].startswith("another") for number in range(count))
    assert PRICE * paid_elsewhere == had.less(funds(street.regtest.buyer)), f"seed {seed}"


@pytest.mark.parametrize("count", [5, pytest.param(500, marks=pytest.mark.full)], ids=["quick", "A10"])
async def test_whoever_pays_more_is_served_and_the_rest_is_in_the_books(
    street: Street, writer: Any, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, paid, had = random.Random(seed), NOTHING, funds(street.regtest.buyer)
    async with street.shop.learning():
        for number in range(count):
            sold = await street.ask(street.shop, f"prompt {number}")
            amount = PRICE + Amount.msats(chance.randrange(1, PRICE.msat))
            assert await asyncio.to_thread(pay_along, street.regtest, sold.invoice, amount, of=amount)
            paid += amount
            if chance.random() < 0.5:
                await street.shop.received(paid)
            by_hash, _ = sold.proofs(b"")
            assert 200 == (await street.show(sold, by_hash)).status_code, f"seed {seed}"
        await street.shop.received(paid)
    books = await street.shop.gate.ledger.balance()
    tell(f"A10, lnd: {count} overpaid, all served; {books.credit} surplus as credit (seed {seed})")
    assert [1] * count == [len(runs) for runs in writer.runs.values()]
    assert (PRICE * count, paid - PRICE * count) == (books.earned, books.credit), f"seed {seed}"
    assert paid == had.less(funds(street.regtest.buyer)), f"seed {seed}"


# --- A11 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.full)], ids=["quick", "A11"])
async def test_money_of_which_is_heard_after_its_invoice_ended_is_used_or_owed(
    street: Street, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, tally, ledger = random.Random(seed), Counter[str](), street.shop.gate.ledger
    paths = [chance.choice(["/", "/", "/failing"]) for _ in range(count)]
    late = [await street.ask(street.shop, f"prompt {number}", path) for number, path in enumerate(paths)]
    waiting, preimages = list(late), dict[bytes, bytes]()

    async def pay() -> None:
        while waiting:
            invoice = waiting.pop().invoice
            preimages[invoice.payment_hash] = await street.pay(invoice)

    await asyncio.gather(*(pay() for _ in range(AT_ONCE)))
    street.clock.ahead = timedelta(minutes=30)
    expired = 0
    while now := await ledger.expire_payments(grace=timedelta(minutes=10), most=40):
        expired += now
    assert count == expired
    half = count // 2
    for number, sold in enumerate(late):
        if number == half:
            async with street.shop.learning():
                await street.shop.received(PRICE * count)
        proof = chance.choice(sold.proofs(preimages[sold.invoice.payment_hash]))
        answers = [(await street.show(sold, proof)).status_code for _ in range(MOST_ATTEMPTS)]
        learnt = "by its payer" if number < half else "by the stream"
        tally[f"{'used' if answers[0] == 200 else 'owed'}, learnt {learnt}"] += 1
    books = await ledger.balance()
    states = Counter(payment.state for payment in await ledger.recent_payments(count))
    tell(f"A11, lnd: {count} known late: {dict(tally)}; {books.earned} earned, {books.credit} owed (seed {seed})")
    assert (paths.count("/"), paths.count("/failing")) == (
        states[PaymentState.SPENT],
        states[PaymentState.CREDIT],
    ), f"seed {seed}: {states}"
    assert PRICE * count == books.received == books.earned + books.credit, f"seed {seed}"


# --- B4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, pytest.param(300, marks=pytest.mark.full)], ids=["quick", "B4"])
async def test_a_wallet_that_answers_too_late_pays_nothing_twice_and_frees_nothing_that_is_on_its_way(
    street: Street, writer: Any, tmp_path: Path, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, hub = random.Random(seed), street.regtest.hub.node
    had, before, unresolved = funds(street.regtest.buyer), attempts(street.regtest.buyer), 0
    slow = [number < -(-count * 3 // 10) for number in range(count)]
    chance.shuffle(slow)
    purse = open_purse(tmp_path / "purse.db")
    wallet = Lnd.from_url(street.regtest.buyer.url(), pay_within=HASTE)
    async with farebox.AsyncClient(wallet=wallet, budget=BUDGET, purse=purse, trust_env=False, timeout=30) as client:
        for number in range(count):
            if slow[number]:
                hub.pause()
            try:
                answer = None
                while answer is None:
                    try:
                        answer = await client.post(street.shop.url, content=f"prompt {number}")
                    except PaymentUnresolved:
                        unresolved += 1
                        [held] = purse.unfinished()
                        assert DrawState.HELD is held.state, f"seed {seed}"
                        assert PRICE * (number + 1) + FEE_LIMIT == purse.spent(BUDGET.windows[0]), f"seed {seed}"
                        if chance.random() < 0.8:  # else it is looked up while it is still on its way
                            hub.go_on()
            finally:
                hub.go_on()
            assert 200 == answer.status_code
            assert PRICE * (number + 1) == purse.spent(BUDGET.windows[0]), f"seed {seed}"
    tried_now = {each: state for each, state in attempts(street.regtest.buyer).items() if each not in before}
    tell(
        f"B4, lnd: {count} purchases, {sum(slow)} with a late reply ({unresolved} x unresolved): 0 twice (seed {seed})"
    )
    assert unresolved >= sum(slow)
    assert ["SUCCEEDED"] * count == list(tried_now.values()), f"seed {seed}"
    assert [1] * count == [len(runs) for runs in writer.runs.values()]
    assert PRICE * count == had.less(funds(street.regtest.buyer)), f"seed {seed}"
    assert PRICE * count == (await street.shop.gate.ledger.balance()).earned
    purse.close()
