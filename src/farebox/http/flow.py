"""Flow: gives a stream to its caller at the caller's own pace, from the copy that grows at the service's.

Rules
1. A caller who reads slowly does not keep the service waiting, as long as there is a copy: else it could have a service
   that is not patient break off, and keep what it had by then.
2. What may leave is said by whoever decides about the money; the end of an answer leaves only when it is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from farebox.http.request import Message
from farebox.http.spool import Spool

Deliver = Callable[[Message], Awaitable[bool]]


class Flow:
    """One stream on its way. deliver: hands a message to the caller; False when nobody takes it any more."""

    def __init__(self, spool: Spool, deliver: Deliver, start: Message) -> None:
        self.sent = 0  # bytes
        self.spool = spool
        self._deliver = deliver
        self._upto = 0
        self._last = False
        self._more, self._even = asyncio.Event(), asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(start))
        self._task.add_done_callback(lambda _: self._even.set())

    def behind(self) -> bool:
        """Whether the caller was not given all that may leave."""
        return self.sent < self._upto

    def allow(self, upto: int) -> None:
        """So many bytes of the answer may leave."""
        self._upto = upto
        self._more.set()
        if not self._task.done():
            self._even.clear()

    async def caught_up(self) -> None:
        """Wait until the caller was given all that may leave, or does not take it."""
        await self._even.wait()

    def end(self) -> None:
        """Let all of it leave, and the end of the answer."""
        self._last = True
        self.allow(self.spool.size)

    async def ended(self) -> bool:
        """Wait until all of it has left; False when it could not, or nobody takes it."""
        return await self._task

    def forget(self) -> None:
        """What the caller was given of a copy that is no longer whole is not needed any more."""
        self.spool.forget(self.sent)

    def close(self) -> None:
        """Give up what has not left, and the copy."""
        self._task.cancel()
        self.spool.close()

    async def _run(self, start: Message) -> bool:
        taken = await self._deliver(start)
        while taken:
            while self.sent < self._upto or self._last:
                chunk = await self.spool.read_at(self.sent, self._upto - self.sent)
                if chunk is None:
                    return False
                self.sent += len(chunk)
                ends = self._last and self.sent == self._upto
                taken = await self._deliver({"type": "http.response.body", "body": chunk, "more_body": not ends})
                if ends or not taken:
                    return taken
            self._even.set()
            self._more.clear()
            await self._more.wait()
        return False
