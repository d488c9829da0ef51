"""From an invoice to a claim: opened, reused, settled, expired, held (reliability 3.1, rows 1 to 6)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import (
    Hold,
    Payment,
    PaymentState,
)
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import (
    ANSWER,
    CLIENT,
    DAY,
    DIGEST,
    LEASE,
    MOST,
    NO_GRACE,
    OTHER_DIGEST,
    PRICE,
    TTL,
    LedgerStage,
    hold,
    invoice,
    must_hold,
    row,
    told,
)
from farebox.testing.market import StillClock


class LedgerClaims(LedgerStage):
    """Opening, settling and claiming a payment."""

    # --- an invoice goes out (reliability 3.1, row 1) -----------------------------------------------------------------

    @told
    async def test_an_opened_payment_is_found_as_it_was(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Nothing is lost on the way to the disk and back."""
        payment = invoice(clock)
        await ledger.open_payment(payment)
        assert payment == await ledger.find_payment(payment.payment_hash)

    @told
    async def test_a_payment_hash_is_opened_once(self, ledger: SqlLedger, payment: Payment) -> None:
        """The second invoice of one hash is refused and the first stays."""
        with pytest.raises(StoreUnavailable):
            await ledger.open_payment(replace(payment, price=Amount.sats(1)))
        assert payment == await row(ledger, payment)

    @told
    async def test_an_unknown_payment_is_nothing(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Each question about a hash that was never opened is answered with nothing."""
        unknown = invoice(clock)
        assert await ledger.find_payment(unknown.payment_hash) is None
        assert await ledger.find_answer(unknown.payment_hash) is None
        assert await hold(ledger, unknown) is None
        assert not await ledger.settle(unknown.payment_hash, PRICE)

    @told
    async def test_a_callers_own_unpaid_invoice_is_reused(self, ledger: SqlLedger, payment: Payment) -> None:
        """The same caller, request and price."""
        assert payment == await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=PRICE)

    @told
    async def test_nobody_elses_invoice_is_reused(self, ledger: SqlLedger, payment: Payment) -> None:
        """Another caller, request or price needs an invoice of its own."""
        assert await ledger.reusable_payment(client="192.0.2.8/32", digest=DIGEST, price=PRICE) is None
        assert await ledger.reusable_payment(client=CLIENT, digest=OTHER_DIGEST, price=PRICE) is None
        assert await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=Amount.sats(20)) is None

    @told
    async def test_an_invoice_past_half_its_time_is_not_reused(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """A caller has always at least half the time to pay."""
        clock.pass_by(TTL / 2 - timedelta(seconds=1))
        assert payment == await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=PRICE)
        clock.pass_by(timedelta(seconds=1))
        assert await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=PRICE) is None

    @told
    async def test_a_paid_invoice_is_not_reused(self, ledger: SqlLedger, payment: Payment) -> None:
        """Nobody is asked to pay twice on one invoice."""
        await ledger.settle(payment.payment_hash, PRICE)
        assert await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=PRICE) is None

    @told
    async def test_the_newest_payments_come_first(self, ledger: SqlLedger, clock: StillClock) -> None:
        """And no more of them than asked for."""
        opened = []
        for name in "abc":
            opened.append(invoice(clock, name))
            await ledger.open_payment(opened[-1])
            clock.pass_by(timedelta(seconds=1))
        assert [opened[2], opened[1]] == await ledger.recent_payments(2)

    # --- money arrives (rows 2 and 4) ---------------------------------------------------------------------------------

    @told
    async def test_the_price_funds_a_payment(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """Settled, once, at the time it is told."""
        clock.pass_by(timedelta(seconds=5))
        assert await ledger.settle(payment.payment_hash, PRICE)
        expected = replace(payment, state=PaymentState.FUNDED, received=PRICE, settled_at=clock())
        assert expected == await row(ledger, payment)

    @told
    async def test_a_second_settlement_does_nothing(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """A node may tell it twice, and another amount."""
        await ledger.settle(payment.payment_hash, PRICE)
        settled = await row(ledger, payment)
        clock.pass_by(timedelta(seconds=5))
        assert not await ledger.settle(payment.payment_hash, PRICE * 2)
        assert settled == await row(ledger, payment)

    @told
    async def test_less_than_the_price_funds_nothing(self, ledger: SqlLedger, payment: Payment) -> None:
        """A part of the price, a millisatoshi short."""
        assert not await ledger.settle(payment.payment_hash, PRICE - Amount.msats(1))
        assert payment == await row(ledger, payment)

    @told
    async def test_more_than_the_price_is_recorded(self, ledger: SqlLedger, payment: Payment) -> None:
        """All of it is on the tab."""
        assert await ledger.settle(payment.payment_hash, PRICE + Amount.msats(1))
        assert PRICE + Amount.msats(1) == (await row(ledger, payment)).received

    @told
    async def test_late_money_counts(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """An expired payment that settles after all is funded and buys its call."""
        clock.pass_by(TTL + timedelta(seconds=1))
        assert 1 == await ledger.expire_payments(grace=NO_GRACE)
        assert await ledger.settle(payment.payment_hash, PRICE)
        assert isinstance(await hold(ledger, payment, proven=False), Hold)

    @told
    async def test_late_proof_counts(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """A preimage of an expired payment settles it as it claims it."""
        clock.pass_by(TTL + timedelta(seconds=1))
        await ledger.expire_payments(grace=NO_GRACE)
        assert isinstance(await hold(ledger, payment), Hold)
        assert PaymentState.FUNDED == (await row(ledger, payment)).state

    # --- an invoice runs out (row 3) ----------------------------------------------------------------------------------

    @told
    async def test_an_invoice_expires_after_its_time_and_the_grace(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Not while a payment may still be on its way."""
        clock.pass_by(TTL + LEASE)
        assert 0 == await ledger.expire_payments(grace=LEASE)
        clock.pass_by(timedelta(milliseconds=1))
        assert 1 == await ledger.expire_payments(grace=LEASE)
        assert replace(payment, state=PaymentState.EXPIRED) == await row(ledger, payment)
        assert 0 == await ledger.expire_payments(grace=LEASE)

    @told
    async def test_a_paid_invoice_does_not_expire(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """However old it is."""
        await ledger.settle(payment.payment_hash, PRICE)
        clock.pass_by(DAY)
        assert 0 == await ledger.expire_payments(grace=NO_GRACE)
        assert PaymentState.FUNDED == (await row(ledger, payment)).state

    # --- a call is claimed (rows 5 and 6) -----------------------------------------------------------------------------

    @told
    async def test_a_funded_payment_is_held(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """The hold says what is held, for which request, until when."""
        await ledger.settle(payment.payment_hash, PRICE)
        expected = Hold(
            payment_hash=payment.payment_hash,
            digest=DIGEST,
            epoch=1,
            attempt=1,
            amount=PRICE,
            lease_until=clock() + LEASE,
        )
        assert expected == await hold(ledger, payment, proven=False)
        stands = await row(ledger, payment)
        assert (PRICE, 1, 1, clock() + LEASE) == (stands.held, stands.attempts, stands.epoch, stands.lease_until)

    @told
    async def test_an_unpaid_payment_is_not_held_without_proof(self, ledger: SqlLedger, payment: Payment) -> None:
        """A hash alone proves nothing."""
        assert payment == await hold(ledger, payment, proven=False)
        assert payment == await row(ledger, payment)

    @told
    async def test_a_proof_settles_and_claims_at_once(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """The preimage is news of the settlement, for the price."""
        assert isinstance(await hold(ledger, payment), Hold)
        stands = await row(ledger, payment)
        assert (PaymentState.FUNDED, PRICE, clock()) == (stands.state, stands.received, stands.settled_at)

    @told
    async def test_a_proof_after_the_settlement_changes_nothing_of_it(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """What the node said came in stays so."""
        settled_at = clock()
        await ledger.settle(payment.payment_hash, PRICE + PRICE)
        clock.pass_by(timedelta(seconds=1))
        await must_hold(ledger, payment)
        stands = await row(ledger, payment)
        assert (PRICE + PRICE, settled_at) == (stands.received, stands.settled_at)

    @told
    async def test_a_proof_settles_even_where_it_claims_nothing(self, ledger: SqlLedger, payment: Payment) -> None:
        """Shown with another request, the money has arrived all the same and waits for its own."""
        outcome = await hold(ledger, payment, digest=OTHER_DIGEST)
        assert isinstance(outcome, Payment)
        assert (PaymentState.FUNDED, PRICE, 0) == (outcome.state, outcome.received, outcome.attempts)
        await must_hold(ledger, payment)

    @told
    async def test_a_payment_is_held_only_for_its_own_request(self, ledger: SqlLedger, payment: Payment) -> None:
        """Another digest gets the row as it stands."""
        await ledger.settle(payment.payment_hash, PRICE)
        stands = await row(ledger, payment)
        assert stands == await hold(ledger, payment, digest=OTHER_DIGEST)
        assert stands == await row(ledger, payment)

    @told
    async def test_a_live_hold_keeps_others_out(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """Until the very moment its lease ends."""
        await must_hold(ledger, payment)
        clock.pass_by(LEASE - timedelta(milliseconds=1))
        assert await row(ledger, payment) == await hold(ledger, payment)
        clock.pass_by(timedelta(milliseconds=1))
        assert isinstance(await hold(ledger, payment), Hold)

    @told
    async def test_sixty_four_at_once_get_one_hold(self, ledger: SqlLedger, payment: Payment) -> None:
        """The others get the row."""
        outcomes = await asyncio.gather(*(hold(ledger, payment) for _ in range(64)))
        assert Counter({"Hold": 1, "Payment": 63}) == Counter(type(outcome).__name__ for outcome in outcomes)

    @told
    async def test_a_lapsed_hold_is_taken_over_in_a_new_epoch(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """The next attempt, with a lease of its own."""
        await must_hold(ledger, payment)
        clock.pass_by(LEASE)
        second = await must_hold(ledger, payment)
        assert (2, 2, clock() + LEASE) == (second.epoch, second.attempt, second.lease_until)

    @told
    async def test_a_lapsed_hold_of_a_call_that_must_not_run_twice_is_credit(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """It may have run, so nobody is let in once more, and its price is owed."""
        await must_hold(ledger, payment)
        clock.pass_by(LEASE)
        found = await ledger.hold(
            payment.payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=MOST, rerun=False
        )
        assert isinstance(found, Payment)
        assert PaymentState.CREDIT is found.state
        assert PRICE == (await ledger.balance()).credit

    @told
    async def test_a_call_that_must_not_run_twice_is_held_after_one_that_failed(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """A failure that was told is no lapse."""
        await ledger.release(await must_hold(ledger, payment), most_attempts=MOST)
        again = await ledger.hold(
            payment.payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=MOST, rerun=False
        )
        assert isinstance(again, Hold)

    @told
    async def test_an_attempt_in_which_nothing_ran_is_not_counted(self, ledger: SqlLedger, payment: Payment) -> None:
        """A service that can't be reached uses up nobody's attempts."""
        for _ in range(3 * MOST):
            released = await ledger.release(await must_hold(ledger, payment), most_attempts=MOST, ran=False)
            assert (PaymentState.FUNDED, 0) == (released.state, released.attempts)

    @told
    async def test_a_stale_epoch_can_do_nothing(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """Neither renew, capture, release nor give up: the payment is another's now."""
        stale = await must_hold(ledger, payment)
        clock.pass_by(LEASE)
        await must_hold(ledger, payment)
        stands = await row(ledger, payment)
        assert not await ledger.renew(stale, lease=LEASE)
        assert not await ledger.capture(stale, ANSWER)
        assert stands == await ledger.release(stale, most_attempts=MOST)
        assert stands == await ledger.give_up(stale)
        assert await ledger.find_answer(payment.payment_hash) is None

    @told
    async def test_a_renewed_lease_keeps_the_hold(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> None:
        """A long call says from time to time that it is alive."""
        held = await must_hold(ledger, payment)
        clock.pass_by(LEASE - timedelta(seconds=1))
        assert await ledger.renew(held, lease=LEASE)
        assert clock() + LEASE == (await row(ledger, payment)).lease_until
        clock.pass_by(timedelta(seconds=2))
        assert isinstance(await hold(ledger, payment), Payment)
