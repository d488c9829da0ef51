"""Upkeep: what nobody comes for is given up, what is old is forgotten, a little at a time and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from farebox.core.payment import Hold, Payment, PaymentState
from farebox.stores import moves
from farebox.stores.engine import Operation, in_ms
from farebox.stores.ledger import SqlLedger
from farebox.stores.settlements import give_up
from farebox.testing.ledger_settlements import claim_of
from farebox.testing.ledger_stage import (
    ANSWER,
    DAY,
    LEASE,
    MOST,
    NO_GRACE,
    PRICE,
    TTL,
    LedgerStage,
    invoice,
    must_hold,
    row,
    told,
)
from farebox.testing.market import StillClock

T = TypeVar("T")

WINDOW = timedelta(days=30)


async def beside(ledger: SqlLedger, one: Operation[T], other: Operation[object]) -> T:
    """What an operation returns when another one happens after its first statement, as it may in a server."""

    def interleaved(_: int) -> Operation[T]:
        rows = yield next(one)
        yield from other
        try:
            while True:
                rows = yield one.send(rows)
        except StopIteration as ended:
            result: T = ended.value
            return result

    return await ledger.engine.write(interleaved, about=b"two at once")


class LedgerUpkeep(LedgerStage):
    """Giving up, expiring and forgetting."""

    @told
    async def test_what_nobody_claims_within_its_window_becomes_credit(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Not a moment before its proof can be of no use any more."""
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(TTL + WINDOW - timedelta(milliseconds=1))
        assert 0 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=10)
        clock.pass_by(timedelta(milliseconds=1))
        assert 1 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=10)
        assert (PaymentState.CREDIT, PRICE) == ((await row(ledger, payment)).state, (await ledger.balance()).credit)

    @told
    async def test_the_window_of_late_money_begins_when_it_arrives(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Its payer has as long as everybody else."""
        clock.pass_by(WINDOW)
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(WINDOW - timedelta(milliseconds=1))
        assert 0 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=10)

    @told
    async def test_a_call_that_runs_is_not_given_up_and_one_that_lapsed_is(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """A live hold is somebody's; a late capture after it is too late."""
        clock.pass_by(TTL + WINDOW)
        held = await must_hold(ledger, payment)
        clock.pass_by(WINDOW)
        await ledger.renew(held, lease=LEASE)
        assert 0 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=10)
        clock.pass_by(LEASE)
        assert 1 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=10)
        assert not await ledger.capture(held, ANSWER)

    @told
    async def test_whoever_comes_at_the_last_moment_is_not_given_up(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Between looking for what is unclaimed and giving it up, somebody claims it, or uses it up."""
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(TTL + WINDOW)
        now_ms = in_ms(clock())
        claim = moves.hold(claim_of(payment), now_ms)
        assert 0 == await beside(ledger, give_up(WINDOW, 10, now_ms), claim)
        held = await row(ledger, payment)
        assert (PaymentState.FUNDED, PRICE) == (held.state, held.held)
        clock.pass_by(LEASE)
        lapsed = Hold(
            payment_hash=payment.payment_hash,
            digest=payment.digest,
            epoch=1,
            attempt=1,
            amount=PRICE,
            lease_until=clock(),
        )
        capture = moves.capture(lapsed, None, b"a capture", in_ms(clock()))
        assert 0 == await beside(ledger, give_up(WINDOW, 10, in_ms(clock())), capture)
        assert PaymentState.SPENT is (await row(ledger, payment)).state

    @told
    async def test_a_long_call_does_not_stand_in_the_way_of_giving_up_what_came_after_it(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """However few are given up at a time."""
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(timedelta(seconds=1))
        other = invoice(clock, "another")
        await ledger.open_payment(other)
        await ledger.settle(other.payment_hash, PRICE)
        clock.pass_by(TTL + WINDOW)
        await must_hold(ledger, payment)
        assert 1 == await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=1)
        assert PaymentState.CREDIT is (await row(ledger, other)).state

    @told
    async def test_giving_up_is_done_in_batches(self, ledger: SqlLedger, clock: StillClock) -> None:
        """So that nobody waits for a long one; what is spent, open or owed already is left alone."""
        payments = [invoice(clock, f"payment {number}") for number in range(8)]
        for each in payments:
            await ledger.open_payment(each)
        for each in payments[:5]:
            await ledger.settle(each.payment_hash, PRICE)
        await ledger.capture(await must_hold(ledger, payments[5]), ANSWER)
        await ledger.release(await must_hold(ledger, payments[6]), most_attempts=1)
        clock.pass_by(TTL + WINDOW)
        assert [2, 2, 1, 0] == [await ledger.give_up_unclaimed(unclaimed_for=WINDOW, most=2) for _ in range(4)]
        states = [(await row(ledger, each)).state for each in payments[5:]]
        assert [PaymentState.SPENT, PaymentState.CREDIT, PaymentState.OPEN] == states

    @told
    async def test_expiring_and_forgetting_are_done_in_batches_too(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Only what is past its time; only answers; never a payment that was paid."""
        payments = [invoice(clock, f"payment {number}") for number in range(5)]
        for each in payments:
            await ledger.open_payment(each)
        for each in payments[:2]:
            await ledger.capture(await must_hold(ledger, each), ANSWER)
        clock.pass_by(TTL + DAY)
        books = await ledger.balance()
        assert [2, 1, 0] == [await ledger.expire_payments(grace=NO_GRACE, most=2) for _ in range(3)]
        assert [1, 1, 0] == [await ledger.forget_answers(most=1) for _ in range(3)]
        assert [2, 1, 0] == [await ledger.forget_unpaid(ended_for=DAY - LEASE, most=2) for _ in range(3)]
        assert (books, 2) == (await ledger.balance(), await self.count(ledger, "payments"))
        assert 2 == await self.count(ledger, "draws") == len(await ledger.recent_payments(MOST))
