"""Damaged input: bytes that were right once, and what happens to them on the way through hostile hands.

Seeded, and quick enough for millions; hypothesis is for properties, this is for parsers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

_WORDS: Final = (
    *(
        b"",
        b"\0",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b",",
        b";",
        b":",
        b"=",
        b'"',
        b"\\",
        b"'",
        b"/",
        b"%",
        b"%00",
        b"..",
        b"//",
    ),
    *(b"{", b"}", b"[", b"]", b"{}", b"[]", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"1.5", b"\xef\xbb\xbf"),
    *(b"9" * 40, b"-" + b"9" * 20, b"2" * 5000, b"0x10", b"1_0", b"\xff", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80"),
    *(
        "١٢".encode(),
        "é".encode(),
        "\U0001f4b0".encode(),
        "\u202e".encode(),
        b"\x7f",
        b"\x1b[2J",
        b"\\u0000",
        b"\\ud800",
    ),
    *(
        b"L402 ",
        b"LSAT ",
        b"Payment ",
        b"macaroon=",
        b"invoice=",
        b"lnbc",
        b"lnbcrt1",
        b"sat",
        b"msat",
        b"/day",
        b"[[route]]",
    ),
    *(
        b"A" * 100,
        b"=" * 50,
        b"(" * 2000,
        b"[" * 5000,
        b'{"a":' * 1500,
        b"\\" * 300,
        b" " * 3000,
        b"," * 3000,
        b"a=b," * 500,
    ),
)


def _where(chance: random.Random, data: bytes) -> tuple[int, int]:
    """A slice, mostly a short one."""
    start = chance.randrange(len(data) + 1)
    length = chance.choice((1, 1, 2, 4, 8, chance.randrange(len(data) + 1)))
    return start, min(len(data), start + length)


def _flip(chance: random.Random, data: bytes, _: bytes) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _set(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _where(chance, data)
    return data[:start] + chance.randbytes(end - start) + data[end:]


def _cut(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _where(chance, data)
    return data[:start] + data[end:]


def _repeat(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _where(chance, data)
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 30)) + data[end:]


def _insert(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _where(chance, data)
    return data[:start] + chance.choice(_WORDS) + data[chance.choice((start, end)) :]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = _where(chance, other)
    at, _ = _where(chance, data)
    return data[:at] + other[start:end] + data[at:]


def _end(chance: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _recase(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _where(chance, data)
    return data[:start] + data[start:end].swapcase() + data[end:]


_HANDS: Final[tuple[Callable[[random.Random, bytes, bytes], bytes], ...]] = (
    *(_flip, _flip, _set, _cut, _repeat, _insert, _insert, _splice, _end, _recase),
)


def damaged(chance: random.Random, good: Sequence[bytes], count: int, *, most: int = 40_000) -> Iterator[bytes]:
    """So many inputs of at most so many bytes, each of a good one that went through a few hands."""
    for _ in range(count):
        data = chance.choice(good)
        for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
            data = chance.choice(_HANDS)(chance, data, chance.choice(good))
        yield data[:most]
