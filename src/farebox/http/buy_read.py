"""What every library's client reads alike: a call and its digest, a 402, a problem; within bounds.

Rules
1. Of a 402 at most 64 KiB are read and at most 64 KiB decompressed, within ten seconds; what is larger, slower or coded
   otherwise than in gzip or deflate is left to its headers.
2. Only a body that says it is JSON, and of which there is one reading, tells a price. Prose never does.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_plus, urlencode, urlsplit, urlunsplit

from farebox.core.errors import MalformedValue
from farebox.core.exchange import Json, Wire
from farebox.core.host import can_be_called
from farebox.dialects.canonical_json import read_object
from farebox.payer import Answered

_MOST_BYTES: Final = 64 * 1024
_READ_WITHIN: Final = timedelta(seconds=10)
_PORTS: Final = MappingProxyType({"http": 80, "https": 443})
_WINDOW_BITS: Final = MappingProxyType({"gzip": 31, "x-gzip": 31, "deflate": 15})
_LENGTH: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_DIGESTED: Final = ("content-type", "accept")
_NO_MEMBERS: Final[Mapping[str, Json]] = MappingProxyType({})


def origin_of(scheme: str, host: str, port: int | None) -> str:
    """`https://host:port`, with the port always."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or _PORTS.get(scheme, 0)}"


def target_of(url: str) -> tuple[str, str, str]:
    """The origin, the URL without user information and fragment, and the path of an absolute URL."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return origin_of(parts.scheme, parts.hostname or "", parts.port), urlunsplit(bare), parts.path


def can_call(url: str) -> bool:
    """Whether anybody can have the host and the port of an absolute URL."""
    try:
        parts = urlsplit(url)
        return can_be_called(parts.hostname or "", parts.port)
    except ValueError:
        return False


def with_query(url: str, query: Iterable[tuple[str, str]]) -> str:
    """A URL with these parameters, in the place of those of the same names; the others stay as they were written."""
    added = tuple(query)
    if not added:
        return url
    parts, names = urlsplit(url), {name for name, _ in added}
    kept = [part for part in parts.query.split("&") if part and unquote_plus(part.partition("=")[0]) not in names]
    return urlunsplit(parts._replace(query="&".join([*kept, urlencode(added)])))


def digest_of(method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes]) -> bytes:
    """SHA-256 that tells the same call made again: its method, URL, body, and the headers that shape the answer.

    body: whole, or its parts.
    """
    hashed = sha256()
    for part in (body,) if isinstance(body, bytes) else body:
        hashed.update(part)
    fields = [b"farebox call 1", method.encode(), url.encode()]
    fields += [headers.get(name, "").encode() for name in _DIGESTED]
    fields.append(hashed.digest())
    return sha256(b"".join([len(field).to_bytes(4, "big") + field for field in fields])).digest()


def with_members(body: bytes, members: Mapping[str, Json]) -> bytes:
    """A JSON object with more members; any other body as it is."""
    if not members:
        return body
    present = _read_object(body)
    return body if present is None else json.dumps({**present, **members}).encode()


def answered(
    status: int,
    origin: str,
    headers: Iterable[tuple[str, str]],
    body: bytes | None,
    *,
    location: str | None = None,
) -> Answered:
    """An answer as the payer hears it. body: what may hold JSON, decoded; None for nothing that matters.

    location: where redirects led to.
    """
    lines = tuple((name.lower(), value) for name, value in headers)
    members = None if body is None else _read_object(body)
    return Answered(
        status=status, origin=origin, wire=Wire(headers=lines, body=members or _NO_MEMBERS), location=location
    )


def is_short_problem(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is a problem (RFC 9457) that is worth reading whole before the caller does."""
    length = headers.get("content-length", "")
    return (
        status >= 400
        and _media_type(headers) == "application/problem+json"
        and "content-encoding" not in headers
        and _LENGTH.fullmatch(length) is not None
        and int(length) <= _MOST_BYTES
    )


class Basket:
    """Takes the parts of a 402's body while there is room and time.

    headers: of any library, looked up without regard to case. is_decoded: the parts have lost their coding already.
    """

    def __init__(self, headers: Mapping[str, str], *, is_decoded: bool) -> None:
        kind = _media_type(headers)
        self._wanted = kind == "application/json" or kind.endswith("+json")
        self._coding = "" if is_decoded else headers.get("content-encoding", "").strip().lower()
        self._raw = bytearray()
        self._until = time.monotonic() + _READ_WITHIN.total_seconds()

    def take(self, part: bytes) -> bool:
        """Whether to go on reading."""
        self._raw += part
        if len(self._raw) > _MOST_BYTES or time.monotonic() > self._until:
            self._wanted = False
        return self._wanted

    def body(self) -> bytes | None:
        """The JSON that was taken, decoded; None when it is none, or not a small one."""
        return _expand(bytes(self._raw), self._coding) if self._wanted else None


def _media_type(headers: Mapping[str, str]) -> str:
    return str(headers.get("content-type", "")).partition(";")[0].strip().lower()


def _expand(raw: bytes, coding: str) -> bytes:
    """The body without its coding; empty when it is too large or not what it says."""
    if coding in ("", "identity"):
        return raw
    if coding not in _WINDOW_BITS:
        return b""
    unpacker = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        body = unpacker.decompress(raw, _MOST_BYTES + 1)
    except zlib.error:
        return b""
    return body if len(body) <= _MOST_BYTES else b""


def _read_object(body: bytes) -> dict[str, Json] | None:
    try:
        return read_object(body)
    except MalformedValue:
        return None
