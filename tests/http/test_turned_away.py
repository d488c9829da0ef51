"""A flood's answers are cheap, leave at a pace, and are told in one line a second."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import structlog

from farebox.core.errors import GateOverloaded, NodeUnavailable, TooManyUnpaidCalls, TooManyUnpaidInvoices
from farebox.gate import Limits
from farebox.http import problem
from farebox.http.paywall import Paywall
from farebox.http.turned_away import TurnedAway
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio


async def test_only_who_asks_too_much_is_turned_away() -> None:
    turned_away = TurnedAway()
    assert await turned_away.answer(NodeUnavailable()) is None
    for error in (TooManyUnpaidCalls(), TooManyUnpaidInvoices(), GateOverloaded("too many")):
        answer = await turned_away.answer(error)
        assert answer is not None
        headers, body = problem.problem(error)
        assert ([*headers, (b"content-length", b"%d" % len(body))], body) == answer
        assert answer is await turned_away.answer(error)


async def test_a_thousand_of_them_are_one_line_of_the_log() -> None:
    turned_away = TurnedAway()
    turned_away._due_s = float("inf")  # the line is full
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            await turned_away.answer(TooManyUnpaidCalls())
        turned_away._told_at_s = 0.0  # a second later
        await turned_away.answer(GateOverloaded())
    first, second = lines
    assert {"event": "turned-away", "log_level": "warning", "too_many_unpaid_calls": 1} == first
    assert (999, 1) == (second["too_many_unpaid_calls"], second["gate_overloaded"])


async def test_they_leave_one_after_the_other_and_whom_the_line_has_no_room_for_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    turned_away = TurnedAway()
    began_s = asyncio.get_running_loop().time()
    for _ in range(4000):
        await turned_away.answer(GateOverloaded())
    meanwhile_s = asyncio.get_running_loop().time() - began_s
    assert 2950 <= len(waited) <= min(3999, 3001 + meanwhile_s / 0.010)
    assert 29.9 <= max(waited) <= 30.0


async def test_a_caller_who_asks_too_much_gets_429_and_when_to_ask_again() -> None:
    answers = await asked(Limits(calls_per_s=1e-6, calls_at_once=2), lambda ask: [ask("x") for _ in range(3)])
    assert [402, 402, 429] == sorted(answer.status_code for answer in answers)
    refused = max(answers, key=lambda answer: answer.status_code)
    assert ("too-many-unpaid-calls", "1", "no-store") == (
        refused.json()["error"],
        refused.headers["retry-after"],
        refused.headers["cache-control"],
    )


async def test_whoever_can_not_get_an_invoice_now_gets_503_and_when_to_ask_again() -> None:
    answers = await asked(Limits(invoices_per_s=1e-6), lambda ask: [ask(f"{n}") for n in range(4)])
    assert [402, 402, 503, 503] == sorted(answer.status_code for answer in answers)
    refused = max(answers, key=lambda answer: answer.status_code)
    assert ("gate-overloaded", "2") == (refused.json()["error"], refused.headers["retry-after"])


async def asked(
    limits: Limits, calls: Callable[[Callable[[str], Awaitable[httpx.Response]]], list[Any]]
) -> list[httpx.Response]:
    """What calls get of a shop with these limits."""
    market = Market.open(limits=limits)
    wall = Paywall(Service(), gate=market.gate, prices={"POST /x": "21 sat"})
    transport = httpx.ASGITransport(app=wall, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        answers = await asyncio.gather(*calls(lambda prompt: http.post("/x", json={"prompt": prompt})))
    await market.close()
    return answers
