"""Ear: listens to an author over relays for as long as they are kept, and remembers what came until it is asked for.

Rules
1. An event is verified before it is handed over, as an answer is, and once, however many relays tell it.
2. Relays are not believed: of what comes faster than it is asked for, the oldest is forgotten, and what is too large
   is not heard.
3. A relay that can't be reached, or ends the connection, is tried again for ever, less and less often.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from farebox.core.conversation import HttpReply, ListenCall
from farebox.core.exchange import Json
from farebox.nostr.call import accepts
from farebox.nostr.event import read_event
from farebox.nostr.link import Link
from farebox.nostr.trouble import reason_of

_PAUSE_S, _MOST_PAUSE_S = 0.1, 5.0
_MOST_KEPT: Final = 50
_MOST_KNOWN: Final = 500
_MOST_CHARACTERS: Final = 16 * 1024
_OK, _NOTHING = 200, 204


class Ear:
    """Listens from now on. link_of: the connection to a relay; it raises OSError, or the library's own error."""

    def __init__(self, call: ListenCall, link_of: Callable[[str], Awaitable[Link]]) -> None:
        self._call = call
        self._link_of = link_of
        self._loop = asyncio.get_running_loop()
        self._kept: deque[str] = deque(maxlen=_MOST_KEPT)
        self._known: deque[str] = deque(maxlen=_MOST_KNOWN)
        self._came = asyncio.Event()
        self._listening = 0
        self._trouble = ""
        self._tasks = [asyncio.create_task(self._listen_at(url)) for url in dict.fromkeys(call.relays)]

    @property
    def alive(self) -> bool:
        """Whether it listens, in this event loop."""
        return self._loop is asyncio.get_running_loop()

    async def hear(self, within: timedelta) -> HttpReply:
        """What came since it was asked last, as ListenCall has it."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._came.wait()
        except TimeoutError:
            if self._listening:
                return HttpReply(status=_NOTHING)
            return HttpReply(status=0, sent=False, reason=self._trouble or "Timeout")
        self._came.clear()
        body = f"[{','.join(self._kept)}]"
        self._kept.clear()
        return HttpReply(status=_OK, body=body.encode())

    async def aclose(self) -> None:
        """Listen no more."""
        if self.alive:  # of another loop, there is nothing left to end
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen_at(self, url: str) -> None:
        from websockets.exceptions import WebSocketException

        pause_s = _PAUSE_S
        while True:
            began_s = self._loop.time()
            try:
                await self._listen_over(await self._link_of(url))
            except (OSError, WebSocketException, ValueError) as trouble:  # ValueError: a URL that can't be one
                self._trouble = reason_of(trouble)
            lasted = self._loop.time() - began_s > _MOST_PAUSE_S
            await asyncio.sleep(_PAUSE_S if lasted else pause_s)
            pause_s = _PAUSE_S if lasted else min(2 * pause_s, _MOST_PAUSE_S)

    async def _listen_over(self, link: Link) -> None:
        call = self._call
        wanted: Json = {"kinds": list(call.kinds), "authors": [call.author], "#p": [call.addressed], "limit": 0}
        subscription = await link.listen(wanted, self._take)
        self._listening += 1
        try:
            await subscription.over
        finally:
            self._listening -= 1
            link.forget(subscription)

    def _take(self, told: Json) -> None:
        """An event, or what a relay calls one. The costly check comes last."""
        if not isinstance(told, dict) or told.get("pubkey") != self._call.author or told.get("id") in self._known:
            return
        event = read_event(told)
        if event is None or not accepts(self._call, event):
            return
        written = event.write()
        if len(written) <= _MOST_CHARACTERS:
            self._known.append(event.id)
            self._kept.append(written)
            self._came.set()
