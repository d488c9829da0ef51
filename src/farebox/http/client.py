"""Who is calling: the address prefix that free calls and bare payment hashes are bound to.

Rules
1. A header about the client is believed only from a proxy that the operator has listed; the list is empty by default.
2. The chain is walked from the right, and the first address that is not a listed proxy is the client.
3. IPv4 counts as /32, IPv6 as /64, an IPv4 address inside IPv6 as IPv4. What is not an address is the peer.
4. Callers without an address (a unix socket) share one bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from farebox.core.errors import ConfigError

IpAddress = IPv4Address | IPv6Address

LOCAL = "local"


def _address(text: str) -> IpAddress | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


@lru_cache(maxsize=4096)
def _prefix(text: str) -> str:
    address = _address(text)
    if address is None:
        return LOCAL
    if isinstance(address, IPv4Address):
        return f"{address}/32"
    return str(IPv6Network((address, 64), strict=False))


class ClientPrefix:
    """Tells the client's prefix from the peer's address and the one header that listed proxies set.

    trusted_proxies: addresses or networks, such as `10.0.0.0/8`. Raises ConfigError for anything else, and for a
    network that takes in everyone.
    """

    def __init__(self, trusted_proxies: Sequence[str] = (), header: str = "x-forwarded-for") -> None:
        self._header = header.lower()
        try:
            self._trusted = tuple(ip_network(text) for text in trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}") from None
        if any(network.prefixlen == 0 for network in self._trusted):
            raise ConfigError("trusted_proxies: a network that takes in everyone would let anyone choose an address")

    def __call__(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The prefix, such as `192.0.2.7/32`."""
        if peer is None:
            return LOCAL
        if not self._trusted or not self._is_trusted(peer):
            return _prefix(peer)
        name = self._header.encode()
        told = b",".join(value for header, value in headers if header.lower() == name).decode("latin-1")
        for hop in reversed(told.split(",")):
            if _address(hop) is None:
                break
            if not self._is_trusted(hop):
                return _prefix(hop.strip())
        return _prefix(peer)

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._trusted)
