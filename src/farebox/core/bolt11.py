"""Invoice: decode, check and sign BOLT11 (Lightning specification, BOLT 11).

Rules
1. One text, one reading: what two decoders could read differently is refused: doubled fields, mixed case, padding that
   is not zero, crumbs after the last field.
2. An Invoice exists only with a good checksum and a good signature, and always knows who signed it.
3. Whatever the text, decoding gives an Invoice or raises MalformedInvoice.
4. Fields of a length that the specification does not know are skipped, as it asks; what that leaves missing is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bech32 import (
    CHARACTERS,
    bytes_to_digits,
    digits_to_bytes,
    digits_to_number,
    number_to_digits,
    read_bech32,
    write_bech32,
)
from farebox.core.errors import MalformedAmount, MalformedInvoice, MalformedValue
from farebox.core.signature import COMPACT_BYTES, public_key, recover_public_key, sign_recoverable, verify_compact

HASH_BYTES: Final = 32
MOST_DESCRIPTION_BYTES: Final = 639  # what fits in the 1,023 symbols of one field
_MOST_CHARACTERS: Final = 4096
_TIMESTAMP_SYMBOLS: Final = 7
_SIGNATURE_SYMBOLS: Final = 104
_MOST_SYMBOLS_OF_A_FIELD: Final = 1023
_MOST_SYMBOLS_OF_A_NUMBER: Final = 13  # 64 bits and one
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_DEFAULT_EXPIRY: Final = timedelta(hours=1)
_DEFAULT_MIN_FINAL_CLTV: Final = 18

_PREFIX: Final = re.compile(r"ln(bcrt|bc|tbs|tb)(?:([1-9][0-9]{0,19})([munp]?))?", re.ASCII)
_PICO_BITCOIN: Final = MappingProxyType({"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1})
_PICO_BITCOIN_PER_MSAT: Final = 10

_ONCE: Final = frozenset("psdhnxc9m")
_SYMBOLS: Final = MappingProxyType({"p": 52, "s": 52, "h": 52, "n": 53})
# BOLT 9, those that may stand in an invoice: onion, payment secret, multi-part, blinding, attribution, metadata.
_KNOWN_FEATURES: Final = sum(1 << bit for bit in (8, 14, 16, 24, 36, 48))
_UNKNOWN_FEATURES: Final = int("01" * (_MOST_SYMBOLS_OF_A_FIELD * 5 // 2 + 1), 2) & ~_KNOWN_FEATURES
_OUR_FEATURES: Final = 1 << 9 | 1 << 14  # onion optional, payment secret compulsory, as lnd writes them


class Network(StrEnum):
    """The chain an invoice is for; the value is its name in other protocols (`draft-lightning-charge-00`)."""

    MAINNET = "mainnet"
    TESTNET = "testnet"
    SIGNET = "signet"
    REGTEST = "regtest"


_NETWORKS: Final = MappingProxyType(
    {"bcrt": Network.REGTEST, "bc": Network.MAINNET, "tbs": Network.SIGNET, "tb": Network.TESTNET}
)
_PREFIXES: Final = MappingProxyType({network: "ln" + prefix for prefix, network in _NETWORKS.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """A BOLT11 invoice, decoded and with its signature checked.

    text: the invoice itself, in lower case. amount: None when the payer may choose it.
    payee: the compressed public key of the node that signed it, 33 bytes.
    description, description_hash: exactly one of them is there.
    min_final_cltv: the least number of blocks for the last hop.
    """

    text: str
    network: Network
    amount: Amount | None
    payment_hash: bytes
    payment_secret: bytes = field(repr=False)
    payee: bytes
    created_at: datetime
    expires_in: timedelta
    description: str | None
    description_hash: bytes | None
    min_final_cltv: int

    @property
    def expires_at(self) -> datetime:
        """The instant from which the invoice is no longer to be paid."""
        return self.created_at + self.expires_in


# --- reading ----------------------------------------------------------------------------------------------------------


def fitting(description: str) -> str:
    """As much of a description as an invoice can hold."""
    return description.encode(errors="ignore")[:MOST_DESCRIPTION_BYTES].decode(errors="ignore")


@lru_cache(maxsize=64)  # a 402 tells one invoice in each of its dialects
def decode(text: str) -> Invoice:
    """Read an invoice and check its checksum and signature; upper case is read too, a `lightning:` before it is not.

    Raises MalformedInvoice. Whether it has expired, and whether it is what was asked for, is for the caller to say.
    """
    if len(text) > _MOST_CHARACTERS:
        raise MalformedInvoice("it is too long")
    try:
        prefix, digits = read_bech32(text)
        network, amount = _read_prefix(prefix)
        return _read_data(text.lower(), network, amount, prefix, digits)
    except MalformedInvoice:
        raise
    except MalformedValue as error:  # from the bech32 underneath
        raise MalformedInvoice(error.detail) from None


def _read_data(text: str, network: Network, amount: Amount | None, prefix: str, digits: bytes) -> Invoice:
    if len(digits) < _TIMESTAMP_SYMBOLS + _SIGNATURE_SYMBOLS:
        raise MalformedInvoice("it is too short")
    signed, signature = digits[:-_SIGNATURE_SYMBOLS], digits_to_bytes(digits[-_SIGNATURE_SYMBOLS:])
    fields = _read_fields(signed[_TIMESTAMP_SYMBOLS:])
    created_at = _EPOCH + digits_to_number(signed[:_TIMESTAMP_SYMBOLS]) * _SECOND
    return Invoice(
        text=text,
        network=network,
        amount=amount,
        payment_hash=digits_to_bytes(fields["p"]),
        payment_secret=digits_to_bytes(fields["s"]),
        payee=_read_payee(fields, signature, _message_hash(prefix, signed)),
        created_at=created_at,
        expires_in=_read_expiry(fields, created_at),
        description=_read_description(fields),
        description_hash=digits_to_bytes(fields["h"]) if "h" in fields else None,
        min_final_cltv=_read_number(fields["c"]) if "c" in fields else _DEFAULT_MIN_FINAL_CLTV,
    )


def _read_prefix(prefix: str) -> tuple[Network, Amount | None]:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise MalformedInvoice("it starts with no network and amount that are known here")
    network = _NETWORKS[match[1]]
    if match[2] is None:
        return network, None
    msat, fraction = divmod(int(match[2]) * _PICO_BITCOIN[match[3]], _PICO_BITCOIN_PER_MSAT)
    if fraction:
        raise MalformedInvoice("its amount has a fraction of a millisatoshi")
    try:
        return network, Amount.msats(msat)
    except MalformedAmount:
        raise MalformedInvoice("its amount is more than there is") from None


def _read_fields(digits: bytes) -> Mapping[str, bytes]:
    """The digits of every known field by its letter, with all there that must be.

    `f` and `r`, which may come again, are left to the wallet.
    """
    fields: dict[str, bytes] = {}
    at, end = 0, len(digits)
    while at < end:
        start = at + 3
        if start > end:
            raise MalformedInvoice("something is left over after its last field")
        letter = CHARACTERS[digits_to_number(digits[at : at + 1])]
        length = digits_to_number(digits[at + 1 : start])
        at = start + length
        if at > end:
            raise MalformedInvoice(f"its field {letter} is cut off")
        if letter not in _ONCE or _SYMBOLS.get(letter, length) != length:
            continue
        if letter in fields:
            raise MalformedInvoice(f"its field {letter} comes twice")
        fields[letter] = digits[start:at]
    if "p" not in fields or "s" not in fields:
        raise MalformedInvoice("it has no payment hash" if "p" not in fields else "it has no payment secret")
    if ("d" in fields) == ("h" in fields):
        raise MalformedInvoice("it needs either a description or the hash of one")
    if digits_to_number(fields.get("9", b"")) & _UNKNOWN_FEATURES:
        raise MalformedInvoice("it demands a feature that is not known here")
    return fields


def _read_payee(fields: Mapping[str, bytes], signature: bytes, message_hash: bytes) -> bytes:
    """Who signed: the key it names, which then must have signed with a low S, else the key that is recovered."""
    if "n" not in fields:
        recovered = recover_public_key(signature, message_hash)
        if recovered is None:
            raise MalformedInvoice("its signature is no signature")
        return recovered
    named = digits_to_bytes(fields["n"])
    if not verify_compact(named, signature[:COMPACT_BYTES], message_hash):
        raise MalformedInvoice("its signature is not by the node that it names")
    return named


def _read_expiry(fields: Mapping[str, bytes], created_at: datetime) -> timedelta:
    if "x" not in fields:
        return _DEFAULT_EXPIRY
    try:
        expires_in = _read_number(fields["x"]) * _SECOND
    except OverflowError:
        expires_in = timedelta.max
    return _within_calendar(created_at, expires_in)


def _within_calendar(created_at: datetime, expires_in: timedelta) -> timedelta:
    try:
        created_at + expires_in
    except OverflowError:
        raise MalformedInvoice("it expires after the last year of the calendar") from None
    return expires_in


def _read_description(fields: Mapping[str, bytes]) -> str | None:
    if "d" not in fields:
        return None
    try:
        return digits_to_bytes(fields["d"]).decode()
    except UnicodeDecodeError:
        raise MalformedInvoice("its description is not UTF-8") from None


def _read_number(digits: bytes) -> int:
    if len(digits) > _MOST_SYMBOLS_OF_A_NUMBER:
        raise MalformedInvoice("it has a number that is too long")
    return digits_to_number(digits)


# --- writing ----------------------------------------------------------------------------------------------------------


def sign(
    *,
    secret_key: bytes,
    network: Network,
    amount: Amount | None,
    payment_hash: bytes,
    payment_secret: bytes,
    description: str | None = None,
    description_hash: bytes | None = None,
    created_at: datetime,
    expires_in: timedelta,
    min_final_cltv: int = _DEFAULT_MIN_FINAL_CLTV,
) -> Invoice:
    """A new invoice, signed. Instants and spans are cut to whole seconds, which is all that BOLT11 can say.

    Raises MalformedInvoice for what can't be said in BOLT11: an amount of nothing, a hash or payment secret that is not
    32 bytes long, a description of more than 639 bytes, both or neither of description and hash; ValueError when the
    secret key is no key; TypeError when `created_at` knows no time zone.
    """
    if (description is None) == (description_hash is None):
        raise MalformedInvoice("it needs either a description or the hash of one")
    created_at = _EPOCH + (created_at - _EPOCH) // _SECOND * _SECOND
    expires_in = _within_calendar(created_at, expires_in - expires_in % _SECOND)
    signed = _write_timestamp(created_at)
    signed += _write_hash("p", payment_hash) + _write_hash("s", payment_secret)
    if description is not None:
        signed += _write_description(description)
    if description_hash is not None:
        signed += _write_hash("h", description_hash)
    signed += _write_number("x", expires_in // _SECOND)
    signed += _write_number("c", min_final_cltv)
    signed += _write_number("9", _OUR_FEATURES)
    prefix = _PREFIXES[network] + _write_amount(amount)
    digits = signed + bytes_to_digits(sign_recoverable(secret_key, _message_hash(prefix, signed)))
    return Invoice(
        text=write_bech32(prefix, digits),
        network=network,
        amount=amount,
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        payee=public_key(secret_key),
        created_at=created_at,
        expires_in=expires_in,
        description=description,
        description_hash=description_hash,
        min_final_cltv=min_final_cltv,
    )


def _write_amount(amount: Amount | None) -> str:
    """The shortest spelling, which is the one with the largest unit that divides it."""
    if amount is None:
        return ""
    if not amount:
        raise MalformedInvoice("its amount would be nothing")
    pico = amount.msat * _PICO_BITCOIN_PER_MSAT
    return next(f"{pico // unit}{letter}" for letter, unit in _PICO_BITCOIN.items() if pico % unit == 0)


def _write_timestamp(created_at: datetime) -> bytes:
    seconds = (created_at - _EPOCH) // _SECOND
    if seconds < 0 or len(digits := number_to_digits(seconds)) > _TIMESTAMP_SYMBOLS:
        raise MalformedInvoice("its 35 bits for the time it is made can't say that")
    return digits.rjust(_TIMESTAMP_SYMBOLS, b"0")


def _write_field(letter: str, digits: bytes) -> bytes:
    if len(digits) > _MOST_SYMBOLS_OF_A_FIELD:
        raise MalformedInvoice(f"its field {letter} would be too long")
    return number_to_digits(CHARACTERS.index(letter)) + number_to_digits(len(digits)).rjust(2, b"0") + digits


def _write_number(letter: str, number: int) -> bytes:
    if number < 0 or len(digits := number_to_digits(number)) > _MOST_SYMBOLS_OF_A_NUMBER:
        raise MalformedInvoice(f"its field {letter} can't say that number")
    return _write_field(letter, digits)


def _write_description(description: str) -> bytes:
    try:
        return _write_field("d", bytes_to_digits(description.encode()))
    except UnicodeEncodeError:
        raise MalformedInvoice("its description is not text") from None


def _write_hash(letter: str, octets: bytes) -> bytes:
    if len(octets) != HASH_BYTES:
        raise MalformedInvoice(f"its field {letter} needs {HASH_BYTES} bytes")
    return _write_field(letter, bytes_to_digits(octets))


def _message_hash(prefix: str, signed: bytes) -> bytes:
    """What is signed: the human-readable part and the data, filled up with zero bits to a whole byte."""
    bits = len(signed) * 5
    filled = digits_to_number(signed) << (-bits % 8)
    return hashlib.sha256(prefix.encode() + filled.to_bytes((bits + 7) // 8, "big")).digest()
