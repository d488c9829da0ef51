"""Rows of the purse as the purchases, approvals and sub-purses that they keep, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Final

from farebox.core.amount import Amount
from farebox.core.budget import PURSE, Budget
from farebox.core.exchange import Challenge
from farebox.core.payment import DrawState
from farebox.core.purse import Approval, ApprovalState, Purchase, SubPurse
from farebox.core.secret import Secret
from farebox.stores.engine import Row, from_ms, in_ms

NO_ACCOUNT: Final = f" {PURSE}"


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
        resource,
        payee,
        labels,
        undelivered_at_ms,
        reusable_until_ms,
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
        served=bool(served) and undelivered_at_ms is None,
        lost=bool(served) and undelivered_at_ms is not None,
        reason=reason,
        held_at=from_ms(held_at_ms),
        attempt=attempt,
        resource=resource,
        payee=bytes(payee or b""),
        labels=frozenset(labels.split()),
        undelivered_at=None if undelivered_at_ms is None else from_ms(undelivered_at_ms),
        reusable_until=None if reusable_until_ms is None else from_ms(reusable_until_ms),
    )


def row_of(purchase: Purchase) -> Mapping[str, object]:
    """The parameters of `hold` that are the purchase's own."""
    return {
        "payment_hash": purchase.payment_hash,
        "request_digest": purchase.request_digest,
        "origin": purchase.origin,
        "url": purchase.url,
        "resource": purchase.resource,
        "payee": purchase.payee,
        "labels": labels_text(purchase.labels),
        "amount_msat": purchase.amount.msat,
        "fee_limit_msat": purchase.fee_limit.msat,
        "challenge_json": _json_of(purchase.challenge),
        "invoice_expires_at_ms": in_ms(purchase.invoice_expires_at),
        "reusable_until_ms": None if purchase.reusable_until is None else in_ms(purchase.reusable_until),
    }


def labels_text(labels: Iterable[str]) -> str:
    """Labels as the column keeps them: a space before and after each, so that one is found by `label_text`."""
    return f" {' '.join(sorted(labels))} "


def label_text(label: str) -> str:
    """What stands in the column for one label; nothing for none."""
    return f" {label} " if label else ""


def account_text(account: str) -> str:
    """What stands in the column for a sub-purse; for none, what stands there for each of them begins with."""
    return label_text(account) or NO_ACCOUNT


def approval_of(row: Row, now: datetime) -> Approval:
    """The parked call in a row of `parked`, `decide` or `approvals`."""
    number, state, digest, origin, resource, url, amount_msat, payee, labels, asked_at_ms, expires_at_ms = row
    stands = ApprovalState(state)
    if stands in (ApprovalState.PENDING, ApprovalState.APPROVED) and from_ms(expires_at_ms) <= now:
        stands = ApprovalState.EXPIRED
    return Approval(
        number=number,
        state=stands,
        request_digest=bytes(digest),
        origin=origin,
        resource=resource,
        url=url,
        amount=Amount(amount_msat),
        payee=bytes(payee or b""),
        labels=frozenset(labels.split()),
        asked_at=from_ms(asked_at_ms),
        expires_at=from_ms(expires_at_ms),
    )


def sub_purse_of(row: Row, zone: tzinfo) -> SubPurse:
    """The sub-purse in a row of `purses`."""
    name, limits, key, made_at_ms, revoked_at_ms = row
    return SubPurse(
        name=name,
        limits=Budget.read(limits, zone).windows,
        key=Secret(bytes(key)),
        made_at=from_ms(made_at_ms),
        revoked_at=None if revoked_at_ms is None else from_ms(revoked_at_ms),
    )


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
