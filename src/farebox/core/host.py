"""Host: one spelling for each host, so that whatever goes by hosts sees one where a URL may write it in many ways.

Rules
1. Nothing is looked up: `localhost` and `127.0.0.1` are two.
2. What is no host comes back as it was, in lower case: it is the same as nothing else.
3. Where a client could be led, not what was meant: the unspecified addresses lead to this machine, and a name that IDNA
   of today refuses is asked for by the rules of 2003.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_NUMBER: Final = re.compile(r"0x(?P<hex>[0-9a-f]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*)", re.ASCII)
_MOST_CHARACTERS: Final = 255
_MOST_NUMBERS: Final = 4
_MOST_PORT: Final = 65535
_IN_PATTERNS: Final = frozenset("*?[]:")


@lru_cache(maxsize=1024)
def canonical_host(text: str) -> str:
    """A host as `api.example.com`, `127.0.0.1` or `[::1]`; a pattern of hosts such as `*.example.com` likewise.

    In lower case, without the dot of the root, without spaces, in ASCII (IDNA). Numbers are read as resolvers do
    (inet_aton): `127.1`, `0x7f.1` and `[::ffff:127.0.0.1]` are `127.0.0.1`, and so are `0` and `0.0.0.0`; `[::]` is
    `[::1]`. A zone is left out (RFC 9844 has none in URLs): whatever its number, `[::1%7]` leads to `[::1]`.
    """
    host = "".join(_in_ascii("".join(text.lower().split())).split())
    if len(host) > _MOST_CHARACTERS:
        return host
    if ":" in host:
        with suppress(ValueError):
            address = IPv6Address(int(IPv6Address(host.removeprefix("[").removesuffix("]"))))  # without its zone
            if address.ipv4_mapped is not None:
                return _connected_to(address.ipv4_mapped)
            return "[::1]" if address.is_unspecified else f"[{address}]"
        return host
    return _read_numbers(host.split(".")) or _without_root(host)


@lru_cache(maxsize=1024)
def canonical_origin(text: str) -> str:
    """An origin, such as `https://api.example.com:443`, with its host in the one spelling."""
    scheme, mark, place = text.partition("://")
    host, colon, port = place.rpartition(":")
    return f"{scheme.lower()}://{canonical_host(host)}:{port}" if mark and colon else text


def can_be_called(host: str, port: int | None = None) -> bool:
    """Whether the system could look a host up at all, which is in ASCII: by the length of its labels, and its port."""
    try:
        host.encode("idna")  # as the system's resolver is asked
    except UnicodeError:
        return False
    return port is None or 0 < port <= _MOST_PORT


def is_loopback(host: str) -> bool:
    """Whether a host, as a listener or `canonical_host` has it, is this machine as nobody else can reach it.

    What is not specified is none: who listens there is reached by others.
    """
    name = host.lower().strip("[]")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _without_root(host: str) -> str:
    """The name without the dot of the root; but an address with one is a name to a resolver, and no address."""
    bare = host.rstrip(".")
    return host if _read_numbers(bare.split(".")) else bare


def _in_ascii(host: str) -> str:
    """A name as HTTP clients spell it: mapped (UTS 46), and each label in ASCII (RFC 5891).

    A name with a label that is none by that (`☕`, `ex_ü`) is refused by most; yarl spells all of it by IDNA 2003.
    """
    if host.isascii() or len(host) > _MOST_CHARACTERS:
        return host
    import idna  # its tables of letters take a while to load, and few need them

    with suppress(UnicodeError):
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        return ".".join(each if _is_kept(each) else idna.alabel(each).decode("ascii") for each in labels)
    with suppress(UnicodeError):
        return host.encode("idna").decode("ascii")
    return host


def _is_kept(label: str) -> bool:
    """Whether a label stays as it is: of the root, and what only patterns and ports have."""
    return not label or (label.isascii() and not _IN_PATTERNS.isdisjoint(label))


def _read_numbers(labels: list[str]) -> str | None:
    """The address that up to four numbers stand for, the last one filling what is left of it; None for a name."""
    found = [_NUMBER.fullmatch(label) for label in labels[:_MOST_NUMBERS]]
    numbers = [_value(number) for number in found if number is not None]
    if len(numbers) != len(labels):
        return None
    *bytes_, rest = numbers
    if any(byte > 0xFF for byte in bytes_) or rest >= 1 << 8 * (4 - len(bytes_)):
        return None
    return _connected_to(IPv4Address(rest + sum(byte << 8 * (3 - place) for place, byte in enumerate(bytes_))))


def _connected_to(address: IPv4Address) -> str:
    return "127.0.0.1" if address.is_unspecified else str(address)


def _value(number: re.Match[str]) -> int:
    if number["hex"]:
        return int(number["hex"], 16)
    return int(number["octal"] or number["decimal"], 8 if number["octal"] else 10)
