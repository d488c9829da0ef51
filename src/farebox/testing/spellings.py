"""Spellings of a path: all that somebody tries who would like a priced path to be taken for another one.

And `meanings`: what servers of many manners make of a spelling. It is written apart from the code that is tested, on
purpose: two opinions are better than one.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

Twist = Callable[[random.Random, bytes], bytes]


def _at_random_byte(change: Callable[[random.Random, int], bytes]) -> Twist:
    def twist(chance: random.Random, path: bytes) -> bytes:
        at = chance.randrange(len(path))
        return path[:at] + change(chance, path[at]) + path[at + 1 :]

    return twist


def _at_random_slash(instead: bytes) -> Twist:
    def twist(chance: random.Random, path: bytes) -> bytes:
        slashes = [at for at, byte in enumerate(path) if byte == 0x2F]
        if not slashes:
            return instead + path
        at = chance.choice(slashes)
        return path[:at] + instead + path[at + 1 :]

    return twist


def _behind(tail: bytes) -> Twist:
    return lambda _, path: path + tail


def _in_front(head: bytes) -> Twist:
    return lambda _, path: head + path


def _hex(chance: random.Random, byte: int) -> bytes:
    return (b"%%%02x" if chance.random() < 0.5 else b"%%%02X") % byte


def _overlong(_: random.Random, byte: int) -> bytes:
    return b"%%%02X%%%02X" % (0xC0 | byte >> 6, 0x80 | byte & 0x3F)


def _overlong_in_three(_: random.Random, byte: int) -> bytes:
    return b"%%E0%%%02X%%%02X" % (0x80 | byte >> 6, 0x80 | byte & 0x3F)


def _full_width(_: random.Random, byte: int) -> bytes:
    wide = chr(0xFEE0 + byte) if 0x21 <= byte <= 0x7E else chr(byte)
    return "".join(f"%{each:02X}" for each in wide.encode()).encode()


def _any_case(chance: random.Random, path: bytes) -> bytes:
    return bytes(
        each ^ 0x20 if chr(each).isalpha() and each < 0x80 and chance.random() < 0.4 else each for each in path
    )


_INSTEAD_OF_SLASH: Final = (
    *(b"//", b"///", b"/./", b"/x/../", b"/%2e/", b"/x/%2e%2e/", b"/x/.%2e/", b"/;/", b"/;a=b/", b";/", b";x/"),
    *(b"%2f", b"%2F", b"%252f", b"%25252f", b"\\", b"%5c", b"%255c", b"/%5c", b"\\/", b"%c0%af", b"%e0%80%af"),
    *(
        b"%u002f",
        b"%u2215",
        b"%ef%bc%8f",
        b"%e2%88%95",
        b"/%20",
        b"/%09",
        b"/%0a",
        b"/%0d",
        b"/%00/",
        b"/ ",
        b"./",
        b"%20/",
    ),
)
_TAILS: Final = (
    *(b"/", b"//", b"/.", b"/./", b"/x/..", b"/%2e", b"/..;/x", b";", b";x", b";a=b", b"%3b", b"%3bx", b"?", b"?x=1"),
    *(
        b"?/../x",
        b"?_method=POST",
        b"??",
        b"%3f",
        b"%3fx=1",
        b"%23",
        b"%2523",
        b"%253f",
        b"%00",
        b"%00.css",
        b"%0a",
        b"%0d",
    ),
    *(
        b"%20",
        b"%09",
        b"%2e",
        b".",
        b"..",
        b"...",
        b"%",
        b"%2",
        b"%zz",
        b"%25",
        b"%252e",
        b"/*",
        b"\\",
        b"%5c",
        b"+",
        b"::$DATA",
    ),
    *(
        b"#",
        b"#x",
        b"&",
        b"&x=1",
        b"%26",
        b"%ff",
        b"%c3",
        b"%cc%81",
        b"%e2%80%8b",
        b"%c2%a0",
        b"~",
        b"!",
        b",",
        b"\xff",
    ),
)
_HEADS: Final = (
    *(b"/", b"/.", b"/./", b"/..", b"/../", b"/x/..", b"/x/../..", b"/%2e", b"/%2e%2e", b"/;", b"/;x", b"\\", b"/\\"),
    *(
        b"http://shop.test",
        b"https://shop.test",
        b"HTTP://shop.test:80",
        b"//shop.test",
        b"%2f",
        b"/%2f",
        b"/%5c",
        b"/%20",
        b" ",
    ),
)
TWISTS: Final[tuple[Twist, ...]] = (
    *[_at_random_slash(instead) for instead in _INSTEAD_OF_SLASH],
    *[_behind(tail) for tail in _TAILS],
    *[_in_front(head) for head in _HEADS],
    *[_at_random_byte(_hex)] * 20,
    *[_at_random_byte(lambda chance, byte: b"%%25%02x" % byte)] * 6,
    *[_at_random_byte(lambda chance, byte: b"%%u%04x" % byte)] * 4,
    *[_at_random_byte(_overlong)] * 6,
    *[_at_random_byte(_overlong_in_three)] * 3,
    *[_at_random_byte(_full_width)] * 6,
    *[_at_random_byte(lambda chance, byte: bytes([byte, 0x2E]))] * 3,
    *[_any_case] * 6,
)


def spellings(chance: random.Random, paths: tuple[bytes, ...], count: int) -> Iterator[bytes]:
    """So many different request targets, each of a path of these that was twisted once, twice or thrice."""
    seen: set[bytes] = set()
    while len(seen) < count:
        target = chance.choice(paths)
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
            target = chance.choice(TWISTS)(chance, target)
        if target not in seen:
            seen.add(target)
            yield target


_U_ENCODED: Final = re.compile(rb"%[uU]([0-9a-fA-F]{4})")
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]")


def _shortened(raw: bytes) -> bytes:
    """With overlong UTF-8 as what it stands for."""

    def short(found: re.Match[bytes]) -> bytes:
        first, *rest = found[0]
        number = first & (0x1F if first < 0xE0 else 0x0F)
        for byte in rest:
            number = number << 6 | byte & 0x3F
        return chr(number).encode()

    return _OVERLONG.sub(short, raw)


@lru_cache(maxsize=64)
def meanings(target: bytes) -> set[str]:
    """What servers may take a request target for: paths in small letters, without a slash at their end."""
    targets = {target, re.sub(rb"^[A-Za-z]+://[^/?#]*", b"", target)}
    found: set[str] = set()
    for each in targets:
        raw = re.split(rb"[?#]", each)[0]
        for _ in range(4):
            u_decoded = _U_ENCODED.sub(lambda hit: chr(int(hit[1], 16)).encode("utf-8", "replace"), raw)
            for reading in (raw, u_decoded, _shortened(raw), _shortened(u_decoded)):
                found.update(_paths(reading.decode("utf-8", "replace")))
                found.update(_paths(reading.decode("latin-1")))
            raw = unquote_to_bytes(raw)
    return found


def _paths(text: str) -> Iterator[str]:
    texts = {text, unicodedata.normalize("NFKC", text), unicodedata.normalize("NFC", text)}
    texts |= {each.replace("\\", "/") for each in texts}
    texts |= {re.sub(r";[^/]*", "", each) for each in texts} | {re.split(r"[;\0?#]", each)[0] for each in texts}
    texts |= {re.sub(r"[\x00-\x20\x7f]", "", each) for each in texts}
    for each in texts:
        for segments in (each.split("/"), [segment for segment in each.split("/") if segment]):
            kept: list[str] = []
            for segment in segments:
                if segment == "..":
                    del kept[-1:]
                elif segment != ".":
                    kept.append(segment)
            for path in (segments, kept, [segment.rstrip(". ") for segment in kept]):
                yield ("/" + "/".join(path).strip("/")).casefold()
