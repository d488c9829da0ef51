"""Carry a conversation with a node or wallet to its end: two short drivers of one story.

Rules
1. The conversation decides; a driver only sends what it is handed and says what came back.
2. What surely never left is `sent=False`. Every other trouble may have reached the backend, and says so.
3. A reply is read as it comes, up to 1 MiB, without decompressing it and without following a redirect. (A transport
   that has no socket may hand over a reply that is in memory already; then only the limit is left to keep.)
4. Being cancelled while waiting is no reply: it goes up to the caller, and the conversation is closed where it stands.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, TypeVar

from farebox.core.ports import Conversation, HttpCall, HttpReply

if TYPE_CHECKING:
    import httpx
    import httpx2

T = TypeVar("T")

MOST_REPLY_BYTES: Final = 2**20
_LIBRARIES: Final = frozenset({"httpx", "httpx2"})
_NEVER_SENT: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")


def converse(conversation: Conversation[T], client: httpx.Client | httpx2.Client | None = None) -> T:
    """The outcome of a conversation, asking the backend with a blocking client of httpx or httpx2.

    A conversation that asks nothing needs no client; TypeError for one that does and has none.
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


async def aconverse(conversation: Conversation[T], client: httpx.AsyncClient | httpx2.AsyncClient | None = None) -> T:
    """The outcome of a conversation, asking the backend with an awaiting client of httpx or httpx2.

    A conversation that asks nothing needs no client; TypeError for one that does and has none.
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


def _exchange(call: HttpCall, client: httpx.Client | httpx2.Client | None) -> HttpReply:
    if client is None:
        raise TypeError("this backend is asked over HTTP: it needs a client")
    never_sent, troubles = _troubles(client)
    try:
        with client.stream(
            call.method,
            call.url,
            headers=_headers(call),
            content=call.body,
            timeout=_timeout(call),
            auth=None,
            follow_redirects=False,
        ) as response:
            body = bytearray()
            for chunk in response.iter_bytes() if response.is_stream_consumed else response.iter_raw():
                body += chunk
                if len(body) > MOST_REPLY_BYTES:
                    return _too_large()
            return HttpReply(status=response.status_code, body=bytes(body))
    except troubles as trouble:
        return _no_reply(trouble, never_sent)


async def _aexchange(call: HttpCall, client: httpx.AsyncClient | httpx2.AsyncClient | None) -> HttpReply:
    if client is None:
        raise TypeError("this backend is asked over HTTP: it needs a client")
    never_sent, troubles = _troubles(client)
    try:
        async with client.stream(
            call.method,
            call.url,
            headers=_headers(call),
            content=call.body,
            timeout=_timeout(call),
            auth=None,
            follow_redirects=False,
        ) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw():
                body += chunk
                if len(body) > MOST_REPLY_BYTES:
                    return _too_large()
            return HttpReply(status=response.status_code, body=bytes(body))
    except troubles as trouble:
        return _no_reply(trouble, never_sent)


def _headers(call: HttpCall) -> dict[str, str]:
    """Compressed replies are not asked for: a small one can unfold to more than the memory there is."""
    headers = {"accept-encoding": "identity"}
    if call.headers is not None:
        for line in call.headers.reveal().splitlines():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    return headers


def _timeout(call: HttpCall) -> float | None:
    return None if call.timeout is None else call.timeout.total_seconds()


def _no_reply(trouble: Exception, never_sent: tuple[type[Exception], ...]) -> HttpReply:
    """The class says what happened; the text of a transport error may quote what was sent."""
    return HttpReply(status=0, sent=not isinstance(trouble, never_sent), reason=type(trouble).__name__)


def _too_large() -> HttpReply:
    return HttpReply(status=0, sent=True, reason=f"the reply is larger than {MOST_REPLY_BYTES} bytes")


def _troubles(client: object) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What the client's own library raises before anything was sent, and whenever a request does not go through.

    The library is found through the client's class, so that neither has to be installed for the other's sake.
    """
    for kind in type(client).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in _LIBRARIES:
            module = sys.modules[library]
            never_sent: tuple[type[Exception], ...] = tuple(getattr(module, name) for name in _NEVER_SENT)
            return never_sent, (module.TransportError,)
    raise TypeError("the client is neither of httpx nor of httpx2")
