"""Neighbours: what is done to one payment, one hold and one name is done to no other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Hold, Payment, PaymentState
from farebox.stores import moves
from farebox.stores.engine import in_ms
from farebox.stores.ledger import SQL, SqlLedger
from farebox.testing.ledger_refunds import owe, refund_of
from farebox.testing.ledger_settlements import claim_of
from farebox.testing.ledger_stage import (
    ANSWER,
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
    run_sql,
    told,
)
from farebox.testing.ledger_upkeep import beside
from farebox.testing.market import StillClock

NAME = b"a name of its own"
SUBNET = ("2001:db8:1:1::/64", "2001:db8:1:2::/64")


async def hold_as(ledger: SqlLedger, payment: Payment, name: bytes, *, rerun: bool = True) -> Hold | Payment | None:
    """Try to hold the price of one call, under a name that the caller remembers."""
    return await ledger.hold(
        payment.payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=MOST, rerun=rerun, name=name
    )


class LedgerNeighbours(LedgerStage):
    """Two payments, two holds of one payment, two callers."""

    @pytest.fixture
    def other(self, ledger: SqlLedger, clock: StillClock, payment: Payment) -> Payment:
        """Another invoice, younger than the first."""
        other = invoice(clock, "another")
        asyncio.run(ledger.open_payment(other))
        return other

    @pytest.mark.parametrize("change", [{"invoice": "lnbcrt1…"}, {"digest": OTHER_DIGEST}, {"client": "192.0.2.8/32"}])
    @told
    async def test_a_payment_hash_is_opened_again_only_as_it_was(
        self, ledger: SqlLedger, payment: Payment, change: dict[str, str]
    ) -> None:
        """Not with another invoice, for another request or for another caller."""
        with pytest.raises(StoreUnavailable):
            await ledger.open_payment(replace(payment, **change))  # type: ignore[arg-type]  # each is of its field
        assert payment == await row(ledger, payment)

    @told
    async def test_a_network_owes_only_what_can_still_be_paid(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Neither what was paid nor what has run out."""
        invoices = [replace(invoice(clock, client), client=client) for client in SUBNET]
        for each in invoices:
            await ledger.open_payment(each)
        await ledger.settle(invoices[0].payment_hash, PRICE)
        assert (0, 1) == await ledger.count_unpaid_of(SUBNET[0])
        clock.pass_by(TTL)
        assert (0, 0) == await ledger.count_unpaid_of(SUBNET[0])

    @told
    async def test_what_has_just_expired_is_not_forgotten(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Late money may still come."""
        clock.pass_by(TTL + LEASE)
        await ledger.expire_payments(grace=NO_GRACE)
        assert [0, 1] == [await ledger.forget_unpaid(ended_for=ended) for ended in (LEASE, LEASE / 2)]

    # --- claims -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("proven", [False, True])
    @told
    async def test_a_claim_is_of_one_payment(
        self, ledger: SqlLedger, payment: Payment, other: Payment, *, proven: bool
    ) -> None:
        """Another one that could be claimed as well stays as it is."""
        for each in (payment, other):
            await ledger.settle(each.payment_hash, PRICE)
        stands = await row(ledger, other)
        assert isinstance(await hold(ledger, payment, proven=proven), Hold)
        assert stands == await row(ledger, other)

    @told
    async def test_a_proof_that_claims_nothing_settles_one_payment(
        self, ledger: SqlLedger, payment: Payment, other: Payment
    ) -> None:
        """Another one has not been paid by it."""
        await hold(ledger, payment, digest=OTHER_DIGEST)
        states = [(await row(ledger, each)).state for each in (payment, other)]
        assert [PaymentState.FUNDED, PaymentState.OPEN] == states

    @told
    async def test_a_call_without_a_proof_is_let_in_as_one_with_it(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """For its own request, not beside a live hold, and so many times."""
        await ledger.settle(payment.payment_hash, PRICE)
        assert isinstance(await hold(ledger, payment, digest=OTHER_DIGEST, proven=False), Payment)
        for _ in range(MOST):
            assert isinstance(await hold(ledger, payment, proven=False), Hold)
            assert isinstance(await hold(ledger, payment, proven=False), Payment)
            clock.pass_by(LEASE)
        assert await hold(ledger, payment, proven=False) == await row(ledger, payment)
        assert PaymentState.CREDIT is (await row(ledger, payment)).state

    @told
    async def test_what_lapsed_is_given_up_alone(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment, other: Payment
    ) -> None:
        """Whoever asks for one payment does not decide about another."""
        for each in (payment, other):
            await must_hold(ledger, each)
        clock.pass_by(LEASE)
        await hold_as(ledger, payment, NAME, rerun=False)
        states = [(await row(ledger, each)).state for each in (payment, other)]
        assert [PaymentState.CREDIT, PaymentState.FUNDED] == states

    @told
    async def test_what_is_released_while_somebody_asks_is_not_given_up(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """It has attempts left."""
        held, now_ms = await must_hold(ledger, payment), in_ms(clock())
        release = moves.release(held, MOST, ran=True, now_ms=now_ms)
        found = await beside(ledger, moves.hold(claim_of(payment), now_ms), release)
        assert isinstance(found, Payment)
        assert PaymentState.FUNDED is found.state

    # --- names --------------------------------------------------------------------------------------------------------

    @told
    async def test_a_claim_is_found_again_by_its_name_and_payment(
        self, ledger: SqlLedger, payment: Payment, other: Payment
    ) -> None:
        """Another's hold is not one's own, though one has a hold of that name."""
        await must_hold(ledger, other)
        mine = await hold_as(ledger, payment, NAME)
        assert isinstance(mine, Hold)
        assert mine == await hold_as(ledger, payment, NAME)
        assert isinstance(await hold_as(ledger, other, NAME), Payment)

    @told
    async def test_a_claim_that_was_taken_over_or_has_ended_is_not_found_again(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment, other: Payment
    ) -> None:
        """The hold is somebody else's, or nobody's."""
        theirs = await hold_as(ledger, other, NAME)
        assert isinstance(theirs, Hold)
        assert isinstance(await hold_as(ledger, payment, NAME), Hold)
        clock.pass_by(LEASE)
        await must_hold(ledger, payment)
        await ledger.give_up(theirs)
        for each in (payment, other):
            assert await hold_as(ledger, each, NAME) == await row(ledger, each)

    @told
    async def test_a_capture_is_found_again_by_its_name_payment_and_epoch(
        self, ledger: SqlLedger, payment: Payment, other: Payment
    ) -> None:
        """Not another's, nor a later one that was released."""
        await ledger.settle(payment.payment_hash, PRICE * 2)
        first, theirs = await must_hold(ledger, payment), await must_hold(ledger, other)
        assert [True, True] == [await ledger.capture(first, ANSWER, name=NAME) for _ in range(2)]
        second = await must_hold(ledger, payment)
        for each in (second, theirs):
            await ledger.release(each, most_attempts=MOST)
            assert not await ledger.capture(each, None, name=NAME)

    @told
    async def test_the_name_of_a_claim_that_was_released_is_no_capture(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """Only what was captured was captured."""
        held = await hold_as(ledger, payment, NAME)
        assert isinstance(held, Hold)
        await ledger.release(held, most_attempts=MOST)
        assert not await ledger.capture(held, None, name=NAME)

    # --- what becomes of a hold ---------------------------------------------------------------------------------------

    @told
    async def test_a_renewal_a_capture_and_an_answer_are_of_one_payment(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment, other: Payment
    ) -> None:
        """Of two calls that run at the same time each has its own."""
        held, theirs = await must_hold(ledger, payment), await must_hold(ledger, other)
        stands = await row(ledger, other)
        clock.pass_by(timedelta(seconds=1))
        assert await ledger.renew(held, lease=LEASE)
        assert await ledger.capture(held, ANSWER)
        assert stands == await row(ledger, other)
        assert await ledger.find_answer(other.payment_hash) is None
        assert await ledger.capture(theirs, ANSWER)

    @told
    async def test_only_the_held_draw_of_an_epoch_ends(self, ledger: SqlLedger, payment: Payment) -> None:
        """The statements themselves decide, not what was done before them."""
        held = await must_hold(ledger, payment)
        ((payment_id,),) = await run_sql(ledger, "SELECT payment_id FROM draws")
        asked = {"payment_id": payment_id, "epoch": 2, "state": "released", "claim": NAME, "now_ms": 1}
        for statement in ("capture_draw", "end_draw"):
            await run_sql(ledger, SQL[statement], asked)
            assert [("held",)] == await run_sql(ledger, "SELECT state FROM draws")
        await ledger.release(held, most_attempts=MOST)
        await run_sql(ledger, SQL["capture_draw"], {**asked, "epoch": 1})
        assert [("released",)] == await run_sql(ledger, "SELECT state FROM draws")

    @told
    async def test_a_refund_is_of_the_payment_that_it_is_asked_for(
        self, ledger: SqlLedger, payment: Payment, other: Payment
    ) -> None:
        """Not of an older one that is owed as well."""
        for each in (payment, other):
            await owe(ledger, each)
        assert await ledger.hold_refund(refund_of(other))
        credits = [await ledger.find_credit(each.payment_hash) for each in (payment, other)]
        assert [None, 1] == [credit and credit.refund and credit.refund.attempt for credit in credits]
