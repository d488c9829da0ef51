"""Relays: ask over several of them at once, and stay connected.

Rules
1. A relay is listened to before anything is published there, so that no answer comes too early to be heard.
2. An event is verified before it is handed over: its id, its signature, its author, its kind, and what it answers.
   Relays are not believed, and what they send that is too large ends the connection.
3. What was written to a relay may have been seen, unless the relay itself says that it did not take it.
4. A connection that breaks is made again as long as an answer is waited for. Where nothing was published yet, a relay
   gets two tries.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final, Self

from farebox.core.conversation import HttpReply, ListenCall, RelayCall
from farebox.core.exchange import Json
from farebox.nostr.call import accepts
from farebox.nostr.ear import Ear
from farebox.nostr.event import Event, read_event
from farebox.nostr.link import Link
from farebox.nostr.trouble import reason_of

_LISTENING_WITHIN_S: Final = 2.0  # then a relay that does not say so is taken to listen
_OTHERS_WITHIN_S: Final = 0.5  # what the other relays keep may be newer
_PAUSE_S, _MOST_PAUSE_S = 0.1, 5.0
_MOST_TRIES: Final = 2
_MAY_BE_SEEN: Final = "error:"  # the relay had trouble, and does not say when


class Relays:
    """The relays that were asked so far, each over one connection that stays open. For one event loop at a time."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._connecting: dict[str, asyncio.Lock] = {}
        self._ears: dict[ListenCall, Ear] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        ears, self._ears = self._ears, {}
        for ear in ears.values():
            await ear.aclose()
        links, self._links = self._links, {}
        self._connecting.clear()
        for link in links.values():
            await link.aclose()

    async def ask(self, call: RelayCall | ListenCall) -> HttpReply:
        """The reply to a call, from whichever relay has it first; of what relays keep, the newest."""
        if isinstance(call, ListenCall):
            return await self._ear(call).hear(call.timeout)
        asking = _Asking(call)
        tasks = [asyncio.create_task(self._ask_at(url, asking)) for url in dict.fromkeys(call.relays)]
        try:
            async with asyncio.timeout(call.timeout.total_seconds()):
                await asking.answered(*tasks)
        except TimeoutError:
            asking.trouble = asking.trouble or "Timeout"
        finally:
            asking.answer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return asking.reply()

    async def _ask_at(self, url: str, asking: _Asking) -> None:
        from websockets.exceptions import WebSocketException

        tries, pause_s = 0, _PAUSE_S
        while True:
            try:
                return await self._talk(url, await self._link(url), asking)
            except (OSError, WebSocketException, ValueError) as trouble:  # ValueError: a URL that can't be one
                asking.trouble = reason_of(trouble)
            tries += 1
            if url not in asking.seen_at and tries >= _MOST_TRIES:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    async def _talk(self, url: str, link: Link, asking: _Asking) -> None:
        """Listen, then publish, then wait. Returns when this relay has nothing more to say; raises OSError."""
        call = asking.call
        subscription = await link.listen(_filter(call), asking.hear)
        try:
            if call.event is None:
                await subscription.ready
                asking.has_asked = True
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_LISTENING_WITHIN_S):
                    await asyncio.shield(subscription.ready)
            if url not in asking.taken_at:
                seen_before = url in asking.seen_at
                asking.seen_at.add(url)
                refusal = await link.publish(call.event)
                if refusal is not None:
                    asking.trouble = f"a relay refused it: {refusal}"
                    if not seen_before and not refusal.startswith(_MAY_BE_SEEN):
                        asking.seen_at.discard(url)
                    return
                asking.taken_at.add(url)
            await subscription.over
        finally:
            link.forget(subscription)

    async def _link(self, url: str) -> Link:
        async with self._connecting.setdefault(url, asyncio.Lock()):
            link = self._links.get(url)
            if link is None or not link.alive:
                link = self._links[url] = await Link.open(url)
            return link

    def _ear(self, call: ListenCall) -> Ear:
        same = replace(call, timeout=timedelta(0))
        ear = self._ears.get(same)
        if ear is None or not ear.alive:
            ear = self._ears[same] = Ear(call, self._link)
        return ear


class BlockingRelays:
    """The same for those who wait: a thread of its own keeps the connections. Close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._relays = Relays()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, call: RelayCall | ListenCall) -> HttpReply:
        """The reply to a call. May be asked from several threads at once."""
        asked = asyncio.run_coroutine_threadsafe(self._relays.ask(call), self._running())
        try:
            return asked.result()
        finally:
            asked.cancel()

    def close(self) -> None:
        """Close every connection, and end the thread."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._relays.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="farebox relays", daemon=True)
                self._thread.start()
            return self._loop


class _Asking:
    """What has come of one call. seen_at: relays that may have seen the event; taken_at: those that say so."""

    def __init__(self, call: RelayCall) -> None:
        self.call = call
        self.answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.newest: Event | None = None
        self.has_asked = False
        self.seen_at: set[str] = set()
        self.taken_at: set[str] = set()
        self.trouble = ""

    def hear(self, told: Json) -> None:
        """An event, or what a relay calls one. The costly check comes last."""
        if not isinstance(told, dict) or told.get("pubkey") != self.call.author:
            return
        event = read_event(told)
        if event is None or not accepts(self.call, event):
            return
        if self.call.event is not None:
            if not self.answer.done():
                self.answer.set_result(event)
        elif self.newest is None or _order(event) > _order(self.newest):
            self.newest = event

    async def answered(self, *tasks: asyncio.Task[None]) -> None:
        """Returns when there is an answer, or there can't be one any more."""
        waiting: set[asyncio.Future[Event] | asyncio.Task[None]] = {*tasks}
        while waiting and not self.answer.done():
            patience = None if self.newest is None else _OTHERS_WITHIN_S
            done, _ = await asyncio.wait({*waiting, self.answer}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            waiting -= done

    def reply(self) -> HttpReply:
        event = self.newest
        if self.answer.done() and not self.answer.cancelled():
            event = self.answer.result()
        if event is not None:
            return HttpReply(status=200, body=event.write().encode())
        if self.has_asked:
            return HttpReply(status=404)
        return HttpReply(status=0, sent=bool(self.seen_at), reason=self.trouble)


def _filter(call: RelayCall) -> Json:
    wanted: dict[str, Json] = {"kinds": list(call.kinds), "authors": [call.author]}
    if call.answers is not None:
        wanted["#e"] = [call.answers]
    if call.event is None:
        wanted["limit"] = 1
    return wanted


def _order(event: Event) -> tuple[float, int]:
    """Of what replaces another the newest counts; of two of the same second, the one with the lower id."""
    return event.created_at.timestamp(), -int(event.id, 16)
