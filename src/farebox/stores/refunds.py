"""Refunds in the ledger: intents and outcomes of paying a credit back.

Rules
1. The intent is durable before the wallet is called, and one statement decides whether it may be written.
2. The payment is REFUNDED, and the entry made, in the transaction that captures the refund.
3. An operation that was kept, although nobody could tell, is found again by the payment hash of the refund's invoice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import DrawState, PaymentState
from farebox.core.refund import Credit, Refund
from farebox.stores import moves
from farebox.stores.engine import Engine, Operation, Row, from_ms, rows_of, span_in_ms
from farebox.stores.statements import statements

SQL: Final = statements("ledger")


class RefundStore:
    """The part of a core.ports.Ledger that is about refunds; see there for what each method promises."""

    engine: Engine

    async def credits(self, limit: int) -> Sequence[Credit]:
        """What is owed, the oldest first; whole payments before what was left over of others."""

        def read(_: int) -> Operation[list[Credit]]:
            rows = yield SQL["credits"], {"most": limit}
            found = []
            for row in rows:
                found.append((yield from _credit_of(row)))
            return found

        return await self.engine.read(read)

    async def find_credit(self, payment_hash: bytes) -> Credit | None:
        """What is owed of one payment, and what became of paying it back; None when there is no such payment."""

        def read(_: int) -> Operation[Credit | None]:
            rows = yield SQL["find_credit"], {"payment_hash": payment_hash}
            return (yield from _credit_of(rows[0])) if rows else None

        return await self.engine.read(read)

    async def hold_refund(self, refund: Refund) -> bool:
        """Write the intent, with one conditional statement."""
        asked = {
            "payment_hash": refund.payment_hash,
            "refund_hash": refund.refund_hash,
            "invoice": refund.invoice,
            "wallet": refund.wallet,
            "amount_msat": refund.amount.msat,
            "fee_limit_msat": refund.fee_limit.msat,
            "cost_msat": (refund.amount + refund.fee_limit).msat,
        }
        held = await self.engine.write(
            lambda now_ms: rows_of(SQL["hold_refund"], {**asked, "now_ms": now_ms}), about=refund.payment_hash
        )
        return bool(held)

    async def retry_refund(self, refund: Refund, *, idle: timedelta) -> bool:
        """Take over a held refund that nobody has touched for so long; of any number of callers one gets True."""

        def retry(now_ms: int) -> Operation[bool]:
            before_ms = now_ms - span_in_ms(idle)
            asked = {"refund_hash": refund.refund_hash, "now_ms": now_ms, "before_ms": before_ms}
            return bool((yield SQL["retry_refund"], asked))

        return await self.engine.write(retry, about=refund.payment_hash)

    async def capture_refund(self, refund: Refund, *, fee: Amount) -> bool:
        """It was paid: CREDIT to REFUNDED. False, with nothing done, when it is not held."""

        def capture(now_ms: int) -> Operation[bool]:
            ended = yield from _end(refund, DrawState.CAPTURED, fee, "", now_ms)
            for payment_id, cost_msat in ended:
                refunded = yield SQL["refund_payment"], {"payment_id": payment_id, "cost_msat": cost_msat}
                for epoch, refunded_msat in refunded:
                    yield from moves.enter(payment_id, epoch, "credit", "refunded", refunded_msat, now_ms)
            return bool(ended)

        return await self.engine.write(capture, about=refund.payment_hash)

    async def release_refund(self, refund: Refund, *, reason: str) -> bool:
        """It certainly was not paid; the credit is free again. False, with nothing done, when it is not held."""

        def release(now_ms: int) -> Operation[bool]:
            return bool((yield from _end(refund, DrawState.RELEASED, NOTHING, reason, now_ms)))

        return await self.engine.write(release, about=refund.payment_hash)


def _end(refund: Refund, state: DrawState, fee: Amount, reason: str, now_ms: int) -> Operation[list[Row]]:
    asked = {
        "refund_hash": refund.refund_hash,
        "state": state.value,
        "fee_msat": fee.msat,
        "reason": reason,
        "now_ms": now_ms,
    }
    return (yield SQL["end_refund"], asked)


def _credit_of(row: Row) -> Operation[Credit]:
    payment_hash, state, resource, owed_msat, settled_at_ms = row
    refunds = yield SQL["newest_refund"], {"payment_hash": payment_hash}
    return Credit(
        payment_hash=payment_hash,
        state=PaymentState(state),
        resource=resource,
        owed=Amount(owed_msat),
        settled_at=from_ms(settled_at_ms),
        refund=_refund_of(refunds[0]) if refunds else None,
    )


def _refund_of(row: Row) -> Refund:
    (
        payment_hash,
        refund_hash,
        invoice,
        wallet,
        amount_msat,
        fee_limit_msat,
        attempt,
        state,
        fee_msat,
        reason,
        held_at_ms,
    ) = row
    return Refund(
        payment_hash=payment_hash,
        refund_hash=refund_hash,
        invoice=invoice,
        wallet=wallet,
        amount=Amount(amount_msat),
        fee_limit=Amount(fee_limit_msat),
        attempt=attempt,
        state=DrawState(state),
        fee=Amount(fee_msat),
        reason=reason,
        held_at=from_ms(held_at_ms),
    )
