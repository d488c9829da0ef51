"""Settlements in the ledger: what a node tells by itself, what nobody claims, and what a restored backup has lost.

Rules
1. Everything that was read from a node is kept in one transaction with the cursor that says so, and can be read again.
2. What fits no payment is a stray, once; it moves nothing.
3. More than a preimage proved is added to the tab, or else is a stray: nothing that was received is left unsaid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from farebox.core.amount import Amount
from farebox.core.payment import DrawState, Payment, PaymentState
from farebox.core.settlement import Learnt, Settlement, Stray
from farebox.stores import moves
from farebox.stores.engine import Engine, Operation, from_ms, in_ms, rows_of, span_in_ms
from farebox.stores.rows import payment_of, row_of
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

_STREAM: Final = b"settlements"
_UNCLAIMED: Final = b"unclaimed"
_EVERY_HASH_IS_LARGER: Final = b""


class SettlementStore:
    """The part of a core.ports.Ledger that is about settlements; see there for what each method promises."""

    engine: Engine

    async def find_cursor(self, receiver: str) -> str | None:
        """How far the settlements of a receiver were read; None when that was never done."""
        rows = await self.engine.read(lambda _: rows_of(SQL["find_cursor"], {"receiver": receiver}))
        return str(rows[0][0]) if rows else None

    async def settle_from_stream(
        self, settled: Sequence[Settlement], *, receiver: str, read_from: str, cursor: str
    ) -> Learnt:
        """Settle all of it, keep the strays, and move the cursor on from where it was read; one transaction."""

        def learn(now_ms: int) -> Operation[Learnt]:
            learnt = Learnt()
            for each in sorted(
                settled, key=lambda each: each.payment_hash
            ):  # one order, so that two can't block each other
                learnt += yield from learn_one(each, receiver, now_ms)
            if cursor == read_from:
                return learnt
            asked = {"receiver": receiver, "read_from": read_from, "cursor": cursor, "now_ms": now_ms}
            return learnt + Learnt(moved=bool((yield SQL["move_cursor"], asked)))

        return await self.engine.write(learn, about=_STREAM)

    async def oldest_unsettled(self, *, others: Sequence[str] = ()) -> datetime | None:
        """When the oldest invoice was made that nobody has paid yet, expired or not; but for those of other nodes."""
        asked = {"others_json": json.dumps(others)}
        [(oldest_ms,)] = await self.engine.read(lambda _: rows_of(SQL["oldest_unsettled"], asked))
        return None if oldest_ms is None else from_ms(oldest_ms)

    async def due_payments(
        self, *, until: datetime, after: Payment | None, most: int, others: Sequence[str] = ()
    ) -> Sequence[Payment]:
        """OPEN payments that end by then, from behind `after` on; but for those of other nodes."""
        asked = {
            "until_ms": in_ms(until),
            "after_ms": 0 if after is None else in_ms(after.expires_at),
            "after_hash": _EVERY_HASH_IS_LARGER if after is None else after.payment_hash,
            "most": most,
            "others_json": json.dumps(others),
        }
        rows = await self.engine.read(lambda _: rows_of(SQL["due_payments"], asked))
        return [payment_of(row) for row in rows]

    async def restore_payment(self, payment: Payment, received: Amount) -> bool:
        """A payment that the ledger has lost: make its row again and fund it; False when it is there after all."""

        def restore(now_ms: int) -> Operation[bool]:
            made = yield SQL["restore_payment"], row_of(payment)
            yield from moves.settle(payment.payment_hash, received, now_ms)
            return bool(made)

        return await self.engine.write(restore, about=payment.payment_hash)

    async def give_up_unclaimed(self, *, unclaimed_for: timedelta, most: int) -> int:
        """FUNDED to CREDIT for what was settled, and its invoice ended, so long ago; how many, at most `most`."""

        return await self.engine.write(lambda now_ms: give_up(unclaimed_for, most, now_ms), about=_UNCLAIMED)

    async def strays(self, limit: int) -> Sequence[Stray]:
        """The newest strays first."""
        rows = await self.engine.read(lambda _: rows_of(SQL["strays"], {"most": limit}))
        return [
            Stray(
                payment_hash=payment_hash,
                receiver=receiver,
                received=Amount(received_msat),
                seen_at=from_ms(seen_at_ms),
                resource=resource,
            )
            for payment_hash, receiver, received_msat, seen_at_ms, resource in rows
        ]


def give_up(unclaimed_for: timedelta, most: int, now_ms: int) -> Operation[int]:
    """FUNDED to CREDIT for what nobody has come for; how many."""
    asked = {"before_ms": now_ms - span_in_ms(unclaimed_for), "now_ms": now_ms, "most": most}
    given_up = 0
    for (payment_id,) in (yield SQL["unclaimed"], asked):
        for epoch, owed_msat in (yield SQL["give_up_unclaimed"], {"payment_id": payment_id, "now_ms": now_ms}):
            yield from moves.end_draw(payment_id, epoch, DrawState.RELEASED, now_ms)
            yield from moves.enter(payment_id, epoch, "held", "credit", owed_msat, now_ms)
            given_up += 1
    return given_up


def learn_one(told: Settlement, receiver: str, now_ms: int) -> Operation[Learnt]:
    """What one settlement comes to: a move, a larger tab, a stray, or nothing new."""
    if (yield from moves.settle(told.payment_hash, told.received, now_ms)):
        return Learnt(funded=1)
    payment = yield from moves.find(told.payment_hash)
    if payment is not None and payment.received >= told.received:
        return Learnt(known=1)
    if payment is not None and (yield from _add_surplus(payment, told.received, now_ms)):
        return Learnt(known=1)
    if not told.received:
        return Learnt(known=1)
    stray = {
        "payment_hash": told.payment_hash,
        "receiver": receiver,
        "received_msat": told.received.msat,
        "now_ms": now_ms,
    }
    kept = yield SQL["keep_stray"], stray
    return Learnt(strays=1) if kept else Learnt(known=1)


def _add_surplus(payment: Payment, received: Amount, now_ms: int) -> Operation[bool]:
    """Whether the tab could take what came in beyond what was known."""
    asked = {
        "payment_hash": payment.payment_hash,
        "before_msat": payment.received.msat,
        "received_msat": received.msat,
    }
    more_msat = (received - payment.received).msat
    added = yield SQL["settle_surplus"], asked
    for payment_id, epoch, state in added:
        yield from moves.enter(payment_id, epoch, "received", "held", more_msat, now_ms)
        if state == PaymentState.SPENT:
            yield from moves.enter(payment_id, epoch, "held", "credit", more_msat, now_ms)
    return bool(added)
