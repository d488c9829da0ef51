"""Money that is not where it should be: payments that a restored backup has lost, and calls that can't be delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from farebox.core.errors import CallUndeliverable
from farebox.core.exchange import Credential, Sealed
from farebox.core.payment import Payment, PaymentState
from farebox.core.ports import Dialect
from farebox.core.refund import refundable
from farebox.gate.terms import Visit


def sealed_terms(credential: Credential, dialects: Sequence[Dialect]) -> Sealed | None:
    """What stands under the seal of a verified proof; None for a bare payment hash, which has no seal."""
    if credential.preimage is None:
        return None
    return next(dialect for dialect in dialects if dialect.name == credential.dialect).sealed(credential)


def lost_payment(
    credential: Credential, sealed: Sealed, visit: Visit, *, receiver: str, now: datetime, claim_within: timedelta
) -> Payment:
    """A payment as it must have been, from what stands under its seal; unpaid as it was when it was sealed.

    What was sold is known only where the proof is shown for that very request. receiver: the node that knows of it.
    """
    return Payment(
        payment_hash=credential.payment_hash,
        state=PaymentState.OPEN,
        price=sealed.price,
        digest=sealed.digest,
        resource=visit.quote.resource if sealed.digest == visit.quote.digest else "",
        client=visit.client,
        invoice=sealed.invoice,
        created_at=now,
        expires_at=sealed.valid_until - claim_within,
        receiver=receiver,
    )


def undeliverable(payment: Payment) -> CallUndeliverable:
    """What is owed for a call that could not be delivered, and how its payer gets it back."""
    owed = payment.received.less(payment.captured)
    most = refundable(owed)
    how = f"send the seller this payment hash and an invoice of at most {most}" if most else "ask the seller"
    return CallUndeliverable(
        f"{owed} are kept as credit; to have it back, {how}",
        payment_hash=payment.payment_hash.hex(),
        amount_msat=owed.msat,
        invoice_at_most_msat=most.msat,
    )
