"""Whom the proxy may be sent to, and connections that go to nobody else.

Rules
1. Addresses that are not of the public internet are refused, unless the operator allows them: a caller with a token is
   not to reach what only this machine can reach.
2. What is judged is the address that is connected to, after the name was looked up, each time a connection is made. A
   name that is made to point elsewhere in between changes nothing (DNS rebinding).
3. Denied is denied by name and by address, whatever else is allowed. The proxy's own address is always denied.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final

import httpcore
import httpx

from farebox.core.errors import ConfigError
from farebox.core.host import can_be_called, canonical_host

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4_BITS: Final = 0xFFFFFFFF


class OutOfReach(httpx.ConnectError):
    """The host may not be reached through the proxy."""


class Reach:
    """Which hosts may be reached.

    allow, deny: hosts, `*.domain` for all below it, addresses or networks. private: all may, also what is not of the
    public internet. own: the addresses that the proxy listens on. Raises ConfigError for what is none of these.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        private: bool = False,
        own: Callable[[], Collection[tuple[Address, int]]] = tuple,
    ) -> None:
        self._allowed = _Hosts(allow, option="--allow")
        self._denied = _Hosts(deny, option="--deny")
        self._private = private
        self._own = own

    def check_host(self, host: str) -> None:
        """Raises OutOfReach for a host that is denied by its name."""
        if self._denied.has_name(host):
            raise OutOfReach(f"{host} is denied here (--deny)")

    def is_open(self, host: str, address: Address, port: int) -> bool:
        """Whether this address may be connected to under this name."""
        meant = [address, *_embedded(address)]
        if any((each, port) in self._own() or self._denied.has_address(each) for each in meant):
            return False
        if any(each.is_unspecified for each in meant):  # which leads back to this machine, by whatever port
            return False
        if self._private or self._allowed.has_name(host) or any(map(self._allowed.has_address, meant)):
            return True
        return all(map(_is_public, meant))


class _Hosts:
    """A list of names and networks. A name or an address is the same however it is spelt; a network is as it is."""

    def __init__(self, listed: Iterable[str], *, option: str) -> None:
        self._names: set[str] = set()
        self._domains: list[str] = []
        self._networks: list[Network] = []
        for text in listed:
            host = canonical_host(text)
            with suppress(ValueError):
                self._networks.append(ip_network(host.strip("[]")))
                continue
            if not host or not host.isascii() or "/" in host or ":" in host or "*" in host.removeprefix("*."):
                raise ConfigError(f"{option} is a host, *.domain, an address or a network, not {text}")
            if host.startswith("*."):
                self._domains.append(host[1:])
            else:
                self._names.add(host)

    def has_name(self, host: str) -> bool:
        name = canonical_host(host)
        return name in self._names or any(name.endswith(domain) for domain in self._domains)

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _embedded(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses that a machine might be led to by an IPv6 one."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) <= _IPV4_BITS:  # and the deprecated IPv4-compatible ones
        found.append(IPv4Address(int(address) & _IPV4_BITS))
    return [each for each in found if each is not None]


def _is_public(address: Address) -> bool:
    if _embedded(address):  # which are judged by themselves
        return True
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)


async def look_up(host: str, port: int) -> list[Address]:
    """The addresses of a name, as the system tells them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(told[4][0]).partition("%")[0]) for told in found))


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were judged."""

    def __init__(self, reach: Reach, resolve: Callable[[str, int], Any]) -> None:
        self._reach = reach
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if not can_be_called(host, port):
            raise httpcore.ConnectError("nobody can have such a host or port")
        try:
            async with asyncio.timeout(timeout):
                addresses: Sequence[Address] = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("its name was not found in time") from None
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("its name is not known") from None
        chosen = [address for address in addresses if self._reach.is_open(host, address, port)]
        if not chosen:
            raise OutOfReach(f"{host}:{port} may not be reached from here (--allow, --allow-private)")
        failure: Exception | None = None
        for address in chosen:
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncBaseTransport):
    """What an httpx client reaches servers by, where a Reach decides which. Raises OutOfReach.

    tls: whom it believes. resolve: the addresses of a name.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        tls: ssl.SSLContext,
        resolve: Callable[[str, int], Any] = look_up,
        most_connections: int = 256,
    ) -> None:
        self._reach = reach
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=most_connections,
            max_keepalive_connections=32,
            keepalive_expiry=30,
            network_backend=_Backend(reach, resolve),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """What httpx calls."""
        url = request.url
        self._reach.check_host(url.raw_host.decode("ascii"))
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = await self._pool.handle_async_request(asked)
        except _NAMED_ALIKE as error:
            raise _as_httpx(error) from error
        return httpx.Response(
            status_code=answer.status, headers=answer.headers, stream=_Parts(answer), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


_NAMED_ALIKE: Final = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def _as_httpx(error: Exception) -> httpx.TransportError:
    """httpx calls its errors what httpcore calls them."""
    kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.TransportError)
    return kind(str(error))


class _Parts(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except _NAMED_ALIKE as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        await self._answer.aclose()
