"""L402, and LSAT as it used to be called: a macaroon and an invoice out, the macaroon and the preimage back.

Implements lightninglabs/L402 (protocol-specification.md, version 0) and bLIP-26, in the forms that are deployed:

    WWW-Authenticate: L402 macaroon="B", invoice="I", version="0", token="B"
    Authorization: L402 B:<preimage>           Macaroon: <hex, with a caveat preimage=…>

Rules
1. The client's side never looks into a token, and answers with the scheme word that the server used.
2. The identifier is `0000 ‖ payment hash ‖ token id`, and the token id begins with the id of the master key: the root
   key is derived, not stored, and old tokens outlive a rotation.
3. The name of a payment is the hash in the *verified* identifier, never a byte of the header.
4. Every caveat is understood or the token is refused. (The specification would skip an unknown one, and a caveat with a
   mistyped name would be decorative.) A repeated caveat may only narrow.
5. `macaroon="none"` and `Authorization: L402 <payment hash>` are another dialect: a bare payment hash.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import (
    ConfigError,
    CredentialRejected,
    MalformedChallenge,
    MalformedCredential,
    MalformedMacaroon,
)
from farebox.core.exchange import HASH_BYTES, Challenge, Credential, Json, Pairs, Quote, Receipt, Sealed, Wire
from farebox.core.macaroon import Macaroon
from farebox.core.secret import KEY_ID_BYTES, KeyRing, Keys, Secret
from farebox.dialects.http_auth import AuthChallenge, find_challenges, split_credential, write_challenge
from farebox.dialects.offer import read_invoice, read_price, read_protocol, write_price

_VERSION: Final = b"\0\0"
_TOKEN_ID_BYTES: Final = 32
_IDENTIFIER_BYTES: Final = len(_VERSION) + HASH_BYTES + _TOKEN_ID_BYTES
_KEY_ID: Final = slice(len(_VERSION) + HASH_BYTES, len(_VERSION) + HASH_BYTES + KEY_ID_BYTES)
_PAYMENT_HASH: Final = slice(len(_VERSION), len(_VERSION) + HASH_BYTES)
_LOCATION: Final = b"lsat"
_ROOT_KEY: Final = "l402 root key"
_PREIMAGE: Final = b"preimage"
_MOST_SECONDS_DIGITS: Final = 11

_SCHEMES: Final = ("l402", "lsat")
_LSAT: Final = (("scheme", "LSAT"),)
_HEX_HEADERS: Final = frozenset(("macaroon", "grpc-metadata-macaroon"))
_MOST_CHARACTERS: Final = 8 * 1024
_MINTED_CAVEATS: Final = 5
_LONGEST_REUSE: Final = timedelta(days=365)
_MSATS: Final = re.compile(rb"[1-9][0-9]{0,17}")
_BOUND_TO_A_REQUEST: Final = re.compile(rb"[a-z][a-z0-9_-]*_request=[0-9a-f]{64}")
_VALID_UNTIL: Final = re.compile(rb"(?:[a-z][a-z0-9_-]*_valid_until=|ExpiresAt = )([0-9]{1,11})")  # ours, and ngx's
_HASH_ALONE: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


class L402:
    """The L402 dialect; with keys it can issue and verify, without one it is a buyer's.

    service: the name under which tokens are minted; a token minted under another one is refused.
    """

    name = "L402"
    proof_headers = _HEX_HEADERS
    proof_fields: frozenset[str] = frozenset()

    def __init__(self, keys: Keys | None = None, service: str = "farebox") -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", service):
            raise ConfigError("A service name is at most 32 of the characters a-z, 0-9, - and _.")
        self._keys = keys
        self._services = f"{service}:0".encode()
        self._capabilities_name = f"{service}_capabilities".encode()
        self._request_name = f"{service}_request".encode()
        self._price_name = f"{service}_price_msat".encode()
        self._valid_until_name = f"{service}_valid_until".encode()
        self._known = frozenset(
            (
                *(b"services", self._capabilities_name, self._request_name, self._price_name, self._valid_until_name),
                _PREIMAGE,
            )
        )

    # --- challenge ----------------------------------------------------------------------------------------------------

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge | None:
        """A fresh token for this invoice, bound to the quote by its caveats. Raises ConfigError without a key ring."""
        keys = self._ring()
        identifier = _VERSION + invoice.payment_hash + keys.newest + secrets.token_bytes(_TOKEN_ID_BYTES - KEY_ID_BYTES)
        key = keys.derive(_ROOT_KEY, identifier)
        if key is None:  # the newest key is always in its ring
            raise ConfigError("The newest master key is not in its ring.")
        caveats = (
            b"services=" + self._services,
            self._capabilities_name + b"=",
            self._request_name + b"=" + quote.digest.hex().encode(),
            self._price_name + b"=%d" % quote.amount.msat,
            self._valid_until_name + b"=%d" % int(valid_until.timestamp()),
        )
        macaroon = Macaroon.mint(key.key.reveal(), identifier, location=_LOCATION, caveats=caveats)
        return Challenge(
            dialect=self.name,
            invoice=invoice.text,
            payment_hash=invoice.payment_hash,
            amount=quote.amount,
            token=macaroon.write_base64(),
        )

    def write_challenge(self, challenge: Challenge) -> Wire:
        """The header, macaroon first and invoice second for those who read by position, and `protocols.l402`.

        Raises MalformedChallenge for a token or invoice that no header may carry.
        """
        token, invoice = challenge.token, challenge.invoice
        header = write_challenge(
            _scheme(challenge.parameters),
            (("macaroon", token), ("invoice", invoice), ("version", "0"), ("token", token)),
        )
        told: dict[str, Json] = {
            **write_price(challenge.amount),
            "payment_request": invoice,
            "payment_hash": challenge.payment_hash.hex(),
            "macaroon": token,
        }
        return Wire(headers=(("www-authenticate", header),), body={"macaroon": token, "protocols": {"l402": told}})

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every L402 and LSAT challenge with a token; those of the header, or else the one of the JSON body.

        What is well said is returned even beside something badly said. Raises MalformedChallenge when nothing is.
        """
        found: list[Challenge] = []
        trouble: MalformedChallenge | None = None
        said = find_challenges(wire.all("www-authenticate"), *_SCHEMES)
        for challenge in said:
            try:
                token = _read_token(challenge)
                if token:
                    parameters = _LSAT if challenge.scheme.lower() == "lsat" else ()
                    found.append(self._found(wire, token, challenge.get("invoice") or "", parameters))
            except MalformedChallenge as error:
                trouble = trouble or error
        if trouble and not found:
            raise trouble
        return tuple(found) if said else self._read_body(wire)

    def _read_body(self, wire: Wire) -> tuple[Challenge, ...]:
        """For those who can't see the header, such as a page in a browser without the right CORS headers."""
        for members in (read_protocol(wire.body, "l402"), wire.body):
            token = members.get("macaroon") or members.get("token")
            invoice = members.get("payment_request") or members.get("invoice") or members.get("pr")
            if isinstance(token, str) and token != "none" and isinstance(invoice, str):  # noqa: S105 - no password
                return (self._found(wire, token, invoice, ()),)
        return ()

    def _found(self, wire: Wire, token: str, text: str, parameters: Pairs) -> Challenge:
        invoice = read_invoice(text)
        return Challenge(
            dialect=self.name,
            invoice=invoice.text,
            payment_hash=invoice.payment_hash,
            amount=read_price(read_protocol(wire.body, "l402"), wire.body),
            token=token,
            parameters=parameters,
        )

    # --- credential ---------------------------------------------------------------------------------------------------

    def write_credential(self, credential: Credential) -> Wire:
        """`Authorization`, under the scheme word of the challenge. Raises MalformedCredential without a preimage."""
        if credential.preimage is None:
            raise MalformedCredential("L402 shows the preimage, and there is none")
        value = f"{_scheme(credential.parameters)} {credential.token}:{credential.preimage.reveal().hex()}"
        return Wire(headers=(("authorization", value),))

    def read_credential(self, wire: Wire) -> Credential | None:
        """The one L402 proof of a request, in whichever header; the same proof said twice counts as one.

        A chained aperture says it twice: as LSAT and as L402. Raises MalformedCredential for two different ones, for
        more than 8 KiB, and for anything that is no macaroon with a preimage.
        """
        proof: tuple[tuple[Macaroon, ...], bytes] | None = None
        credential: Credential | None = None
        for name, value in wire.headers:
            if name == "authorization":
                scheme, rest = split_credential(value)
                if scheme not in _SCHEMES or _HASH_ALONE.fullmatch(rest):
                    continue
                token, macaroons, preimage = _read_authorization(rest)
            elif name in _HEX_HEADERS:
                scheme = "l402"
                token, macaroons, preimage = _read_hex(value)
            else:
                continue
            if proof is not None and proof != (macaroons, preimage):
                raise MalformedCredential("there are two different L402 proofs; show one")
            proof = macaroons, preimage
            credential = credential or Credential(
                dialect=self.name,
                payment_hash=_payment_hash(macaroons, preimage),
                preimage=Secret(preimage),
                token=token,
                parameters=_LSAT if scheme == "lsat" else (),
            )
        return credential

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Check every macaroon of the token, its caveats and the preimage; until when all of them stay good.

        Raises CredentialRejected; ConfigError without a key ring.
        """
        if credential.preimage is None:
            raise CredentialRejected("the preimage is missing")
        preimage = credential.preimage.reveal()
        if sha256(preimage).digest() != credential.payment_hash:
            raise CredentialRejected("the preimage does not belong to the macaroon")
        try:
            macaroons = [Macaroon.read_base64(text) for text in credential.token.split(",")]
        except MalformedMacaroon:
            raise CredentialRejected("the token is no macaroon") from None
        valid_until = min([self._verify_one(macaroon, credential, preimage) for macaroon in macaroons])
        if now.timestamp() >= valid_until:
            raise CredentialRejected("the token is no longer valid")
        return datetime.fromtimestamp(valid_until, UTC)

    def _verify_one(self, macaroon: Macaroon, credential: Credential, preimage: bytes) -> int:
        identifier = macaroon.identifier
        if len(identifier) != _IDENTIFIER_BYTES or not identifier.startswith(_VERSION):
            raise CredentialRejected("the macaroon was not minted here")
        key_id = identifier[_KEY_ID]
        key = self._ring(key_id).derive(_ROOT_KEY, identifier, key_id)
        if key is None or macaroon.location != _LOCATION or not macaroon.verify(key.key.reveal()):
            raise CredentialRejected("the macaroon was not minted here, or was changed")
        if identifier[_PAYMENT_HASH] != credential.payment_hash:
            raise CredentialRejected("the macaroon is for another payment")
        return self._check_caveats(macaroon.caveats, preimage)

    def _check_caveats(self, caveats: tuple[bytes, ...], preimage: bytes) -> int:
        """Whether every caveat holds; the last second, as a Unix time, of which that is true.

        Request and price are not compared here: the ledger knows them by the payment hash.
        """
        bound: dict[bytes, bytes] = {}
        for caveat in caveats:
            name, equals, value = caveat.partition(b"=")
            if name not in self._known or not equals:
                shown = name[:40].decode("ascii", "replace") if equals else None
                raise CredentialRejected("the macaroon has a caveat that is not known here", caveat=shown)
            before = bound.get(name)
            if before not in (None, value) and (
                name != self._valid_until_name or _seconds(value) > _seconds(bound[name])
            ):
                raise CredentialRejected("a repeated caveat does not narrow", caveat=name.decode())
            bound[name] = value
        if bound.get(b"services") != self._services or self._valid_until_name not in bound:
            raise CredentialRejected("the macaroon is for another service")
        if _PREIMAGE in bound and bound[_PREIMAGE].lower() != preimage.hex().encode():
            raise CredentialRejected("the macaroon is bound to another preimage")
        return _seconds(bound[self._valid_until_name])

    def sealed(self, credential: Credential) -> Sealed | None:
        """Price, request and end, as the caveats bind them with which its first macaroon was minted.

        Whoever holds a macaroon may append others.
        """
        first = Macaroon.read_base64(credential.token.partition(",")[0])
        bound = dict(caveat.split(b"=", 1) for caveat in first.caveats[:_MINTED_CAVEATS])
        digest, price = bound.get(self._request_name, b""), bound.get(self._price_name, b"")
        if not _HASH_ALONE.fullmatch(digest.decode("latin-1")) or not _MSATS.fullmatch(price):
            return None
        return Sealed(
            price=Amount.msats(int(price)),
            digest=bytes.fromhex(digest.decode()),
            valid_until=datetime.fromtimestamp(_seconds(bound[self._valid_until_name]), UTC),
        )

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """A year from now, or earlier where the token says so; a token that can't be read is opaque (L402, agent-spec).

        None for a token that is bound to one request, as farebox mints them, and for one that has run out.
        """
        until = now + _LONGEST_REUSE
        for text in challenge.token.split(","):
            try:
                caveats = Macaroon.read_base64(text.strip(" ")).caveats
            except MalformedMacaroon:
                continue
            for caveat in caveats:
                if _BOUND_TO_A_REQUEST.fullmatch(caveat):
                    return None
                if told := _VALID_UNTIL.fullmatch(caveat):
                    until = min(until, datetime.fromtimestamp(int(told[1]), UTC))
        return until if now < until else None

    # --- receipt ------------------------------------------------------------------------------------------------------

    def write_receipt(self, receipt: Receipt) -> Wire:
        """Nothing: L402 has no receipt."""
        return Wire()

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """None: L402 has no receipt."""
        return None

    def _ring(self, key_id: bytes | None = None) -> KeyRing:
        if self._keys is None:
            raise ConfigError("L402 tokens are issued and verified with a key ring, and there is none.")
        return self._keys.ring(key_id)


def _scheme(parameters: Pairs) -> str:
    return "LSAT" if _LSAT[0] in parameters else "L402"


def _read_token(challenge: AuthChallenge) -> str:
    """The token of a challenge; empty when it has none, or speaks a version that is not known here."""
    if challenge.get("version") not in (None, "0"):
        return ""
    given = {challenge.get(name) or "none" for name in ("token", "macaroon")} - {"none"}
    if len(given) > 1:
        raise MalformedChallenge("`token` and `macaroon` differ")
    return given.pop() if given else ""


def _read_authorization(text: str) -> tuple[str, tuple[Macaroon, ...], bytes]:
    if len(text) > _MOST_CHARACTERS:
        raise MalformedCredential(f"the proof has more than {_MOST_CHARACTERS} characters")
    tokens, colon, preimage = text.rpartition(":")
    if not colon or not _HASH_ALONE.fullmatch(preimage):
        raise MalformedCredential("after the scheme there has to be `<macaroon>:<preimage in 64 hex digits>`")
    texts = [token.strip(" ") for token in tokens.split(",")]
    try:
        macaroons = tuple([Macaroon.read_base64(token) for token in texts])
    except MalformedMacaroon as error:
        raise MalformedCredential(f"the token is no macaroon: {error.detail}") from None
    return ",".join(texts), macaroons, bytes.fromhex(preimage)


def _read_hex(text: str) -> tuple[str, tuple[Macaroon, ...], bytes]:
    if len(text) > _MOST_CHARACTERS:
        raise MalformedCredential(f"the proof has more than {_MOST_CHARACTERS} characters")
    try:
        macaroon = Macaroon.read_hex(text.strip(" \t"))
    except MalformedMacaroon as error:
        raise MalformedCredential(f"the header is no macaroon: {error.detail}") from None
    found = {
        value.lower() for name, _, value in (each.partition(b"=") for each in macaroon.caveats) if name == _PREIMAGE
    }
    preimage = found.pop().decode("ascii", "replace") if len(found) == 1 else ""
    if not _HASH_ALONE.fullmatch(preimage):
        raise MalformedCredential("a macaroon in a header of its own needs one caveat `preimage=<64 hex digits>`")
    return macaroon.write_base64(), (macaroon,), bytes.fromhex(preimage)


def _payment_hash(macaroons: tuple[Macaroon, ...], preimage: bytes) -> bytes:
    """The hash that all identifiers name; a stranger's names none, and it is not its form that will be refused."""
    hashes = {
        macaroon.identifier[_PAYMENT_HASH]
        for macaroon in macaroons
        if len(macaroon.identifier) == _IDENTIFIER_BYTES and macaroon.identifier.startswith(_VERSION)
    }
    if len(hashes) > 1:
        raise MalformedCredential("the macaroons are for different payments")
    return hashes.pop() if hashes else sha256(preimage).digest()


def _seconds(value: bytes) -> int:
    if not value.isdigit() or len(value) > _MOST_SECONDS_DIGITS:
        raise CredentialRejected("a caveat tells no time")
    return int(value)
