"""Flow: gives a stream to its caller at the caller's own pace, from the copy that grows at the service's.

Rules
1. A caller who reads slowly keeps the service waiting only when it is as far behind as a copy is long: else it could
   have a service that is not patient break off, and keep what it had by then.
2. What may leave is said by whoever decides about the money; the end of an answer leaves only when it is charged.
3. A flow that can't go on, with its caller still there, says so at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from farebox.http.request import Message
from farebox.http.spool import Spool

log = structlog.get_logger("farebox")

Deliver = Callable[[Message], Awaitable[bool]]


class Flow:
    """One stream on its way.

    deliver: hands a message to the caller; False when nobody takes it any more. broken: called when it can't go on.
    """

    def __init__(self, spool: Spool, deliver: Deliver, start: Message, broken: Callable[[], None]) -> None:
        self.spool = spool
        self._sent = self._upto = 0  # bytes
        self._deliver = deliver
        self._broken = broken
        self._last = False
        self._more, self._moved = asyncio.Event(), asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(start))
        self._task.add_done_callback(lambda _: self._moved.set())

    async def add(self, chunk: bytes, *, leaves: bool) -> None:
        """A further piece of the answer; waits where the caller is too far behind. leaves: whether it may leave."""
        spool = self.spool
        spool.add(chunk)
        if leaves:
            self._upto = spool.size
            self._more.set()
        spool.forget(self._sent)
        if not spool.is_full():
            return
        room = spool.makes_room()
        if room is not None:
            await self._given(room)
            await spool.spill()
        else:
            await self._given(self._upto)
            spool.forget(self._sent)

    async def gives_all(self) -> bool:
        """Wait until the caller was given all that may leave; whether it was, and the rest is there too."""
        await self._given(self._upto)
        return self._sent >= self._upto and not self._task.done() and self.spool.has(self._sent)

    async def caught_up(self) -> None:
        """Wait until the caller was given all that may leave, or does not take it."""
        await self._given(self._upto)

    def end(self) -> None:
        """Let all of it leave, and the end of the answer."""
        self._last = True
        self._upto = self.spool.size
        self._more.set()

    async def ended(self) -> bool:
        """Wait until all of it has left; False when it could not, or nobody takes it."""
        return await self._task

    def close(self) -> None:
        """Give up what has not left, and the copy."""
        self._task.cancel()
        self.spool.close()

    async def _given(self, upto: int) -> None:
        while self._sent < upto and not self._task.done():
            self._moved.clear()
            await self._moved.wait()

    async def _run(self, start: Message) -> bool:
        try:
            return await self._deliver(start) and await self._give()
        except Exception:  # of the server's: what it was handed does not fit into an answer
            log.exception("flow-failed")
            self._broken()
            return False

    async def _give(self) -> bool:
        while True:
            while self._sent < self._upto or self._last:
                chunk = await self.spool.read_at(self._sent, self._upto - self._sent)
                if chunk is None:
                    self._broken()
                    return False
                ends = self._last and self._sent + len(chunk) == self._upto
                if not await self._deliver({"type": "http.response.body", "body": chunk, "more_body": not ends}):
                    return False
                if ends:
                    return True
                self._sent += len(chunk)
                self._moved.set()
            self._more.clear()
            await self._more.wait()
