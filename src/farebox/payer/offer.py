"""The offer: what a 402 asks for, read in every dialect and audited before a wallet hears of it.

Rules
1. Every challenge of every dialect is read; what one dialect can't read does not hide what another one can.
2. What counts is the invoice. A price told beside it must be the same to the millisatoshi, in every challenge that
   carries that invoice; one that is missing, nothing or unreadable is refused, never taken for nothing.
3. The cheapest invoice that passes is chosen; at one price the safest proof, and then the first dialect in the payer's
   order.
4. A proof that could not be sent is found out here, not after paying; nor is one asked for that a redirect would take
   along to another origin, where the face can't keep it from that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
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
    NothingPaid,
)
from farebox.core.exchange import Challenge, Credential, Wire
from farebox.core.ports import Dialect
from farebox.core.secret import Secret

CLOCK_SKEW: Final = timedelta(minutes=10)
_EXPIRY_MARGIN: Final = timedelta(seconds=30)
_LONGEST_EXPIRY: Final = timedelta(days=7)  # so long money may stay held when nobody knows whether it was paid
_MOST_FINAL_CLTV: Final = 160  # a longer hold than any ordinary node asks for locks the buyer's money for days
_MOST_CHALLENGES: Final = 16
_MOST_PROOF_CHARACTERS: Final = 16 * 1024
_SENDABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_NO_PREIMAGE: Final = Secret(bytes(32))
_NO_OTHER_PREIMAGE: Final = Secret(b"\x01" * 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the buyer allows.

    prefer: names of dialects, in which to pay rather than in others at the same price.
    budget: windows over time, fees included. most: the highest price of one call, without the fee; None for no limit.
    most_fee: what routing may cost at most, if that is less than 1 sat or 1 %.
    networks: the chains on which an invoice is paid; empty when the wallet is left to refuse others.
    own: the public keys of the buyer's own node, as far as they are known; what it signed is not paid.
    allow, deny: patterns of hosts that may, and may not, be paid, such as `*.example.com`.
    plain_http: patterns of hosts that may be paid over plain HTTP; this machine, .onion and play money always may.
    pays_once: the wallet refuses an invoice that it is paying or has paid, so that a payment of which it has never
    heard may be made by another process than the one that began it.
    price_jump: a price so many times the last one that was seen is not paid; None for any.
    pin_payee: only the node that was paid first at an origin is paid there.
    approval_above: what costs more needs a person's word, which holds `approval_for`; a call waits for it `patience`.
    """

    budget: Budget
    prefer: tuple[str, ...] = ()
    most: Amount | None = None
    most_fee: Amount | None = None
    networks: frozenset[Network] = frozenset()
    own: frozenset[bytes] = frozenset()
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    plain_http: tuple[str, ...] = ()
    pays_once: bool = False
    price_jump: int | None = 10
    pin_payee: bool = False
    approval_above: Amount | None = None
    approval_for: timedelta = timedelta(hours=1)
    approval_patience: timedelta = timedelta(0)

    def fee_limit(self, amount: Amount) -> Amount:
        """What routing may cost on top: 1 sat or 1 %, whichever is more, but not over `most_fee`."""
        usual = max(Amount.sats(1), amount.share(1))
        return usual if self.most_fee is None else min(usual, self.most_fee)


class Risk(IntEnum):
    """How easily somebody else could show a proof."""

    BOUND = 0  # a preimage that redirects drop
    LOOSE = 1  # a preimage that they take along to another origin
    BARE = 2  # what whoever saw the invoice can show


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An invoice that passed the audit, and the dialect in which its proof will be shown.

    last_price: the last one that was seen for this call. objection: what would keep it from being paid now. Both are
    told only where somebody asks before paying.
    """

    dialect: Dialect
    challenge: Challenge
    invoice: Invoice
    amount: Amount
    fee_limit: Amount
    risk: Risk
    last_price: Amount | None = None
    objection: NothingPaid | None = None


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


def choose_offer(
    told: Wire, *, dialects: Sequence[Dialect], limits: Limits, now: datetime, keeps_proofs: bool = False
) -> Offer:
    """The cheapest thing that a 402 asks for and that is sound.

    dialects: the safest proof first. keeps_proofs: see OutgoingCall.
    Raises ChallengeUnreadable when no dialect finds anything in it, InvoiceRefused when nothing passes the audit.
    """
    asked = _read(told, dialects)
    offers: list[Offer] = []
    refusals: list[str] = []
    for invoice, carriers in _group(asked, refusals):
        try:
            amount = _audit(invoice, [challenge for _, challenge in carriers], limits, now)
            offers += _speakable(invoice, amount, carriers, limits, now, keeps_proofs=keeps_proofs)
        except InvoiceRefused as refusal:
            refusals.append(refusal.detail or refusal.title)
    if not offers:
        raise InvoiceRefused("; ".join(dict.fromkeys(refusals)))
    preferred = {name: place for place, name in enumerate(reversed(limits.prefer), start=1)}
    rank = {dialect.name: place for place, dialect in enumerate(dialects)}

    def place(offer: Offer) -> tuple[Amount, int, Risk, int]:
        name = offer.dialect.name
        return offer.amount, -preferred.get(name, 0), offer.risk, rank[name]

    return min(offers, key=place)


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
    if invoice.payee in limits.own:
        raise InvoiceRefused("the invoice is by the wallet's own node, which can't pay itself")
    if now + min(_EXPIRY_MARGIN, invoice.expires_in / 2) >= invoice.expires_at:
        raise InvoiceRefused("the invoice has expired, or is about to")
    if invoice.created_at > now + CLOCK_SKEW:
        raise InvoiceRefused("the invoice was made in the future; compare the clocks")
    if invoice.expires_in > _LONGEST_EXPIRY:
        raise InvoiceRefused(f"the invoice would let the money be held for {invoice.expires_in.days} days")
    if invoice.min_final_cltv > _MOST_FINAL_CLTV:
        raise InvoiceRefused(f"the invoice would let the money be held for {invoice.min_final_cltv} blocks")
    return amount


def _speakable(
    invoice: Invoice,
    amount: Amount,
    carriers: Sequence[tuple[Dialect, Challenge]],
    limits: Limits,
    now: datetime,
    *,
    keeps_proofs: bool,
) -> list[Offer]:
    """An offer for each challenge that is still good and whose proof can be sent. Raises InvoiceRefused for none."""
    offers = [
        Offer(
            dialect=dialect,
            challenge=challenge,
            invoice=invoice,
            amount=amount,
            fee_limit=limits.fee_limit(amount),
            risk=risk,
        )
        for dialect, challenge in carriers
        if (challenge.expires_at is None or now < challenge.expires_at)
        and (risk := _risk(dialect, challenge)) is not None
        and (keeps_proofs or risk is not Risk.LOOSE)
    ]
    if not offers:
        raise InvoiceRefused("the challenge is void, or its proof could not be sent")
    return offers


def _risk(dialect: Dialect, challenge: Challenge) -> Risk | None:
    """How easily somebody else could show the proof; None when it could not be sent."""
    try:
        proof, other = (write_proof(dialect, challenge, each) for each in (_NO_PREIMAGE, _NO_OTHER_PREIMAGE))
    except (MalformedValue, MalformedCredential):
        return None
    values = [value for _, value in proof.headers]
    if sum(map(len, values)) > _MOST_PROOF_CHARACTERS or not all(map(_SENDABLE.fullmatch, values)):
        return None
    if proof == other:
        return Risk.BARE
    is_bound = [name for name, _ in proof.headers] == ["authorization"] and not (proof.query or proof.body)
    return Risk.BOUND if is_bound else Risk.LOOSE
