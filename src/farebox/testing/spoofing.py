"""Spoofing: header sections by which a caller pretends to be somebody else, as many as are wanted, from a seed."""

from __future__ import annotations

import random
from typing import Final

_CHAIN: Final = b"x-forwarded-for"
_OTHERS: Final = (
    *(b"forwarded", b"x-real-ip", b"cf-connecting-ip", b"true-client-ip", b"x-client-ip", b"x-cluster-client-ip"),
    *(b"x-forwarded", b"forwarded-for", b"x-originating-ip", b"x_forwarded_for", b"x-remote-addr", b"via"),
)
_ODD: Final = (
    *(b"unknown", b"_hidden", b"localhost", b"0", b"-1", b"127.1", b"0x7f000001", b"2130706433", b"017700000001"),
    *(b"", b" ", b",", b",,", b";", b'"', b"'", b"for=", b"\xff", b"\xa0", b"\t", b"%00", b"*", b"0.0.0.0/0", b"::/0"),
)


def spoofed(chance: random.Random, appended: bytes = b"") -> list[tuple[bytes, bytes]]:
    """A header section of a caller who lies about its address in up to eight fields.

    appended: what an honest proxy in front adds, as proxies do: to the last X-Forwarded-For, or as one of its own.
    """
    fields = [_field(chance) for _ in range(chance.randint(0, 8))]
    if not appended:
        return fields
    last = next((at for at in range(len(fields) - 1, -1, -1) if fields[at][0].lower() == _CHAIN), None)
    if last is None or chance.random() < 0.5:
        at = chance.randint(0 if last is None else last + 1, len(fields))
        return [*fields[:at], (_CHAIN, appended), *fields[at:]]
    fields[last] = _CHAIN, fields[last][1] + b", " + appended
    return fields


def _field(chance: random.Random) -> tuple[bytes, bytes]:
    name = _CHAIN if chance.random() < 0.5 else chance.choice(_OTHERS)
    if chance.random() < 0.2:
        name = bytes(byte - 32 if 97 <= byte <= 122 and chance.random() < 0.5 else byte for byte in name)
    separator = chance.choice((b", ", b",", b" ,", b" ", b";", b",,"))
    return name, separator.join(_told(chance) for _ in range(chance.randint(1, 4)))


def _told(chance: random.Random) -> bytes:
    address = _address(chance)
    match chance.randint(0, 7):
        case 0:
            return b"for=" + address + b";proto=https"
        case 1:
            return b'for="[' + address + b']:4711"'
        case 2:
            return address + b":%d" % chance.randint(0, 70_000)
        case 3:
            return chance.choice(_ODD)
        case 4:
            return bytes(chance.choice((*range(0x20, 0x7F), *range(0x80, 0x100))) for _ in range(chance.randint(0, 20)))
        case _:
            return address


def _address(chance: random.Random) -> bytes:
    four = ".".join(str(chance.randint(0, 255)) for _ in range(4))
    six = ":".join(f"{chance.getrandbits(16):x}" for _ in range(4))
    told = chance.choice(
        [
            *(four, four, f"2001:{six}::1", f"::ffff:{four}", f"2002:{six}::1", f"64:ff9b::{four}", f"fe80::{six}%e"),
            *("10.0.0.1", "10.9.9.9", "127.0.0.1", "::1", f"::{four}", f"[2001:{six}::1]"),
        ]
    )
    return told.encode()
