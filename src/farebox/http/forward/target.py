"""What a request asks of the proxy: to fetch a URL, to tunnel to a host, or something of the proxy itself.

Rules
1. There is one way to read a target. What two readers could understand differently is refused: user information, a
   host that is a number in disguise, a backslash, a fragment, a Host that names somebody else.
2. Only http and https are fetched, and no port at which something else than HTTP is spoken by custom (Fetch, 2.9).
3. What is asked of the proxy itself names it by an address it is known under, so that a name which a stranger has made
   point here is not one (DNS rebinding).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Final

from farebox.http.forward.prefix import ELSEWHERE, PAY, server_of
from farebox.http.forward.refusal import Refusal, malformed

_PORTS: Final = MappingProxyType({"http": 80, "https": 443})
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[/?].*)?", re.ASCII)
_AUTHORITY: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]*")
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?", re.ASCII)
_ONE_SLASH: Final = re.compile(r"(?i:(https?)):/(?=[^/])")  # what some clients make of two within a path
# fetch.spec.whatwg.org, port blocking, as far as such a service could be at a seller's or in one's own network
_BLOCKED_PORTS: Final = frozenset(
    (
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104),
        *(109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526),
        *(530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659),
        *(4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A host in lower case, without brackets, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Something of the proxy itself."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A URL to be fetched, and paid for. server: where it stood behind `/pay/`, see `prefix.server_of`."""

    url: str
    place: Place
    server: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A host to be spoken to behind CONNECT."""

    place: Place


Target = Own | Fetch | Tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """Where the proxy is. names: what it is called in a Host field, with the port; None for whatever others call it."""

    names: frozenset[str] | None

    def is_called(self, host: str) -> bool:
        """Whether this Host is the proxy."""
        return self.names is None or host.lower() in self.names


def read_target(
    method: bytes, target: bytes, host: bytes | None, *, here: Here, tunnel: Tunnel | None = None
) -> Target:
    """What a request asks for. Raises Refusal.

    tunnel: the one that it came through; then it is for the host at its end.
    """
    if not _VISIBLE.fullmatch(target) or b"#" in target or b"\\" in target.partition(b"?")[0]:
        raise malformed("the request target is no URL")
    asked = target.decode("ascii")
    named = None if host is None else host.strip().decode("latin-1")
    if method == b"CONNECT":
        if tunnel is not None:
            raise malformed("a tunnel within a tunnel")
        return _read_tunnel(asked, named)
    if tunnel is not None:
        return _read_inner(asked, named, tunnel.place)
    if not asked.startswith("/"):
        return _read_absolute(asked, named, here)
    if named is None or not here.is_called(named):
        raise malformed("this is a proxy: name it as HTTP_PROXY, or write /pay/https://host/path behind its address")
    return _read_own(asked)


def _read_own(asked: str) -> Target:
    if asked.startswith(PAY):
        url = asked.removeprefix(ELSEWHERE).removeprefix(PAY)
        return replace(_read_url(_ONE_SLASH.sub(r"\1://", url, count=1)), server=server_of(asked))
    return Own(path=asked.partition("?")[0])


def _read_absolute(asked: str, named: str | None, here: Here) -> Target:
    read = _read_url(asked)
    scheme, _, rest = asked.partition("://")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if named is not None and _read_authority(named, scheme.lower()) != read.place:
        raise malformed("the Host is not that of the request target")
    if here.names is not None and here.is_called(authority):  # a client with HTTP_PROXY that means the proxy itself
        return _read_own(rest[len(authority) :] or "/")
    return read


def _read_inner(asked: str, named: str | None, place: Place) -> Target:
    if not asked.startswith("/"):
        raise malformed("within a tunnel the request target is a path")
    if named is None or _read_authority(named, "https") != place:
        raise Refusal(421, "misdirected", "This tunnel leads to another host", f"it leads to {place}")
    return _read_url(f"https://{place}{asked}")


def _read_tunnel(asked: str, named: str | None) -> Tunnel:
    place = _read_authority(asked, "")
    if named is not None and _read_authority(named, "https") != place and _read_authority(named, "http") != place:
        raise malformed("the Host is not that of the request target")
    return Tunnel(place=place)


def _read_url(text: str) -> Fetch:
    found = _URL.fullmatch(text)
    if found is None:
        raise malformed("this is no URL; write it out, such as https://host/path")
    scheme = found["scheme"].lower()
    if scheme not in _PORTS:
        raise malformed("only http and https are fetched")
    place = _read_authority(found["authority"], scheme)
    rest = found["rest"] or "/"
    authority = str(place) if place.port != _PORTS[scheme] else str(place).rpartition(":")[0]
    return Fetch(url=f"{scheme}://{authority}{rest if rest.startswith('/') else '/' + rest}", place=place)


def _read_authority(text: str, scheme: str) -> Place:
    if "@" in text:
        raise malformed("a URL with a user or a password in it is not fetched")
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise malformed("the host can't be read")
    port = int(found["port"]) if found["port"] else _PORTS.get(scheme)
    if port is None or not 0 < port < 65536:
        raise malformed("there is no such port")
    if port in _BLOCKED_PORTS:
        raise Refusal(403, "port-refused", "Something else than HTTP is spoken at this port", str(port))
    return Place(host=_read_host(found["host"].lower()), port=port)


def _read_host(host: str) -> str:
    """The one spelling of a host. A number that some take for an address and others do not is none."""
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1]))
        if _ENDS_IN_NUMBER.fullmatch(host):
            return str(IPv4Address(host))
    except AddressValueError:
        raise malformed("the host is no address that is written as one") from None
    if not all(host.removesuffix(".").split(".")):
        raise malformed("the host can't be read")
    return host
