"""What goes wrong with money on its way through real channels: nothing is paid twice, lost, or counted wrongly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

import farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Network, decode, sign
from farebox.core.budget import Budget
from farebox.core.errors import InvoiceRefused, PaymentFailed, PaymentUnresolved
from farebox.core.exchange import Challenge
from farebox.core.payment import DrawState, PaymentState
from farebox.core.ports import InvoiceState, InvoiceStatus, Purchase
from farebox.dialects import L402
from farebox.http.converse import aconverse
from farebox.lightning.lnd import Lnd
from farebox.stores import open_ledger, open_purse
from farebox.testing.regtest import Regtest
from farebox.testing.regtest_payments import attempts, bring_back, funds, holding, under_way, until
from farebox.testing.regtest_shop import PRICE, RegtestShop, regtest_shop

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

FEE_LIMIT = Amount.sats(1)
BUDGET = Budget.read("5000000 sat/day")
HASTE = timedelta(seconds=1)
SHORT = timedelta(seconds=3)
HALF_AN_HOUR = timedelta(minutes=30)


@dataclass
class Buyer:
    """Somebody who pays with a real node, and does not wait long for it."""

    regtest: Regtest
    file: Path

    def client(self) -> farebox.AsyncClient:
        wallet = Lnd.from_url(self.regtest.buyer.url(), pay_within=HASTE)
        return farebox.AsyncClient(wallet=wallet, budget=BUDGET, purse=self.file, trust_env=False, timeout=30)

    def counted(self) -> Amount:
        """What the budget counts."""
        purse = open_purse(self.file)
        try:
            return purse.spent(BUDGET.windows[0])
        finally:
            purse.close()

    def purchases(self) -> list[Purchase]:
        """The newest first."""
        purse = open_purse(self.file)
        try:
            return list(purse.history(10))
        finally:
            purse.close()


@pytest.fixture
def buyer(regtest: Regtest, tmp_path: Path) -> Buyer:
    return Buyer(regtest, tmp_path / "purse.db")


@pytest.fixture
def shop(open_shop: Any, lnd_config: Any) -> Iterator[Any]:
    with open_shop(str(lnd_config())) as shop:
        yield shop


@pytest.fixture
async def holding_shop(regtest: Regtest, writer_url: str) -> AsyncIterator[RegtestShop]:
    """A shop that is paid into hold invoices, and does nothing about it by itself."""
    async with regtest_shop(holding(regtest.seller), writer_url) as shop:
        yield shop


# --- stuck ------------------------------------------------------------------------------------------------------------


async def test_a_payment_that_is_stuck_is_not_made_again_and_buys_its_answer_when_it_has_arrived(
    regtest: Regtest, shop: Any, buyer: Buyer, writer: Any, read_books: Any
) -> None:
    had, got, before = funds(regtest.buyer), funds(regtest.seller), attempts(regtest.buyer)
    async with buyer.client() as client:
        regtest.hub.node.pause()
        try:
            for _ in range(2):
                with pytest.raises(PaymentUnresolved):
                    await client.post(shop.url, content="hello")
                assert PRICE + FEE_LIMIT == buyer.counted()
                assert ["IN_FLIGHT"] == [state for each, state in attempts(regtest.buyer).items() if each not in before]
        finally:
            regtest.hub.node.go_on()
        [purchase] = buyer.purchases()
        until(lambda: regtest.buyer.has_paid(purchase.payment_hash), "it has arrived")
        answer = await client.post(shop.url, content="hello")
    bought = answer.extensions["farebox"]
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
    assert (PRICE, purchase.payment_hash, True) == (bought.paid, bought.payment_hash, bought.replayed)
    assert {purchase.payment_hash.hex()} == set(attempts(regtest.buyer)) - set(before)
    assert PRICE == buyer.counted() == had.less(funds(regtest.buyer)) == funds(regtest.seller).less(got)
    balance, [payment] = await read_books(shop)
    assert (PRICE, PRICE, PaymentState.SPENT) == (balance.received, balance.earned, payment.state)


async def test_what_a_seller_holds_is_held_in_the_budget_and_when_he_settles_it_the_same_payment_buys(
    regtest: Regtest, holding_shop: RegtestShop, buyer: Buyer, writer: Any
) -> None:
    had, before = funds(regtest.buyer), attempts(regtest.buyer)
    async with buyer.client() as client:
        for _ in range(2):
            with pytest.raises(PaymentUnresolved):
                await client.post(holding_shop.url, content="hello")
        assert PRICE + FEE_LIMIT == buyer.counted()
        assert {} == writer.runs
        [purchase] = buyer.purchases()
        assert InvoiceState.PAID is await holding_shop.settle(purchase.payment_hash)
        until(lambda: regtest.buyer.has_paid(purchase.payment_hash), "it has arrived")
        answer = await client.post(holding_shop.url, content="hello")
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
    assert {purchase.payment_hash.hex()} == set(attempts(regtest.buyer)) - set(before)
    assert PRICE == buyer.counted() == had.less(funds(regtest.buyer))
    assert PRICE == (await holding_shop.gate.ledger.balance()).earned


async def test_what_a_seller_gives_back_is_free_in_the_budget_and_back_in_the_channel_to_the_millisatoshi(
    regtest: Regtest, holding_shop: RegtestShop, buyer: Buyer, writer: Any
) -> None:
    had = funds(regtest.buyer)
    async with buyer.client() as client:
        with pytest.raises(PaymentUnresolved):
            await client.post(holding_shop.url, content="hello")
        [purchase] = buyer.purchases()
        assert InvoiceState.CANCELLED is await holding_shop.cancel(purchase.payment_hash)
        until(lambda: attempts(regtest.buyer)[purchase.payment_hash.hex()] == "FAILED", "it has come back")
        [resumed] = await client.resume()
    assert DrawState.RELEASED is resumed.state
    assert (NOTHING, had) == (buyer.counted(), funds(regtest.buyer))
    assert {} == writer.runs


@pytest.mark.parametrize("killed", ["buyer", "seller"])
async def test_a_node_that_is_killed_while_a_payment_is_on_its_way_loses_nothing_and_pays_nothing_twice(
    regtest: Regtest, holding_shop: RegtestShop, buyer: Buyer, writer: Any, killed: str
) -> None:
    had, got, before = funds(regtest.buyer), funds(regtest.seller), attempts(regtest.buyer)
    node = {"buyer": regtest.buyer, "seller": regtest.seller}[killed]
    async with buyer.client() as client:
        with pytest.raises(PaymentUnresolved):
            await client.post(holding_shop.url, content="hello")
        [purchase] = buyer.purchases()
        node.node.kill()
        try:
            [looked_up] = await client.resume()
        finally:
            bring_back(regtest, node)
        assert (DrawState.HELD, PRICE + FEE_LIMIT) == (looked_up.state, buyer.counted())
        assert InvoiceState.PAID is await holding_shop.settle(purchase.payment_hash)
        until(lambda: regtest.buyer.has_paid(purchase.payment_hash), "it has arrived")
        answer = await client.post(holding_shop.url, content="hello")
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
    assert {purchase.payment_hash.hex()} == set(attempts(regtest.buyer)) - set(before)
    assert PRICE == buyer.counted() == had.less(funds(regtest.buyer)) == funds(regtest.seller).less(got)


# --- late -------------------------------------------------------------------------------------------------------------


async def test_what_was_paid_while_the_gateway_was_down_buys_though_its_invoice_is_called_expired(
    regtest: Regtest, shop: Any, payer: Any, writer: Any, read_books: Any
) -> None:
    asked = await payer.challenge(shop.url, "late")
    shop.kill()
    paid = await payer.pay(regtest.buyer.url(), asked["invoice"])
    ledger = open_ledger(shop.place["store"], lambda: datetime.now(UTC) + HALF_AN_HOUR)
    assert 1 == await ledger.expire_payments(grace=timedelta(minutes=10), most=10)
    [payment] = await ledger.recent_payments(1)
    await ledger.close()
    assert PaymentState.EXPIRED is payment.state
    shop.start()
    proof = {"authorization": f"L402 {asked['macaroon']}:{paid.preimage.reveal().hex()}"}
    answer = await payer.http.post(shop.url, content="late", headers=proof)
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["late"])
    balance, [payment] = await read_books(shop)
    assert (PRICE, PRICE, PaymentState.SPENT) == (balance.received, balance.earned, payment.state)


async def test_what_is_settled_after_the_invoice_ended_is_learnt_from_the_node_and_buys(
    regtest: Regtest, writer_url: str, writer: Any, payer: Any
) -> None:
    node = holding(regtest.seller)
    async with regtest_shop(node, writer_url, expires_in=SHORT) as shop:
        asked = await payer.challenge(shop.url, "late")
        invoice = decode(asked["invoice"])
        hasty = Lnd.from_url(regtest.buyer.url(), pay_within=timedelta(milliseconds=200))
        await shop.gate.converse(hasty.pay_invoice(invoice, fee_limit=NOTHING))
        until(lambda: invoice.payment_hash in under_way(regtest.seller), "it is held")
        until(lambda: datetime.now(UTC) > invoice.expires_at, "the invoice has ended")
        assert 1 == await shop.gate.ledger.expire_payments(grace=timedelta(0), most=10)
        assert InvoiceState.PAID is await shop.settle(invoice.payment_hash)
        async with shop.learning():
            await shop.received(PRICE)
        proof = {"authorization": f"L402 {asked['macaroon']}:{node.preimages[invoice.payment_hash].reveal().hex()}"}
        answer = await payer.http.post(shop.url, content="late", headers=proof)
        assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["late"])
        assert PRICE == (await shop.gate.ledger.balance()).earned


# --- not paid at all --------------------------------------------------------------------------------------------------


async def assert_nothing_was_paid(regtest: Regtest, buyer: Buyer, url: str, why: str) -> None:
    """The wallet says why, in one line, and the money is where it was: in the channel and in the budget."""
    had = funds(regtest.buyer)
    async with buyer.client() as client:
        with pytest.raises(PaymentFailed, match=why) as told:
            await client.post(url, content="hello")
    assert (False, [str(told.value)]) == (told.value.money_moved, str(told.value).splitlines())
    assert told.value.next_step
    assert (NOTHING, had) == (buyer.counted(), funds(regtest.buyer))


async def test_a_seller_to_whom_there_is_no_way_is_not_paid_and_the_command_says_so_in_one_line(
    regtest: Regtest, buyer: Buyer, open_shop: Any, writer_url: str, farebox: Any
) -> None:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as elsewhere:
        await assert_nothing_was_paid(regtest, buyer, elsewhere.url, "no route .*open a channel")
        told = farebox("call", elsewhere.url, FAREBOX_WALLET=regtest.buyer.url(), FAREBOX_STATE="buyer")
    [line] = told.stderr.splitlines()
    said = json.loads(line)
    assert 0 != told.returncode
    assert ("payment-failed", False) == (said["type"], said["money_moved"])
    assert "no route" in said["detail"]
    assert said["next_step"]


async def test_more_than_the_channels_have_is_not_paid(regtest: Regtest, shop: Any, buyer: Buyer) -> None:
    await assert_nothing_was_paid(regtest, buyer, f"{shop.url}/dear", "insufficient balance .*open a channel")


async def test_what_would_cost_more_for_routing_than_the_limit_is_not_paid_until_it_costs_less(
    regtest: Regtest, shop: Any, buyer: Buyer, writer: Any
) -> None:
    regtest.charge(FEE_LIMIT + Amount.msats(1))
    try:
        await assert_nothing_was_paid(regtest, buyer, shop.url, "no route .*fee limit")
        had = funds(regtest.buyer)
        regtest.charge(FEE_LIMIT)
        async with buyer.client() as client:
            answer = await client.post(shop.url, content="hello")
    finally:
        regtest.charge(NOTHING)
    assert [answer.json()["text"]] == writer.runs["hello"]
    assert FEE_LIMIT == answer.extensions["farebox"].fee
    assert PRICE + FEE_LIMIT == buyer.counted() == had.less(funds(regtest.buyer))


# --- not what was asked for -------------------------------------------------------------------------------------------


def asking(invoice: str, told: Amount) -> Any:
    """A seller who says that his invoice is for so much."""
    challenge = Challenge(
        dialect="L402",
        invoice=invoice,
        payment_hash=decode(invoice).payment_hash,
        amount=told,
        token="c29tZXRoaW5n",
    )
    wire = L402().write_challenge(challenge)
    body = json.dumps(wire.body).encode()
    headers = [(name.encode(), value.encode()) for name, value in wire.headers]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 402, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_an_invoice_of_another_network_is_not_paid(regtest: Regtest, buyer: Buyer, serve_app: Any) -> None:
    invoice = sign(
        secret_key=sha256(b"a node on another chain").digest(),
        network=Network.MAINNET,
        amount=PRICE,
        payment_hash=sha256(b"a payment").digest(),
        payment_secret=bytes(32),
        description="",
        created_at=datetime.now(UTC),
        expires_in=timedelta(minutes=10),
    )
    with serve_app(asking(invoice.text, PRICE)) as url:
        await assert_nothing_was_paid(regtest, buyer, url, "network")


async def test_an_invoice_for_more_than_its_seller_says_is_refused_before_the_wallet_hears_of_it(
    regtest: Regtest, buyer: Buyer, serve_app: Any
) -> None:
    had, before = funds(regtest.buyer), attempts(regtest.buyer)
    invoice = regtest.seller.invoice(PRICE * 100)
    with serve_app(asking(invoice, PRICE)) as url:
        async with buyer.client() as client:
            with pytest.raises(InvoiceRefused, match=r"2100 sat.* 21 sat"):
                await client.post(url, content="hello")
    asked = Lnd.from_url(regtest.seller.url()).lookup_invoice(decode(invoice).payment_hash)
    async with httpx.AsyncClient(trust_env=False) as http:
        assert InvoiceStatus(state=InvoiceState.OPEN) == await aconverse(asked, http)
    assert (NOTHING, had, before) == (buyer.counted(), funds(regtest.buyer), attempts(regtest.buyer))
