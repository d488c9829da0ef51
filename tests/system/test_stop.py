"""A shop that is told to stop takes nothing from anybody: what runs is answered or kept."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
PATIENCE_S = 20


@pytest.fixture
def shop(open_shop: Any, writer: Any, writer_url: str) -> Iterator[Any]:
    writer.held = True
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop
    writer.held = False


async def begun(shop: Any, payer: Any, writer: Any, proof: Any) -> asyncio.Task[httpx.Response]:
    """A paid call, running."""
    call = asyncio.create_task(payer.http.post(shop.url, content="hello", headers=proof))
    while not writer.runs:
        await asyncio.sleep(0.01)
    return call


async def stopped_listening(shop: Any) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def left(shop: Any) -> None:
    """It is gone in good order, and so is what it lent out."""
    assert 0 == await asyncio.to_thread(shop.process.wait), shop.told
    assert "Traceback" not in shop.told
    assert not list((shop.folder / "seller").glob("sandbox-[0-9]*.json"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_the_call_that_runs_is_answered_and_no_other_is_taken(
    number: signal.Signals, shop: Any, writer: Any, payer: Any, read_books: Any
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        running = await begun(shop, payer, writer, await payer.buy(shop, "hello"))
        shop.process.send_signal(number)
        await stopped_listening(shop)
        writer.held = False
        answer = await running
        await left(shop)
    balance, _ = await read_books(shop)
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
    assert (PRICE, NOTHING) == (balance.earned, balance.held)


async def test_the_call_of_somebody_who_left_is_run_to_its_end_and_is_there_the_next_day(
    shop: Any, writer: Any, payer: Any
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        proof = await payer.buy(shop, "hello")
        (await begun(shop, payer, writer, proof)).cancel()
        shop.process.send_signal(signal.SIGTERM)
        await stopped_listening(shop)
        writer.held = False
        await left(shop)
        await asyncio.to_thread(shop.start)
        answer = await payer.http.post(shop.url, content="hello", headers=proof)
    assert "true" == answer.headers["payment-replayed"]
    assert [answer.json()["text"]] == writer.runs["hello"]


async def test_who_insists_on_stopping_does_not_wait_for_a_call_and_its_payment_is_kept(
    shop: Any, writer: Any, payer: Any, read_books: Any
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        running = await begun(shop, payer, writer, await payer.buy(shop, "hello"))
        shop.process.send_signal(signal.SIGINT)
        await stopped_listening(shop)
        shop.process.send_signal(signal.SIGINT)
        answer = await running
        await left(shop)
    balance, _ = await read_books(shop)
    assert (502, "kept as credit") == (answer.status_code, answer.json()["payment"])
    assert (NOTHING, PRICE) == (balance.earned, balance.credit)
