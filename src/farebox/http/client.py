"""Who is calling: the address prefix that free calls and bare payment hashes are bound to.

Rules (reliability, 3.4: trusted proxies)
1. A header about the client is believed only from a proxy that the operator has listed; the list is empty by default,
   and loopback is not on it.
2. Exactly one header is read. Its chain is walked from the right, and the first address that is not a listed proxy is
   the client. Where the chain has something that is no address, it ends, and the peer is the client.
3. What counts as one client is said in core.client_prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from farebox.core.client_prefix import LOCAL, address_of, prefix_of
from farebox.core.errors import ConfigError

_EVERYONE = "would let every caller choose an address; list your own proxies, such as 127.0.0.1 or 10.0.0.0/8"


class ClientPrefix:
    """Tells the client's prefix from the peer's address and the one header that listed proxies set.

    trusted_proxies: addresses or networks, such as `10.0.0.0/8`. header: one that holds addresses with commas between
    them, or a single one. Raises ConfigError for anything else, and for proxies that take in everyone.
    """

    def __init__(self, trusted_proxies: Sequence[str] = (), header: str = "x-forwarded-for") -> None:
        self._header = header.strip().lower().encode()
        if self._header == b"forwarded":
            raise ConfigError("client_header: Forwarded is not read here; have your proxy set X-Forwarded-For")
        networks = [_network(text) for text in trusted_proxies]
        self._trusted4 = tuple(network for network in networks if isinstance(network, IPv4Network))
        self._trusted6 = tuple(network for network in networks if isinstance(network, IPv6Network))
        # Two halves of everyone are everyone too.
        everyone4 = any(network.prefixlen == 0 for network in collapse_addresses(self._trusted4))
        if everyone4 or any(network.prefixlen == 0 for network in collapse_addresses(self._trusted6)):
            raise ConfigError(f"trusted_proxies: {', '.join(trusted_proxies)} {_EVERYONE}")

    def __call__(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The prefix, such as `192.0.2.7/32`."""
        if peer is None:
            return LOCAL
        if not self._is_trusted(peer):
            return prefix_of(peer)
        told = b",".join([value for name, value in headers if name.lower() == self._header]).decode("latin-1")
        for hop in reversed(told.split(",")):
            if address_of(hop) is None:
                break
            if not self._is_trusted(hop):
                return prefix_of(hop)
        return prefix_of(peer)

    def _is_trusted(self, text: str) -> bool:
        if not self._trusted4 and not self._trusted6:
            return False
        address = address_of(text)
        if address is None:
            return False
        # Each network says that an address of the other version is not in it.
        return any(address in network for network in (self._trusted4 if address.version == 4 else self._trusted6))


def _network(text: str) -> IPv4Network | IPv6Network:
    if text.strip() == "*":
        raise ConfigError(f"trusted_proxies: * {_EVERYONE}")
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return network
