"""Header fields of what passes through: which go on, which are for the proxy alone.

Rules
1. Nothing that concerns one connection goes on (RFC 9110, 7.6.1): hop-by-hop fields, those that Connection names, and
   every Proxy-… field.
2. `Farebox-…` is the proxy's own prefix in both directions: a caller's token goes to no server, and what an answer says
   was paid was said here.
3. What goes on says that it went through here (Via), by which a request that comes back is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

Field = tuple[bytes, bytes]

_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_WRITTEN_ANEW: Final = frozenset((b"host", b"content-length", b"expect"))
_OURS: Final = (b"proxy-", b"farebox-")


def upstream_fields(fields: Sequence[Field], *, via: bytes) -> list[Field]:
    """What a server is told of a caller's fields."""
    kept = [field for field in _end_to_end(fields) if field[0].lower() not in _WRITTEN_ANEW]
    return [*kept, (b"via", via)]


def downstream_fields(fields: Sequence[Field], *, via: bytes) -> list[Field]:
    """What a caller is told of a server's fields."""
    return [*_end_to_end(fields), (b"via", via)]


def values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Every value of a field; its name in lower case."""
    return [value for each, value in fields if each.lower() == name]


def elements(fields: Iterable[Field], name: bytes) -> frozenset[bytes]:
    """The elements of a field that is a list, in lower case."""
    return frozenset(part.strip().lower() for value in values(fields, name) for part in value.split(b",")) - {b""}


def _end_to_end(fields: Sequence[Field]) -> list[Field]:
    named = elements(fields, b"connection") | _HOP_BY_HOP
    return [(name, value) for name, value in fields if name.lower() not in named and not name.lower().startswith(_OURS)]
