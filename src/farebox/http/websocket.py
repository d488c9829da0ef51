"""Websockets that stay open, over which a backend says that there is something to ask for.

Rules
1. What is said is counted and dropped: it is nobody's proof. A message that is too large ends the connection.
2. Whoever opens a websocket is told to ask at once, for what was said before was missed. What is said between two calls
   is not missed.
3. A connection on which nobody answers a ping is closed. One that can't be made, or that ended soon, is tried again
   after a while; until then there is none, and whoever asks is told so at once.
4. A redirect is not followed: the headers hold a password.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from farebox.core.conversation import HttpReply, WakeCall
from farebox.nostr.trouble import reason_of

MOST_MESSAGE_BYTES: Final = 64 * 1024
AGAIN_AFTER: Final = timedelta(seconds=10)
_PING_EVERY_S: Final = 10.0
_CONNECT_WITHIN_S: Final = 5.0
_CLOSE_WITHIN_S: Final = 1.0
_OK, _NOTHING = 200, 204
_ENDED: Final = "the websocket was closed"


class Websockets:
    """The websockets that were waited on so far, which stay open. For one event loop.

    trusted: makes what `wss` is checked by. again_after: between two tries to open one that does not last.
    """

    def __init__(self, trusted: Callable[[], ssl.SSLContext], *, again_after: timedelta = AGAIN_AFTER) -> None:
        self._trusted = trusted
        self._again_after = again_after
        self._kept: dict[str, _Websocket] = {}

    async def wait(self, call: WakeCall) -> HttpReply:
        """Whether there is something to ask for, as WakeCall has it."""
        kept = self._kept.get(call.url)
        if kept is None:
            kept = self._kept[call.url] = _Websocket(self._again_after)
        tls = self._trusted() if call.url.startswith("wss:") else None
        return await kept.wait(call, tls)

    async def aclose(self) -> None:
        """Close them."""
        kept, self._kept = self._kept, {}
        await asyncio.gather(*[each.aclose() for each in kept.values()])


class _Websocket:
    def __init__(self, again_after: timedelta) -> None:
        self._again_after_s = again_after.total_seconds()
        self._not_before_s = float("-inf")
        self._why_not = HttpReply(status=0, sent=False)
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._said = asyncio.Event()
        self._opening = asyncio.Lock()

    async def wait(self, call: WakeCall, tls: ssl.SSLContext | None) -> HttpReply:
        async with self._opening:
            if self._reader is None or self._reader.done():
                return await self._open(call, tls)
        saying = asyncio.ensure_future(self._said.wait())
        try:
            await asyncio.wait(
                (saying, self._reader), timeout=call.timeout.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            saying.cancel()
        if self._said.is_set():
            self._said.clear()
            return HttpReply(status=_OK)
        return HttpReply(status=0, reason=_ENDED) if self._reader.done() else HttpReply(status=_NOTHING)

    async def aclose(self) -> None:
        if self._socket is not None and self._reader is not None:
            await self._socket.close()
            await self._reader

    async def _open(self, call: WakeCall, tls: ssl.SSLContext | None) -> HttpReply:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before_s:
            return self._why_not
        self._not_before_s = loop.time() + self._again_after_s
        headers = [] if call.headers is None else [_read(line) for line in call.headers.reveal().splitlines()]
        try:
            self._socket = await _Connect(
                call.url,
                ssl=tls,
                additional_headers=headers,
                open_timeout=_CONNECT_WITHIN_S,
                close_timeout=_CLOSE_WITHIN_S,
                ping_interval=_PING_EVERY_S,
                ping_timeout=_PING_EVERY_S,
                max_size=MOST_MESSAGE_BYTES,
                compression=None,
                proxy=None,
                user_agent_header=None,
            )
        except InvalidStatus as refusal:
            self._why_not = HttpReply(status=refusal.response.status_code)
            return self._why_not
        except (OSError, WebSocketException) as trouble:
            self._why_not = HttpReply(status=0, sent=False, reason=reason_of(trouble))
            return self._why_not
        self._why_not = HttpReply(status=0, reason=_ENDED)
        self._said.clear()
        self._reader = asyncio.create_task(self._read(self._socket))
        return HttpReply(status=_OK)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for _ in socket:
                self._said.set()
        except ConnectionClosed:
            pass


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _read(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()
