"""Payment and Draw: the two state machines of the seller's ledger, each as a table; and the purchase of a buyer.

Rules
1. A payment is a tab: `received >= held + captured`. Pay-per-call is a tab of one price.
2. A move not in a table does not exist; the store refuses it, and the diagrams in docs/states.md are drawn from here.
3. Each move is one conditional statement in the store, and its row count says who won.
4. A draw has a lease and an epoch. A draw whose epoch is no longer the payment's can't be captured.
5. Late money counts: an expired payment that settles after all is funded, and so does the buyer's own: a purchase that
   was released and turns out to be paid is captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.exchange import Pairs


class PaymentState(StrEnum):
    """Where a payment stands."""

    OPEN = "open"  # the invoice is out, nothing was received
    FUNDED = "funded"  # received, and not yet used up
    SPENT = "spent"  # used up; the answer was given
    EXPIRED = "expired"  # the invoice ran out unpaid
    CREDIT = "credit"  # received, undeliverable, owed to the payer
    REFUNDED = "refunded"  # paid back


class PaymentMove(StrEnum):
    """What can happen to a payment."""

    SETTLE = "settle"
    EXPIRE = "expire"
    DRAIN = "drain"
    GIVE_UP = "give up"
    REFUND = "refund"


class DrawState(StrEnum):
    """Where a draw stands, on a seller's tab and in a buyer's purse alike."""

    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"


class DrawMove(StrEnum):
    """What can happen to a draw."""

    CAPTURE = "capture"
    RELEASE = "release"


PAYMENT_MOVES: Final[Mapping[tuple[PaymentState, PaymentMove], PaymentState]] = MappingProxyType(
    {
        (PaymentState.OPEN, PaymentMove.SETTLE): PaymentState.FUNDED,
        (PaymentState.OPEN, PaymentMove.EXPIRE): PaymentState.EXPIRED,
        (PaymentState.EXPIRED, PaymentMove.SETTLE): PaymentState.FUNDED,
        (PaymentState.FUNDED, PaymentMove.DRAIN): PaymentState.SPENT,
        (PaymentState.FUNDED, PaymentMove.GIVE_UP): PaymentState.CREDIT,
        (PaymentState.CREDIT, PaymentMove.REFUND): PaymentState.REFUNDED,
    }
)

DRAW_MOVES: Final[Mapping[tuple[DrawState, DrawMove], DrawState]] = MappingProxyType(
    {
        (DrawState.HELD, DrawMove.CAPTURE): DrawState.CAPTURED,
        (DrawState.HELD, DrawMove.RELEASE): DrawState.RELEASED,
    }
)

# A buyer's purchase, which a wallet may prove to be paid though it was told that it had failed.
PURCHASE_MOVES: Final[Mapping[tuple[DrawState, DrawMove], DrawState]] = MappingProxyType(
    {**DRAW_MOVES, (DrawState.RELEASED, DrawMove.CAPTURE): DrawState.CAPTURED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One row of the ledger.

    price: what one call costs, fixed when the invoice was made. received: what came in, which may be more.
    client: the address prefix that was challenged, such as `192.0.2.7/32`.
    attempts: how many draws were held for the call that is due. epoch: how many in all, and the number of the newest.
    lease_until: the end of the live hold, if there is one.
    receiver: the name of the node that made the invoice; empty where that is not known.
    """

    payment_hash: bytes
    state: PaymentState
    price: Amount
    digest: bytes
    resource: str
    client: str
    invoice: str
    created_at: datetime
    expires_at: datetime
    settled_at: datetime | None = None
    received: Amount = NOTHING
    held: Amount = NOTHING
    captured: Amount = NOTHING
    attempts: int = 0
    epoch: int = 0
    lease_until: datetime | None = None
    receiver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A draw that was granted: `amount` of the payment is ours to capture until the lease ends."""

    payment_hash: bytes
    digest: bytes
    epoch: int
    attempt: int
    amount: Amount
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the call returned, kept to be given again. It was sold, so it does not print.

    headers: (lower-case name, value) pairs in their order.
    """

    status: int
    headers: Pairs = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The seller's books: `received == earned + held + credit + refunded`, always."""

    received: Amount
    earned: Amount
    held: Amount
    credit: Amount
    refunded: Amount

    @property
    def balanced(self) -> bool:
        """Whether every millisatoshi received is accounted for."""
        return self.received == self.earned + self.held + self.credit + self.refunded


class FreeScope(StrEnum):
    """Whose free calls they are that have run out."""

    CLIENT = "client"
    SUBNET = "subnet"  # the /48 around it
    EVERYONE = "everyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCall:
    """What the free tier says to one caller.

    granted: whether this call is free. limit: calls in a window. remaining: how many are left after this one.
    resets_at: when the next one becomes free. scope: where none is left, whose have run out.
    """

    granted: bool
    limit: int
    remaining: int
    resets_at: datetime
    scope: FreeScope = FreeScope.CLIENT
