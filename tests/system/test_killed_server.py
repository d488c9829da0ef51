"""A shop that is killed at any moment, again and again, loses no payment and charges none twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.core.ports import Failed, Paid, Unresolved

pytestmark = [pytest.mark.system, pytest.mark.anyio]

BUYERS = 6
PRICE = Amount.sats(21)
FIRST_BALANCE = Amount.sats(1_000_000)
LONGEST_LIFE_S = 0.6  # of a shop between two kills
UPSTREAM_TAKES_S = 0.02
MOST_S = 200  # a call that was hit by a kill can be made again when its lease of 30 s has run out

CONFIG = """
free_calls = 0

[[route]]
path = "/write"
method = "POST"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


@dataclass
class Purchase:
    """One paid call. hits: how often a kill interrupted the call itself. answers: every one that came, of any try."""

    prompt: str
    payment_hash: str = ""
    proof: dict[str, str] = field(default_factory=dict)
    hits: int = 0
    answers: list[bytes] = field(default_factory=list)


class Street:
    """Buyers in front of a shop that keeps being killed."""

    def __init__(self, shop: Any, payer: Any) -> None:
        self.shop = shop
        self.payer = payer
        self.open = asyncio.Event()
        self.open.set()
        self.closing = asyncio.Event()  # no more kills will come
        self.purchases: list[Purchase] = []
        self.tally: Counter[str] = Counter()
        self.later: list[asyncio.Task[None]] = []

    async def kill_and_restart(self) -> None:
        """`kill -9`, and a new process in the same folder, on the same port."""
        self.open.clear()
        self.shop.kill()
        await asyncio.to_thread(self.shop.start)
        self.open.set()

    async def shop_around(self) -> None:
        """Buy one thing after the other."""
        while not self.closing.is_set():
            purchase = Purchase(f"prompt {len(self.purchases):05}")
            self.purchases.append(purchase)
            await self.pay(purchase)
            if not await self.call(purchase):  # its lease may have to run out first, and there are other things to buy
                self.later.append(asyncio.create_task(self.insist(purchase)))

    async def pay(self, purchase: Purchase) -> None:
        """Ask for an invoice and pay it, through every kill."""
        while True:
            await self.open.wait()
            try:
                asked = await self.payer.challenge(self.shop.url + "/write", purchase.prompt)
                break
            except httpx.TransportError:
                self.tally["challenges lost"] += 1
        wallet = self.payer.pay
        while True:
            await self.open.wait()
            match await wallet(self.shop.place["buyer_wallet"], asked["invoice"]):
                case Paid(preimage=preimage):
                    break
                case Failed():  # the wallet was not reached
                    wallet = self.payer.pay
                    self.tally["wallets not reached"] += 1
                case Unresolved(known=False):  # and never heard of it
                    wallet = self.payer.pay
                    self.tally["payments that never began"] += 1
                case Unresolved():
                    wallet = self.payer.look_up
                    self.tally["wallet replies lost"] += 1
        if wallet == self.payer.look_up:
            self.tally["payments found by looking up"] += 1
        purchase.payment_hash = asked["payment_hash"]
        purchase.proof = {"authorization": f"L402 {asked['macaroon']}:{preimage.reveal().hex()}"}

    async def call(self, purchase: Purchase) -> bool:
        """Show the proof; whether the answer came, rather than a kill or a word to come again later."""
        await self.open.wait()
        try:
            answer = await self.payer.http.post(
                self.shop.url + "/write", content=purchase.prompt, headers=purchase.proof
            )
        except httpx.TransportError:
            purchase.hits += 1
            self.tally["calls hit by a kill"] += 1
            return False
        if answer.status_code != 200:
            assert (409, "call-in-progress") == (answer.status_code, answer.json()["error"]), answer.text
            self.tally["calls told to come again"] += 1
            return False
        purchase.answers.append(answer.content)
        return True

    async def insist(self, purchase: Purchase) -> None:
        """Come again at once, and when there is peace until the answer is there."""
        if await self.call(purchase):
            self.tally["answers found at once after a kill"] += 1
            return
        await self.closing.wait()
        while not await self.call(purchase):
            pass


@pytest.fixture
async def street(open_shop: Any, writer: Any, writer_url: str, payer: Any, tmp_path: Any) -> AsyncIterator[Street]:
    writer.takes_s = UPSTREAM_TAKES_S
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(upstream=writer_url))
    with open_shop(str(config), "--log-level", "error") as shop:
        yield Street(shop, payer)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.full)])
async def test_a_shop_killed_under_load_loses_nothing_and_charges_nothing_twice(
    street: Street, writer: Any, read_books: Any, seed: int, tell: Callable[[str], object], kills: int
) -> None:
    chance = random.Random(seed)
    async with asyncio.timeout(MOST_S):
        async with asyncio.TaskGroup() as buyers:
            for _ in range(BUYERS):
                buyers.create_task(street.shop_around())
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0, LONGEST_LIFE_S))
                await street.kill_and_restart()
            street.closing.set()
        await asyncio.gather(*street.later)
        for purchase in street.purchases:  # what was answered stays answered, and is the same
            assert await street.call(purchase), f"seed {seed}: {purchase}"
        balance, payments = await read_books(street.shop)
        in_wallet = await street.payer.balance(street.shop.place["buyer_wallet"])
    twice = [purchase for purchase in street.purchases if len(writer.runs[purchase.prompt]) > 1]
    tell(
        f"{kills} kills, {len(street.purchases)} payments, {len(twice)} calls run again after a kill: "
        f"{dict(street.tally)}; earned {balance.earned} (seed {seed})"
    )
    bought = {purchase.payment_hash: purchase for purchase in street.purchases}
    spent = {payment.payment_hash.hex() for payment in payments if payment.state is PaymentState.SPENT}
    assert spent == set(bought), f"seed {seed}"
    assert len(bought) == len(street.purchases)
    for purchase in street.purchases:
        told = {text.encode() for text in writer.runs[purchase.prompt]}
        assert 1 == len(set(purchase.answers)), f"seed {seed}: {purchase}"
        assert any(text in purchase.answers[0] for text in told), f"seed {seed}: {purchase}"
        assert 1 <= len(told) <= 1 + purchase.hits, f"seed {seed}: {purchase}"
    assert PRICE * len(bought) == balance.earned == balance.received, f"seed {seed}"
    assert NOTHING == balance.held == balance.credit, f"seed {seed}"
    assert FIRST_BALANCE == in_wallet + balance.earned, f"seed {seed}"
