"""Refund: a credit paid back to its payer, once.

Rules
1. The intent is written before the wallet is called. While nobody can tell what became of it, it stays held, and no
   other refund of the same credit can begin.
2. What a refund costs is taken from the credit: the amount and what routing cost on top, up to the whole credit. What
   is left stays owed.
3. A refund that certainly failed is released, and may be tried again with another invoice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import DrawState, PaymentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One attempt to pay a credit back.

    payment_hash: of the payment that is owed. refund_hash: of the invoice that is paid. wallet: the name of what pays.
    fee_limit: held on top of the amount; fee: what it came to. reason: why it was released.
    """

    payment_hash: bytes
    refund_hash: bytes
    invoice: str
    wallet: str
    amount: Amount
    fee_limit: Amount
    attempt: int = 0
    state: DrawState = DrawState.HELD
    fee: Amount = NOTHING
    reason: str = ""
    held_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What is owed to the payer of one payment.

    state: CREDIT when the whole call could not be delivered; SPENT or REFUNDED when it is only what was left over.
    refund: the newest attempt to pay it back.
    """

    payment_hash: bytes
    state: PaymentState
    resource: str
    owed: Amount
    settled_at: datetime
    refund: Refund | None = None

    @property
    def most(self) -> Amount:
        """The largest invoice that pays it back: nothing when no invoice can."""
        return refundable(self.owed) if self.state is PaymentState.CREDIT else NOTHING


def fee_limit(amount: Amount) -> Amount:
    """What routing may cost on top of a refund: 1 sat or 1 %, whichever is more."""
    return max(Amount.sats(1), amount.share(1))


def refundable(owed: Amount) -> Amount:
    """The largest invoice, in whole satoshis, that pays back what is owed and leaves enough for routing."""
    return Amount.sats(owed.less(fee_limit(owed)).in_sats_floor())


class RefundLedger(Protocol):
    """The part of core.ports.Ledger that is about refunds."""

    async def credits(self, limit: int) -> Sequence[Credit]:
        """What is owed, the oldest first; whole payments before what was left over of others."""

    async def find_credit(self, payment_hash: bytes) -> Credit | None:
        """What is owed of one payment, and what became of paying it back; None when there is no such payment."""

    async def hold_refund(self, refund: Refund) -> bool:
        """Write the intent, with one conditional statement.

        False, with nothing written, when one is held or was captured already, when this invoice was tried before, and
        when amount and fee limit are more than is owed.
        """

    async def retry_refund(self, refund: Refund, *, idle: timedelta) -> bool:
        """Take over a held refund that nobody has touched for so long; of any number of callers one gets True."""

    async def capture_refund(self, refund: Refund, *, fee: Amount) -> bool:
        """It was paid: CREDIT to REFUNDED. False, with nothing done, when it is not held."""

    async def release_refund(self, refund: Refund, *, reason: str) -> bool:
        """It certainly was not paid; the credit is free again. False, with nothing done, when it is not held."""
