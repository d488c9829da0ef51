"""The prefix `/pay/`: to its caller all that stands behind it is of one origin, ours. Here each server is kept apart.

Rules
1. A redirect leads behind the prefix again: whoever follows it shows the token to us, and not to whom it leads.
2. One that leads to another origin leads behind `/pay/elsewhere/`. There nothing goes along that a client of its own
   would have kept from that origin: no credentials and no cookies. Whoever was led there stays there.
3. A cookie is for the paths of its own server behind the prefix.
"""

from __future__ import annotations

import re
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import httpx

from farebox.http.forward.fields import Field

PAY: Final = "/pay/"
ELSEWHERE: Final = f"{PAY}elsewhere/"
_STANDS_BEHIND: Final = re.compile(rf"(?P<server>(?:{ELSEWHERE}|{PAY})(?i:https?):/[^?]?[^/?]*)", re.ASCII)
_PORTS: Final = MappingProxyType({"http": 80, "https": 443})
_OF_ONE_ORIGIN: Final = frozenset((b"authorization", b"cookie"))
_OF_ONE_HOST: Final = (b"domain", b"path")


def server_of(target: str) -> str:
    """The prefix and the server behind it, such as `/pay/https://host`, as a caller spelt them."""
    found = _STANDS_BEHIND.match(target)
    return found["server"] if found else ""


def without_credentials(fields: list[Field]) -> list[Field]:
    """What goes along to an origin that the caller did not name."""
    return [field for field in fields if field[0].lower() not in _OF_ONE_ORIGIN]


def behind(field: Field, url: httpx.URL, server: str) -> Field | None:
    """A field of an answer, so that it says the same behind the prefix; None for what can't be said there.

    url: that was asked. server: see `server_of`.
    """
    match field[0].lower():
        case b"location":
            return _redirect(field, url, is_led=server.startswith(ELSEWHERE))
        case b"set-cookie":
            return field[0], _cookie(field[1], server.encode("ascii"))
    return field


def _redirect(field: Field, url: httpx.URL, *, is_led: bool) -> Field | None:
    with suppress(httpx.InvalidURL, UnicodeError):
        place = url.join(field[1].decode("ascii"))
        if place.scheme in _PORTS and place.host:
            prefix = ELSEWHERE if is_led or not _is_at_home(url, place) else PAY
            return field[0], f"{prefix}{place}".encode("ascii")
    return None


def _is_at_home(url: httpx.URL, place: httpx.URL) -> bool:
    """Whether it is the same origin, or the same host behind TLS."""
    ports = url.port or _PORTS[url.scheme], place.port or _PORTS[place.scheme]
    if url.raw_host != place.raw_host:
        return False
    return (url.scheme, ports[0]) == (place.scheme, ports[1]) or (url.scheme, *ports) == ("http", 80, 443)


def _cookie(value: bytes, server: bytes) -> bytes:
    """A `Set-Cookie` (RFC 6265, 5.2); without a path, it is of the one where it was set, behind the prefix as well."""
    pair, *attributes = value.split(b";")
    told = [tuple(part.strip() for part in each.partition(b"=")) for each in attributes]
    paths = [each[2] for each in told if each[0].lower() == b"path"]
    kept = [each for each, (name, *_) in zip(attributes, told, strict=True) if name.lower() not in _OF_ONE_HOST]
    if paths and paths[-1].startswith(b"/"):
        kept.append(b" Path=" + server + paths[-1])
    return b";".join([pair, *kept])
