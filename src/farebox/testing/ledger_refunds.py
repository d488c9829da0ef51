"""Refunds: a credit is paid back once, whoever asks at the same time, and what is left of it stays owed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import DrawState, Payment, PaymentState
from farebox.core.refund import Refund
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import ANSWER, PRICE, LedgerStage, invoice, must_hold, row, run_sql, told
from farebox.testing.market import StillClock

FEE_LIMIT = Amount.sats(1)
IDLE = timedelta(minutes=2)


def refund_of(payment: Payment, name: str = "a refund", *, amount: Amount = PRICE - FEE_LIMIT) -> Refund:
    """An intent to pay it back."""
    return Refund(
        payment_hash=payment.payment_hash,
        refund_hash=sha256(name.encode()).digest(),
        invoice=f"the invoice of {name}",
        wallet="a wallet",
        amount=amount,
        fee_limit=FEE_LIMIT,
    )


async def owe(ledger: SqlLedger, payment: Payment) -> None:
    """A call that could not be delivered."""
    await ledger.give_up(await must_hold(ledger, payment))


class LedgerRefunds(LedgerStage):
    """Intents, outcomes, and what is owed afterwards."""

    @told
    async def test_a_refund_is_kept_before_it_is_paid(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """With all that is needed to find out later what became of it."""
        await owe(ledger, payment)
        assert await ledger.hold_refund(refund_of(payment))
        credit = await ledger.find_credit(payment.payment_hash)
        assert credit is not None
        assert replace(refund_of(payment), attempt=1, held_at=clock()) == credit.refund
        assert (PaymentState.CREDIT, PRICE, PRICE - Amount.sats(1)) == (credit.state, credit.owed, credit.most)

    @told
    async def test_a_refund_that_was_paid_costs_its_amount_and_fee_and_the_rest_stays_owed(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """Nothing disappears from the books."""
        await owe(ledger, payment)
        refund = refund_of(payment, amount=Amount.sats(17))
        await ledger.hold_refund(refund)
        assert await ledger.capture_refund(refund, fee=Amount.msats(400))
        books, stands = await ledger.balance(), await row(ledger, payment)
        assert PaymentState.REFUNDED is stands.state
        assert (Amount.msats(17_400), Amount.msats(3_600)) == (books.refunded, books.credit)
        (credit,) = await ledger.credits(10)
        assert (Amount.msats(3_600), NOTHING, PaymentState.REFUNDED) == (credit.owed, credit.most, credit.state)

    @told
    async def test_routing_that_cost_more_than_there_was_is_the_sellers_loss(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """The credit is used up; the true fee is kept with the refund."""
        await owe(ledger, payment)
        refund = refund_of(payment)
        await ledger.hold_refund(refund)
        assert await ledger.capture_refund(refund, fee=Amount.sats(9))
        books, credit = await ledger.balance(), await ledger.find_credit(payment.payment_hash)
        assert (PRICE, NOTHING) == (books.refunded, books.credit)
        assert credit is not None
        assert credit.refund is not None
        assert (Amount.sats(9), DrawState.CAPTURED) == (credit.refund.fee, credit.refund.state)

    @told
    async def test_a_credit_is_refunded_once(self, ledger: SqlLedger, payment: Payment) -> None:
        """Held or paid, there is no second one beside it."""
        await owe(ledger, payment)
        first, second = refund_of(payment, "first"), refund_of(payment, "second")
        assert await ledger.hold_refund(first)
        assert not await ledger.hold_refund(second)
        assert await ledger.capture_refund(first, fee=NOTHING)
        assert not await ledger.hold_refund(second)
        assert not await ledger.capture_refund(second, fee=NOTHING)
        assert not await ledger.capture_refund(first, fee=NOTHING)

    @told
    async def test_of_many_refunds_at_once_one_is_written(self, ledger: SqlLedger, payment: Payment) -> None:
        """The index is the arbiter."""
        await owe(ledger, payment)
        refunds = [refund_of(payment, f"refund {number}") for number in range(16)]
        assert 1 == sum(await asyncio.gather(*map(ledger.hold_refund, refunds)))

    @told
    async def test_a_refund_that_failed_may_be_tried_again_with_another_invoice_only(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """The same invoice may have been paid by somebody else by now."""
        await owe(ledger, payment)
        first, second = refund_of(payment, "first"), refund_of(payment, "second")
        await ledger.hold_refund(first)
        assert await ledger.release_refund(first, reason="no route")
        assert not await ledger.release_refund(first, reason="no route")
        assert not await ledger.capture_refund(first, fee=NOTHING)
        assert not await ledger.hold_refund(first)
        assert await ledger.hold_refund(second)
        credit = await ledger.find_credit(payment.payment_hash)
        assert credit is not None
        assert credit.refund is not None
        assert (2, PRICE) == (credit.refund.attempt, (await ledger.balance()).credit)

    @told
    async def test_no_invoice_pays_back_two_credits(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Paid once, it counts once."""
        other = invoice(clock, "another")
        await ledger.open_payment(other)
        for each in (payment, other):
            await owe(ledger, each)
        assert await ledger.hold_refund(refund_of(payment))
        assert not await ledger.hold_refund(refund_of(other))

    @told
    async def test_no_more_than_what_is_owed_is_paid_back(self, ledger: SqlLedger, payment: Payment) -> None:
        """Routing has to fit into it too."""
        await owe(ledger, payment)
        assert not await ledger.hold_refund(refund_of(payment, amount=PRICE - FEE_LIMIT + Amount.msats(1)))
        assert await ledger.hold_refund(refund_of(payment))

    @told
    async def test_only_a_credit_is_paid_back(self, ledger: SqlLedger, payment: Payment) -> None:
        """Neither an invoice that nobody paid, nor money that is waiting for its call, nor what was earned."""
        refund = refund_of(payment)
        assert not await ledger.hold_refund(refund)
        await ledger.settle(payment.payment_hash, PRICE)
        assert not await ledger.hold_refund(refund)
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        assert not await ledger.hold_refund(refund)

    @told
    async def test_a_refund_that_nobody_has_touched_is_taken_over_by_one(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Whoever began it may still be at it."""
        await owe(ledger, payment)
        refund = refund_of(payment)
        await ledger.hold_refund(refund)
        clock.pass_by(IDLE - timedelta(milliseconds=1))
        assert not await ledger.retry_refund(refund, idle=IDLE)
        clock.pass_by(timedelta(milliseconds=1))
        assert 1 == sum(await asyncio.gather(*(ledger.retry_refund(refund, idle=IDLE) for _ in range(8))))
        clock.pass_by(IDLE)
        await ledger.release_refund(refund, reason="it failed")
        assert not await ledger.retry_refund(refund, idle=IDLE)

    @told
    async def test_refunds_of_two_payments_have_nothing_to_do_with_each_other(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Attempts, claims and ends are of one."""
        other = invoice(clock, "another")
        await ledger.open_payment(other)
        for each in (payment, other):
            await owe(ledger, each)
        first, second, theirs = (refund_of(payment, "1"), refund_of(payment, "2"), refund_of(other, "theirs"))
        await ledger.hold_refund(first)
        await ledger.release_refund(first, reason="no route")
        for each_refund in (second, theirs):
            assert await ledger.hold_refund(each_refund)
        clock.pass_by(IDLE)
        assert [True, True] == [await ledger.retry_refund(each, idle=IDLE) for each in (second, theirs)]
        await ledger.capture_refund(second, fee=NOTHING)
        credits = [await ledger.find_credit(each.payment_hash) for each in (payment, other)]
        told = [
            (credit.state, credit.refund.attempt, credit.refund.state) for credit in credits if credit and credit.refund
        ]
        expected = [
            (PaymentState.REFUNDED, 2, DrawState.CAPTURED),
            (PaymentState.CREDIT, 1, DrawState.HELD),
        ]
        assert expected == told

    @pytest.mark.parametrize(
        "change",
        [
            "attempt = 0",
            "refund_hash = :short",
            "amount_msat = 0",
            "fee_limit_msat = -1",
            "fee_msat = -1",
            "state = 'lost'",
            "ended_at_ms = 1",
        ],
    )
    @told
    async def test_the_database_itself_refuses_a_refund_that_can_not_be(
        self, ledger: SqlLedger, payment: Payment, change: str
    ) -> None:
        """Whoever writes it."""
        await owe(ledger, payment)
        await ledger.hold_refund(refund_of(payment))
        with pytest.raises(StoreUnavailable):
            await run_sql(ledger, f"UPDATE refunds SET {change}", {"short": b"short"})

    @pytest.mark.parametrize(
        ("statement", "told_as"),
        [
            ("UPDATE entries SET amount_msat = amount_msat - 1 WHERE to_account = 'refunded'", "refunded by its row"),
            ("UPDATE refunds SET amount_msat = amount_msat - 1", "and by its refunds"),
            ("UPDATE refunds SET state = 'released'", "and by its refunds"),
            ("UPDATE payments SET refunded_msat = refunded_msat - 1", "owed to its payer"),
        ],
    )
    @told
    async def test_an_audit_finds_a_refund_that_was_tampered_with(
        self, clock: StillClock, statement: str, told_as: str
    ) -> None:
        """It names the payment, and what does not fit."""
        ledger, payment = self.open_ledger(clock), invoice(clock)
        await ledger.open_payment(payment)
        await owe(ledger, payment)
        await ledger.hold_refund(refund_of(payment))
        await ledger.capture_refund(refund_of(payment), fee=FEE_LIMIT)
        assert [] == await ledger.audit()
        await self.drop_guards(ledger)
        await run_sql(ledger, statement)
        found = await ledger.audit()
        await ledger.close()
        assert any(told_as in line and line.startswith(payment.payment_hash.hex()) for line in found)

    @told
    async def test_whole_payments_are_owed_first_and_what_was_left_over_after_them(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Each the oldest first; what is not owed is not there."""
        paid = {"waiting": PRICE, "surplus": PRICE + FEE_LIMIT, "spent": PRICE, "late": PRICE, "early": PRICE}
        for name, received in paid.items():
            await ledger.open_payment(invoice(clock, name))
            if name != "late":
                await ledger.settle(invoice(clock, name).payment_hash, received)
        now = clock()
        clock.pass_by(timedelta(seconds=1))
        payments = {
            name: replace(invoice(clock, name), created_at=now) for name in ("surplus", "spent", "late", "early")
        }
        for name in ("surplus", "spent"):
            await ledger.capture(await must_hold(ledger, payments[name]), ANSWER)
        for name in ("late", "early"):
            await owe(ledger, payments[name])
        owed = [(credit.payment_hash, credit.owed) for credit in await ledger.credits(10)]
        expected = [("early", PRICE), ("late", PRICE), ("surplus", FEE_LIMIT)]
        assert [(payments[name].payment_hash, amount) for name, amount in expected] == owed
        assert expected[:1] == [("early", credit.owed) for credit in await ledger.credits(1)]
        assert await ledger.find_credit(sha256(b"unknown").digest()) is None
