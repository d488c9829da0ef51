"""What was quoted is what a call costs, whatever the price list says when the proof comes."""

import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount
from farebox.core.payment import PaymentState
from farebox.http.paywall import Paywall
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio

PATHS = ("/up", "/down", "/removed")
BEFORE = {f"POST {path}": "21 sat" for path in PATHS}
AFTER = {"POST /up": "2100 sat", "POST /down": "1 sat"}
BACK = {**AFTER, "POST /removed": "5 sat"}


class Shop:
    """One gate, behind whichever price list is on the wall now."""

    def __init__(self, market: Market, service: Service) -> None:
        self.market = market
        self.service = service
        self.prices = BEFORE

    async def call(self, path: str, prompt: str, proof: str | None = None) -> httpx.Response:
        wall = Paywall(self.behind, gate=self.market.gate, prices=self.prices)
        transport = httpx.ASGITransport(app=wall, client=("192.0.2.7", 4711))
        headers = {} if proof is None else {"authorization": proof}
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
            return await http.post(path, json={"prompt": prompt}, headers=headers)

    async def behind(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/removed" and "POST /removed" not in self.prices:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.service(scope, receive, send)

    async def buy(self, path: str, prompt: str) -> str:
        asked = (await self.call(path, prompt)).json()
        preimage = self.market.pay(asked["invoice"])
        return f"L402 {asked['macaroon']}:{preimage.hex()}"


@pytest.mark.parametrize("payments", [40, pytest.param(1000, marks=pytest.mark.full)])
async def test_a_quoted_price_is_honoured_when_the_price_has_changed_and_when_a_removed_route_is_back(
    payments: int, seed: int, tell: Callable[[str], object]
) -> None:
    chance = random.Random(seed)
    shop = Shop(Market.open(), Service())
    bought = [(path := chance.choice(PATHS), f"{n}", await shop.buy(path, f"{n}")) for n in range(payments)]
    chance.shuffle(bought)
    shop.prices = AFTER
    early = {prompt: await shop.call(path, prompt, proof) for path, prompt, proof in bought}
    assert {"/up": 200, "/down": 200, "/removed": 404} == {
        path: early[prompt].status_code for path, prompt, _ in bought
    }
    assert not any("www-authenticate" in answer.headers for answer in early.values())
    shop.prices = BACK
    for path, prompt, proof in bought:
        answer = await shop.call(path, prompt, proof)
        assert 200 == answer.status_code
        assert path == "/removed" or early[prompt].content == answer.content
    rows = await shop.market.gate.ledger.recent_payments(2 * payments)
    assert {(PaymentState.SPENT, Amount.sats(21))} == {(row.state, row.captured) for row in rows}
    assert (payments, payments) == (len(rows), shop.service.calls)
    tell(f"A8: {payments} quoted prices honoured (seed {seed})")
    await shop.market.close()


async def test_a_new_call_costs_the_new_price_and_not_the_quoted_one() -> None:
    shop = Shop(Market.open(), Service())
    before = (await shop.call("/up", "x")).json()
    shop.prices = AFTER
    after = (await shop.call("/up", "x")).json()
    assert [21, 2100] == [before["amount_sats"], after["amount_sats"]]
    assert before["payment_hash"] != after["payment_hash"]
    await shop.market.close()


async def test_a_payment_for_a_route_that_was_removed_is_kept() -> None:
    shop = Shop(Market.open(), Service())
    proof = await shop.buy("/removed", "x")
    shop.prices = AFTER
    for _ in range(3):
        answer = await shop.call("/removed", "x", proof)
        assert (404, b"", 0) == (answer.status_code, answer.content, shop.service.calls)
    shop.prices = BACK
    assert json.loads((await shop.call("/removed", "x", proof)).content) == {"result": "x #1"}
    await shop.market.close()
