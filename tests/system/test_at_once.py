"""Many at once: one proof buys one call, and one address has one free call, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
CALLERS = 64


async def test_64_parallel_retries_of_one_paid_call_are_one_run_and_64_equal_answers(
    open_shop: Any, writer: Any, writer_url: str, payer: Any, read_books: Any
) -> None:
    writer.held = True
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        proof = await payer.buy(shop, "hello")
        calls = [asyncio.create_task(payer.http.post(shop.url, content="hello", headers=proof)) for _ in range(CALLERS)]
        async with asyncio.timeout(20):
            while not writer.runs:
                await asyncio.sleep(0.01)
        writer.held = False
        answers = await asyncio.gather(*calls)
        balance, _ = await read_books(shop)
    (text,) = writer.runs["hello"]
    assert [(200, {"text": text})] * CALLERS == [(answer.status_code, answer.json()) for answer in answers]
    assert 1 == len({answer.content for answer in answers})
    assert PRICE == balance.earned == balance.received


async def test_64_first_calls_of_one_address_at_once_are_one_free_call(
    open_shop: Any, writer: Any, writer_url: str, payer: Any
) -> None:
    with open_shop("--upstream", writer_url, "--price", "21sat") as shop:

        def call(number: int) -> Any:
            return payer.http.post(shop.url, content=f"prompt {number}")

        answers: list[httpx.Response] = await asyncio.gather(*map(call, range(CALLERS)))
    assert [200] + [402] * (CALLERS - 1) == sorted(answer.status_code for answer in answers)
    assert 1 == len(writer.runs)
