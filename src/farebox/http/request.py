"""A priced HTTP request, read once: the digest that binds a proof to it, and the request without its proof.

Rules
1. What was paid for is the request without its proof: asking, and asking again with the proof, are one request.
2. The digest covers method, scheme, authority, path, query, Content-Type, Accept, chosen headers and the body, each
   with its length in front. HEAD counts as the method it stands for.
3. What the handler or upstream gets is exactly what was digested: the proof is cut out of the bytes, not re-encoded;
   a Connection field must not take a digested field out on the way (RFC 9110, 7.6.1).
4. Everything is bounded, and refused before an invoice is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_plus

from farebox.core.errors import BodyTooLarge, HeadersTooLarge, MalformedCredential, MalformedRequest
from farebox.core.exchange import Json, Pairs, Wire
from farebox.core.json_text import load_json

# What the ASGI specification calls these; `Any` because that is how it types them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

MOST_HEADERS: Final = 100
MOST_HEADER_BYTES: Final = 16 * 1024
_DIGESTED: Final = (b"content-type", b"accept")
_MOST_MEMBERS: Final = 256
_NOTHING_DIGEST: Final = hashlib.sha256(b"").digest()
_NO_MEMBERS: Final[Mapping[str, Json]] = MappingProxyType({})
_PROBE: Final = b"l402=require"
# A paid answer has to be the whole one, and the one for the request that was digested.
_DROPPED: Final = frozenset(
    (
        *(b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
        *(b"expect", b"content-length", b"transfer-encoding"),  # the body is read whole; its length is told anew
    )
)
_OVERRIDES: Final = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))


class Disconnected(Exception):
    """The caller went away before the request was whole."""


class PricedRequest(NamedTuple):
    """A request without its proof.

    method: the one it stands for (`GET` for a HEAD). arrived: every header field, as it was sent.
    shown: the headers, query and members that may be a proof.
    authorization: the Authorization value, if that is the only place where a proof can be.
    forced: `?l402=require`, or `Prefer: l402=require`.
    """

    method: str
    arrived: RawHeaders
    query: bytes
    body: bytes
    shown: tuple[Pairs, Pairs, Mapping[str, Json]]
    digest: bytes
    authorization: str | None
    forced: bool

    def __repr__(self) -> str:
        return f"PricedRequest(method={self.method!r}, digest={self.digest.hex()})"  # the rest is the caller's

    @property
    def wire(self) -> Wire:
        """What dialects read a proof from, and nothing else."""
        headers, query, body = self.shown
        return Wire(headers=headers, query=query, body=body)

    @property
    def has_content(self) -> bool:
        """Whether the body says anything; what a directory's probe sends does not."""
        return self.body.strip() not in (b"", b"{}")


class _Kind(Enum):
    DROPPED = auto()
    PROOF = auto()
    PREFER = auto()
    AUTHORIZATION = auto()
    DIGESTED = auto()
    HOST = auto()
    OVERRIDE = auto()
    UPGRADE = auto()
    CONNECTION = auto()


_NOT_PASSED_ON: Final = (_Kind.DROPPED, _Kind.PROOF, _Kind.UPGRADE)


class Reader:
    """Reads priced requests.

    proof_headers, proof_fields: what carries nothing but a proof, as the dialects say.
    authority: `https://host` as the public knows it; None to take scheme and Host from the request.
    most_body: bytes. vary: further headers that make it another request.
    """

    def __init__(
        self,
        *,
        proof_headers: frozenset[str],
        proof_fields: frozenset[str],
        authority: str | None = None,
        most_body: int = 1024 * 1024,
        vary: Sequence[str] = (),
    ) -> None:
        self.most_body = most_body
        self._proof_fields = proof_fields
        self._authority = None if authority is None else authority.encode()
        self._digested = (*_DIGESTED, *(name.lower().encode() for name in vary))
        self._kinds: dict[bytes, _Kind] = {
            **dict.fromkeys(_DROPPED, _Kind.DROPPED),
            **dict.fromkeys(_OVERRIDES, _Kind.OVERRIDE),
            b"prefer": _Kind.PREFER,
            **dict.fromkeys(self._digested, _Kind.DIGESTED),
            b"host": _Kind.HOST,
            b"upgrade": _Kind.UPGRADE,
            b"connection": _Kind.CONNECTION,
            b"authorization": _Kind.AUTHORIZATION,
            **{name.encode(): _Kind.PROOF for name in proof_headers},
        }

    async def read(self, scope: Scope, receive: Receive, method: str) -> PricedRequest:
        """The request, whole. Raises a CallerError, or Disconnected."""
        # Only what announces a body is refused before it is read; the rest is counted while it is.
        announced = scope["headers"] if method != "GET" else []
        return self.take(scope, await read_body(announced, receive, self.most_body), method)

    def take(self, scope: Scope, body: bytes, method: str) -> PricedRequest:
        """The same for a body that was read already."""
        headers: RawHeaders = scope["headers"]
        shown, told = self._look_through(headers)
        query: bytes = scope["query_string"]
        query_proof: Pairs = ()
        forced = False
        if query:
            query, query_proof, forced = self._cut_query(query)
        if (
            b"prefer" in told
        ):  # RFC 7240: for a caller that may not touch the query, because it does not know the seller
            forced = forced or _PROBE in (part.strip() for part in told[b"prefer"].split(b","))
        body_proof: Mapping[str, Json] = _NO_MEMBERS
        if body:
            body, body_proof = self._cut_body(body)
        authority = self._authority or scope["scheme"].encode() + b"://" + told.get(b"host", b"").lower()
        parts = [b"farebox request 1", method.encode(), authority, raw_path(scope), query]
        parts += [told.get(name, b"\x00") for name in self._digested]
        parts.append(hashlib.sha256(body).digest() if body else _NOTHING_DIGEST)
        lengths = struct.pack(f">{len(parts)}I", *map(len, parts))
        alone = len(shown) == 1 and not query_proof and not body_proof and shown[0][0] == "authorization"
        return PricedRequest(
            method,
            headers,
            query,
            body,
            (tuple(shown), query_proof, body_proof),
            hashlib.sha256(lengths + b"".join(parts)).digest(),
            shown[0][1] if alone else None,
            forced,
        )

    def passed_on(self, request: PricedRequest) -> RawHeaders:
        """The header fields of the request without its proof; whether `authorization` is one is for others to judge."""
        lowered = [(name.lower(), value) for name, value in request.arrived]
        kept = [pair for pair in lowered if self._kinds.get(pair[0]) not in _NOT_PASSED_ON]
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            kept.append((b"content-length", b"%d" % len(request.body)))
        return kept

    def _look_through(self, headers: RawHeaders) -> tuple[list[tuple[str, str]], dict[bytes, bytes]]:
        """The header fields that may be a proof, and those that the digest covers."""
        shown: list[tuple[str, str]] = []
        told: dict[bytes, bytes] = {}
        size, kind_of = 0, self._kinds.get
        for given, value in headers:
            size += len(given) + len(value)
            kind = kind_of(given)
            name = given
            if kind is None:  # servers write names in lower case; whoever does not is looked up once more
                name = given.lower()
                kind = kind_of(name)
                if kind is None:
                    continue
            if kind is _Kind.DIGESTED or kind is _Kind.PREFER:
                told[name] = told[name] + b"," + value if name in told else value
            elif kind is _Kind.HOST:
                if b"host" in told:
                    raise MalformedRequest("more than one Host header")
                told[b"host"] = value
            elif kind is _Kind.AUTHORIZATION or kind is _Kind.PROOF:
                shown.append((name.decode("latin-1"), value.decode("latin-1")))
            elif kind is _Kind.CONNECTION:
                if not connection_options(value).isdisjoint(self._digested):
                    raise MalformedRequest("Connection names a header field that is meant for the whole way")
            elif kind is _Kind.OVERRIDE:
                raise MalformedRequest(f"{name.decode()} is not honoured here; send the method itself")
        if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
            raise HeadersTooLarge(f"at most {MOST_HEADERS} fields of {MOST_HEADER_BYTES} bytes together")
        return shown, told

    def _cut_query(self, query: bytes) -> tuple[bytes, Pairs, bool]:
        kept: list[bytes] = []
        proof: list[tuple[str, str]] = []
        forced = False
        for part in query.split(b"&"):
            raw_name, _, raw_value = part.partition(b"=")
            name = unquote_plus(raw_name.decode("latin-1"))
            if name in self._proof_fields:
                proof.append((name, unquote_plus(raw_value.decode("latin-1"))))
            elif part == _PROBE:
                forced = True
            else:
                kept.append(part)
        return b"&".join(kept), tuple(proof), forced

    def _cut_body(self, body: bytes) -> tuple[bytes, dict[str, Json]]:
        if body[:1] not in (b"{", b" ", b"\n", b"\r", b"\t") or not any(
            field.encode() in body for field in self._proof_fields
        ):
            return body, {}
        try:
            text = body.decode()
            members = list(_members(text))
        except ValueError:
            return body, {}  # not JSON, so no member of it is a proof; whoever reads it will say what is wrong
        proof: dict[str, Json] = {}
        for name, value, start, end in reversed(members):
            if name in self._proof_fields:
                if name in proof:
                    raise MalformedCredential(f"`{name}` is given twice in the body")
                proof[name] = value
                text = text[:start] + text[end:]
        return text.encode(), proof


_BLANK: Final = re.compile(r"[ \t\n\r]*")


def _members(text: str) -> Iterable[tuple[str, Json, int, int]]:
    """The members of a JSON object: name, value, and the span to cut so that an object remains.

    Raises ValueError when the text is not one JSON object.
    """
    decoder = json.JSONDecoder()
    if not isinstance(load_json(text), dict):
        raise ValueError("not an object")

    def after_blank(at: int) -> int:
        match = _BLANK.match(text, at)
        return match.end() if match else at

    at = comma = after_blank(text.index("{") + 1)
    for _ in range(_MOST_MEMBERS):
        name, name_end = decoder.raw_decode(text, at)
        value, end = decoder.raw_decode(text, after_blank(after_blank(name_end) + 1))
        following = after_blank(end)
        last = text[following] != ","
        behind = end if last else after_blank(following + 1)
        # The first member goes with the comma behind it, any other with the comma in front.
        yield name, value, comma, behind if comma == at else end
        if last:
            return
        comma, at = following, behind
    raise ValueError("too many members")  # to look at each of them for a proof that nobody puts behind so many


def overrides_method(scope: Scope) -> bool:
    """Whether a request says that it means another method than its own."""
    return any(name.lower() in _OVERRIDES for name, _ in scope["headers"]) or b"_method=" in scope["query_string"]


def connection_options(value: bytes) -> set[bytes]:
    """What a Connection field names, in lower case (RFC 9110, 7.6.1)."""
    return {option.strip() for option in value.lower().split(b",")}


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent, percent-encoding and all."""
    raw = scope.get("raw_path")
    return bytes(raw) if raw else scope["path"].encode()


async def read_body(headers: RawHeaders, receive: Receive, most: int) -> bytes:
    """The whole body of at most so many bytes. Raises BodyTooLarge, Disconnected."""
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit() and int(value[:20]) > most:
            raise BodyTooLarge(f"at most {most} bytes")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise BodyTooLarge(f"at most {most} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunk


def body_then(body: bytes, receive: Receive | None) -> Receive:
    """A receive that gives the body once, and then waits: the call is not told when its caller goes away."""
    given = False

    async def receive_body() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        if receive is not None:
            return await receive()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    return receive_body
