"""What LNbits says, read strictly: rows of a wallet, refusals, and whether a key was taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import NodeUnavailable
from farebox.core.ports import Failed, HttpReply, InvoiceState, InvoiceStatus, PayOutcome, Unresolved
from farebox.core.settlement import Settlement
from farebox.lightning.outcome import in_flight, proven
from farebox.lightning.reply import Told, fault_of, hash_of, msats, need, one_line, read_object, text, whole

WRONG_KEY: Final = "LNbits does not take the key; it has to be one of the wallet's, and the admin key to pay"
NOT_OURS: Final = "LNbits does not say whose payment that is: the key is not one of its wallet's"
_NO_PAYMENT: Final = "Payment does not exist."
_NO_WALLET: Final = "Wallet not found."
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_STATES: Final = MappingProxyType(
    {
        "pending": InvoiceState.OPEN,
        "success": InvoiceState.PAID,
        "failed": InvoiceState.CANCELLED,
    }
)
_OK, _CREATED, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 200, 201, 401, 403, 404


def outcome_of(row: Told, payment_hash: bytes) -> PayOutcome:
    """What the row of a payment says."""
    if hash_of(row, "payment_hash") != payment_hash or not is_payment(row):
        return Unresolved(reason="LNbits answered with something that can't be read")
    match text(row, "status"):
        case "success":
            return proven(row, "preimage", payment_hash, fee=_msats_of(row, "fee"), by="LNbits")
        case "failed":
            return Failed(reason="LNbits says that the payment failed")
        case _:
            return in_flight()


def status_of(row: Told, payment_hash: bytes) -> InvoiceStatus:
    """What the row of an invoice says. Raises NodeUnavailable."""
    state, received = _STATES.get(text(row, "status") or ""), _msats_of(row, "amount")
    if state is None or received is None or not is_invoice(row) or hash_of(row, "payment_hash") != payment_hash:
        raise NodeUnavailable("LNbits tells something else than it was asked")
    return InvoiceStatus(state=state, received=received if state is InvoiceState.PAID else NOTHING)


def settlement_of(row: Told) -> Settlement | None:
    """What a row says that was paid to its wallet; None for any other row."""
    payment_hash, received = hash_of(row, "payment_hash"), _msats_of(row, "amount")
    if text(row, "status") != "success" or not is_invoice(row) or payment_hash is None or received is None:
        return None
    return Settlement(payment_hash=payment_hash, received=received)


def changed_ms_of(row: Told) -> int:
    """When a row was last changed; 0 when that can't be read."""
    try:
        at = datetime.fromisoformat(text(row, "updated_at") or "")
        return max(0, (at.replace(tzinfo=at.tzinfo or UTC) - _EPOCH) // _MILLISECOND)
    except (ValueError, OverflowError):
        return 0


def details_of(told: Told) -> Told | None:
    """The row in a look-up, which LNbits shows only to its own wallet."""
    details = told.get("details")
    return details if isinstance(details, dict) else None


def is_payment(row: Told) -> bool:
    """Whether it is of something that the wallet paid, or tried to."""
    return whole(row, "amount") < 0


def is_invoice(row: Told) -> bool:
    """Whether it is of something that the wallet asked for."""
    return whole(row, "amount") > 0


def _msats_of(row: Told, name: str) -> Amount | None:
    """An amount whatever its sign, which LNbits uses one way and the other."""
    return msats({name: abs(whole(row, name))}, name)


def is_unknown(reply: HttpReply) -> bool:
    """Whether LNbits itself says that it knows no such payment, and not something in between."""
    return reply.status == _NOT_FOUND and _detail(reply) == _NO_PAYMENT


def refuses_key(reply: HttpReply) -> bool:
    """Whether LNbits itself refuses the key: a 403 of something in between has no such detail."""
    if reply.status in (_UNAUTHORIZED, _FORBIDDEN):
        return bool(_detail(reply))
    return reply.status == _NOT_FOUND and _detail(reply) == _NO_WALLET


def _detail(reply: HttpReply) -> str:
    told = read_object(reply.body) if reply.status else None
    return "" if told is None else text(told, "detail") or ""


def sensible(reply: HttpReply) -> Told:
    """The object in a reply. Raises NodeUnavailable."""
    return need(reply, complaint(reply), _OK, _CREATED)


def complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    if refuses_key(reply):
        return WRONG_KEY
    detail = "" if reply.status in (_OK, _CREATED) else one_line(_detail(reply))
    return f"LNbits: {detail}" if detail else fault_of(reply, "LNbits")
