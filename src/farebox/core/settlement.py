"""Settlement: what a node received, as it tells it by itself, and what the ledger makes of it.

Rules
1. A node's settlements are read from a cursor on. The cursor moves in the transaction that keeps what was read, so
   nothing is missed by whoever goes down in between; reading something again changes nothing.
2. Money that fits no invoice of ours, or is less than its price, funds nothing. It is kept in mind as a stray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from farebox.core.amount import Amount
from farebox.core.node import Receiver
from farebox.core.payment import Payment

if TYPE_CHECKING:
    from farebox.core.ports import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One invoice was paid, and the money is the node's for good. `received` may be more or less than was asked for."""

    payment_hash: bytes
    received: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlements:
    """What was settled since a cursor, in any order; some of it may have been told before.

    cursor: where to read on; only the node knows what it means. more: whether there is more to be read at once.
    """

    settled: tuple[Settlement, ...]
    cursor: str
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a ledger made of settlements, by their number.

    funded: now FUNDED. strays: kept in mind as a stray, or as a larger one. known: nothing new. moved: whether the
    cursor was moved, which it is not when another process has moved it meanwhile.
    """

    funded: int = 0
    strays: int = 0
    known: int = 0
    moved: bool = True

    def __add__(self, other: Learnt) -> Learnt:
        return Learnt(
            funded=self.funded + other.funded,
            strays=self.strays + other.strays,
            known=self.known + other.known,
            moved=self.moved and other.moved,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """Money of no payment: for an invoice that the ledger does not know, or less than its price, or beyond its tab.

    resource: what the invoice was for, where the ledger knows it; else nothing.
    """

    payment_hash: bytes
    receiver: str
    received: Amount
    seen_at: datetime
    resource: str = ""


@runtime_checkable
class SettlementStream(Protocol):
    """A Receiver that tells by itself what was paid. Conversations raise NodeUnavailable as a Receiver's do."""

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was settled since a cursor; where there is nothing yet, the backend may wait for it, at most so long."""

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """A cursor from which everything that was settled at that instant or later is read."""


@runtime_checkable
class SettlementNotices(Protocol):
    """A Receiver that tells by itself what was paid, and does not tell again what nobody heard.

    So it spares time, and its open invoices are looked up as if it told nothing.
    """

    def notices(self, *, wait: timedelta) -> Conversation[tuple[Settlement, ...]]:
        """What was paid lately, as soon as there is something, looked up; waited for at most so long.

        Nothing, at once, where the backend does not tell. Raises NodeUnavailable.
        """


@runtime_checkable
class SettlementHook(Receiver, Protocol):
    """A Receiver that calls the shop when something was paid, where its operator has told it to."""

    @property
    def is_hooked(self) -> bool:
        """Whether calls of its own can be told from anybody's."""

    def called_about(self, headers: Mapping[str, str], body: bytes) -> bytes | None:
        """The payment hash that a call names; None for one that is not the backend's own, or about something else.

        headers: names in lower case. What was paid is still for the look-up to say.
        """


class SettlementLedger(Protocol):
    """The part of core.ports.Ledger that is about settlements."""

    async def settle(self, payment_hash: bytes, received: Amount) -> bool:
        """OPEN or EXPIRED to FUNDED, once; False when it was not so (a duplicate, or less than the price)."""

    async def find_cursor(self, receiver: str) -> str | None:
        """How far the settlements of a receiver were read; None when that was never done."""

    async def settle_from_stream(
        self, settled: Sequence[Settlement], *, receiver: str, read_from: str, cursor: str
    ) -> Learnt:
        """Settle all of it, keep the strays, and move the cursor on from where it was read; one transaction.

        Each is a no-op the second time. What was received beyond what the ledger knows is added to the tab.
        """

    async def oldest_unsettled(self, *, others: Sequence[str] = ()) -> datetime | None:
        """When the oldest invoice was made that nobody has paid yet, expired or not.

        others: invoices of the receivers with these names are left out.
        """

    async def due_payments(
        self, *, until: datetime, after: Payment | None, most: int, others: Sequence[str] = ()
    ) -> Sequence[Payment]:
        """OPEN payments that end by then, by their end and then by their hash, from behind `after` on.

        others: invoices of the receivers with these names are left out.
        """

    async def restore_payment(self, payment: Payment, received: Amount) -> bool:
        """A payment that the ledger has lost: make its row again and fund it; False when it is there after all."""

    async def strays(self, limit: int) -> Sequence[Stray]:
        """The newest strays first."""
