"""What a node or wallet says in JSON, read strictly: a member is what it should be, or it is None."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.secret import Secret

Told = Mapping[str, Json]


def read_object(body: bytes) -> Told | None:
    """The members of a JSON object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested without end
        return None
    return value if isinstance(value, dict) else None


def read_list(body: bytes) -> list[Told] | None:
    """The objects of a JSON array; None when it is none, or holds something else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return None
    return value


def read_lines(body: bytes) -> list[Told]:
    """The objects of JSON that comes line by line, up to the first line that is none."""
    objects = []
    for line in body.splitlines():
        told = read_object(line)
        if told is None:
            break
        objects.append(told)
    return objects


def text(told: Told, name: str) -> str | None:
    """A text that is not empty."""
    value = told.get(name)
    return value if isinstance(value, str) and value else None


def count(told: Told, name: str) -> int | None:
    """A whole number, 0 or more."""
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def sats(told: Told, name: str) -> Amount | None:
    """An amount that is told in satoshis."""
    return _amount(Amount.sats, count(told, name))


def msats(told: Told, name: str) -> Amount | None:
    """An amount that is told in millisatoshis."""
    return _amount(Amount.msats, count(told, name))


def hash_of(told: Told, name: str) -> bytes | None:
    """32 bytes that are told in hexadecimal digits."""
    value = text(told, name)
    try:
        octets = bytes.fromhex(value or "")
    except ValueError:
        return None
    return octets if len(octets) == HASH_BYTES else None


def preimage_of(told: Told, name: str, payment_hash: bytes) -> Secret[bytes] | None:
    """The preimage, told in hexadecimal digits, if it is the one of this payment hash; zeros and ids are not."""
    octets = hash_of(told, name)
    if octets is None or hashlib.sha256(octets).digest() != payment_hash:
        return None
    return Secret(octets)


def _amount(of: Callable[[int], Amount], number: int | None) -> Amount | None:
    try:
        return None if number is None else of(number)
    except MalformedAmount:  # more than there is
        return None
