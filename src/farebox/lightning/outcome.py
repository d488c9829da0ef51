"""What became of a payment, by the rules that hold for every backend.

Rules
1. Paid is proven by the preimage of its hash. A backend that only says so has proven nothing: unresolved.
2. A payment that was called failed has failed if a look-up agrees, or knows of none. Else it is unresolved, or paid.
3. What certainly was not sent has failed. Every other call without a clear answer is unresolved.
"""

from __future__ import annotations

from farebox.core.amount import NOTHING, Amount
from farebox.core.conversation import HttpReply
from farebox.core.ports import Failed, Paid, PayOutcome, Unresolved
from farebox.lightning.reply import Told, preimage_of


def proven(told: Told, name: str, payment_hash: bytes, *, fee: Amount | None, by: str) -> Paid | Unresolved:
    """Paid, if the preimage of this name proves it. fee: what routing cost; None counts as nothing."""
    preimage = preimage_of(told, name, payment_hash)
    if preimage is None:
        return Unresolved(reason=no_proof(by))
    return Paid(preimage=preimage, fee=NOTHING if fee is None else fee)


def no_proof(by: str) -> str:
    """The reason of a payment whose preimage is missing, or is none."""
    return f"{by} says that it paid and does not prove it"


def never_heard(by: str) -> Unresolved:
    """The backend itself says that it knows no such payment."""
    return Unresolved(reason=f"{by} has never heard of this payment", known=False)


def in_flight() -> Unresolved:
    """It is under way, or told in words that are not known here."""
    return Unresolved(reason="the payment is in flight")


def failed_if_found_so(reason: str, found: PayOutcome) -> PayOutcome:
    """What a payment that was just called failed has come to. found: what a look-up since says."""
    match found:
        case Paid():
            return found
        case Failed() | Unresolved(known=False):
            return Failed(reason=reason)
        case Unresolved():
            return Unresolved(reason=f"{reason}; {found.reason}")


def is_unsent(reply: HttpReply) -> bool:
    """Whether the backend certainly has not seen the call."""
    return reply.status == 0 and not reply.sent
