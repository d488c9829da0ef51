"""Link: one connection to a relay, and what is listened to over it (NIP-01)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final, Self

from farebox.core.exchange import Json
from farebox.core.json_text import load_json

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

MOST_MESSAGE_BYTES: Final = 256 * 1024
_CONNECT_WITHIN_S: Final = 5.0
_CLOSE_WITHIN_S: Final = 1.0
_MOST_REASON: Final = 100
_TAKEN_BEFORE: Final = "duplicate:"

Hear = Callable[[Json], None]


class Link:
    """One connection to a relay, shared by every call that is under way."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._heard: dict[str, Subscription] = {}
        self._published: dict[str, list[asyncio.Future[str | None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._saying: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect. Raises OSError, or the library's own error."""
        from websockets.asyncio.client import connect

        return cls(
            await connect(
                url,
                open_timeout=_CONNECT_WITHIN_S,
                close_timeout=_CLOSE_WITHIN_S,
                max_size=MOST_MESSAGE_BYTES,
                compression=None,
                proxy=None,
                user_agent_header=None,
            )
        )

    @property
    def alive(self) -> bool:
        """Whether it can still be used, and in this event loop."""
        return not self._reader.done() and self._loop is asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Close it."""
        if self._loop is asyncio.get_running_loop():  # of another loop, there is nothing left to close
            await asyncio.gather(*self._saying)
            await self._socket.close()
            await self._reader

    async def listen(self, wanted: Json, hear: Hear) -> Subscription:
        """Hear every event that a filter of NIP-01 lets through. Raises OSError, or the library's own error."""
        subscription = Subscription(f"farebox{next(self._numbers)}", hear)
        self._heard[subscription.name] = subscription
        try:
            await self._say(["REQ", subscription.name, wanted])
        except BaseException:
            del self._heard[subscription.name]
            raise
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Hear no more of it."""
        if self._heard.pop(subscription.name, None) is not None and self.alive:
            saying = self._loop.create_task(self._say_if_possible(["CLOSE", subscription.name]))
            self._saying.add(saying)
            saying.add_done_callback(self._saying.discard)

    async def publish(self, event: str) -> str | None:
        """None when the relay took it; else why it did not. Raises OSError when the connection broke."""
        name = str(json.loads(event)["id"])
        taken: asyncio.Future[str | None] = self._loop.create_future()
        waiting = self._published.setdefault(name, [])
        waiting.append(taken)
        try:
            await self._socket.send(f'["EVENT",{event}]')
            return await taken
        finally:
            waiting.remove(taken)
            if not waiting:
                self._published.pop(name, None)

    async def _say_if_possible(self, message: Json) -> None:
        from websockets.exceptions import WebSocketException

        with suppress(OSError, WebSocketException):
            await self._say(message)

    async def _say(self, message: Json) -> None:
        await self._socket.send(json.dumps(message, separators=(",", ":")))

    async def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async for message in self._socket:
                self._take(message)
        except ConnectionClosed:
            pass
        finally:
            for subscription in self._heard.values():
                subscription.end("the relay closed the connection")
            for waiting in self._published.values():
                for taken in waiting:
                    if not taken.done():
                        taken.set_exception(ConnectionResetError("the relay closed the connection"))
                        taken.exception()

    def _take(self, message: str | bytes) -> None:
        try:
            told = load_json(message)
        except ValueError:
            return
        match told:
            case ["EVENT", str(name), dict(event)] if name in self._heard:
                self._heard[name].hear(event)
            case ["EOSE", str(name)] if name in self._heard:
                if not self._heard[name].ready.done():
                    self._heard[name].ready.set_result(None)
            case ["CLOSED", str(name), *_] if name in self._heard:
                self._heard[name].end("the relay does not let us listen")
            case ["OK", str(name), bool(took), *why]:
                words = " ".join(str(why[0] if why else "without a reason").split())
                refusal = None if took else words[:_MOST_REASON]
                for taken in self._published.get(name, ()):
                    if not taken.done():
                        taken.set_result(None if (refusal or "").startswith(_TAKEN_BEFORE) else refusal)
            case _:
                pass  # a notice, a challenge, or nonsense


class Subscription:
    """ready: the relay listens, and has told all it keeps. over: raises when the relay tells no more."""

    def __init__(self, name: str, hear: Hear) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.hear = hear
        self.ready: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()

    def end(self, why: str) -> None:
        """Nothing more comes."""
        for future in (self.ready, self.over):
            if not future.done():
                future.set_exception(ConnectionResetError(why))
                future.exception()  # nobody may be waiting for it
