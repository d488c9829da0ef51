"""Canaries: secrets that are looked for, in every spelling, where no secret may be (reliability: F3)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, quote_from_bytes

_HEAD: Final = 16  # bytes by which a spelling is looked up; a secret is at least as long


class Canaries:
    """Secrets by name, and where they were found."""

    def __init__(self) -> None:
        self._spellings: dict[bytes, list[tuple[bytes, str]]] = {}
        self.count = 0

    def add(self, name: str, secret: bytes | str) -> None:
        """One more secret, of at least 16 bytes."""
        self.count += 1
        for spelling in spellings(secret.encode() if isinstance(secret, str) else secret):
            self._spellings.setdefault(spelling[:_HEAD], []).append((spelling, name))

    def found_in(self, places: Mapping[str, bytes]) -> list[str]:
        """`name in place`, once for each."""
        return sorted({f"{name} in {place}" for place, octets in places.items() for name in self._found(octets)})

    def _found(self, octets: bytes) -> Iterator[str]:
        known = self._spellings
        for at in range(len(octets) - _HEAD + 1):
            head = octets[at : at + _HEAD]
            if head in known:
                for spelling, name in known[head]:
                    if octets.startswith(spelling, at):
                        yield name


def spellings(secret: bytes) -> frozenset[bytes]:
    """A secret as it is, in hex, base64, base64url, percent-encoded, as Python shows it, and these inside one another.

    base64 is spelt for each place in a group of three bytes at which the secret can begin.
    """
    plain = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    inside = {spelling for each in plain for spelling in _base64(each)}
    found = {*plain, *inside, repr(secret)[2:-1].encode(), quote_from_bytes(secret, safe="").encode()}
    found |= {quote(each.decode("ascii"), safe="").encode() for each in inside}
    found |= {repr(secret)[2:-1].replace("\\", "\\\\").encode()}  # in JSON
    return frozenset(each for each in found if len(each) >= _HEAD)


def _base64(octets: bytes) -> Iterable[bytes]:
    for before in range(3):
        text = base64.b64encode(bytes(before) + octets)
        first = -(-before * 8 // 6)  # the character that the bytes before still have a part in is left out
        last = (before + len(octets)) * 8 // 6
        yield text[first:last]
        yield text[first:last].replace(b"+", b"-").replace(b"/", b"_")
