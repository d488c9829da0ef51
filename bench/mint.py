"""Payments that are ready to be used: rows in a ledger, and the proofs that claim them.

The invoices are made up (nobody pays them); a preimage that is shown settles its payment.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.exchange import Quote
from farebox.core.payment import Payment, PaymentState
from farebox.core.ports import Dialect, Ledger

BATCH = 1000
SPAN = timedelta(hours=6)


async def mint(ledger: Ledger, dialect: Dialect, quote: Quote, count: int) -> Sequence[str]:
    """So many `Authorization` values, each good for one call of the quote."""
    values: list[str] = []
    while len(values) < count:
        now = datetime.now(UTC)
        payments = []
        for _ in range(min(BATCH, count - len(values))):
            preimage = secrets.token_bytes(32)
            invoice = _invoice(hashlib.sha256(preimage).digest(), quote.amount, now)
            challenge = dialect.issue(quote, invoice, valid_until=now + SPAN)
            assert challenge is not None
            values.append(f"L402 {challenge.token}:{preimage.hex()}")
            payments.append(_payment(invoice, quote, now))
        await asyncio.gather(*(ledger.open_payment(payment) for payment in payments))
    return values


def _invoice(payment_hash: bytes, amount: Amount, now: datetime) -> Invoice:
    return Invoice(
        text=f"lnbcrt{payment_hash.hex()}",
        network=Network.REGTEST,
        amount=amount,
        payment_hash=payment_hash,
        payment_secret=bytes(32),
        payee=bytes(33),
        created_at=now,
        expires_in=SPAN,
        description="",
        description_hash=None,
        min_final_cltv=18,
    )


def _payment(invoice: Invoice, quote: Quote, now: datetime) -> Payment:
    return Payment(
        payment_hash=invoice.payment_hash,
        state=PaymentState.OPEN,
        price=quote.amount,
        digest=quote.digest,
        resource=quote.resource,
        client="127.0.0.1/32",
        invoice=invoice.text,
        created_at=now,
        expires_at=now + SPAN,
    )
