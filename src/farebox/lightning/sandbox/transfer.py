"""Transfer: money on its way between the two nodes of the sandbox, and the row that it is in the book."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from farebox.core.amount import Amount
from farebox.core.secret import Secret

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class TransferState(StrEnum):
    """Where a transfer stands."""

    HELD = "held"  # left the payer, did not reach the payee
    PAID = "paid"
    FAILED = "failed"  # nothing moved, or everything moved back


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Money on its way from one node to the other.

    sent: what reaches the payee. fee: what the payer gives on top, to nobody in this world.
    reason: why it failed.
    """

    payment_hash: bytes
    payer: str
    payee: str
    invoice: str
    sent: Amount
    fee: Amount
    state: TransferState
    created_at: datetime
    completed_at: datetime | None = None
    preimage: Secret[bytes] | None = None
    reason: str = ""

    def failed(self, reason: str) -> Transfer:
        """The same transfer, failed at once."""
        return replace(self, state=TransferState.FAILED, preimage=None, reason=reason, completed_at=self.created_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptInvoice:
    """An invoice of which the book knows more than can be derived.

    text: empty when only its hash was known when it was cancelled.
    """

    payee: str
    text: str
    cancelled: bool


def write_transfer(transfer: Transfer) -> tuple[bytes | str | int | None, ...]:
    """The columns of a row, in the order of the table."""
    return (
        transfer.payment_hash,
        transfer.payer,
        transfer.payee,
        transfer.invoice,
        transfer.sent.msat,
        transfer.fee.msat,
        transfer.state,
        None if transfer.preimage is None else transfer.preimage.reveal(),
        transfer.reason,
        to_ms(transfer.created_at),
        None if transfer.completed_at is None else to_ms(transfer.completed_at),
    )


def read_transfer(row: Any) -> Transfer | None:
    """The transfer of a row as the database gives it, columns in the order of the table; None of no row."""
    if row is None:
        return None
    return Transfer(
        payment_hash=row[0],
        payer=row[1],
        payee=row[2],
        invoice=row[3],
        sent=Amount.msats(row[4]),
        fee=Amount.msats(row[5]),
        state=TransferState(row[6]),
        preimage=None if row[7] is None else Secret(row[7]),
        reason=row[8],
        created_at=_from_ms(row[9]),
        completed_at=None if row[10] is None else _from_ms(row[10]),
    )


def to_ms(instant: datetime) -> int:
    """Milliseconds since 1970, the form of instants in the book and in phoenixd's answers."""
    return (instant - _EPOCH) // _MILLISECOND


def _from_ms(milliseconds: int) -> datetime:
    return _EPOCH + milliseconds * _MILLISECOND
