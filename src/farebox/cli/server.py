"""uvicorn, as farebox runs it, and how it ends.

Rules
1. Nobody who was heard goes without an answer. A server that is told to end takes no calls any more, and lets the
   running ones end.
2. One that others take over from is not missed: it answers whoever waits to be heard, tells each caller with his answer
   that this connection ends, and closes those on which nobody speaks when it has been quiet for a while.
3. Calls that run for too long are left, not cancelled: closing what they use ends them, and tells their callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Final

import structlog
import uvicorn

from farebox.cli.listening import hear_nobody_new, waiting
from farebox.http.request import AsgiApp, Message, Receive, Scope, Send
from farebox.http.server import strict_http
from farebox.http.watch import Patience

log = structlog.get_logger("farebox")

DRAIN: Final = timedelta(seconds=30)
QUIET: Final = timedelta(seconds=1)  # who speaks often has spoken by then, and was told
_LOOK_EVERY_S: Final = 0.05
_CLOSE: Final = (b"connection", b"close")


def _config(app: AsgiApp, *, cancel_after: timedelta | None = None, websockets: bool = False) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=strict_http(Patience(most_connections=_room())),
        ws="websockets-sansio" if websockets else "none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=None if cancel_after is None else round(cancel_after.total_seconds()),
    )


def _room() -> int:
    """How many connections there may be: half of the files that this process may open, once it asked for all it may.

    The other half is for the services behind, the ledger and the logs.
    """
    most = Patience().most_connections
    if sys.platform == "win32":
        return most
    import resource

    files, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most if allowed == resource.RLIM_INFINITY else min(2 * most, allowed)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))
        files = wanted
    return most if files == resource.RLIM_INFINITY else min(most, files // 2)


class Draining(uvicorn.Server):
    """A server whose end nobody notices, where others listen on the same address. It leaves the signals alone.

    opened: set as soon as it listens.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._callers = _Callers(app)
        self._last = False
        self.opened = asyncio.Event()
        super().__init__(_config(self._callers))

    def drain(self, within: timedelta, *, last: bool = False) -> None:
        """Take no new calls, and end when the running ones have, after so long in any case.

        last: nobody else listens on its sockets.
        """
        self._last = last
        self.should_exit = True
        asyncio.get_running_loop().call_later(within.total_seconds(), self.end)

    def end(self) -> None:
        """End now."""
        self.should_exit = self.force_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns when it listens."""
        await super().startup(sockets)
        self.opened.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns when nobody is left, or it took too long."""
        self._callers.told_to_leave = True
        await self._stop_listening(sockets or [])
        while self._is_needed():  # noqa: ASYNC110 - uvicorn tells nobody when its connections change
            await asyncio.sleep(_LOOK_EVERY_S)
        await super().shutdown([])

    def _is_needed(self) -> bool:
        return bool(self.server_state.connections) and not self.force_exit and not self._callers.quiet(QUIET)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        kept = [each.dup() for each in sockets] if self._last else []
        for listening in kept:
            hear_nobody_new(listening)
        for server in self.servers:
            server.close()
        for listening in sockets:
            listening.close()
        await asyncio.sleep(
            _LOOK_EVERY_S
        )  # who is being connected is, and the loop closes servers in a turn of its own
        for listening in kept:
            connections = list(waiting(listening))
            listening.close()
            for connection in connections:
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # what uvicorn calls it with
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class Stoppable(Draining):
    """The same, of a process that has nothing else to do: signals stop it, where uvicorn's own have it die of them.

    SIGHUP too: who hangs up its terminal means that, and whoever wants it to take up its configuration finds the line.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and SIGHUP stop it."""
        ends = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else [])]
        before = {number: signal.signal(number, self._told_to_end) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        if os.name == "posix" and number == signal.SIGHUP:
            log.warning(
                "stopping", reason="SIGHUP reloads a shop with --workers only; this one is one process, and ends"
            )
        self.handle_exit(number, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns when nobody is left, or it took longer than DRAIN."""
        self.drain(DRAIN, last=True)
        await super().shutdown(sockets)


class Quiet(uvicorn.Server):
    """A server beside the main one, which it leaves the signals to; it makes websockets.

    Calls that run for so long are cancelled.
    """

    def __init__(self, app: AsgiApp, *, cancel_after: timedelta) -> None:
        super().__init__(_config(app, cancel_after=cancel_after, websockets=True))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class _Callers:
    """The app, and who is being answered; once it is told to leave, each answer ends its connection."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._running = 0
        self._last_s = 0.0
        self.told_to_leave = False

    def quiet(self, span: timedelta) -> bool:
        """Whether nobody has been answered for so long."""
        return not self._running and asyncio.get_running_loop().time() - self._last_s >= span.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self._running += 1
        try:
            await self._app(scope, receive, _last_of(send) if self.told_to_leave else send)
        finally:
            self._running -= 1
            self._last_s = asyncio.get_running_loop().time()


def _last_of(send: Send) -> Send:
    async def last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), _CLOSE]
        await send(message)

    return last
