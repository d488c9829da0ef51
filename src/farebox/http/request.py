"""A priced HTTP request, read once: the digest that binds a proof to it, and the request without its proof.

Rules
1. What was paid for is the request without its proof: asking, and asking again with the proof, are one request.
2. The digest covers method, scheme, authority, path, query, Content-Type, Accept, chosen headers and the body, each
   with its length in front. HEAD counts as the method it stands for.
3. What the handler or upstream gets is exactly what was digested: the proof is cut out of the bytes, not re-encoded.
4. Everything is bounded, and refused before an invoice is made.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from farebox.core.errors import BodyTooLarge, HeadersTooLarge, MalformedCredential, MalformedRequest
from farebox.core.exchange import Json, Pairs, Wire

# What the ASGI specification calls these; `Any` because that is how it types them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

_MOST_HEADERS: Final = 100
_MOST_HEADER_BYTES: Final = 16 * 1024
_DIGESTED: Final = (b"content-type", b"accept")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRequest:
    """A request without its proof.

    method: the one it stands for (`GET` for a HEAD). wire: where dialects look for the proof.
    forced: `?l402=require` was given.
    """

    method: str
    headers: RawHeaders
    query: bytes
    body: bytes
    wire: Wire
    digest: bytes
    forced: bool

    @property
    def has_content(self) -> bool:
        """Whether the body says anything; what a directory's probe sends does not."""
        return self.body.strip() not in (b"", b"{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads priced requests.

    proof_headers, proof_fields: what carries nothing but a proof, as the dialects say.
    authority: `https://host` as the public knows it; None to take scheme and Host from the request.
    most_body: bytes.
    """

    proof_headers: frozenset[str]
    proof_fields: frozenset[str]
    authority: str | None = None
    most_body: int = 1024 * 1024
    vary: tuple[bytes, ...] = ()

    async def read(self, scope: Scope, receive: Receive, method: str) -> PricedRequest:
        """The request, whole. Raises a CallerError, or Disconnected."""
        return self.take(scope, await read_body(scope["headers"], receive, self.most_body), method)

    def take(self, scope: Scope, body: bytes, method: str) -> PricedRequest:
        """The same for a body that was read already."""
        headers: RawHeaders = scope["headers"]
        _check_headers(headers)
        texts = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
        query, query_proof, forced = self._cut_query(scope["query_string"])
        body, body_proof = self._cut_body(body)
        kept = [
            (lower, value)
            for lower, value in ((name.lower(), value) for name, value in headers)
            if lower not in _DROPPED and lower.decode("latin-1") not in self.proof_headers
        ]
        if body or method in ("POST", "PUT", "PATCH"):
            kept.append((b"content-length", str(len(body)).encode()))
        return PricedRequest(
            method=method,
            headers=kept,
            query=query,
            body=body,
            wire=Wire(headers=texts, query=query_proof, body=body_proof),
            digest=self._digest(scope, method, kept, query, body),
            forced=forced,
        )

    def _digest(self, scope: Scope, method: str, headers: RawHeaders, query: bytes, body: bytes) -> bytes:
        names = _DIGESTED + self.vary
        told: dict[bytes, bytes] = {}
        host = b""
        for name, value in headers:
            if name in names:
                told[name] = told[name] + b"," + value if name in told else value
            elif name == b"host":
                host = value
        authority = self.authority.encode() if self.authority else scope["scheme"].encode() + b"://" + host.lower()
        fields = [b"farebox request 1", method.encode(), authority, raw_path(scope), query]
        fields += [told.get(name, b"\x00") for name in names]
        fields.append(hashlib.sha256(body).digest())
        return hashlib.sha256(b"".join([len(part).to_bytes(4, "big") + part for part in fields])).digest()

    def _cut_query(self, query: bytes) -> tuple[bytes, Pairs, bool]:
        if not query:
            return query, (), False
        kept: list[bytes] = []
        proof: list[tuple[str, str]] = []
        forced = False
        for part in query.split(b"&"):
            raw_name, _, raw_value = part.partition(b"=")
            name = unquote_plus(raw_name.decode("latin-1"))
            if name in self.proof_fields:
                proof.append((name, unquote_plus(raw_value.decode("latin-1"))))
            elif part == _PROBE:
                forced = True
            else:
                kept.append(part)
        return b"&".join(kept), tuple(proof), forced

    def _cut_body(self, body: bytes) -> tuple[bytes, dict[str, Json]]:
        if body[:1] not in (b"{", b" ", b"\n", b"\r", b"\t") or not any(
            field.encode() in body for field in self.proof_fields
        ):
            return body, {}
        try:
            text = body.decode()
            members = list(_members(text))
        except (ValueError, RecursionError):
            return body, {}  # not JSON, so no member of it is a proof; whoever reads it will say what is wrong
        proof: dict[str, Json] = {}
        for name, value, start, end in reversed(members):
            if name in self.proof_fields:
                if name in proof:
                    raise MalformedCredential(f"`{name}` is given twice in the body")
                proof[name] = value
                text = text[:start] + text[end:]
        return text.encode(), proof


_BLANK: Final = re.compile(r"[ \t\n\r]*")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


def _members(text: str) -> Iterable[tuple[str, Json, int, int]]:
    """The members of a JSON object: name, value, and the span to cut so that an object remains.

    Raises ValueError when the text is not one JSON object.
    """
    decoder = json.JSONDecoder()
    if not isinstance(decoder.decode(text), dict):
        raise ValueError("not an object")

    def after_blank(at: int) -> int:
        match = _BLANK.match(text, at)
        return match.end() if match else at

    at = comma = after_blank(text.index("{") + 1)
    while text[at] != "}":
        name_at = _STRING.match(text, at)
        if name_at is None:
            raise ValueError("no member name")
        value, end = decoder.raw_decode(text, after_blank(after_blank(name_at.end()) + 1))
        following = after_blank(end)
        last = text[following] != ","
        behind = end if last else after_blank(following + 1)
        # The first member goes with the comma behind it, any other with the comma in front.
        yield json.loads(name_at[0]), value, comma, behind if comma == at else end
        if last:
            return
        comma, at = following, behind


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent, percent-encoding and all."""
    raw = scope.get("raw_path")
    return bytes(raw) if raw else scope["path"].encode()


def _check_headers(headers: RawHeaders) -> None:
    if len(headers) > _MOST_HEADERS or sum([len(name) + len(value) for name, value in headers]) > _MOST_HEADER_BYTES:
        raise HeadersTooLarge(f"at most {_MOST_HEADERS} fields of {_MOST_HEADER_BYTES} bytes together")
    hosts = 0
    for name, _ in headers:
        lower = name.lower()
        if lower in _OVERRIDES:
            raise MalformedRequest(f"{lower.decode()} is not honoured here; send the method itself")
        hosts += lower == b"host"
    if hosts > 1:
        raise MalformedRequest("more than one Host header")


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
