"""A grant is captured or released, once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import CallInProgress
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, PaymentState
from farebox.gate import Challenged, Grant, Visit
from farebox.gate.grant import RunningCalls
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

QUOTE = Quote(amount=Amount.sats(21), resource="GET /x", digest=bytes(32))
ANSWER = Answer(status=200, headers=(), body=b"the answer")


@pytest.fixture
async def market() -> Any:
    market = Market.open()
    yield market
    await market.close()


async def granted(market: Market) -> tuple[Grant, Visit]:
    asked = await market.gate.admit(Visit(quote=QUOTE, wire=Wire(), client="192.0.2.7/32"))
    assert isinstance(asked, Challenged)
    preimage = market.pay(asked.invoice.text)
    proof = ("authorization", f"L402 {asked.wire.body['macaroon']}:{preimage.hex()}")
    visit = Visit(quote=QUOTE, wire=Wire(headers=(proof,)), client="192.0.2.7/32", rerun=True)
    grant = await market.gate.admit(visit)
    assert isinstance(grant, Grant)
    return grant, visit


async def state(market: Market) -> PaymentState:
    return (await market.gate.ledger.recent_payments(1))[0].state


async def test_leaving_a_grant_without_capturing_it_releases_it(market: Market) -> None:
    grant, visit = await granted(market)
    async with grant:
        pass
    assert await state(market) is PaymentState.FUNDED
    assert isinstance(await market.gate.admit(visit), Grant)


async def test_an_exception_inside_a_grant_releases_it_and_goes_on(market: Market) -> None:
    grant, _ = await granted(market)
    with pytest.raises(KeyError):
        async with grant:
            raise KeyError
    assert await state(market) is PaymentState.FUNDED


async def test_a_captured_grant_stays_captured(market: Market) -> None:
    grant, _ = await granted(market)
    async with grant:
        await grant.capture(ANSWER)
    assert await state(market) is PaymentState.SPENT


async def test_a_grant_whose_lease_another_took_can_not_capture(market: Market) -> None:
    grant, visit = await granted(market)
    market.clock.pass_by(timedelta(minutes=1))
    again = await market.gate.admit(visit)
    assert isinstance(again, Grant)
    with pytest.raises(CallInProgress):
        await grant.capture(ANSWER)
    await again.capture(ANSWER)
    assert await state(market) is PaymentState.SPENT


async def test_a_long_call_keeps_its_lease(market: Market) -> None:
    renewed: list[int] = []
    ledger: Any = market.gate.ledger
    renew = ledger.renew

    async def watched(hold: Any, *, lease: timedelta) -> bool:
        renewed.append(hold.epoch)
        done.set()
        return bool(await renew(hold, lease=lease))

    done = asyncio.Event()
    ledger.renew = watched
    market.gate._running = RunningCalls(ledger, timedelta(milliseconds=30))
    grant, _ = await granted(market)
    await done.wait()
    await grant.capture(ANSWER)
    market.gate._running.close()
    assert renewed[0] == 1
