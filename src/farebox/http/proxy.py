"""Proxy: a service that exists already, as an ASGI application that streams both ways.

Rules
1. Where a request goes is decided by the configuration alone; a request chooses a path and a query, never a host.
2. Only what a whole, storable answer to exactly this request needs goes upstream: no hop-by-hop field, no range or
   condition, no other method or path, no proof of payment, nothing about the client that the client says of itself, and
   no name with an underscore, which some servers take for another one.
3. What the configuration sets replaces what the client sent.
4. A paid call goes with the payment's hash as its Idempotency-Key, whatever the caller sends: one payment is one call,
   however often it has to be run, and by this the upstream can tell.
5. When the server says that the client has gone away, the upstream is left too. A paywall does not say so of a paid
   call: who is in front decides how far its answer is read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from farebox.core.errors import ConfigError, MalformedRequest, MethodUnknown, UpstreamFailed
from farebox.core.secret import Secret
from farebox.http.connection import Reply
from farebox.http.request import Message, Receive, Scope, Send, connection_options, raw_path
from farebox.http.sale import SALE, Sale
from farebox.http.upstream import Upstream

Field = tuple[bytes, bytes]

# RFC 9110, 7.6.1, and what came before it. Every Proxy-… field goes too.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"trailers", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_NOT_DOWNSTREAM: Final = _HOP_BY_HOP | {b"date"}  # the server has one of its own
_NOT_UPSTREAM: Final = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"expect"),  # written anew
    *(b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
    *(b"x-http-method-override", b"x-http-method", b"x-method-override"),
    *(b"x-original-url", b"x-rewrite-url"),  # by which some servers are told another path than the one that was paid
    *(b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"fastly-client-ip"),
    *(b"cf-connecting-ip", b"cf-connecting-ipv6", b"x-original-forwarded-for", b"x-originating-ip", b"x-remote-addr"),
}
_NOT_UPSTREAM_PREFIXES: Final = (b"proxy-", b"x-forwarded-", b"x-payment-")
_IDEMPOTENCY_KEY: Final = b"idempotency-key"
_NOT_FORWARDED: Final = frozenset({"CONNECT", "TRACE"})  # a tunnel; and an echo of what the configuration sets
_WITHOUT_BODY: Final = frozenset({204, 304})
_MOST_VERDICTS: Final = 1000
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_REFUSED: Final = 1003  # WebSocket close code: unsupported data


class Proxy:
    """Forwards every HTTP request to one upstream and streams its answer back.

    upstream: `http://host:port` or https, and what its paths begin with. headers: fields to set on what goes upstream,
    such as Authorization. preserve_host: tell the upstream the Host that the client asked for, instead of its own.
    The spans are those of `Upstream`. Raises ConfigError.

    A call raises UpstreamFailed: before `http.response.start` when there is no answer, and after it when the answer
    breaks off; MalformedRequest and MethodUnknown, before anything was sent, for a request that is not forwarded.
    """

    def __init__(
        self,
        upstream: str,
        *,
        headers: Mapping[str, str | Secret[str]] | None = None,
        preserve_host: bool = False,
        connect_timeout: timedelta = timedelta(seconds=5),
        idle_timeout: timedelta = timedelta(seconds=60),
        keep_alive: timedelta = timedelta(seconds=30),
        most_connections: int = 256,
    ) -> None:
        self._upstream = Upstream(
            upstream,
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
            keep_alive=keep_alive,
            most_connections=most_connections,
        )
        self._base_path = self._upstream.origin.base_path
        self._host = (b"host", self._upstream.origin.authority)
        self._settings = [_read_setting(name, value) for name, value in (headers or {}).items()]
        self._ours_set = frozenset(name for name, _ in self._settings if name.startswith(b"x-forwarded-"))
        self._sets_key = any(name == _IDEMPOTENCY_KEY for name, _ in self._settings)
        self._preserve_host = preserve_host
        self._verdicts = {name: False for name, _ in self._settings}  # whether a field goes upstream, by its name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope: http, lifespan, or websocket with a refusal."""
        match scope["type"]:
            case "http":
                await self._forward(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": _REFUSED, "reason": "not offered here"})
            case other:
                raise ValueError(f"unknown ASGI scope: {other}")

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        await self._upstream.aclose()

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method in _NOT_FORWARDED:
            raise MethodUnknown(method=method)
        fields, length = self._request_fields(scope)
        body: bytes | AsyncIterator[bytes] = b""
        if length != 0:
            message = await receive()
            body = _stream(message, receive) if message.get("more_body") else _chunk(message)
        reply = await self._upstream.send(method, self._target(scope), fields, body, length=length)
        listener: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": _answer_fields(reply)})
            more = True
            while more:
                chunk = await reply.read()
                more = not reply.ended
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                if more and listener is None and isinstance(body, bytes):  # else somebody else is receiving
                    listener = asyncio.get_running_loop().create_task(_leave_with_client(receive, reply))
        except UpstreamFailed as failure:
            if failure.evidence.get("reason") != "abandoned":
                raise
        finally:
            if listener is not None:
                listener.cancel()
            reply.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _target(self, scope: Scope) -> bytes:
        path = raw_path(scope)
        if not path.startswith(b"/"):  # absolute-form, authority-form, or *
            raise MalformedRequest("the request target is not a path")
        query: bytes = scope.get("query_string", b"")
        return b"%b%b?%b" % (self._base_path, path, query) if query else self._base_path + path

    def _request_fields(self, scope: Scope) -> tuple[list[Field], int | None]:
        """What goes upstream, and the length of the body that will come; None when only its end will tell."""
        host = connection = b""
        length: int | None = 0 if scope.get("http_version", "1.1") in ("1.0", "1.1") else None
        fields: list[Field] = []
        for field in scope["headers"]:
            name = field[0]
            verdict = self._verdicts.get(name)
            if verdict is None:
                verdict = self._judge(name)
            if verdict:
                fields.append(field)
            elif name == b"host":
                host = field[1]
            elif name == b"connection":
                connection = connection + b"," + field[1] if connection else field[1]
            elif name == b"content-length":
                length = _read_length(field[1])
            elif name == b"transfer-encoding":
                length = None
        if connection:
            fields = _without_named(fields, connection)
        client = scope.get("client")
        if client:
            fields.append((b"x-forwarded-for", client[0].encode()))
        fields.append((b"x-forwarded-proto", scope.get("scheme", "http").encode()))
        if host:
            fields.append((b"x-forwarded-host", host))
        sale: Sale | None = scope.get(SALE)
        if sale is not None and sale.payment_hash is not None and not self._sets_key:
            fields = [field for field in fields if field[0] != _IDEMPOTENCY_KEY]
            fields.append((_IDEMPOTENCY_KEY, sale.payment_hash.encode()))
        fields.append((b"host", host) if host and self._preserve_host else self._host)
        if self._ours_set:
            fields = [field for field in fields if field[0] not in self._ours_set]
        fields += self._settings
        return fields, length

    def _judge(self, name: bytes) -> bool:
        verdict = name not in _NOT_UPSTREAM and b"_" not in name and not name.startswith(_NOT_UPSTREAM_PREFIXES)
        if len(self._verdicts) < _MOST_VERDICTS:
            self._verdicts[name] = verdict
        return verdict


async def _leave_with_client(receive: Receive, reply: Reply) -> None:
    """Give the answer up when its client goes away."""
    with suppress(OSError, RuntimeError):  # a server that can't tell
        for _ in range(2):  # the first may be the empty body, if that was not asked for yet
            if (await receive())["type"] == "http.disconnect":
                reply.close()
                return


async def _stream(message: Message, receive: Receive) -> AsyncIterator[bytes]:
    yield _chunk(message)
    while message.get("more_body"):
        message = await receive()
        yield _chunk(message)


def _chunk(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise MalformedRequest("the client left before the request was over")
    chunk: bytes = message.get("body", b"")
    return chunk


def _answer_fields(reply: Reply) -> list[Field]:
    fields = [field for field in reply.fields if field[0] not in _NOT_DOWNSTREAM and field[0][:6] != b"proxy-"]
    if len(fields) != len(reply.fields):
        fields = _without_named(fields, b",".join([value for name, value in reply.fields if name == b"connection"]))
    if reply.status in _WITHOUT_BODY:  # the length of some other answer, over which servers stumble
        fields = [field for field in fields if field[0] != b"content-length"]
    return fields


def _without_named(fields: list[Field], connection: bytes) -> list[Field]:
    """Take out the fields that a Connection field names."""
    if connection.lower() in (b"", b"keep-alive", b"close"):
        return fields
    named = connection_options(connection)
    return [field for field in fields if field[0] not in named]


def _read_length(value: bytes) -> int:
    if not value.isdigit():
        raise MalformedRequest("Content-Length is not a number")
    return int(value)


def _read_setting(name: str, value: str | Secret[str]) -> Field:
    text = value.reveal() if isinstance(value, Secret) else value
    if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(text):
        raise ConfigError("A header for the upstream has a name or value that can't be in one", header=repr(name))
    field = name.lower().encode()
    if field in _HOP_BY_HOP or field in (b"host", b"content-length"):
        raise ConfigError("This header is not to be set; Host is part of the upstream's URL", header=name)
    return field, text.encode()
