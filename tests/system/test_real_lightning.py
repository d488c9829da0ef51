"""Sold and bought over real channels: a shop whose node is lnd, and buyers who pay with another one."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import decode
from farebox.core.payment import PaymentState
from farebox.core.ports import Dialect
from farebox.http.buyer import default_dialects
from farebox.http.converse import Lines, aconverse
from farebox.lightning.lnd import Lnd
from farebox.testing.regtest import Regtest

pytestmark = [pytest.mark.lightning, pytest.mark.anyio]

PRICE = Amount.sats(21)
BACK_WITHIN_S = 5.0
PATIENCE_S = 30.0
# A shop makes no offer in x402 by itself.
DIALECTS = [dialect for dialect in default_dialects() if dialect.name != "x402"]


@pytest.fixture
def shop(open_shop: Any, lnd_config: Any) -> Iterator[Any]:
    with open_shop(str(lnd_config())) as shop:
        yield shop


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    lines = Lines()
    yield lines
    await lines.aclose()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_call_is_paid_over_a_channel_in_each_dialect(
    regtest: Regtest, shop: Any, writer: Any, tmp_path: Any, dialect: Dialect
) -> None:
    purse = tmp_path / "purse.db"
    with (
        contextlib.closing(
            farebox.open_buyer(
                wallet=regtest.buyer.url(),
                budget="500 sat/day",
                purse=purse,
                dialects=(dialect,),
            )
        ) as buyer,
        farebox.Client(buyer=buyer, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        answer = client.post(shop.url, content="hello")
        assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
        assert PRICE == answer.extensions["farebox"].paid


async def test_what_was_paid_is_known_to_the_shop_before_anybody_shows_a_proof(
    regtest: Regtest, shop: Any, payer: Any, read_books: Any
) -> None:
    invoice = (await payer.challenge(shop.url, "hello"))["invoice"]
    assert await asyncio.to_thread(regtest.buyer.pays, invoice)
    until = time.monotonic() + BACK_WITHIN_S
    while True:
        _, (payment, *_) = await read_books(shop)
        if payment.state is PaymentState.FUNDED:
            break
        assert time.monotonic() < until, payment
        await asyncio.sleep(0.02)
    assert decode(invoice).payment_hash == payment.payment_hash
    assert PRICE == payment.received


async def test_a_node_that_is_killed_makes_503_and_never_a_free_answer_and_nothing_is_lost(
    regtest: Regtest, shop: Any, payer: Any, writer: Any, read_books: Any
) -> None:
    asked = await payer.challenge(shop.url, "before")
    assert await asyncio.to_thread(regtest.buyer.pays, asked["invoice"])
    await asyncio.to_thread(regtest.seller.node.kill)
    try:
        new = await payer.http.post(shop.url, content="new")
        by_hash = await payer.http.post(shop.url, content="before", headers={"x-payment-hash": asked["payment_hash"]})
    finally:
        await asyncio.to_thread(regtest.seller.node.start)
        await asyncio.to_thread(regtest.wait_for_channels)
    began = time.monotonic()
    while (await payer.http.post(shop.url, content="new")).status_code != 402:
        assert time.monotonic() - began < BACK_WITHIN_S
        await asyncio.sleep(0.05)
    assert (503, True) == (new.status_code, "retry-after" in new.headers)
    while (balance := (await read_books(shop))[0]).received != PRICE:
        assert time.monotonic() - began < BACK_WITHIN_S
        await asyncio.sleep(0.05)
    learnt_before = by_hash.status_code == 200
    assert learnt_before or 503 == by_hash.status_code
    assert (PRICE if learnt_before else NOTHING) == balance.earned
    assert (["before"] if learnt_before else []) == list(writer.runs)


async def test_the_shops_credential_can_not_spend(regtest: Regtest, lines: Lines) -> None:
    narrow = Lnd.from_url(regtest.seller.url(regtest.seller.bake("invoices:read", "invoices:write")))
    wide = Lnd.from_url(regtest.seller.url())
    before = await aconverse(wide.balance(), lines)
    assert (False, True) == (await aconverse(narrow.spends(), lines), await aconverse(wide.spends(), lines))
    assert before == await aconverse(wide.balance(), lines)


async def test_a_shop_does_not_open_with_a_credential_that_can_spend(
    regtest: Regtest, farebox: Any, writer_url: str
) -> None:
    told = farebox(
        "serve",
        "--upstream",
        writer_url,
        "--price",
        "21sat",
        "--receiver",
        regtest.seller.url(),
        "--listen",
        "127.0.0.1:0",
    )
    assert 1 == told.returncode
    assert "lncli bakemacaroon" in told.stderr
    assert "Traceback" not in told.stderr


async def test_the_doctor_finds_a_node_well_and_says_how_a_narrow_macaroon_is_made(
    regtest: Regtest, farebox: Any
) -> None:
    narrow = regtest.seller.url(regtest.seller.bake("invoices:read", "invoices:write", "info:read", "offchain:read"))
    assert 0 == farebox("doctor", "node", "--receiver", narrow).returncode
    told = farebox("doctor", "node", "--receiver", regtest.seller.url())
    assert 1 == told.returncode
    assert "lncli bakemacaroon" in told.stdout


def test_the_demo_is_told_over_real_channels_with_one_flag(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("farebox"), "demo", "--lightning"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert (0, "") == (told.returncode, told.stderr)
    assert "an invoice for 21 sat" in told.stdout
    assert "    lnbcrt" in told.stdout
    assert "the seller received 63 sat and earned 63 sat" in told.stdout
