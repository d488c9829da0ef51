"""What a ledger tells its engine of each operation: what it is about, and whether somebody may be waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.payment import Hold
from farebox.core.refund import Refund
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import ANSWER, CLIENT, DAY, DIGEST, LEASE, PRICE, invoice
from farebox.testing.market import StillClock

CLOCK = StillClock()
PAYMENT = invoice(CLOCK)
HASH = PAYMENT.payment_hash
HOLD = Hold(payment_hash=HASH, digest=DIGEST, epoch=1, attempt=1, amount=PRICE, lease_until=CLOCK())
REFUND = Refund(
    payment_hash=HASH, refund_hash=DIGEST, invoice="an invoice", wallet="a wallet", amount=PRICE, fee_limit=PRICE
)

Story = Callable[[SqlLedger], Awaitable[object]]


class Asked(Exception):
    """Ends an operation that was asked for, before anything of it is done."""


class Listener:
    """An engine that does nothing but note what is asked of it."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    async def write(self, work: object, *, about: bytes, tells: bool = False) -> Any:
        self.heard.append((about, tells))
        raise Asked

    async def read(self, work: object, *, thorough: bool = False) -> Any:
        self.heard.append(thorough)
        raise Asked

    async def changed(self, about: bytes, *, within: timedelta) -> None:
        self.heard.append((about, within))
        raise Asked


def heard(*stories: Story) -> list[Any]:
    engine = Listener()
    ledger = SqlLedger(engine, keep_answers=DAY)  # type: ignore[arg-type]  # it has no clock and is never closed
    for story in stories:
        with pytest.raises(Asked):
            asyncio.run(story(ledger))  # type: ignore[arg-type]  # each is a coroutine
    return engine.heard


OF_A_PAYMENT: dict[str, Story] = {
    "settle": lambda ledger: ledger.settle(HASH, PRICE),
    "hold": lambda ledger: ledger.hold(HASH, digest=DIGEST, proven=True, lease=LEASE, most_attempts=3),
    "renew": lambda ledger: ledger.renew(HOLD, lease=LEASE),
    "restore": lambda ledger: ledger.restore_payment(PAYMENT, PRICE),
    "hold a refund": lambda ledger: ledger.hold_refund(REFUND),
    "retry a refund": lambda ledger: ledger.retry_refund(REFUND, idle=LEASE),
    "capture a refund": lambda ledger: ledger.capture_refund(REFUND, fee=Amount.sats(1)),
    "release a refund": lambda ledger: ledger.release_refund(REFUND, reason="no route"),
}
THAT_OTHERS_WAIT_FOR: dict[str, Story] = {
    "capture": lambda ledger: ledger.capture(HOLD, ANSWER),
    "release": lambda ledger: ledger.release(HOLD, most_attempts=3),
    "give up": lambda ledger: ledger.give_up(HOLD),
}


@pytest.mark.parametrize("story", OF_A_PAYMENT.values(), ids=OF_A_PAYMENT)
def test_moves_of_one_payment_are_about_it_and_so_wait_for_each_other(story: Story) -> None:
    assert [(HASH, False)] == heard(story)


@pytest.mark.parametrize("story", THAT_OTHERS_WAIT_FOR.values(), ids=THAT_OTHERS_WAIT_FOR)
def test_the_end_of_a_hold_is_told_to_whoever_waits_for_it(story: Story) -> None:
    assert [(HASH, True)] == heard(story)


def test_what_one_client_asks_for_is_about_the_client() -> None:
    assert [(CLIENT.encode(), False)] * 2 == heard(
        lambda ledger: ledger.open_payment(PAYMENT),
        lambda ledger: ledger.take_free_call(CLIENT, limit=1, window=DAY),
    )


def test_housekeeping_is_about_one_thing_and_so_runs_one_after_the_other() -> None:
    [one, *others] = heard(
        lambda ledger: ledger.expire_payments(grace=DAY),
        lambda ledger: ledger.forget_unpaid(ended_for=DAY),
        lambda ledger: ledger.forget_answers(),
    )
    assert [one, one] == others
    assert isinstance(one[0], bytes)


@pytest.mark.parametrize(
    "story",
    [
        lambda ledger: ledger.settle_from_stream((), receiver="a node", read_from="1", cursor="2"),
        lambda ledger: ledger.give_up_unclaimed(unclaimed_for=DAY, most=9),
    ],
    ids=["stream", "give up"],
)
def test_what_looks_after_many_payments_is_about_something_of_its_own(story: Story) -> None:
    [(about, tells)] = heard(story)
    assert isinstance(about, bytes)
    assert (False, False) == (tells, about in {HASH, CLIENT.encode()})


def test_waiting_for_a_payment_waits_for_that_one_and_so_long() -> None:
    assert [(HASH, LEASE)] == heard(lambda ledger: ledger.changed(HASH, within=LEASE))


def test_only_the_books_and_their_audit_look_through_whole_tables() -> None:
    assert [True, True] == heard(lambda ledger: ledger.balance(), lambda ledger: ledger.audit())
    assert [False] * 4 == heard(
        lambda ledger: ledger.find_payment(HASH),
        lambda ledger: ledger.find_answer(HASH),
        lambda ledger: ledger.recent_payments(1),
        lambda ledger: ledger.find_credit(HASH),
    )
