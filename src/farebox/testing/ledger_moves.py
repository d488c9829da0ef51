"""Every state and every move: what is not in a table does not happen, whoever asks for it."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import (
    DRAW_MOVES,
    PAYMENT_MOVES,
    DrawState,
    Hold,
    Payment,
    PaymentMove,
    PaymentState,
)
from farebox.core.refund import Refund
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import (
    ANSWER,
    MOST,
    NO_GRACE,
    PRICE,
    TTL,
    LedgerStage,
    hold,
    must_hold,
    row,
    told,
)
from farebox.testing.market import StillClock


class LedgerMoves(LedgerStage):
    """Each cell of the two tables of core.payment."""

    @pytest.mark.parametrize("move", PaymentMove)
    @pytest.mark.parametrize("state", PaymentState)
    @told
    async def test_a_move_happens_where_the_table_has_it_and_nowhere_else(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment, state: PaymentState, move: PaymentMove
    ) -> None:
        """Each cell of the table."""
        await self._bring(ledger, clock, payment, state)
        before = await row(ledger, payment)
        await self._try(ledger, clock, payment, move)
        after = await row(ledger, payment)
        assert PAYMENT_MOVES.get((state, move), state) == after.state
        if after.state is state:
            assert before == after

    @pytest.mark.parametrize("target", PaymentState)
    @pytest.mark.parametrize("state", PaymentState)
    @told
    async def test_the_database_itself_refuses_an_edge_that_is_not_in_the_table(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment, state: PaymentState, target: PaymentState
    ) -> None:
        """Whoever writes the statement, and however plausible the rest of the row."""
        await self._bring(ledger, clock, payment, state)
        edges = {(before, after) for (before, _), after in PAYMENT_MOVES.items()} | {(state, state)}
        received = Amount(0) if target in (PaymentState.OPEN, PaymentState.EXPIRED) else PRICE
        statement = (
            "UPDATE payments SET state = :state, received_msat = :received_msat, captured_msat = :captured_msat,"
            " settled_at_ms = :settled_at_ms, refunded_msat = :refunded_msat, held_msat = 0, lease_until_ms = NULL"
        )
        parameters = {
            "state": target.value,
            "received_msat": received.msat,
            "captured_msat": PRICE.msat if target is PaymentState.SPENT else 0,
            "settled_at_ms": 1 if received else None,
            "refunded_msat": PRICE.msat if target is PaymentState.REFUNDED else 0,
        }
        assert ((state, target) in edges) is await self.allows(ledger, statement, parameters)

    @pytest.mark.parametrize("target", DrawState)
    @pytest.mark.parametrize("state", DrawState)
    @told
    async def test_the_database_itself_refuses_an_edge_of_a_draw(
        self, ledger: SqlLedger, payment: Payment, state: DrawState, target: DrawState
    ) -> None:
        """A draw that has ended has ended."""
        held = await must_hold(ledger, payment)
        if state is DrawState.CAPTURED:
            await ledger.capture(held, None)
        if state is DrawState.RELEASED:
            await ledger.release(held, most_attempts=MOST)
        edges = {(before, after) for (before, _), after in DRAW_MOVES.items()} | {(state, state)}
        statement = "UPDATE draws SET state = :state, ended_at_ms = :ended_at_ms"
        parameters = {"state": target.value, "ended_at_ms": None if target is DrawState.HELD else 1}
        assert ((state, target) in edges) is await self.allows(ledger, statement, parameters)

    async def _bring(self, ledger: SqlLedger, clock: StillClock, payment: Payment, state: PaymentState) -> None:
        match state:
            case PaymentState.OPEN:
                return
            case PaymentState.EXPIRED:
                await self._try(ledger, clock, payment, PaymentMove.EXPIRE)
                return
        await self._try(ledger, clock, payment, PaymentMove.SETTLE)
        match state:
            case PaymentState.SPENT:
                await self._try(ledger, clock, payment, PaymentMove.DRAIN)
            case PaymentState.CREDIT | PaymentState.REFUNDED:
                await self._try(ledger, clock, payment, PaymentMove.GIVE_UP)
        if state is PaymentState.REFUNDED:
            await self._try(ledger, clock, payment, PaymentMove.REFUND)

    async def _try(self, ledger: SqlLedger, clock: StillClock, payment: Payment, move: PaymentMove) -> None:
        match move:
            case PaymentMove.SETTLE:
                await ledger.settle(payment.payment_hash, PRICE)
            case PaymentMove.EXPIRE:
                clock.pass_by(TTL + timedelta(seconds=1))
                await ledger.expire_payments(grace=NO_GRACE)
            case PaymentMove.DRAIN:
                held = await hold(ledger, payment, proven=False)
                if isinstance(held, Hold):
                    await ledger.capture(held, ANSWER)
            case PaymentMove.GIVE_UP:
                held = await hold(ledger, payment, proven=False)
                if isinstance(held, Hold):
                    await ledger.give_up(held)
            case PaymentMove.REFUND:
                await self._refund(ledger, payment)

    async def _refund(self, ledger: SqlLedger, payment: Payment) -> None:
        refund = Refund(
            payment_hash=payment.payment_hash,
            refund_hash=sha256(b"refund of " + payment.payment_hash).digest(),
            invoice="lnbcrt200n1…",
            wallet="a wallet",
            amount=PRICE,
            fee_limit=NOTHING,
        )
        await ledger.hold_refund(refund)
        await ledger.capture_refund(refund, fee=NOTHING)
