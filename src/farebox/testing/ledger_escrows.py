"""Escrows: what a node holds for a call is taken with its answer or goes back, once, whoever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.escrow import Escrow, EscrowState
from farebox.core.payment import Hold, Payment, PaymentState
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import (
    ANSWER,
    DAY,
    DIGEST,
    LEASE,
    NO_GRACE,
    OTHER_DIGEST,
    PRICE,
    TTL,
    LedgerStage,
    hold,
    invoice,
    row,
    run_sql,
    told,
)
from farebox.testing.market import StillClock

SEED = bytes(range(24))
NOBODY_CAME = TTL + timedelta(minutes=1)


async def begin(ledger: SqlLedger, payment: Payment, *, digest: bytes = DIGEST) -> Escrow | None:
    """The node holds its money: try to begin its call."""
    return await ledger.begin_escrow(payment.payment_hash, digest=digest, lease=LEASE)


async def must_begin(ledger: SqlLedger, payment: Payment) -> Escrow:
    """Begin its call."""
    begun = await begin(ledger, payment)
    assert begun is not None
    return begun


async def keep(ledger: SqlLedger, payment: Payment) -> bool:
    """Its call has answered."""
    return await ledger.keep_escrowed(payment.payment_hash, ANSWER, lease=LEASE)


async def due(ledger: SqlLedger) -> Sequence[Escrow]:
    """What is to be ended, taken."""
    return await ledger.take_due_escrows(lease=LEASE, most=10)


class LedgerEscrows(LedgerStage):
    """Beginning, answering, giving back and ending."""

    @pytest.fixture
    def escrowed(self, ledger: SqlLedger, clock: StillClock) -> Payment:
        """An invoice that is held when it is paid."""
        payment = invoice(clock, "an escrow")
        asyncio.run(ledger.open_payment(payment, seed=SEED))
        return payment

    @told
    async def test_a_call_begins_with_its_payment_and_seed(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """All that is needed to take the money later."""
        assert Escrow(payment=escrowed, state=EscrowState.RUNNING, seed=SEED) == await begin(ledger, escrowed)

    @told
    async def test_of_many_that_begin_a_call_at_once_one_does(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """It runs once."""
        begun = await asyncio.gather(*[begin(ledger, escrowed) for _ in range(20)])
        assert 1 == sum(each is not None for each in begun)

    @told
    async def test_a_call_begins_for_the_request_that_was_asked_for(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """Another one is not what is paid for."""
        assert await begin(ledger, escrowed, digest=OTHER_DIGEST) is None
        assert await begin(ledger, escrowed) is not None

    @told
    async def test_a_payment_without_escrow_begins_nothing(self, ledger: SqlLedger, payment: Payment) -> None:
        """It is paid as ever."""
        assert await begin(ledger, payment) is None
        assert await ledger.find_escrow(payment.payment_hash) is None

    @told
    async def test_what_is_settled_already_begins_nothing(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """It is claimed like any other payment, with a proof or without."""
        other = invoice(clock, "another escrow")
        await ledger.open_payment(other, seed=SEED)
        for payment, proven in ((escrowed, False), (other, True)):
            await ledger.settle(payment.payment_hash, PRICE)
            assert await begin(ledger, payment) is None
            assert isinstance(await hold(ledger, payment, proven=proven), Hold)

    @told
    async def test_a_payment_that_was_called_expired_begins_all_the_same(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """The node holds what came in the last moment."""
        clock.pass_by(TTL + timedelta(seconds=1))
        assert 1 == await ledger.expire_payments(grace=NO_GRACE)
        assert await begin(ledger, escrowed) is not None

    @told
    async def test_an_answer_is_kept_and_nothing_is_booked_before_the_money_is_taken(
        self, ledger: SqlLedger, escrowed: Payment
    ) -> None:
        """Nor is it given."""
        await must_begin(ledger, escrowed)
        assert await keep(ledger, escrowed)
        assert EscrowState.READY is await ledger.find_escrow(escrowed.payment_hash)
        assert (PaymentState.OPEN, NOTHING) == ((await row(ledger, escrowed)).state, (await ledger.balance()).received)
        assert await ledger.find_answer(escrowed.payment_hash) is None

    @told
    async def test_with_the_money_come_the_charge_and_the_answer(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """In one step."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        assert await ledger.end_escrow(escrowed.payment_hash, PRICE)
        assert (PaymentState.SPENT, PRICE) == ((await row(ledger, escrowed)).state, (await ledger.balance()).earned)
        assert ANSWER == await ledger.find_answer(escrowed.payment_hash)
        assert await ledger.find_escrow(escrowed.payment_hash) is None

    @told
    async def test_more_than_was_asked_for_is_owed(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """As with any payment."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        await ledger.end_escrow(escrowed.payment_hash, PRICE + Amount.sats(1))
        assert Amount.sats(1) == (await ledger.balance()).credit

    @told
    async def test_the_money_may_be_known_of_before_the_escrow_ends(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """A node's stream is sometimes faster."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        await ledger.settle(escrowed.payment_hash, PRICE)
        assert await ledger.end_escrow(escrowed.payment_hash, PRICE)
        assert (PaymentState.SPENT, PRICE) == ((await row(ledger, escrowed)).state, (await ledger.balance()).earned)

    @told
    async def test_of_many_that_end_it_at_once_one_does(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """And it is charged once."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        ended = await asyncio.gather(*[ledger.end_escrow(escrowed.payment_hash, PRICE) for _ in range(20)])
        assert (1, PRICE) == (ended.count(True), (await ledger.balance()).earned)

    @told
    async def test_a_proof_does_not_run_a_call_again_that_has_its_answer(
        self, ledger: SqlLedger, escrowed: Payment
    ) -> None:
        """Whoever shows it waits for the end of the escrow."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        found = await hold(ledger, escrowed, proven=True)
        assert isinstance(found, Payment)
        assert PaymentState.FUNDED is found.state
        await ledger.end_escrow(escrowed.payment_hash, PRICE)
        assert PaymentState.SPENT is (await row(ledger, escrowed)).state

    @told
    async def test_what_was_settled_is_not_run_beside_a_call_that_runs(
        self, ledger: SqlLedger, escrowed: Payment
    ) -> None:
        """Nor without a proof."""
        await must_begin(ledger, escrowed)
        await ledger.settle(escrowed.payment_hash, PRICE)
        assert isinstance(await hold(ledger, escrowed, proven=False), Payment)

    @told
    async def test_a_call_that_failed_leaves_its_payment_expired(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """Its caller is asked anew, with another invoice."""
        await must_begin(ledger, escrowed)
        assert await ledger.return_escrow(escrowed.payment_hash, lease=LEASE)
        assert EscrowState.RETURNING is await ledger.find_escrow(escrowed.payment_hash)
        assert PaymentState.EXPIRED is (await row(ledger, escrowed)).state
        assert not await keep(ledger, escrowed)
        assert await ledger.end_escrow(escrowed.payment_hash, None)
        assert (PaymentState.EXPIRED, NOTHING) == (
            (await row(ledger, escrowed)).state,
            (await ledger.balance()).received,
        )

    @told
    async def test_an_answer_that_is_kept_is_never_given_back(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """Neither by its call nor by whoever ends what is due."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        assert not await ledger.return_escrow(escrowed.payment_hash, lease=LEASE)
        clock.pass_by(LEASE)
        assert [EscrowState.READY] == [each.state for each in await due(ledger)]

    @told
    async def test_an_answer_whose_money_has_gone_back_is_not_given(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """The node let go of it before it could be taken."""
        await must_begin(ledger, escrowed)
        await keep(ledger, escrowed)
        assert await ledger.end_escrow(escrowed.payment_hash, None)
        assert PaymentState.EXPIRED is (await row(ledger, escrowed)).state
        assert await ledger.find_answer(escrowed.payment_hash) is None

    @told
    async def test_money_that_comes_although_it_was_to_go_back_funds_its_payment(
        self, ledger: SqlLedger, escrowed: Payment
    ) -> None:
        """Late money counts."""
        await must_begin(ledger, escrowed)
        await ledger.return_escrow(escrowed.payment_hash, lease=LEASE)
        assert await ledger.end_escrow(escrowed.payment_hash, PRICE)
        assert PaymentState.FUNDED is (await row(ledger, escrowed)).state

    @told
    async def test_what_waits_or_runs_is_not_ended(self, ledger: SqlLedger, escrowed: Payment) -> None:
        """Nobody knows yet where its money will be."""
        assert not await ledger.end_escrow(escrowed.payment_hash, None)
        await must_begin(ledger, escrowed)
        assert not await ledger.end_escrow(escrowed.payment_hash, PRICE)

    @told
    async def test_a_call_keeps_its_lease_while_it_runs_and_no_longer(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """A call that died is found by its lease."""
        await must_begin(ledger, escrowed)
        clock.pass_by(LEASE / 2)
        assert await ledger.renew_escrow(escrowed.payment_hash, lease=LEASE)
        clock.pass_by(LEASE / 2)
        assert not await due(ledger)
        clock.pass_by(LEASE / 2)
        assert [EscrowState.RETURNING] == [each.state for each in await due(ledger)]
        assert not await ledger.renew_escrow(escrowed.payment_hash, lease=LEASE)
        assert PaymentState.EXPIRED is (await row(ledger, escrowed)).state

    @told
    async def test_what_nobody_came_for_goes_back_after_the_end_of_its_invoice(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """It may be held, or never have been paid."""
        clock.pass_by(TTL)
        assert not await due(ledger)
        clock.pass_by(NOBODY_CAME - TTL)
        [taken] = await due(ledger)
        assert (EscrowState.RETURNING, SEED) == (taken.state, taken.seed)

    @told
    async def test_what_is_not_due_is_not_taken_before_what_is(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """Even where it has its answer, and few are taken at once."""
        clock.pass_by(NOBODY_CAME)
        ready = invoice(clock, "one with its answer")
        await ledger.open_payment(ready, seed=SEED)
        await must_begin(ledger, ready)
        await keep(ledger, ready)
        taken = await ledger.take_due_escrows(lease=LEASE, most=1)
        assert [escrowed.payment_hash] == [each.payment.payment_hash for each in taken]

    @told
    async def test_what_was_paid_all_the_same_is_not_called_expired(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """Somebody has settled it by hand."""
        await ledger.settle(escrowed.payment_hash, PRICE)
        clock.pass_by(NOBODY_CAME)
        assert 1 == len(await due(ledger))
        assert PaymentState.FUNDED is (await row(ledger, escrowed)).state

    @told
    async def test_what_is_due_is_taken_by_one_and_again_when_it_was_not_ended(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """Several gateways look after one ledger."""
        clock.pass_by(NOBODY_CAME)
        taken = await asyncio.gather(*[due(ledger) for _ in range(5)])
        assert 1 == sum(len(each) for each in taken)
        clock.pass_by(LEASE)
        assert 1 == len(await due(ledger))

    @told
    async def test_the_oldest_are_taken_first_and_no_more_than_asked_for(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """However many there are."""
        clock.pass_by(timedelta(seconds=1))
        await ledger.open_payment(invoice(clock, "a younger one"), seed=SEED)
        clock.pass_by(NOBODY_CAME)
        taken = await ledger.take_due_escrows(lease=LEASE, most=1)
        assert [escrowed.payment_hash] == [each.payment.payment_hash for each in taken]

    @told
    async def test_an_unpaid_payment_is_not_forgotten_while_it_is_in_escrow(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """The node may hold something for it."""
        clock.pass_by(DAY)
        await ledger.expire_payments(grace=NO_GRACE)
        assert 0 == await ledger.forget_unpaid(ended_for=NO_GRACE)
        [taken] = await due(ledger)
        await ledger.end_escrow(taken.payment.payment_hash, None)
        assert 1 == await ledger.forget_unpaid(ended_for=NO_GRACE)

    @told
    async def test_an_escrow_stands_in_nobody_elses_way(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment, payment: Payment
    ) -> None:
        """Others are claimed and forgotten as ever."""
        await must_begin(ledger, escrowed)
        unpaid = invoice(clock, "nobody's")
        await ledger.open_payment(unpaid)
        assert isinstance(await hold(ledger, payment, proven=True), Hold)
        other = invoice(clock, "another one's")
        await ledger.open_payment(other)
        await ledger.open_payment(invoice(clock, "a late escrow"), seed=SEED)
        assert await ledger.find_escrow(other.payment_hash) is None
        await ledger.settle(other.payment_hash, PRICE)
        assert isinstance(await hold(ledger, other, proven=False), Hold)
        clock.pass_by(DAY)
        await ledger.expire_payments(grace=NO_GRACE)
        assert 1 == await ledger.forget_unpaid(ended_for=NO_GRACE)
        assert await ledger.find_payment(unpaid.payment_hash) is None

    @told
    async def test_what_is_done_with_one_leaves_the_others_as_they_are(
        self, ledger: SqlLedger, clock: StillClock, escrowed: Payment
    ) -> None:
        """Whatever state both are in."""
        other = invoice(clock, "another escrow")
        await ledger.open_payment(other, seed=SEED)

        async def others() -> object:
            rows = await run_sql(ledger, "SELECT * FROM escrows WHERE seed = :seed ORDER BY payment_id", {"seed": SEED})
            (_, mine), found = rows, await row(ledger, other)
            return mine, found, await ledger.find_escrow(other.payment_hash)

        before = await others()
        await must_begin(ledger, escrowed)
        assert before == await others()
        await must_begin(ledger, other)
        before = await others()
        clock.pass_by(LEASE / 2)
        await ledger.renew_escrow(escrowed.payment_hash, lease=LEASE)
        assert before == await others()
        await ledger.renew_escrow(other.payment_hash, lease=LEASE)
        assert before != (before := await others())
        await keep(ledger, escrowed)
        assert before == await others()
        third = invoice(clock, "a third escrow")
        await ledger.open_payment(third, seed=sha256(b"third").digest())
        await must_begin(ledger, third)
        await ledger.return_escrow(third.payment_hash, lease=LEASE)
        assert before == await others()
        await keep(ledger, other)
        assert EscrowState.READY is await ledger.find_escrow(other.payment_hash)
        before = await others()
        await ledger.end_escrow(third.payment_hash, None)
        assert EscrowState.READY is await ledger.find_escrow(escrowed.payment_hash)
        assert before == await others()
        assert await ledger.find_escrow(third.payment_hash) is None

    @told
    async def test_an_invoice_that_is_opened_twice_keeps_its_first_seed(
        self, ledger: SqlLedger, escrowed: Payment
    ) -> None:
        """Asking again after a lost reply changes nothing."""
        await ledger.open_payment(escrowed, seed=sha256(b"another").digest())
        assert SEED == (await must_begin(ledger, escrowed)).seed
