"""Waiting: who in this process waits for a word about something."""

from __future__ import annotations

import asyncio
from datetime import timedelta


class Waiting:
    """Waits for things that are named by bytes, and tells who waits."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = {}

    async def wait(self, about: bytes, *, within: timedelta) -> None:
        """Returns when it is told about this, at the latest after so long."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(about, set()).add(told)
        try:
            await asyncio.wait((told,), timeout=within.total_seconds())
        finally:
            waiting = self._waiting.get(about, set())
            waiting.discard(told)
            if not waiting:
                self._waiting.pop(about, None)

    def tell(self, about: bytes) -> None:
        """Wake up whoever waits for this; from the event loop on which they wait."""
        for told in self._waiting.pop(about, ()):
            if not told.done():
                told.set_result(None)

    def tell_all(self) -> None:
        """Wake up everybody: something may have been missed."""
        for about in tuple(self._waiting):
            self.tell(about)
