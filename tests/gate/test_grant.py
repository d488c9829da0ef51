"""A grant is captured or released, once."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import CallInProgress, StoreUnavailable
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, PaymentState
from farebox.gate import Challenged, Grant, Replay, Visit
from farebox.gate.grant import UnsavedAnswers
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


async def test_answers_that_could_not_be_stored_are_forgotten_oldest_first_when_there_are_too_many_bytes(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.gate.grant._MOST_UNSAVED_BYTES", 100)
    unsaved = UnsavedAnswers(market.gate.ledger, market.gate._given)
    grant, _ = await granted(market)
    holds = [replace(grant.hold, payment_hash=bytes([number]) * 32) for number in range(5)]
    for hold in holds:
        unsaved.keep(hold, Answer(status=200, headers=(), body=bytes(40)), Wire())
    assert [hold.payment_hash for hold in holds[3:]] == list(unsaved._kept)


async def test_a_hold_that_was_lost_captures_nothing_and_the_ledger_is_not_even_asked(market: Market) -> None:
    grant, visit = await granted(market)
    market.clock.pass_by(timedelta(minutes=1))
    again = await market.gate.admit(visit)
    assert isinstance(again, Grant)
    ledger: Any = market.gate.ledger
    asked: list[object] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "capture", lambda *given: asked.append(given))
        with pytest.raises(CallInProgress):
            await grant.capture(ANSWER)
    assert [] == asked
    assert await grant.find_other_answer() is None
    await again.capture(ANSWER)
    assert ANSWER == await grant.find_other_answer()


async def test_an_answer_that_could_not_be_stored_is_charged_and_kept_before_anybody_asks_for_it(
    market: Market,
) -> None:
    grant, visit = await granted(market)
    ledger: Any = market.gate.ledger

    async def away(*_: object) -> bool:
        raise StoreUnavailable("away")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "capture", away)
        with pytest.raises(StoreUnavailable):
            await grant.capture(ANSWER)
        with pytest.raises(StoreUnavailable):
            await market.gate.save_answers()
    assert await state(market) is PaymentState.FUNDED
    await market.gate.save_answers()
    assert await state(market) is PaymentState.SPENT
    assert ANSWER == await ledger.find_answer(grant.hold.payment_hash)
    replay = await market.gate.admit(visit)
    assert isinstance(replay, Replay)
    assert ANSWER == replay.answer
