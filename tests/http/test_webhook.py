"""The webhook: a node's own call says which invoice to look up, and nothing that it says is believed."""

from __future__ import annotations

import hmac
import json
from collections.abc import Generator, Mapping
from typing import Any

import httpx
import pytest

from farebox.catalog.catalog import Catalog
from farebox.core.amount import Amount
from farebox.core.payment import PaymentState
from farebox.core.secret import Secret
from farebox.gate import Terms
from farebox.http.shopfront import shop
from farebox.lightning.phoenixd import Phoenixd
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

SECRET = "of the webhook"
HOOKED = Phoenixd(base_url="http://127.0.0.1:9", password=Secret("p"), webhook_secret=Secret(SECRET))


class Hooked:
    """The sandbox's node, which calls as phoenixd does."""

    is_hooked = True

    def __init__(self, node: Any) -> None:
        self.node = node
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)

    def lookup_invoice(self, payment_hash: bytes) -> Generator[Any, Any, Any]:
        self.asked += 1
        return (yield from self.node.lookup_invoice(payment_hash))

    def called_about(self, headers: Mapping[str, str], body: bytes) -> bytes | None:
        return HOOKED.called_about(headers, body)


def open_market(*, hooked: bool = True) -> tuple[Market, Any]:
    market = Market.open(terms=Terms(free_calls=0))
    node = Hooked(market.sandbox.seller)
    node.is_hooked = hooked
    market.gate.receivers = (node,)  # type: ignore[assignment]
    catalog = Catalog()

    @catalog.sell(price="21 sat")
    async def spell(word: str) -> str:
        return word

    transport = httpx.ASGITransport(app=shop(catalog, market.gate))  # type: ignore[arg-type] # another Scope
    return market, httpx.AsyncClient(transport=transport, base_url="http://shop")


def call_about(payment_hash: str, *, secret: str = SECRET, kind: str = "payment_received") -> dict[str, Any]:
    body = json.dumps({"type": kind, "amountSat": 21, "paymentHash": payment_hash}).encode()
    return {
        "content": body,
        "headers": {"x-phoenix-signature": hmac.digest(secret.encode(), body, "sha256").hex()},
    }


async def state(market: Market, payment_hash: str) -> PaymentState:
    payment = await market.gate.ledger.find_payment(bytes.fromhex(payment_hash))
    assert payment is not None
    return payment.state


async def test_a_call_has_its_invoice_looked_up_and_settled() -> None:
    market, http = open_market()
    async with http:
        asked = (await http.post("/spell", json={"word": "a"})).json()
        market.pay(asked["invoice"])
        assert 204 == (await http.post("/webhook", **call_about(asked["payment_hash"]))).status_code
        assert PaymentState.FUNDED is await state(market, asked["payment_hash"])
        assert Amount.sats(21) == (await market.gate.ledger.balance()).received
    await market.close()


async def test_a_call_about_what_nobody_paid_settles_nothing() -> None:
    market, http = open_market()
    async with http:
        asked = (await http.post("/spell", json={"word": "a"})).json()
        assert 204 == (await http.post("/webhook", **call_about(asked["payment_hash"]))).status_code
        assert PaymentState.OPEN is await state(market, asked["payment_hash"])
    await market.close()


@pytest.mark.parametrize("given", [{"secret": "another"}, {"kind": "payment_sent"}, {}])
async def test_a_call_that_is_not_the_nodes_own_is_refused_and_the_node_is_not_asked(given: dict[str, str]) -> None:
    market, http = open_market()
    async with http:
        asked = (await http.post("/spell", json={"word": "a"})).json()
        call = call_about(asked["payment_hash"], **given)
        if not given:
            call["content"] += b" "
        assert 401 == (await http.post("/webhook", **call)).status_code
        assert 0 == market.gate.receivers[0].asked  # type: ignore[attr-defined]
    await market.close()


async def test_a_call_is_short_and_a_post() -> None:
    market, http = open_market()
    async with http:
        assert 405 == (await http.get("/webhook")).status_code
        assert 413 == (await http.post("/webhook", content=bytes(17 * 1024))).status_code
    await market.close()


async def test_a_call_while_the_node_is_away_is_503_and_may_be_made_again() -> None:
    market, http = open_market()
    async with http:
        asked = (await http.post("/spell", json={"word": "a"})).json()
        market.pay(asked["invoice"])
        with market.sandbox.seller.out_of_reach():
            assert 503 == (await http.post("/webhook", **call_about(asked["payment_hash"]))).status_code
        assert 204 == (await http.post("/webhook", **call_about(asked["payment_hash"]))).status_code
        assert PaymentState.FUNDED is await state(market, asked["payment_hash"])
    await market.close()


async def test_a_call_about_an_invoice_that_is_not_the_shops_is_taken_and_asks_nobody() -> None:
    market, http = open_market()
    async with http:
        assert 204 == (await http.post("/webhook", **call_about("ab" * 32))).status_code
        assert 0 == market.gate.receivers[0].asked  # type: ignore[attr-defined]
    await market.close()


async def test_without_a_secret_there_is_no_webhook() -> None:
    market, http = open_market(hooked=False)
    async with http:
        assert 404 == (await http.post("/webhook", **call_about("ab" * 32))).status_code
    await market.close()
