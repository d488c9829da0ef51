"""Carry a conversation with a node or wallet to its end: two short drivers of one story.

Rules
1. The conversation decides; a driver only sends what it is handed and says what came back.
2. What surely never left is `sent=False`. Every other trouble may have reached the backend, and says so.
3. A reply is read as it comes, up to 1 MiB, without decompressing it and without following a redirect. (A transport
   that has no socket may hand over a reply that is in memory already; then only the limit is left to keep.)
4. A line of its own (a certificate that is pinned, a unix socket) has a client of its own, for nothing else.
   Websockets are kept open by `Lines` only: whoever else is asked to wait on one says that there is none.
5. Being cancelled while waiting is no reply: it goes up to the caller, and the conversation is closed where it stands.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from farebox.core.conversation import (
    Call,
    Conversation,
    HttpCall,
    HttpReply,
    Line,
    ListenCall,
    RelayCall,
    WakeCall,
)
from farebox.http.unix_rpc import aask_unix_rpc, ask_unix_rpc, is_unix_rpc

if TYPE_CHECKING:
    import httpx
    import httpx2

    from farebox.http.websocket import Websockets
    from farebox.nostr.relay import Relays

C = TypeVar("C")
T = TypeVar("T")

MOST_REPLY_BYTES: Final = 2**20
_LIBRARIES: Final = frozenset({"httpx", "httpx2"})
_LINE_END: Final = b"\n"
_NO_WEBSOCKET: Final = HttpReply(status=0, sent=False, reason="no websocket is kept open")
_NEVER_SENT: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")


class Lines:
    """What backends are asked over, opened when first needed: a client of httpx for each line, websockets, relays."""

    def __init__(self) -> None:
        self._clients: dict[Line | None, httpx.AsyncClient] = {}
        self._websockets: Websockets | None = None
        self._relays: Relays | None = None

    def __call__(self, line: Line | None) -> httpx.AsyncClient:
        """The client for a line. Raises OSError for a certificate that is none."""
        client = self._clients.get(line)
        if client is None:
            import httpx

            client = self._clients[line] = _opened(httpx, httpx.AsyncClient, line)
        return client

    @property
    def websockets(self) -> Websockets:
        """The websockets that were waited on so far, which stay open."""
        if self._websockets is None:
            import httpx

            from farebox.http.websocket import Websockets

            self._websockets = Websockets(lambda: trust(httpx, None))
        return self._websockets

    @property
    def relays(self) -> Relays:
        """The relays that were asked so far, which stay connected."""
        if self._relays is None:
            from farebox.nostr.relay import Relays

            self._relays = Relays()
        return self._relays

    async def aclose(self) -> None:
        """Close them."""
        for client in self._clients.values():
            await client.aclose()
        if self._websockets is not None:
            await self._websockets.aclose()
        if self._relays is not None:
            await self._relays.aclose()


def converse(conversation: Conversation[T], client: httpx.Client | httpx2.Client | None = None) -> T:
    """The outcome of a conversation, asking the backend with a blocking client of httpx or httpx2.

    What needs a line of its own is asked with a client of the same library that is opened for it. A conversation that
    asks nothing needs no client; TypeError for one that does and has none.
    """
    try:
        call = next(conversation)
        while True:
            call = conversation.send(_exchange(call, client))
    except StopIteration as end:
        outcome: T = end.value
        return outcome
    finally:
        conversation.close()


async def aconverse(
    conversation: Conversation[T],
    client: httpx.AsyncClient | httpx2.AsyncClient | Lines | None = None,
) -> T:
    """The outcome of a conversation, asking the backend with an awaiting client of httpx or httpx2, or with lines.

    What needs a line of its own is asked with a client of the same library that is opened for it. A conversation that
    asks nothing needs no client; TypeError for one that does and has none.
    """
    try:
        call = next(conversation)
        while True:
            call = conversation.send(await _aexchange(call, client))
    except StopIteration as end:
        outcome: T = end.value
        return outcome
    finally:
        conversation.close()


def _exchange(call: Call, client: httpx.Client | httpx2.Client | None) -> HttpReply:
    if isinstance(call, RelayCall | ListenCall):
        from farebox.nostr.call import carry

        return carry(call)
    if isinstance(call, WakeCall):
        return _NO_WEBSOCKET
    if is_unix_rpc(call):
        return ask_unix_rpc(call, most_bytes=MOST_REPLY_BYTES)
    if client is None:
        raise TypeError("this backend is asked over HTTP: it needs a client")
    if call.line is None:
        return _ask(call, client)
    library = _library(client)
    try:
        own = _opened(library, library.Client, call.line)
    except OSError as trouble:
        return _no_line(trouble)
    with own:
        return _ask(call, own)


def _ask(call: HttpCall, client: httpx.Client | httpx2.Client) -> HttpReply:
    never_sent, troubles = _troubles(client)
    body = bytearray()
    try:
        with client.stream(**_request(call)) as response:
            for chunk in response.iter_bytes() if response.is_stream_consumed else response.iter_raw():
                body += chunk
                if call.endless is not None and body.endswith(_LINE_END):
                    break
                if len(body) > MOST_REPLY_BYTES:
                    return _too_large()
            return HttpReply(status=response.status_code, body=bytes(body))
    except troubles as trouble:
        return _no_reply(trouble, never_sent)


async def _aexchange(call: Call, client: httpx.AsyncClient | httpx2.AsyncClient | Lines | None) -> HttpReply:
    if isinstance(call, RelayCall | ListenCall):
        from farebox.nostr.call import acarry

        return await acarry(call, client.relays if isinstance(client, Lines) else None)
    if isinstance(call, WakeCall):
        return await client.websockets.wait(call) if isinstance(client, Lines) else _NO_WEBSOCKET
    if is_unix_rpc(call):
        return await aask_unix_rpc(call, most_bytes=MOST_REPLY_BYTES)
    if client is None:
        raise TypeError("this backend is asked over HTTP: it needs a client")
    try:
        if isinstance(client, Lines):
            return await _aask(call, client(call.line))
        if call.line is None:
            return await _aask(call, client)
        library = _library(client)
        own = _opened(library, library.AsyncClient, call.line)
    except OSError as trouble:
        return _no_line(trouble)
    async with own:
        return await _aask(call, own)


async def _aask(call: HttpCall, client: httpx.AsyncClient | httpx2.AsyncClient) -> HttpReply:
    never_sent, troubles = _troubles(client)
    body = bytearray()
    try:
        async with client.stream(**_request(call)) as response:
            chunks = response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()
            if call.endless is not None:
                body = await _read_endless(chunks, call.endless)
            else:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MOST_REPLY_BYTES:
                        return _too_large()
            return HttpReply(status=response.status_code, body=bytes(body))
    except troubles as trouble:
        return _no_reply(trouble, never_sent)


async def _read_endless(chunks: AsyncIterator[bytes], silence: timedelta) -> bytearray:
    """The whole lines that come before the first silence after one of them, or that are as many as a reply may have."""
    body = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            async for chunk in chunks:
                body += chunk
                if len(body) > MOST_REPLY_BYTES:
                    break
                if body.endswith(_LINE_END):
                    limit.reschedule(asyncio.get_running_loop().time() + silence.total_seconds())
    return body[: body.rfind(_LINE_END) + 1]


def _request(call: HttpCall) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.url,
        "headers": _headers(call),
        "content": call.body,
        "timeout": None if call.timeout is None else call.timeout.total_seconds(),
        "auth": None,
        "follow_redirects": False,
    }


def _headers(call: HttpCall) -> dict[str, str]:
    """Compressed replies are not asked for: a small one can unfold to more than the memory there is."""
    headers = {"accept-encoding": "identity"}
    if call.headers is not None:
        for line in call.headers.reveal().splitlines():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    return headers


def _no_reply(trouble: Exception, never_sent: tuple[type[Exception], ...]) -> HttpReply:
    """The class says what happened; the text of a transport error may quote what was sent."""
    return HttpReply(status=0, sent=not isinstance(trouble, never_sent), reason=_reason(trouble))


def _reason(trouble: BaseException) -> str:
    from farebox.nostr.trouble import reason_of

    return reason_of(trouble)


def _too_large() -> HttpReply:
    return HttpReply(status=0, sent=True, reason=f"the reply is larger than {MOST_REPLY_BYTES} bytes")


def _no_line(trouble: OSError) -> HttpReply:
    return HttpReply(status=0, sent=False, reason=_reason(trouble))


def _troubles(client: object) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What the client's own library raises before anything was sent, and whenever a request does not go through."""
    library = _library(client)
    never_sent: tuple[type[Exception], ...] = tuple(getattr(library, name) for name in _NEVER_SENT)
    return never_sent, (library.TransportError,)


def _library(client: object) -> Any:
    """The client's own library, found through its class, so that neither has to be installed for the other's sake."""
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return sys.modules[name]
    raise TypeError("the client is neither of httpx nor of httpx2")


def _opened(library: Any, kind: Callable[..., C], line: Line | None) -> C:
    """A client for a line. Raises OSError, which ssl's errors are, for a certificate that is none."""
    believed = trust(library, None if line is None else line.certificate)
    transport = None
    if line is not None and line.socket is not None:
        awaiting = issubclass(kind, library.AsyncClient) if isinstance(kind, type) else False
        transport = (library.AsyncHTTPTransport if awaiting else library.HTTPTransport)(uds=line.socket)
    return kind(verify=believed, transport=transport, follow_redirects=False, trust_env=False)


@lru_cache(maxsize=16)
def trust(library: Any, certificate: str | None) -> ssl.SSLContext:
    """Which certificates a library's clients believe; loading them takes longer than a payment on loopback.

    certificate: PEM of the only one; None for the authorities that the library knows.
    """
    if certificate is not None:
        return ssl.create_default_context(cadata=certificate)
    known: ssl.SSLContext = library.create_ssl_context(trust_env=False)
    return known
