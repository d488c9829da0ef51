"""Client prefixes: what counts as one caller, by its address, and what counts as one neighbourhood.

Rules (reliability, 3.4: trusted proxies, free tier)
1. IPv4 counts as /32 and IPv6 as /64, because a single subscriber is given a whole /64 to choose addresses from.
2. An IPv6 address that is made of an IPv4 address counts as that one, or whoever holds it would be two callers: mapped
   (::ffff:0:0/96), 6to4 (2002::/16), NAT64 (64:ff9b::/96), Teredo (2001::/32: the address it was translated from).
3. Whoever has no address of its own shares one bucket, `local`: a unix socket, the loopback interface (where a tunnel
   or an onion service ends), a link-local address, and what is no address at all.
4. Subscribers may be given a /48 as well, which is 65,536 times rule 1; so a prefix of IPv6 tells its /48.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

IpAddress = IPv4Address | IPv6Address

LOCAL: Final = "local"

_CLIENT_BITS: Final = 64
_SUBNET_BITS: Final = 48
_NAT64: Final = IPv6Network("64:ff9b::/96")
_MOST_CHARACTERS: Final = 64  # the longest address has 45


@lru_cache(maxsize=4096)
def address_of(text: str) -> IpAddress | None:
    """The address, with a mapped one as the IPv4 address that it stands for; None for anything else.

    One with a zone (`fe80::1%eth0`) says nothing beyond its own link, and so is none.
    """
    if len(text) > _MOST_CHARACTERS:
        return None
    try:
        address = ip_address(text.strip(" \t"))
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return None if address.scope_id is not None else address.ipv4_mapped or address


@lru_cache(maxsize=4096)
def prefix_of(text: str) -> str:
    """The prefix that an address counts as, such as `192.0.2.7/32` or `2001:db8:1:2::/64`; `local` for none."""
    address = address_of(text)
    if isinstance(address, IPv6Address):
        address = _within(address) or address
    if address is None or address.is_loopback or address.is_link_local or address.is_unspecified:
        return LOCAL
    if isinstance(address, IPv4Address):
        return f"{address}/32"
    return str(IPv6Network((address, _CLIENT_BITS), strict=False))


@lru_cache(maxsize=4096)
def subnet_of(prefix: str) -> str | None:
    """The /48 around a client's prefix, such as `2001:db8:1::/48`; None for IPv4 and for `local`."""
    address, slash, _ = prefix.partition("/")
    if not slash or ":" not in address:
        return None
    return str(IPv6Network((IPv6Address(address), _SUBNET_BITS), strict=False))


def _within(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address is made of."""
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        _, client = address.teredo
        return client
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
