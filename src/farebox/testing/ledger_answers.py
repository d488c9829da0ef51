"""From a claim to its end: captured, released, given up (reliability 3.1, rows 7 to 12)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from farebox.core.amount import Amount
from farebox.core.payment import (
    Balance,
    Payment,
    PaymentState,
)
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import (
    ANSWER,
    DAY,
    LEASE,
    MOST,
    OTHER_DIGEST,
    PRICE,
    LedgerStage,
    hold,
    must_hold,
    row,
    told,
)
from farebox.testing.market import StillClock


class LedgerAnswers(LedgerStage):
    """What becomes of a hold."""

    # --- it is answered (rows 7 and 12) -------------------------------------------------------------------------------

    @told
    async def test_a_capture_spends_the_payment_and_keeps_the_answer(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """The charge and the answer are one step."""
        assert await ledger.capture(await must_hold(ledger, payment), ANSWER)
        stands = await row(ledger, payment)
        assert (PaymentState.SPENT, PRICE, Amount(0), None) == (
            stands.state,
            stands.captured,
            stands.held,
            stands.lease_until,
        )
        assert ANSWER == await ledger.find_answer(payment.payment_hash)

    @told
    async def test_an_answer_is_given_once_and_never_changes(self, ledger: SqlLedger, payment: Payment) -> None:
        """A second capture of one hold, a release or a giving up after it, does nothing."""
        held = await must_hold(ledger, payment)
        assert await ledger.capture(held, ANSWER)
        stands = await row(ledger, payment)
        assert not await ledger.capture(held, replace(ANSWER, body=b"another"))
        assert not await ledger.renew(held, lease=LEASE)
        assert stands == await ledger.release(held, most_attempts=MOST)
        assert stands == await ledger.give_up(held)
        assert stands == await hold(ledger, payment)
        assert ANSWER == await ledger.find_answer(payment.payment_hash)

    @told
    async def test_sixty_four_captures_of_one_hold_charge_once(self, ledger: SqlLedger, payment: Payment) -> None:
        """One of them is the answer."""
        held = await must_hold(ledger, payment)
        answers = [replace(ANSWER, body=str(number).encode()) for number in range(64)]
        won = await asyncio.gather(*(ledger.capture(held, answer) for answer in answers))
        assert 1 == sum(won)
        assert answers[won.index(True)] == await ledger.find_answer(payment.payment_hash)

    @told
    async def test_a_lapsed_lease_that_nobody_took_still_captures(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """The work was done and nobody else began: the answer counts."""
        held = await must_hold(ledger, payment)
        clock.pass_by(LEASE * 2)
        assert await ledger.capture(held, ANSWER)

    @told
    async def test_an_answer_too_large_to_keep_is_charged_all_the_same(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """There is then nothing to give again."""
        assert await ledger.capture(await must_hold(ledger, payment), None)
        assert PaymentState.SPENT == (await row(ledger, payment)).state
        assert await ledger.find_answer(payment.payment_hash) is None

    @told
    async def test_an_answer_is_kept_for_a_day(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """Then it is gone, and the payment is as spent as before."""
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        clock.pass_by(DAY - timedelta(milliseconds=1))
        await ledger.forget_answers()
        assert ANSWER == await ledger.find_answer(payment.payment_hash)
        clock.pass_by(timedelta(milliseconds=1))
        assert await ledger.find_answer(payment.payment_hash) is None
        await ledger.forget_answers()
        assert 0 == await self.count(ledger, "answers")
        assert PaymentState.SPENT == (await row(ledger, payment)).state

    @told
    async def test_what_is_left_and_buys_no_call_is_owed(self, ledger: SqlLedger, payment: Payment) -> None:
        """Overpaid by less than a price: the surplus is credit."""
        await ledger.settle(payment.payment_hash, PRICE + Amount.msats(7))
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        expected = Balance(
            received=PRICE + Amount.msats(7),
            earned=PRICE,
            held=Amount(0),
            credit=Amount.msats(7),
            refunded=Amount(0),
        )
        assert expected == await ledger.balance()

    @told
    async def test_a_tab_of_two_prices_buys_two_calls(self, ledger: SqlLedger, payment: Payment) -> None:
        """Each with attempts and an answer of its own."""
        await ledger.settle(payment.payment_hash, PRICE * 2)
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        between = await row(ledger, payment)
        assert (PaymentState.FUNDED, PRICE, 0) == (between.state, between.captured, between.attempts)
        second = await must_hold(ledger, payment)
        assert (2, 1) == (second.epoch, second.attempt)
        assert await ledger.capture(second, replace(ANSWER, body=b"second"))
        assert PaymentState.SPENT == (await row(ledger, payment)).state
        assert replace(ANSWER, body=b"second") == await ledger.find_answer(payment.payment_hash)

    # --- it is not answered (rows 8, 9 and 10) ------------------------------------------------------------------------

    @told
    async def test_a_released_hold_leaves_the_payment_good(self, ledger: SqlLedger, payment: Payment) -> None:
        """The same proof claims again, at once."""
        held = await must_hold(ledger, payment)
        stands = await ledger.release(held, most_attempts=MOST)
        assert (PaymentState.FUNDED, Amount(0), None) == (stands.state, stands.held, stands.lease_until)
        assert stands == await row(ledger, payment)
        assert 2 == (await must_hold(ledger, payment)).attempt
        assert not await ledger.capture(held, ANSWER)

    @told
    async def test_the_third_failure_turns_into_credit(self, ledger: SqlLedger, payment: Payment) -> None:
        """Nothing was earned; all of it is owed."""
        for state in (PaymentState.FUNDED, PaymentState.FUNDED, PaymentState.CREDIT):
            assert state == (await ledger.release(await must_hold(ledger, payment), most_attempts=MOST)).state
        assert await row(ledger, payment) == await hold(ledger, payment)
        balance = await ledger.balance()
        assert (PRICE, Amount(0), PRICE) == (balance.received, balance.earned, balance.credit)

    @told
    async def test_a_third_attempt_that_lapses_turns_into_credit(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """A call that never says how it ended can't keep a payment hanging."""
        for _ in range(MOST):
            await must_hold(ledger, payment)
            clock.pass_by(LEASE)
        outcome = await hold(ledger, payment)
        assert isinstance(outcome, Payment)
        assert (PaymentState.CREDIT, Amount(0), None) == (outcome.state, outcome.held, outcome.lease_until)
        assert PRICE == (await ledger.balance()).credit

    @told
    async def test_a_third_attempt_that_runs_is_left_alone(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """While its lease is live it may still answer; so may it as long as only another request asks."""
        for _ in range(MOST - 1):
            await must_hold(ledger, payment)
            clock.pass_by(LEASE)
        held = await must_hold(ledger, payment)
        clock.pass_by(LEASE)
        await ledger.renew(held, lease=LEASE)
        assert await row(ledger, payment) == await hold(ledger, payment)
        clock.pass_by(LEASE)
        assert await row(ledger, payment) == await hold(ledger, payment, digest=OTHER_DIGEST)
        assert await ledger.capture(held, ANSWER)

    @told
    async def test_giving_up_turns_into_credit_at_once(self, ledger: SqlLedger, payment: Payment) -> None:
        """A call that must not run twice and nobody knows whether it did."""
        stands = await ledger.give_up(await must_hold(ledger, payment))
        assert (PaymentState.CREDIT, Amount(0), None) == (stands.state, stands.held, stands.lease_until)
        assert PRICE == (await ledger.balance()).credit

    @told
    async def test_giving_up_a_started_tab_keeps_what_was_earned(self, ledger: SqlLedger, payment: Payment) -> None:
        """Only what is left is owed."""
        await ledger.settle(payment.payment_hash, PRICE * 3)
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        await ledger.give_up(await must_hold(ledger, payment))
        balance = await ledger.balance()
        assert (PRICE, PRICE * 2, Amount(0)) == (balance.earned, balance.credit, balance.held)
