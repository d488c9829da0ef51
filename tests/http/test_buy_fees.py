"""What a wallet is told that routing may cost, and what the budget shows in the end: exact to the millisatoshi."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.errors import PaymentFailed
from farebox.core.ports import Failed
from farebox.stores import open_purse
from farebox.testing.shopping import PROMPT, SHOP, Face

DAILY = Window.read("100000000 sat/day")


@pytest.mark.parametrize("kind", ["client", "async client"])
@pytest.mark.parametrize("calls", [40, pytest.param(2000, marks=pytest.mark.full)])
def test_the_budget_shows_every_price_and_fee_and_the_wallet_hears_every_limit(
    kind: str, calls: int, seed: int, tell: Callable[[str], object]
) -> None:
    face, chance = Face(kind), random.Random(seed)
    purse: Any = open_purse(":memory:", face.clock)
    face.purse = purse
    client = face.open(budget=str(DAILY))
    limits, spent, failed = [], NOTHING, 0
    for _ in range(calls):
        price = Amount.msats(chance.choice((1, 999, 1000, 21_000, 50_001, 400_000, 7_654_321)))
        limit = max(Amount.sats(1), price.share(1))
        fee = Amount.msats(chance.randint(0, limit.msat))
        invoice = face.mint.invoice(price)
        face.shop.script = [face.shop.asks(invoice)]
        limits.append(limit)
        if chance.random() < 0.2:
            failed += 1
            face.wallet.on_pay = [Failed(reason="no route")]
            with pytest.raises(PaymentFailed):
                face.call(url=f"{SHOP}/{len(limits)}", json=PROMPT, client=client)
        else:
            face.wallet.on_pay = [face.mint.paid(invoice.payment_hash, fee=fee)]
            bought = face.call(url=f"{SHOP}/{len(limits)}", json=PROMPT, client=client).extensions["farebox"]
            assert (price, fee) == (bought.paid, bought.fee), f"seed {seed}"
            spent += price + fee
        assert spent == purse.spent(DAILY), f"seed {seed}"
    assert limits == face.wallet.fee_limits, f"seed {seed}"
    purse.close()
    tell(f"B10: {calls} payments, {failed} failed; {spent.msat} msat spent, to the millisatoshi (seed {seed})")
