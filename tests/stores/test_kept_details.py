"""What a ledger keeps beside the money: who sold what and when, why a refund failed, and answers under a seal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Hold, Payment, PaymentState
from farebox.core.secret import KeyRing, Keys
from farebox.core.settlement import Settlement
from farebox.stores import open_ledger
from farebox.stores.engine import Engine
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_refunds import owe, refund_of
from farebox.testing.ledger_stage import ANSWER, CLIENT, DIGEST, LEASE, PRICE, invoice, must_hold, row, run_sql
from farebox.testing.market import StillClock

Story = Callable[[SqlLedger, StillClock, Payment], Coroutine[Any, Any, None]]

NAME = b"one claim's name"


def tell(story: Story, *, url: str = "sqlite::memory:", keys: Keys | None = None) -> None:
    """Tells a story of a ledger that has one open payment."""

    async def run() -> None:
        clock = StillClock()
        ledger, payment = open_ledger(url, clock, keys=keys), invoice(clock)
        try:
            await ledger.open_payment(payment)
            await story(ledger, clock, payment)
            assert [] == await ledger.audit()
        finally:
            await ledger.close()

    asyncio.run(run())


def test_a_ledger_goes_by_the_clock_it_was_given() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        clock.pass_by(timedelta(days=3))
        assert clock() == ledger.now()

    tell(story)


# --- refunds and strays -----------------------------------------------------------------------------------------------


def test_a_credit_says_what_was_bought_and_when_it_was_paid() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        paid_at = clock()
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(timedelta(seconds=7))
        await owe(ledger, payment)
        (credit,) = await ledger.credits(9)
        assert (payment.payment_hash, payment.resource, paid_at) == (
            credit.payment_hash,
            credit.resource,
            credit.settled_at,
        )

    tell(story)


def test_a_refund_that_failed_says_why_and_one_that_was_paid_needs_no_reason() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        await owe(ledger, payment)
        for name in ("one", "two"):
            assert await ledger.hold_refund(refund_of(payment, name))
            if name == "one":
                await ledger.release_refund(refund_of(payment, name), reason="no route")
            else:
                await ledger.capture_refund(refund_of(payment, name), fee=Amount.sats(0))
            credit = await ledger.find_credit(payment.payment_hash)
            assert credit is not None
            assert credit.refund is not None
            assert ("no route" if name == "one" else "") == credit.refund.reason

    tell(story)


def test_a_stray_below_the_price_says_what_it_was_meant_for() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        short = Settlement(payment_hash=payment.payment_hash, received=PRICE - Amount.msats(1))
        learnt = await ledger.settle_from_stream([short], receiver="a node", read_from="", cursor="")
        assert (1, True) == (learnt.strays, learnt.moved)
        (stray,) = await ledger.strays(9)
        assert (payment.resource, "a node", short.received) == (stray.resource, stray.receiver, stray.received)

    tell(story)


# --- what ended in doubt ----------------------------------------------------------------------------------------------


def test_a_claim_that_is_made_again_under_its_name_is_the_same_hold_with_a_new_lease() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        async def claim(name: bytes) -> Hold | Payment | None:
            return await ledger.hold(
                payment.payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=3, name=name
            )

        first = await claim(NAME)
        assert isinstance(first, Hold)
        assert (1, 1, PRICE, clock() + LEASE) == (first.epoch, first.attempt, first.amount, first.lease_until)
        clock.pass_by(timedelta(seconds=5))
        assert replace(first, lease_until=clock() + LEASE) == await claim(NAME)
        assert clock() + LEASE == (await row(ledger, payment)).lease_until
        assert isinstance(await claim(b"another's name"), Payment)

    tell(story)


def test_a_capture_that_is_made_again_under_its_name_was_made_and_under_another_was_not() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        held = await must_hold(ledger, payment)
        assert await ledger.capture(held, ANSWER, name=NAME)
        assert await ledger.capture(held, ANSWER, name=NAME)
        assert not await ledger.capture(held, ANSWER, name=b"another's name")
        assert PRICE == (await ledger.balance()).earned

    tell(story)


class LosesAnswers:
    """An engine that keeps what it is asked to keep, and then can't say so."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def write(self, work: Any, *, about: bytes, tells: bool = False) -> Any:
        await self.engine.write(work, about=about, tells=tells)
        raise StoreUnavailable("the connection was lost")


def test_what_ended_in_doubt_is_asked_for_again_under_its_own_name_and_was_done() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        sound, lossy = ledger.engine, LosesAnswers(ledger.engine)
        ledger.engine = lossy  # type: ignore[assignment]  # it only writes
        with pytest.raises(StoreUnavailable):
            await must_hold(ledger, payment)
        ledger.engine = sound
        held = await must_hold(ledger, payment)
        ledger.engine = lossy  # type: ignore[assignment]  # as above
        with pytest.raises(StoreUnavailable):
            await ledger.capture(held, ANSWER)
        ledger.engine = sound
        assert await ledger.capture(held, ANSWER)
        assert not await ledger.capture(held, ANSWER)
        assert (1, PRICE) == (held.epoch, (await ledger.balance()).earned)

    tell(story)


def test_an_invoice_under_the_hash_of_another_one_is_refused() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        with pytest.raises(StoreUnavailable):
            await ledger.open_payment(replace(payment, invoice="lnbcrt_another"))
        assert payment == await row(ledger, payment)

    tell(story)


def test_a_call_that_nobody_knows_to_have_run_is_owed_at_once_and_others_after_their_last_attempt() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        assert PaymentState.FUNDED is (await ledger.release(await must_hold(ledger, payment), most_attempts=3)).state
        held = await must_hold(ledger, payment)
        assert PaymentState.FUNDED is (await ledger.release(held, most_attempts=1, ran=False)).state
        assert PaymentState.CREDIT is (await ledger.give_up(await must_hold(ledger, payment))).state

    tell(story)


def test_the_hold_of_a_payment_that_is_gone_can_not_be_released() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        gone = Hold(payment_hash=bytes(32), digest=DIGEST, epoch=1, attempt=1, amount=PRICE, lease_until=clock())
        with pytest.raises(StoreUnavailable):
            await ledger.release(gone, most_attempts=3)

    tell(story)


def test_an_invoice_counts_for_its_client_until_it_ends() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        assert (1, 0) == await ledger.count_unpaid_of(CLIENT)  # an IPv4 address is in no /48
        clock.at = payment.expires_at - timedelta(milliseconds=1)
        assert (1, 0) == await ledger.count_unpaid_of(CLIENT)
        clock.at = payment.expires_at
        assert (0, 0) == await ledger.count_unpaid_of(CLIENT)
        assert 1 == await ledger.count_unpaid()

    tell(story)


# --- answers under a seal ---------------------------------------------------------------------------------------------


def test_a_sealed_answer_is_given_again_as_it_was_and_can_not_be_read_in_the_table() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        assert await ledger.capture(await must_hold(ledger, payment), ANSWER)
        assert ANSWER == await ledger.find_answer(payment.payment_hash)
        [(status, headers_json, body)] = await run_sql(ledger, "SELECT status, headers_json, body FROM answers")
        assert (ANSWER.status, "", False) == (status, headers_json, ANSWER.body in body)

    tell(story, keys=KeyRing.generate())


def test_an_answer_that_is_not_sealed_is_kept_as_it_is_and_found_with_keys_too(tmp_path: Path) -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        later = open_ledger(f"sqlite:///{tmp_path}/shop.db", clock, keys=KeyRing.generate())
        assert ANSWER == await later.find_answer(payment.payment_hash)
        await later.close()

    tell(story, url=f"sqlite:///{tmp_path}/shop.db")


def test_without_its_key_a_sealed_answer_is_no_longer_kept(tmp_path: Path) -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        for keys in (None, KeyRing.generate()):
            later = open_ledger(f"sqlite:///{tmp_path}/shop.db", clock, keys=keys)
            with capture_logs() as logs:
                assert await later.find_answer(payment.payment_hash) is None
            await later.close()
            assert [] == logs

    tell(story, url=f"sqlite:///{tmp_path}/shop.db", keys=KeyRing.generate())


def test_a_sealed_answer_that_somebody_changed_is_not_given_and_is_an_alarm() -> None:
    async def story(ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        await run_sql(ledger, "UPDATE answers SET status = 201")
        with capture_logs() as logs:
            assert await ledger.find_answer(payment.payment_hash) is None
        assert [("kept-answer-changed", "critical")] == [(log["event"], log["log_level"]) for log in logs]
        assert PaymentState.SPENT is (await row(ledger, payment)).state

    tell(story, keys=KeyRing.generate())
