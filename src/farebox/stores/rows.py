"""Rows of the ledger as the values they keep, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from farebox.core.amount import Amount
from farebox.core.client_prefix import subnet_of
from farebox.core.payment import Answer, Payment, PaymentState
from farebox.stores.engine import Row, from_ms, in_ms

if TYPE_CHECKING:
    from farebox.stores.sealing import Sealer


def payment_of(row: Row) -> Payment:
    """The payment in a row of `find_payment`, `reusable_payment` or `recent_payments`."""
    (
        payment_hash,
        state,
        price_msat,
        digest,
        resource,
        client,
        invoice,
        created_at_ms,
        expires_at_ms,
        settled_at_ms,
        received_msat,
        held_msat,
        captured_msat,
        attempts,
        epoch,
        lease_until_ms,
        receiver,
    ) = row
    return Payment(
        payment_hash=payment_hash,
        state=PaymentState(state),
        price=Amount(price_msat),
        digest=digest,
        resource=resource,
        client=client,
        invoice=invoice,
        created_at=from_ms(created_at_ms),
        expires_at=from_ms(expires_at_ms),
        settled_at=None if settled_at_ms is None else from_ms(settled_at_ms),
        received=Amount(received_msat),
        held=Amount(held_msat),
        captured=Amount(captured_msat),
        attempts=attempts,
        epoch=epoch,
        lease_until=None if lease_until_ms is None else from_ms(lease_until_ms),
        receiver=receiver,
    )


def row_of(payment: Payment) -> Mapping[str, object]:
    """The parameters of `open_payment`: what is known of an invoice that nobody has paid."""
    return {
        "payment_hash": payment.payment_hash,
        "price_msat": payment.price.msat,
        "digest": payment.digest,
        "resource": payment.resource,
        "client": payment.client,
        "subnet": subnet_of(payment.client),
        "invoice": payment.invoice,
        "created_at_ms": in_ms(payment.created_at),
        "expires_at_ms": in_ms(payment.expires_at),
        "receiver": payment.receiver,
    }


def answer_of(row: Row, payment_hash: bytes, sealer: Sealer | None) -> Answer | None:
    """The answer in a row of `find_answer`; None when it is sealed and can't be opened any more.

    Raises SealBroken.
    """
    epoch, status, headers_json, body = row
    if not headers_json:  # there would be brackets at least
        if sealer is None:
            return None
        return sealer.open(body, payment_hash=payment_hash, epoch=epoch, status=status)
    return Answer(status=status, headers=tuple((name, value) for name, value in json.loads(headers_json)), body=body)


def row_of_answer(answer: Answer, payment_hash: bytes, epoch: int, sealer: Sealer | None) -> Mapping[str, object]:
    """The answer's own parameters of `keep_answer`."""
    if sealer is not None:
        sealed = sealer.seal(answer, payment_hash=payment_hash, epoch=epoch)
        return {"status": answer.status, "headers_json": "", "body": sealed}
    return {"status": answer.status, "headers_json": json.dumps(answer.headers), "body": answer.body}
