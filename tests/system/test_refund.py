"""The command that pays a credit back: told how by the shop, killed at any moment, it pays once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.http.converse import aconverse
from farebox.lightning.phoenixd import Phoenixd
from farebox.testing.market import whole_body

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE, BACK = Amount.sats(21), Amount.sats(20)
DONE, REFUSED, UNRESOLVED = 0, 3, 5
COMMAND = str(Path(sys.executable).with_name("farebox"))
MOST_S = 60

CONFIG = """
free_calls = 0

[[route]]
path = "/"
price = "21 sat"
upstream = "{upstream}"
"""


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """A service that always fails."""
    await whole_body(receive)
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Debtor:
    """A shop that can't deliver, somebody who pays it, and the seller's command line."""

    shop: Any
    payer: Any
    farebox: Callable[..., subprocess.CompletedProcess[str]]

    async def owe(self, name: str) -> dict[str, Any]:
        """The problem that the payer of a call is shown at last."""
        proof = await self.payer.buy(self.shop, name)
        answers = [await self.payer.http.post(self.shop.url, content=name, headers=proof) for _ in range(4)]
        assert [502, 502, 502, 409] == [answer.status_code for answer in answers]
        return dict(answers[-1].json())

    async def invoice(self, amount: Amount = BACK) -> str:
        """What the payer sends the seller."""
        wallet = Phoenixd.from_url(self.shop.place["buyer_wallet"])
        asked = wallet.create_invoice(amount, description="give it back", expires_in=timedelta(minutes=10))
        return (await aconverse(asked, self.payer.http)).text

    async def funds(self) -> Amount:
        funds: Amount = await self.payer.balance(self.shop.place["buyer_wallet"])
        return funds

    async def refund(self, *words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.farebox, *self.command(*words))

    def command(self, *words: str) -> tuple[str, ...]:
        return ("refund", self.shop.place["store"], *words, "--wallet", self.shop.place["refund_wallet"])


@pytest.fixture
def broken_url(serve_app: Any) -> Iterator[str]:
    with serve_app(broken) as url:
        yield url


@pytest.fixture
async def debtor(open_shop: Any, payer: Any, farebox: Any, broken_url: str, tmp_path: Path) -> AsyncIterator[Debtor]:
    config = tmp_path / "shop.toml"
    config.write_text(CONFIG.format(upstream=broken_url))
    with open_shop(str(config), "--log-level", "error") as shop:
        yield Debtor(shop, payer, farebox)


async def test_what_could_not_be_delivered_is_listed_and_paid_back_once_as_the_shop_says(
    debtor: Debtor, read_books: Any
) -> None:
    async with asyncio.timeout(MOST_S):
        problem = await debtor.owe("a call")
        listed = await debtor.refund("--list")
        before = await debtor.funds()
        invoice = await debtor.invoice(Amount.msats(problem["invoice_at_most_msat"]))
        refunded = [await debtor.refund(problem["payment_hash"], invoice) for _ in range(2)]
        too_much = await debtor.refund(problem["payment_hash"], await debtor.invoice(PRICE))
        other = await debtor.owe("another call")
        refused = await debtor.refund(other["payment_hash"], await debtor.invoice(PRICE))
        balance, _ = await read_books(debtor.shop)
        after = await debtor.funds()
    owed = json.loads(listed.stdout)
    assert (PRICE.msat, "credit", str(BACK)) == (owed["owed_msat"], owed["state"], owed["invoice_at_most"])
    assert problem["payment_hash"] == owed["payment_hash"]
    assert [DONE, DONE] == [each.returncode for each in refunded], refunded
    assert refunded[0].stdout == refunded[1].stdout
    assert (DONE, REFUSED) == (too_much.returncode, refused.returncode), (too_much.stderr, refused.stderr)
    assert before + BACK == after + PRICE  # the second call was paid meanwhile
    assert (BACK, Amount.sats(1) + PRICE) == (balance.refunded, balance.credit)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.full)])
async def test_a_command_that_is_killed_at_any_moment_and_made_again_pays_once(
    debtor: Debtor, farebox: Any, read_books: Any, seed: int, tell: Callable[[str], object], kills: int
) -> None:
    chance, tally = random.Random(seed), Counter[str]()
    whole, began = await debtor.owe("a call"), time.monotonic()
    assert DONE == (await debtor.refund(whole["payment_hash"], await debtor.invoice())).returncode
    takes_s = time.monotonic() - began
    for number in range(kills):
        problem, before = await debtor.owe(f"call {number}"), await debtor.funds()
        words = (problem["payment_hash"], await debtor.invoice())
        process = await asyncio.create_subprocess_exec(
            COMMAND, *debtor.command(*words), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(takes_s / 2, takes_s * 1.1)):
                await process.wait()
        if process.returncode is None:
            process.kill()
            tally["killed"] += 1
        await process.wait()
        paid_before_the_kill = await debtor.funds() - before
        again = await debtor.refund(*words)
        paid = await debtor.funds() - before
        tally["paid before the kill"] += paid_before_the_kill == BACK
        match again.returncode:
            case 0:
                tally["paid in the end"] += 1
                assert BACK == paid, f"seed {seed}"
            case _:  # killed between the intent and the wallet: to be tried again when nobody can be at it any more
                tally["to be tried again"] += 1
                assert (UNRESOLVED, NOTHING) == (again.returncode, paid), f"seed {seed}: {again}"
    balance, payments = await read_books(debtor.shop)
    states = Counter(payment.state for payment in payments)
    tell(f"{kills} refunds, each made twice: {dict(tally)}; refunded {balance.refunded} (seed {seed})")
    assert BACK * (1 + tally["paid in the end"]) == balance.refunded, f"seed {seed}"
    assert 1 + kills == states[PaymentState.REFUNDED] + states[PaymentState.CREDIT], f"seed {seed}"
