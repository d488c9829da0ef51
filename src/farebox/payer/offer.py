"""The offer: what a 402 asks for, read in every dialect and audited before a wallet hears of it.

Rules
1. Every challenge of every dialect is read; what one dialect can't read does not hide what another one can.
2. What counts is the invoice. A price told beside it must be the same to the millisatoshi, in every challenge that
   carries that invoice; one that is missing, nothing or unreadable is refused, never taken for nothing.
3. The cheapest invoice that passes is chosen, and for it the first dialect in the payer's order.
4. A proof that could not be sent is found out here, not after paying.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network, decode
from farebox.core.budget import Budget
from farebox.core.errors import (
    ChallengeUnreadable,
    InvoiceRefused,
    MalformedCredential,
    MalformedInvoice,
    MalformedValue,
)
from farebox.core.exchange import Challenge, Credential, Wire
from farebox.core.ports import Dialect
from farebox.core.secret import Secret

CLOCK_SKEW: Final = timedelta(minutes=10)
_EXPIRY_MARGIN: Final = timedelta(seconds=30)
_MOST_FINAL_CLTV: Final = 160  # a longer hold than any ordinary node asks for locks the buyer's money for days
_MOST_CHALLENGES: Final = 16
_MOST_PROOF_CHARACTERS: Final = 16 * 1024
_SENDABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_NO_PREIMAGE: Final = Secret(bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the buyer allows.

    budget: windows over time, fees included. most: the highest price of one call, without the fee; None for no limit.
    networks: the chains on which an invoice is paid; empty when the wallet is left to refuse others.
    """

    budget: Budget
    most: Amount | None = None
    networks: frozenset[Network] = frozenset()

    def fee_limit(self, amount: Amount) -> Amount:
        """What routing may cost on top: 1 sat or 1 %, whichever is more."""
        return max(Amount.sats(1), amount.share(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An invoice that passed the audit, and the dialect in which its proof will be shown."""

    dialect: Dialect
    challenge: Challenge
    invoice: Invoice
    amount: Amount
    fee_limit: Amount


def write_proof(dialect: Dialect, challenge: Challenge, preimage: Secret[bytes]) -> Wire:
    """The credential for a challenge that was paid, as it goes on the wire."""
    return dialect.write_credential(
        Credential(
            dialect=challenge.dialect,
            payment_hash=challenge.payment_hash,
            preimage=preimage,
            token=challenge.token,
            parameters=challenge.parameters,
        )
    )


def choose_offer(told: Wire, *, dialects: Sequence[Dialect], limits: Limits, now: datetime) -> Offer:
    """The cheapest thing that a 402 asks for and that is sound.

    dialects: in the order of preference at one price.
    Raises ChallengeUnreadable when no dialect finds anything in it, InvoiceRefused when nothing passes the audit.
    """
    asked = _read(told, dialects)
    offers: list[Offer] = []
    refusals: list[str] = []
    for invoice, carriers in _group(asked, refusals):
        try:
            amount = _audit(invoice, [challenge for _, challenge in carriers], limits, now)
            offers += _speakable(invoice, amount, carriers, limits, now)
        except InvoiceRefused as refusal:
            refusals.append(refusal.detail or refusal.title)
    if not offers:
        raise InvoiceRefused("; ".join(dict.fromkeys(refusals)))
    rank = {dialect.name: place for place, dialect in enumerate(dialects)}
    return min(offers, key=lambda offer: (offer.amount, rank[offer.dialect.name]))


def _read(told: Wire, dialects: Sequence[Dialect]) -> list[tuple[Dialect, Challenge]]:
    asked: list[tuple[Dialect, Challenge]] = []
    unread: list[str] = []
    for dialect in dialects:
        try:
            challenges = dialect.read_challenges(told)
        except MalformedValue as error:
            unread.append(f"{dialect.name}: {error.detail or error.title}")
        else:
            asked += [(dialect, challenge) for challenge in challenges[:_MOST_CHALLENGES]]
    if not asked:
        names = ", ".join(dialect.name for dialect in dialects)
        raise ChallengeUnreadable("; ".join(unread) or None, spoken_here=names)
    return asked


def _group(
    asked: Sequence[tuple[Dialect, Challenge]], refusals: list[str]
) -> list[tuple[Invoice, list[tuple[Dialect, Challenge]]]]:
    """The challenges by the invoice that they carry."""
    groups: dict[str, tuple[Invoice, list[tuple[Dialect, Challenge]]]] = {}
    for dialect, challenge in asked:
        try:
            invoice = decode(challenge.invoice)
        except MalformedInvoice as error:
            refusals.append(f"{dialect.name}: {error.title}: {error.detail or ''}")
        else:
            groups.setdefault(invoice.text, (invoice, []))[1].append((dialect, challenge))
    return list(groups.values())


def _audit(invoice: Invoice, challenges: Sequence[Challenge], limits: Limits, now: datetime) -> Amount:
    """Whether an invoice is what was asked for, and can be paid: its amount. Raises InvoiceRefused."""
    amount = invoice.amount
    if not amount:
        raise InvoiceRefused("the invoice names no amount")
    for challenge in challenges:
        if challenge.amount is not None and challenge.amount != amount:
            raise InvoiceRefused(f"the invoice is for {amount} and {challenge.amount} was asked for")
        if challenge.payment_hash != invoice.payment_hash:
            raise InvoiceRefused("the challenge is for another payment than its invoice")
    if limits.networks and invoice.network not in limits.networks:
        mine = ", ".join(sorted(limits.networks))
        raise InvoiceRefused(f"the invoice is for {invoice.network} and the wallet pays on {mine}")
    if now + min(_EXPIRY_MARGIN, invoice.expires_in / 2) >= invoice.expires_at:
        raise InvoiceRefused("the invoice has expired, or is about to")
    if invoice.created_at > now + CLOCK_SKEW:
        raise InvoiceRefused("the invoice was made in the future; compare the clocks")
    if invoice.min_final_cltv > _MOST_FINAL_CLTV:
        raise InvoiceRefused(f"the invoice would let the money be held for {invoice.min_final_cltv} blocks")
    return amount


def _speakable(
    invoice: Invoice, amount: Amount, carriers: Sequence[tuple[Dialect, Challenge]], limits: Limits, now: datetime
) -> list[Offer]:
    """An offer for each challenge that is still good and whose proof can be sent. Raises InvoiceRefused for none."""
    offers = [
        Offer(
            dialect=dialect,
            challenge=challenge,
            invoice=invoice,
            amount=amount,
            fee_limit=limits.fee_limit(amount),
        )
        for dialect, challenge in carriers
        if (challenge.expires_at is None or now < challenge.expires_at) and _is_sendable(dialect, challenge)
    ]
    if not offers:
        raise InvoiceRefused("the challenge is void, or its proof could not be sent")
    return offers


def _is_sendable(dialect: Dialect, challenge: Challenge) -> bool:
    try:
        proof = write_proof(dialect, challenge, _NO_PREIMAGE)
    except (MalformedValue, MalformedCredential):
        return False
    values = [value for _, value in proof.headers]
    return sum(map(len, values)) <= _MOST_PROOF_CHARACTERS and all(map(_SENDABLE.fullmatch, values))
