"""Rows of the purse as the purchases they keep, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from farebox.core.amount import Amount
from farebox.core.exchange import Challenge
from farebox.core.payment import DrawState
from farebox.core.ports import Purchase
from farebox.core.secret import Secret
from farebox.stores.engine import Row, from_ms, in_ms


def purchase_of(row: Row) -> Purchase:
    """The purchase in a row of `find`, `unfinished` or `history`."""
    (
        payment_hash,
        request_digest,
        origin,
        url,
        amount_msat,
        fee_limit_msat,
        challenge_json,
        invoice_expires_at_ms,
        state,
        fee_msat,
        preimage,
        served,
        reason,
        held_at_ms,
        attempt,
    ) = row
    return Purchase(
        payment_hash=payment_hash,
        request_digest=request_digest,
        origin=origin,
        url=url,
        amount=Amount(amount_msat),
        fee_limit=Amount(fee_limit_msat),
        challenge=_challenge_of(challenge_json),
        invoice_expires_at=from_ms(invoice_expires_at_ms),
        state=DrawState(state),
        fee=Amount(fee_msat),
        preimage=None if preimage is None else Secret(preimage),
        served=bool(served),
        reason=reason,
        held_at=from_ms(held_at_ms),
        attempt=attempt,
    )


def row_of(purchase: Purchase) -> Mapping[str, object]:
    """The parameters of `hold` that are the purchase's own."""
    return {
        "payment_hash": purchase.payment_hash,
        "request_digest": purchase.request_digest,
        "origin": purchase.origin,
        "url": purchase.url,
        "amount_msat": purchase.amount.msat,
        "fee_limit_msat": purchase.fee_limit.msat,
        "challenge_json": _json_of(purchase.challenge),
        "invoice_expires_at_ms": in_ms(purchase.invoice_expires_at),
    }


def _challenge_of(text: str) -> Challenge:
    told = json.loads(text)
    return Challenge(
        dialect=told["dialect"],
        invoice=told["invoice"],
        payment_hash=bytes.fromhex(told["payment_hash"]),
        amount=None if told["amount_msat"] is None else Amount(told["amount_msat"]),
        token=told["token"],
        parameters=tuple((name, value) for name, value in told["parameters"]),
        expires_at=None if told["expires_at_ms"] is None else from_ms(told["expires_at_ms"]),
    )


def _json_of(challenge: Challenge) -> str:
    return json.dumps(
        {
            "dialect": challenge.dialect,
            "invoice": challenge.invoice,
            "payment_hash": challenge.payment_hash.hex(),
            "amount_msat": None if challenge.amount is None else challenge.amount.msat,
            "token": challenge.token,
            "parameters": challenge.parameters,
            "expires_at_ms": None if challenge.expires_at is None else in_ms(challenge.expires_at),
        }
    )
