"""The "Payment" authentication scheme: method lightning, intent charge.

Implements draft-httpauth-payment-00 (challenge, credential, receipt) and draft-lightning-charge-00 (what is in them).

    WWW-Authenticate: Payment id="…", realm="…", method="lightning", intent="charge", request="…", expires="…", …
    Authorization: Payment <base64url of {"challenge": {…the same…}, "payload": {"preimage": "…"}}>
    Payment-Receipt: <base64url of {"status": "success", …}>

Rules
1. The id is the HMAC that the draft recommends, over the parameters as they are on the wire; nothing is stored. The id
   of the master key, the digest of the request and the end of the claim window travel in `opaque`, which the id covers.
2. `expires` is when the invoice ends. A credential that comes later is still good here: whether late money counts is
   for the ledger to say, and until when it may be claimed is in `opaque`.
3. No `|` in realm, method or intent, for then two sets of parameters could have one id.
4. Amounts are whole satoshis; a price with a fraction can't be said here, and `issue` then gives nothing.
"""

from __future__ import annotations

import hmac
import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import (
    ConfigError,
    CredentialRejected,
    MalformedAmount,
    MalformedChallenge,
    MalformedCredential,
    MalformedValue,
)
from farebox.core.exchange import Challenge, Credential, Json, Quote, Receipt, Sealed, Wire
from farebox.core.secret import KEY_ID_BYTES, KeyRing, Keys, Secret
from farebox.dialects.canonical_json import read_members, write_base64url, write_members
from farebox.dialects.http_auth import AuthChallenge, find_challenges, split_credential, write_challenge
from farebox.dialects.offer import read_invoice

_SCHEME: Final = "payment"
_METHOD: Final = "lightning"
_INTENT: Final = "charge"
_CURRENCY: Final = "sat"
_REQUIRED: Final = ("id", "realm", "method", "intent", "request")
_ECHOED: Final = frozenset((*_REQUIRED, "expires", "digest", "description", "opaque"))
_SEALED: Final = ("realm", "method", "intent", "request", "expires", "digest", "opaque")
_PURPOSE: Final = "payment challenge id"
_MOST_CHARACTERS: Final = 16 * 1024
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # in their order: nothing is hashed here
_TOLD_NETWORKS: Final = frozenset((Network.MAINNET, Network.REGTEST, Network.SIGNET))  # the draft names no other

_REALM: Final = re.compile(r"[ -{}~]{1,255}")  # printable ASCII without the bar
_COUNT: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEY_ID: Final = re.compile(rf"[0-9a-f]{{{2 * KEY_ID_BYTES}}}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,11}", re.ASCII)
_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)  # RFC 3339, section 5.6


class PaymentAuth:
    """The Payment dialect; with keys it can issue and verify, without one it is a buyer's.

    realm: what the seller calls itself, usually its host name. Raises ConfigError for one that can't be said.
    """

    name = "Payment"
    proof_headers: frozenset[str] = frozenset()
    proof_fields: frozenset[str] = frozenset()

    def __init__(self, keys: Keys | None = None, realm: str = "farebox") -> None:
        if not _REALM.fullmatch(realm):
            raise ConfigError("A realm is 1 to 255 printable ASCII characters, and has no `|`.")
        self._keys = keys
        self._realm = realm

    # --- challenge ----------------------------------------------------------------------------------------------------

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge | None:
        """A sealed challenge for this invoice; None for a price that is not of whole satoshis, or nothing.

        Raises ConfigError without a key ring.
        """
        keys = self._ring()
        if not quote.amount or quote.amount != Amount.sats(quote.amount.in_sats_floor()):
            return None
        expires_at = min(valid_until, invoice.expires_at).replace(microsecond=0)
        parameters = {
            "realm": self._realm,
            "method": _METHOD,
            "intent": _INTENT,
            "request": write_members(_request(quote, invoice)),
            "expires": _write_instant(expires_at),
            "opaque": write_members(
                {
                    "digest": quote.digest.hex(),
                    "kid": keys.newest.hex(),
                    "valid_until": str(int(valid_until.timestamp())),
                }
            ),
        }
        return Challenge(
            dialect=self.name,
            invoice=invoice.text,
            payment_hash=invoice.payment_hash,
            amount=quote.amount,
            parameters=(("id", _seal(keys, keys.newest, parameters)), *parameters.items()),
            expires_at=expires_at,
        )

    def write_challenge(self, challenge: Challenge) -> Wire:
        """The header, and `challengeId` and `protocols.payment` in the body. Raises MalformedChallenge."""
        header = write_challenge("Payment", challenge.parameters)
        told: Json = {"method": _METHOD, "intent": _INTENT}
        challenge_id = dict(challenge.parameters).get("id", "")
        return Wire(
            headers=(("www-authenticate", header),),
            body={"challengeId": challenge_id, "protocols": {"payment": told}},
        )

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every challenge of method lightning and intent charge; other methods and intents are passed over.

        What is well said is returned even beside something badly said. Raises MalformedChallenge when nothing is.
        """
        found: list[Challenge] = []
        trouble: MalformedChallenge | None = None
        for challenge in find_challenges(wire.all("www-authenticate"), _SCHEME):
            if (challenge.get("method"), challenge.get("intent")) == (_METHOD, _INTENT):
                try:
                    found.append(self._read_challenge(challenge))
                except MalformedChallenge as error:
                    trouble = trouble or error
        if trouble and not found:
            raise trouble
        return tuple(found)

    def _read_challenge(self, challenge: AuthChallenge) -> Challenge:
        if not all(challenge.get(name) for name in _REQUIRED):
            raise MalformedChallenge("one of id, realm, method, intent and request is missing")
        try:
            request = read_members(challenge.get("request") or "")
            expires = challenge.get("expires")
            expires_at = None if expires is None else _read_instant(expires)
            amount = _read_amount(request)
        except MalformedValue as error:
            raise MalformedChallenge(f"its request can't be read: {error}") from None
        details = _details(request)
        text = details.get("invoice")
        invoice = read_invoice(text if isinstance(text, str) else "")
        told = (details.get("paymentHash", invoice.payment_hash.hex()), details.get("network", invoice.network.value))
        if told != (invoice.payment_hash.hex(), invoice.network.value):
            raise MalformedChallenge("payment hash or network differ from the invoice's")
        return Challenge(
            dialect=self.name,
            invoice=invoice.text,
            payment_hash=invoice.payment_hash,
            amount=amount,
            parameters=tuple(pair for pair in challenge.parameters if pair[0] in _ECHOED),
            expires_at=expires_at,
        )

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """None: A credential of this scheme is good once (draft-httpauth-payment-00)."""
        return None

    # --- credential ---------------------------------------------------------------------------------------------------

    def write_credential(self, credential: Credential) -> Wire:
        """`Authorization`, every parameter as it came. Raises MalformedCredential without a preimage."""
        if credential.preimage is None:
            raise MalformedCredential("the Payment scheme shows the preimage, and there is none")
        shown: Json = {
            "challenge": dict(credential.parameters),
            "payload": {"preimage": credential.preimage.reveal().hex()},
        }
        try:
            return Wire(headers=(("authorization", f"Payment {write_base64url(_ENCODER.encode(shown).encode())}"),))
        except UnicodeEncodeError:  # bytes of a header that are no text, as some libraries have them
            raise MalformedCredential("a parameter of the challenge is no text") from None

    def read_credential(self, wire: Wire) -> Credential | None:
        """The one Payment credential of a request; None also for another method or intent than ours.

        Raises MalformedCredential for two of them, for more than 16 KiB, and for what can't be read in one way.
        """
        shown = [
            text
            for scheme, text in (split_credential(value) for value in wire.all("authorization"))
            if scheme == _SCHEME
        ]
        if not shown:
            return None
        if len(shown) > 1:
            raise MalformedCredential("there are two Payment credentials; show one")
        if len(shown[0]) > _MOST_CHARACTERS:
            raise MalformedCredential(f"the proof has more than {_MOST_CHARACTERS} characters")
        try:
            return self._read_credential(read_members(shown[0]))
        except MalformedValue as error:
            raise MalformedCredential(f"the Payment credential can't be read: {error.detail}") from None

    def _read_credential(self, members: dict[str, Json]) -> Credential | None:
        challenge, payload = members.get("challenge"), members.get("payload")
        if not isinstance(challenge, dict) or not isinstance(payload, dict):
            raise MalformedCredential("the Payment credential has no challenge or no payload")
        parameters = tuple((name, value) for name, value in challenge.items() if isinstance(value, str))
        named = dict(parameters)
        if len(parameters) < len(challenge) or not all(named.get(name) for name in _REQUIRED):
            raise MalformedCredential("the challenge in the Payment credential is not the whole one")
        if (named["method"], named["intent"]) != (_METHOD, _INTENT):
            return None
        preimage = payload.get("preimage")
        if not isinstance(preimage, str) or not _HASH.fullmatch(preimage):
            raise MalformedCredential("the preimage is not 64 lower-case hex digits")
        told = _details(read_members(named["request"])).get("paymentHash")
        if not isinstance(told, str) or not _HASH.fullmatch(told):
            raise MalformedCredential("the challenge in the Payment credential names no payment hash")
        return Credential(
            dialect=self.name,
            payment_hash=bytes.fromhex(told),
            preimage=Secret(bytes.fromhex(preimage)),
            parameters=parameters,
        )

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Check that the challenge is ours, to the letter, and the preimage; until when that can be claimed.

        Raises CredentialRejected; ConfigError without a key ring.
        """
        parameters = dict(credential.parameters)
        try:
            opaque = read_members(parameters.get("opaque", ""))
            details = _details(read_members(parameters.get("request", "")))
        except MalformedValue:
            raise CredentialRejected("the challenge was not made here") from None
        key_id, until = opaque.get("kid"), opaque.get("valid_until")
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            raise CredentialRejected("the challenge was not made here")
        named = bytes.fromhex(key_id)
        seal = _seal(self._ring(named), named, parameters)
        if not seal or not hmac.compare_digest(seal.encode(), parameters.get("id", "").encode("utf-8", "replace")):
            raise CredentialRejected("the challenge was not made here, or was changed")
        if (parameters["realm"], parameters["method"], parameters["intent"]) != (self._realm, _METHOD, _INTENT):
            raise CredentialRejected("the challenge is another seller's")
        if credential.preimage is None or sha256(credential.preimage.reveal()).digest() != credential.payment_hash:
            raise CredentialRejected("the preimage does not belong to the challenge")
        if details.get("paymentHash") != credential.payment_hash.hex():
            raise CredentialRejected("the challenge is for another payment")
        if not isinstance(until, str) or not _SECONDS.fullmatch(until) or now.timestamp() >= int(until):
            raise CredentialRejected("the challenge can no longer be claimed")
        return datetime.fromtimestamp(int(until), UTC)

    def sealed(self, credential: Credential) -> Sealed | None:
        """Price and invoice of the request, and digest and end of the `opaque`."""
        parameters = dict(credential.parameters)
        request, opaque = read_members(parameters["request"]), read_members(parameters["opaque"])
        digest, until, invoice = opaque.get("digest"), opaque.get("valid_until"), _details(request).get("invoice")
        if not isinstance(digest, str) or not isinstance(until, str) or not isinstance(invoice, str):
            return None
        return Sealed(
            price=_read_amount(request),
            digest=bytes.fromhex(digest),
            valid_until=datetime.fromtimestamp(int(until), UTC),
            invoice=invoice,
        )

    # --- receipt ------------------------------------------------------------------------------------------------------

    def write_receipt(self, receipt: Receipt) -> Wire:
        """`Payment-Receipt`. Whoever writes the answer adds `Cache-Control: private`, and leaves it out of an error.

        Raises MalformedChallenge for a receipt that knows no time.
        """
        if receipt.at is None:
            raise MalformedChallenge("a Payment receipt tells when, and this one does not know")
        members: dict[str, Json] = {
            "status": "success",
            "method": _METHOD,
            "timestamp": _write_instant(receipt.at),
            "reference": receipt.payment_hash.hex(),
        }
        if receipt.challenge_id is not None:
            members["challengeId"] = receipt.challenge_id
        return Wire(headers=(("payment-receipt", write_members(members)),))

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """The receipt for a lightning payment; it tells no amount. Raises MalformedChallenge."""
        told = wire.all("payment-receipt")
        if not told:
            return None
        if len(told) > 1 or len(told[0]) > _MOST_CHARACTERS:
            raise MalformedChallenge("there is more than one receipt, or it is too long")
        try:
            members = read_members(told[0].strip(" \t"))
            if members.get("method") != _METHOD:
                return None
            at = _read_instant(members.get("timestamp"))
        except MalformedValue as error:
            raise MalformedChallenge(f"the receipt can't be read: {error.detail}") from None
        reference, challenge_id = members.get("reference"), members.get("challengeId")
        if members.get("status") != "success" or not isinstance(reference, str) or not _HASH.fullmatch(reference):
            raise MalformedChallenge("the receipt names no successful payment")
        return Receipt(
            payment_hash=bytes.fromhex(reference),
            amount=None,
            at=at,
            challenge_id=challenge_id if isinstance(challenge_id, str) else None,
        )

    def _ring(self, key_id: bytes | None = None) -> KeyRing:
        if self._keys is None:
            raise ConfigError("Payment challenges are issued and verified with a key ring, and there is none.")
        return self._keys.ring(key_id)


def _request(quote: Quote, invoice: Invoice) -> dict[str, Json]:
    details: dict[str, Json] = {"invoice": invoice.text, "paymentHash": invoice.payment_hash.hex()}
    if invoice.network in _TOLD_NETWORKS:
        details["network"] = invoice.network.value
    request: dict[str, Json] = {
        "amount": str(quote.amount.in_sats_exact()),
        "currency": _CURRENCY,
        "methodDetails": details,
    }
    if quote.description:
        request["description"] = quote.description
    return request


def _seal(keys: KeyRing, key_id: bytes, parameters: dict[str, str]) -> str:
    """The id that the draft recommends: all seven slots, always; empty when the key is not in the ring."""
    key = keys.derive(_PURPOSE, b"", key_id)
    if key is None:
        return ""
    return challenge_id(key.key.reveal(), parameters)


def challenge_id(key: bytes, parameters: dict[str, str]) -> str:
    """HMAC-SHA256 over realm, method, intent, request, expires, digest and opaque with bars between, in base64url."""
    slots = "|".join([parameters.get(name, "") for name in _SEALED])
    return write_base64url(hmac.digest(key, slots.encode("utf-8", "surrogatepass"), "sha256"))


def _details(request: dict[str, Json]) -> dict[str, Json]:
    details = request.get("methodDetails")
    return details if isinstance(details, dict) else {}


def _read_amount(request: dict[str, Json]) -> Amount:
    amount = request.get("amount")
    if not isinstance(amount, str) or not _COUNT.fullmatch(amount) or request.get("currency") != _CURRENCY:
        raise MalformedAmount("an amount here is a whole number of `sat`, above nothing")
    return Amount.sats(int(amount))


def _write_instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_instant(text: Json) -> datetime:
    if not isinstance(text, str) or not _INSTANT.fullmatch(text):
        raise MalformedValue("an instant is not in the form of RFC 3339")
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        raise MalformedValue("an instant is not in the calendar") from None
