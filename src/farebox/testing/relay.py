"""Relay: a TCP line on a port of its own that is torn down with all its connections, and put up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from farebox.testing.cut import Cut, Line, Way

_NEVER: Final = Cut(Way.ANSWER, 2**62, reset=False)


class Relay:
    """A line to a server. port: where to connect. kills: how often it was torn down."""

    def __init__(self, host: str, port: int) -> None:
        self.kills = 0
        self._line = Line(host, port, _NEVER)
        self._listening: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The same each time that it is put up."""
        return self._line.port

    async def put_up(self) -> None:
        """Be there."""
        self._listening = await asyncio.start_server(self._line.carry, "127.0.0.1", self._line.port)
        self._line.port = self._listening.sockets[0].getsockname()[1]

    async def tear_down(self) -> None:
        """End every connection; whoever connects is refused."""
        if self._listening is not None:
            self.kills += 1
            self._listening.close()
            self._line.hang_up()
            await self._listening.wait_closed()
            self._listening = None


@asynccontextmanager
async def relayed(host: str, port: int) -> AsyncIterator[Relay]:
    """A relay that is up."""
    relay = Relay(host, port)
    await relay.put_up()
    try:
        yield relay
    finally:
        await relay.tear_down()
