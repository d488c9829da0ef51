"""What a gate tells of its work."""

from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import CallInProgress, MalformedCredential, NodeUnavailable, StoreUnavailable
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer
from farebox.gate import Challenged, Grant, Replay, Terms, Visit, events
from farebox.gate.events import (
    AnswerReplayed,
    Began,
    CallCaptured,
    CallChallenged,
    CallReleased,
    Ended,
    Event,
    FreeCallAsked,
    HoldEnded,
    HoldTaken,
    Step,
)
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
RESOURCE = "GET /x"
QUOTE = Quote(amount=PRICE, resource=RESOURCE, digest=bytes(32))
ANSWER = Answer(status=200, headers=(), body=b"the answer")
CLIENT = "192.0.2.7/32"


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
async def market(told: list[Event]) -> AsyncIterator[Market]:
    market = Market.open(observer=told.append)
    yield market
    await market.close()


def visit(*proof: tuple[str, str]) -> Visit:
    return Visit(quote=QUOTE, wire=Wire(headers=proof), client=CLIENT, rerun=True)


async def paid(market: Market) -> Visit:
    """A visit with a proof of payment."""
    asked = await market.gate.admit(visit())
    assert isinstance(asked, Challenged)
    preimage = market.pay(asked.invoice.text)
    return visit(("authorization", f"L402 {asked.wire.body['macaroon']}:{preimage.hex()}"))


async def granted(market: Market, told: list[Event]) -> tuple[Grant, Visit]:
    """A running call; what was told until it began is forgotten."""
    shown = await paid(market)
    grant = await market.gate.admit(shown)
    assert isinstance(grant, Grant)
    told.clear()
    return grant, shown


def without_spans(told: list[Event]) -> list[Event | tuple[Step, str]]:
    """What was told, with the ends of steps as their name and error, and no beginnings."""
    return [
        (each.step, each.error) if isinstance(each, Ended) else each for each in told if not isinstance(each, Began)
    ]


async def test_a_challenge_is_told_and_so_is_that_it_was_the_callers_own(market: Market, told: list[Event]) -> None:
    await market.gate.admit(visit())
    await market.gate.admit(visit())
    assert [
        (Step.CREATE_INVOICE, ""),
        CallChallenged(resource=RESOURCE, amount=PRICE, reused=False),
        (Step.ADMIT, ""),
        CallChallenged(resource=RESOURCE, amount=PRICE, reused=True),
        (Step.ADMIT, ""),
    ] == without_spans(told)


async def test_steps_begin_and_end_one_inside_the_other(market: Market, told: list[Event]) -> None:
    await market.gate.admit(visit())
    steps = [(type(each), each.step) for each in told if isinstance(each, Began | Ended)]
    assert [
        (Began, Step.ADMIT),
        (Began, Step.CREATE_INVOICE),
        (Ended, Step.CREATE_INVOICE),
        (Ended, Step.ADMIT),
    ] == steps


async def test_the_first_call_with_a_payment_is_told_from_later_ones(market: Market, told: list[Event]) -> None:
    grant, shown = await granted(market, told)
    await grant.release()
    again = await market.gate.admit(shown)
    assert isinstance(again, Grant)
    await again.capture(ANSWER)
    assert [HoldTaken(resource=RESOURCE, amount=PRICE, first=False)] == [e for e in told if isinstance(e, HoldTaken)]


async def test_a_sale_is_told_from_hold_to_charge(market: Market, told: list[Event]) -> None:
    shown = await paid(market)
    told.clear()
    grant = await market.gate.admit(shown)
    assert isinstance(grant, Grant)
    await grant.capture(ANSWER)
    *before, over, charged = told
    assert [
        HoldTaken(resource=RESOURCE, amount=PRICE, first=True),
        (Step.ADMIT, ""),
        (Step.CAPTURE, ""),
    ] == without_spans(before)
    assert isinstance(over, HoldEnded)
    assert over.took > timedelta(0)
    assert CallCaptured(resource=RESOURCE, amount=PRICE) == charged


async def test_a_hold_that_ended_is_told_once_however_it_ended(market: Market, told: list[Event]) -> None:
    grant, _ = await granted(market, told)
    async with grant:
        await grant.release()
    assert 1 == sum(isinstance(each, HoldEnded) for each in told)


async def test_a_failed_call_owes_nothing_until_it_was_the_last_attempt(market: Market, told: list[Event]) -> None:
    shown = await paid(market)
    for _ in range(3):
        grant = await market.gate.admit(shown)
        assert isinstance(grant, Grant)
        await grant.release()
    assert [NOTHING, NOTHING, PRICE] == [each.owed for each in told if isinstance(each, CallReleased)]


async def test_giving_up_owes_the_price_at_once(market: Market, told: list[Event]) -> None:
    grant, _ = await granted(market, told)
    await grant.give_up()
    assert CallReleased(resource=RESOURCE, owed=PRICE) in told


async def test_a_lost_lease_is_a_hold_that_ended_and_nothing_charged(market: Market, told: list[Event]) -> None:
    grant, shown = await granted(market, told)
    market.clock.pass_by(timedelta(minutes=1))
    later = await market.gate.admit(shown)
    assert isinstance(later, Grant)
    with pytest.raises(CallInProgress):
        await grant.capture(ANSWER)
    assert (1, 0) == (sum(isinstance(e, HoldEnded) for e in told), sum(isinstance(e, CallCaptured) for e in told))
    await later.capture(ANSWER)


async def test_a_replay_tells_whether_it_was_remembered(market: Market, told: list[Event]) -> None:
    grant, shown = await granted(market, told)
    await grant.capture(ANSWER)
    told.clear()
    proof = shown.wire.headers[0][1]
    assert isinstance(await market.gate.admit(shown), Replay)
    assert isinstance(market.gate.recall(proof, QUOTE.digest), Replay)
    market.gate._given.clear()
    assert isinstance(await market.gate.admit(shown), Replay)
    assert isinstance(await market.gate.admit(shown), Replay)
    assert [True, True, False, True] == [each.remembered for each in told if isinstance(each, AnswerReplayed)]
    assert {RESOURCE} == {each.resource for each in told if isinstance(each, AnswerReplayed)}


async def test_free_calls_are_told_granted_or_not(told: list[Event]) -> None:
    market = Market.open(Terms(free_calls=1), observer=told.append)
    await market.gate.admit(visit())
    await market.gate.admit(visit())
    assert [True, False] == [each.granted for each in told if isinstance(each, FreeCallAsked)]
    await market.close()


async def test_a_step_that_fails_ends_with_the_type_of_its_error(market: Market, told: list[Event]) -> None:
    with market.sandbox.seller.out_of_reach(), pytest.raises(NodeUnavailable):
        await market.gate.admit(visit())
    with pytest.raises(MalformedCredential):
        await market.gate.admit(visit(("authorization", "L402 x")))
    assert [
        (Step.CREATE_INVOICE, "node-unavailable"),
        (Step.ADMIT, "node-unavailable"),
        (Step.ADMIT, "malformed-credential"),
    ] == without_spans(told)


async def test_an_answer_that_is_charged_only_when_asked_for_again_is_told_then(
    market: Market, told: list[Event]
) -> None:
    grant, shown = await granted(market, told)
    ledger: Any = market.gate.ledger
    capture = ledger.capture

    async def down(*_: Any) -> bool:
        raise StoreUnavailable("down")

    ledger.capture = down
    with pytest.raises(StoreUnavailable):
        await grant.capture(ANSWER)
    ledger.capture = capture
    assert isinstance(await market.gate.admit(shown), Replay)
    assert [CallCaptured(resource=RESOURCE, amount=PRICE)] == [each for each in told if isinstance(each, CallCaptured)]


def test_no_event_has_a_field_that_could_name_a_payment_or_a_caller() -> None:
    kinds = [each for each in vars(events).values() if isinstance(each, type) and each in events.Event.__args__]
    named = {field.name for kind in kinds for field in fields(kind)}
    assert 11 == len(kinds)
    assert {
        "step",
        "resource",
        "took",
        "error",
        "amount",
        "reused",
        "granted",
        "first",
        "owed",
        "remembered",
        "reason",
        "node",
    } == (named)
