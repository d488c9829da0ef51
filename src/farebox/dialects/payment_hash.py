"""The bare payment hash: a 402 whose body tells an invoice, and a retry that shows only the invoice's payment hash.

What wot.klabo.world and maximumsats.com speak; there is no specification. All of these show the hash:

    X-Payment-Hash: <hash>      ?payment_hash=<hash>            {"payment_hash": "<hash>", …}
    Authorization: L402 <hash>  Authorization: <hash>

Rules
1. The hash is no proof: it stands in the invoice. Nothing is sealed here, `verify` has nothing to check, and a
   credential never has a preimage; the gate takes it only from the client that was challenged, and asks the node.
2. The same hash in several places is one credential; different ones, or something else where a hash has to be, is
   malformed.
3. The buyer's side shows the hash in `Authorization`, which HTTP clients drop when a redirect leaves the origin.
4. The buyer's side takes an invoice in a body for such an offer only where the hash is said to be taken, or nothing
   else is offered: no macaroon in the body either, and nothing in x402.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Quote, Receipt, Sealed, Wire
from farebox.dialects.http_auth import AuthChallenge, find_challenges, split_credential
from farebox.dialects.offer import read_invoice, read_price, read_protocol, write_price

_HEADER: Final = "x-payment-hash"
_FIELD: Final = "payment_hash"
_L402: Final = ("l402", "lsat")
_TOKENS: Final = ("macaroon", "token")
_INVOICES: Final = ("payment_request", "invoice", "pr")
_LOOKS_LIKE_AN_INVOICE: Final = re.compile(r"ln(?:bc|tb)", re.IGNORECASE)
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)


class PaymentHash:
    """The bare payment hash dialect."""

    name = "payment_hash"
    proof_headers = frozenset((_HEADER,))
    proof_fields = frozenset((_FIELD,))

    # --- challenge ----------------------------------------------------------------------------------------------------

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge | None:
        """The invoice and its price; nothing is sealed."""
        return Challenge(
            dialect=self.name, invoice=invoice.text, payment_hash=invoice.payment_hash, amount=quote.amount
        )

    def write_challenge(self, challenge: Challenge) -> Wire:
        """`protocols.payment_hash`; and how to show the hash in `protocols.l402` too, where the inventors say it.

        No header: theirs (`L402 invoice="…", macaroon="none"`) would hide a real L402 challenge from many readers.
        """
        showing: dict[str, Json] = {"verify_header": "X-Payment-Hash", "verify_query_arg": _FIELD}
        told: dict[str, Json] = {
            **write_price(challenge.amount),
            "payment_request": challenge.invoice,
            "payment_hash": challenge.payment_hash.hex(),
            **showing,
            "verify_body_member": _FIELD,
        }
        return Wire(body={"protocols": {"payment_hash": told, "l402": showing}})

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every invoice that is offered for its bare hash, in a header with `macaroon="none"` or in the body.

        Raises MalformedChallenge for an invoice that can't be read, or that has another hash than the body tells.
        """
        found: dict[str, Challenge] = {}
        said = _said(wire)
        for challenge in said:
            text = challenge.get("invoice")
            if text and challenge.scheme.lower() in _L402 and not _sealed(challenge):
                self._add(found, text, {}, wire)
        if found or _takes_hashes(wire) or not (any(map(_sealed, said)) or _wants_more(wire)):
            for members in (read_protocol(wire.body, "payment_hash"), read_protocol(wire.body, "l402"), wire.body):
                for text in _invoices(members):
                    self._add(found, text, members, wire)
        return tuple(found.values())

    def _add(self, found: dict[str, Challenge], text: str, members: Mapping[str, Json], wire: Wire) -> None:
        invoice = read_invoice(text)
        told = members.get("payment_hash")
        if isinstance(told, str) and told.lower() != invoice.payment_hash.hex():
            raise MalformedChallenge("the payment hash beside the invoice is another one")
        found.setdefault(
            invoice.text,
            Challenge(
                dialect=self.name,
                invoice=invoice.text,
                payment_hash=invoice.payment_hash,
                amount=_price(members, wire),
            ),
        )

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """None: a hash is good once."""
        return None

    # --- credential ---------------------------------------------------------------------------------------------------

    def write_credential(self, credential: Credential) -> Wire:
        """`Authorization: L402 <hash>`, which every server of this dialect reads."""
        return Wire(headers=(("authorization", f"L402 {credential.payment_hash.hex()}"),))

    def read_credential(self, wire: Wire) -> Credential | None:
        """The one hash that is shown, in whichever places. Raises MalformedCredential."""
        shown = {text.lower() for text in _shown(wire)}
        if not shown:
            return None
        if len(shown) > 1:
            raise MalformedCredential("two different payment hashes are shown; show one")
        return Credential(dialect=self.name, payment_hash=bytes.fromhex(shown.pop()))

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Nothing is checked, for there is no seal: whether it was paid, and by whom, is the gate's question."""
        return _FOR_EVER

    def sealed(self, credential: Credential) -> Sealed | None:
        """None: nothing is sealed."""
        return None

    # --- receipt ------------------------------------------------------------------------------------------------------

    def write_receipt(self, receipt: Receipt) -> Wire:
        """Nothing: this dialect has no receipt."""
        return Wire()

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """None: this dialect has no receipt."""
        return None


def _said(wire: Wire) -> tuple[AuthChallenge, ...]:
    try:
        return find_challenges(wire.all("www-authenticate"), *_L402, "payment")
    except MalformedChallenge:
        return ()  # a header that can't be read takes nothing away from a body that can


def _sealed(challenge: AuthChallenge) -> bool:
    """Whether a challenge wants more than the hash back."""
    if challenge.scheme.lower() not in _L402:
        return True
    return any(challenge.get(name) not in (None, "", "none") for name in _TOKENS)


def _wants_more(wire: Wire) -> bool:
    """Whether what is told beside the challenges wants more than the hash back."""
    members = (places.get(name) for places in (read_protocol(wire.body, "l402"), wire.body) for name in _TOKENS)
    return bool(wire.all("payment-required")) or any(member not in (None, "", "none") for member in members)


def _takes_hashes(wire: Wire) -> bool:
    if read_protocol(wire.body, "payment_hash"):
        return True
    return any(name in read_protocol(wire.body, "l402") for name in ("verify_header", "verify_query_arg"))


def _invoices(members: Mapping[str, Json]) -> Iterator[str]:
    for name in _INVOICES:
        text = members.get(name)
        if isinstance(text, str) and _LOOKS_LIKE_AN_INVOICE.match(text):
            yield text


def _price(members: Mapping[str, Json], wire: Wire) -> Amount | None:
    return read_price(members, read_protocol(wire.body, "l402"), wire.body)


def _shown(wire: Wire) -> Iterator[str]:
    for name, value in wire.headers:
        if name == _HEADER:
            yield _check(value.strip(" \t"))
        elif name == "authorization":
            scheme, rest = split_credential(value)
            if scheme in _L402 and _HASH.fullmatch(rest):
                yield rest
            elif not rest and _HASH.fullmatch(scheme):
                yield scheme
    for name, value in wire.query:
        if name == _FIELD:
            yield _check(value)
    member = wire.body.get(_FIELD)
    if member is not None:  # an optional argument left out is often written as null
        yield _check(member)


def _check(value: Json) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise MalformedCredential("a payment hash is 64 hex digits")
    return value
