"""x402, version 2: its scheme `exact` over Lightning, which is to be had on its `lnbtc:` networks. The buyer's half.

Implements specs/x402-specification-v2.md, transports-v2/http.md and schemes/exact/scheme_exact_lnbtc.md:

    PAYMENT-REQUIRED: <base64 of {"x402Version": 2, "accepts": [{"scheme": "exact", "network": "lnbtc:…", …}, …]}>
    PAYMENT-SIGNATURE: <base64 of {"x402Version": 2, "accepted": {…one of those…}, "payload": {"preimage": "…"}}>
    PAYMENT-RESPONSE: <base64 of {"success": true, "transaction": "<payment hash>", "network": "lnbtc:…"}>

Rules
1. Offers of other schemes and networks are passed over; what they say of the same call does not matter.
2. An offer says how much, to whom and, where it likes, for which request; the invoice has to say the same.
   `requestHash` has to be its description hash; whether it is of this very request can't be seen from the answer alone.
3. What was accepted is shown again as it came, member by member.
4. The proof is not in `Authorization`, so HTTP clients take it along when a redirect leaves the origin: whoever sends
   it follows no redirects.
5. Nothing is sold here yet: `issue` gives nothing, and no proof is good.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import (
    CredentialRejected,
    MalformedAmount,
    MalformedChallenge,
    MalformedCredential,
    MalformedValue,
)
from farebox.core.exchange import Challenge, Credential, Json, Quote, Receipt, Sealed, Wire
from farebox.core.secret import Secret
from farebox.dialects.canonical_json import read_object
from farebox.dialects.offer import read_invoice

_ASKS: Final = "payment-required"
_SHOWS: Final = "payment-signature"
_TELLS: Final = "payment-response"
_VERSION: Final = 2
_SCHEME: Final = "exact"
_BY_INVOICE: Final = "bolt11"
_BEFOREHAND: Final = "upfront"
_ASSET: Final = "BTC"
_MOST_CHARACTERS: Final = 64 * 1024
_MOST_PROOF_CHARACTERS: Final = 16 * 1024
_MOST_OFFERS: Final = 64

# The first half of a chain's first block; the specification names the first two.
_NETWORKS: Final = MappingProxyType(
    {
        "lnbtc:000000000019d6689c085ae165831e93": Network.MAINNET,
        "lnbtc:000000000933ea01ad0ee984209779ba": Network.TESTNET,
        "lnbtc:00000008819873e925422c1ff0f99f7c": Network.SIGNET,
        "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328": Network.REGTEST,
    }
)
_MSATS: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ECHOED: Final = ("resource", "extensions")


class X402:
    """The x402 dialect, as a buyer speaks it."""

    name = "x402"
    proof_headers = frozenset((_SHOWS,))
    proof_fields: frozenset[str] = frozenset()

    # --- challenge ----------------------------------------------------------------------------------------------------

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge | None:
        """None: nothing is sold in x402 yet."""
        return None

    def write_challenge(self, challenge: Challenge) -> Wire:
        """The header, with this one offer. Raises MalformedChallenge for a challenge of another dialect."""
        try:
            told = {name: read_object(text) for name, text in challenge.parameters}
            offer = told.pop("accepted")
        except (MalformedValue, KeyError):
            raise MalformedChallenge("there is no x402 offer in it") from None
        return Wire(headers=((_ASKS, _write({"x402Version": _VERSION, **told, "accepts": [offer]})),))

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every offer that is to be paid by a Lightning invoice, before the call is answered.

        What is well said is returned even beside something badly said. Raises MalformedChallenge when nothing is.
        """
        found: list[Challenge] = []
        trouble: MalformedChallenge | None = None
        for text in wire.all(_ASKS):
            try:
                told = _read(text, _MOST_CHARACTERS)
                offers = told.get("accepts")
                if told.get("x402Version") != _VERSION or not isinstance(offers, list) or len(offers) > _MOST_OFFERS:
                    raise MalformedChallenge(f"it is not x402 of version {_VERSION}, or offers too much")
            except MalformedValue as error:
                trouble = trouble or MalformedChallenge(error.detail)
                continue
            for offer in offers:
                try:
                    if isinstance(offer, dict) and _is_ours(offer):
                        found.append(self._read_offer(offer, told))
                except MalformedChallenge as error:
                    trouble = trouble or error
        if trouble and not found:
            raise trouble
        return tuple(found)

    def _read_offer(self, offer: dict[str, Json], told: Mapping[str, Json]) -> Challenge:
        invoice = _invoice(offer)
        amount, asset, bound = offer.get("amount"), offer.get("asset", _ASSET), _extra(offer).get("requestHash")
        if not isinstance(amount, str) or not _MSATS.fullmatch(amount) or asset != _ASSET:
            raise MalformedChallenge("it asks for no whole number of millisatoshis")
        if _network(offer) is not invoice.network:
            raise MalformedChallenge("its invoice is for another network than it says")
        if offer.get("payTo") != invoice.payee.hex():
            raise MalformedChallenge("its invoice is by another node than is to be paid")
        if bound is not None and (invoice.description_hash is None or bound != invoice.description_hash.hex()):
            raise MalformedChallenge("its invoice is bound to another request than it says")
        try:
            price = Amount.msats(int(amount))
        except MalformedAmount:
            raise MalformedChallenge("it asks for more than there is") from None
        echoed = {name: value for name in _ECHOED if isinstance(value := told.get(name), dict)}
        return Challenge(
            dialect=self.name,
            invoice=invoice.text,
            payment_hash=invoice.payment_hash,
            amount=price,
            parameters=tuple((name, _text(value)) for name, value in ({"accepted": offer} | echoed).items()),
        )

    # --- credential ---------------------------------------------------------------------------------------------------

    def write_credential(self, credential: Credential) -> Wire:
        """The header. Raises MalformedCredential without a preimage, and for what was not read here."""
        if credential.preimage is None:
            raise MalformedCredential("x402 shows the preimage, and there is none")
        try:
            told = {name: read_object(text) for name, text in credential.parameters}
        except MalformedValue:
            raise MalformedCredential("there is no x402 offer in it") from None
        payload: Json = {"preimage": credential.preimage.reveal().hex()}
        return Wire(headers=((_SHOWS, _write({"x402Version": _VERSION, **told, "payload": payload})),))

    def read_credential(self, wire: Wire) -> Credential | None:
        """The one proof of a request; None also for another scheme or network than ours.

        Raises MalformedCredential for two of them, for more than 16 KiB, and for what can't be read.
        """
        shown = wire.all(_SHOWS)
        if not shown:
            return None
        if len(shown) > 1:
            raise MalformedCredential("there are two x402 payments; show one")
        try:
            told = _read(shown[0], _MOST_PROOF_CHARACTERS)
            offer, payload = told.get("accepted"), told.get("payload")
            if told.get("x402Version") != _VERSION or not isinstance(offer, dict) or not isinstance(payload, dict):
                raise MalformedCredential("the x402 payment has no version, offer or payload")
            if not _is_ours(offer):
                return None
            payment_hash = _invoice(offer).payment_hash
        except MalformedValue as error:
            raise MalformedCredential(f"the x402 payment can't be read: {error.detail}") from None
        preimage = payload.get("preimage")
        if not isinstance(preimage, str) or not _HASH.fullmatch(preimage):
            raise MalformedCredential("the preimage is not 64 lower-case hex digits")
        echoed = {name: value for name in _ECHOED if isinstance(value := told.get(name), dict)}
        return Credential(
            dialect=self.name,
            payment_hash=payment_hash,
            preimage=Secret(bytes.fromhex(preimage)),
            parameters=tuple((name, _text(value)) for name, value in ({"accepted": offer} | echoed).items()),
        )

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Raises CredentialRejected: no x402 offer was made here."""
        raise CredentialRejected("x402 is not sold here")

    def sealed(self, credential: Credential) -> Sealed | None:
        """None: nothing is sealed."""
        return None

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """None: a proof is good for one call."""
        return None

    # --- receipt ------------------------------------------------------------------------------------------------------

    def write_receipt(self, receipt: Receipt) -> Wire:
        """Nothing: nothing is sold in x402 yet."""
        return Wire()

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """The receipt of a Lightning payment that went well, without amount and time. Raises MalformedChallenge."""
        told = wire.all(_TELLS)
        if not told:
            return None
        try:
            members = _read(told[0], _MOST_PROOF_CHARACTERS)
        except MalformedValue as error:
            raise MalformedChallenge(f"the receipt can't be read: {error.detail}") from None
        if _network(members) is None or members.get("success") is not True:
            return None
        payment_hash = members.get("transaction")
        if len(told) > 1 or not isinstance(payment_hash, str) or not _HASH.fullmatch(payment_hash):
            raise MalformedChallenge("there is more than one receipt, or it names no payment")
        return Receipt(payment_hash=bytes.fromhex(payment_hash), amount=None, at=None)


def _is_ours(offer: Mapping[str, Json]) -> bool:
    extra = _extra(offer)
    return (
        offer.get("scheme") == _SCHEME
        and _network(offer) is not None
        and extra.get("assetTransferMethod", _BY_INVOICE) == _BY_INVOICE
        and extra.get("paymentFlow", _BEFOREHAND) == _BEFOREHAND
    )


def _network(members: Mapping[str, Json]) -> Network | None:
    name = members.get("network")
    return _NETWORKS.get(name) if isinstance(name, str) else None


def _extra(offer: Mapping[str, Json]) -> Mapping[str, Json]:
    extra = offer.get("extra")
    return extra if isinstance(extra, dict) else {}


def _invoice(offer: Mapping[str, Json]) -> Invoice:
    text = _extra(offer).get("invoice")
    return read_invoice(text if isinstance(text, str) else "")


def _read(text: str, most: int) -> dict[str, Json]:
    """The members of an object in base64, of either alphabet, padded or not. Raises MalformedValue."""
    bare = text.strip(" \t").rstrip("=").replace("-", "+").replace("_", "/")
    if len(text) > most:
        raise MalformedValue(f"it has more than {most} characters")
    try:
        return read_object(binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True))
    except MalformedValue:
        raise
    except ValueError:
        raise MalformedValue("it is not base64") from None


def _write(members: dict[str, Json]) -> str:
    return binascii.b2a_base64(_text(members).encode(), newline=False).decode()


def _text(members: Json) -> str:
    # Not canonical: what was offered is shown in its own order.
    return json.dumps(members, separators=(",", ":"))
