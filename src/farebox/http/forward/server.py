"""The proxy at its address: connections, one task for each, and how it ends.

Rules
1. One connection is answered one request after the other, however many are sent at once.
2. Whoever is being answered when the proxy is told to end gets the answer; a purchase that takes longer than the drain
   stays held, and is looked up when its call is made again.
3. Whoever hangs up while he is being answered has what is done for him ended at once, so that the same call, made
   again, finds what is paid for it, and nothing is held against the seller.
4. Behind a tunnel the same rules hold: what is heard there is a request to its host, under the token of the tunnel.
5. When there are too many connections, the oldest that has shown no good token gives way to the next; where all have
   shown one, the oldest that waits between two requests. Whoever is being answered never does; and while strangers are
   having their tokens looked at, whoever comes next waits to be taken.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import timedelta
from typing import Final

import h11
import structlog

from farebox.http.forward.authority import Authority
from farebox.http.forward.proxy import ForwardProxy, Tunnelled
from farebox.http.forward.refusal import Refusal
from farebox.http.forward.wire import Caller, Line, Patience, Room

log = structlog.get_logger("farebox")

_DRAIN: Final = timedelta(seconds=30)
_HANDSHAKE_S: Final = 20.0
_MOMENT_S: Final = 0.01
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ForwardServer:
    """Hears callers at a socket, and has the proxy answer them. authority: what speaks TLS in tunnels; None without."""

    def __init__(
        self,
        proxy: ForwardProxy,
        *,
        authority: Authority | None = None,
        patience: Patience | None = None,
        most_connections: int = 256,
    ) -> None:
        self._proxy = proxy
        self._authority = authority
        self._patience = patience or Patience()
        self._room = Room(self._patience.most_bodies)
        self._most = most_connections
        self._callers: dict[asyncio.Task[None], tuple[Caller, asyncio.StreamWriter]] = {}
        self._ending = False

    async def serve(self, listening: socket.socket, *, until: asyncio.Event, drain: timedelta = _DRAIN) -> None:
        """Hear callers until the event is set, then answer those that are being answered, for so long at most.

        Raises, at the end, the fault that kept it from hearing callers before.
        """
        told, taking = asyncio.create_task(until.wait()), asyncio.create_task(self._take_callers(listening))
        await asyncio.wait((told, taking), return_when=asyncio.FIRST_COMPLETED)
        self._ending = True
        told.cancel()
        taking.cancel()
        await asyncio.wait((told, taking))
        listening.close()
        for caller, writer in list(self._callers.values()):
            caller.leave()
            if caller.idle:
                writer.close()
        if running := list(self._callers):
            _, late = await asyncio.wait(running, timeout=drain.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if not taking.cancelled():
            taking.result()

    async def converse(self, caller: Caller, behind: Tunnelled | None = None) -> Tunnelled | None:
        """Answer request after request; a tunnel, if one is granted."""
        while True:
            try:
                request = await caller.hear()
                if request is None:
                    return None
                if self._ending:
                    caller.leave()
                granted = await self._proxy.answer(caller, request, behind)
            except Refusal as refusal:
                await caller.refuse(refusal)
            else:
                if granted is not None:
                    return granted
            finally:
                caller.forget_body()
            if not caller.next_one():
                await caller.linger()
                return None

    async def _take_callers(self, listening: socket.socket) -> None:
        """One after the other, so that each was heard before he may have to give way."""
        loop = asyncio.get_running_loop()
        listening.settimeout(0)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
                line, writer = await _open(connection)
            except OSError:  # he has gone again, or no more files can be opened just now
                await asyncio.sleep(_MOMENT_S)
                continue
            caller = Caller(line, writer, self._patience, room=self._room)
            is_full = len(self._callers) >= self._most and all(
                each.known and not each.idle for each, _ in self._callers.values()
            )
            task = loop.create_task(self._attend(caller, writer, is_full=is_full))
            self._callers[task] = caller, writer
            task.add_done_callback(lambda done: self._callers.pop(done, None))
            await self._make_room(task)

    async def _make_room(self, newcomer: asyncio.Task[None]) -> None:
        """Have somebody give way, if need be: a stranger before whoever is known, and who came first before others."""
        while len(self._callers) > self._most:
            others = {task: caller for task, (caller, _) in self._callers.items() if task is not newcomer}
            strangers = [task for task, caller in others.items() if not caller.known]
            leaving = [task for task in strangers if not others[task].asking]
            if not strangers:
                leaving = [task for task, caller in others.items() if caller.idle]
            if leaving:
                _hang_up(*self._callers.pop(leaving[0]))
                leaving[0].cancel()
            elif strangers:
                await asyncio.sleep(_MOMENT_S)
            else:
                return

    async def _attend(self, caller: Caller, writer: asyncio.StreamWriter, *, is_full: bool) -> None:
        try:
            if is_full:
                caller.leave()
                title, later = "Too many connections are open", ((b"retry-after", b"2"),)
                await caller.refuse(Refusal(503, "too-many-connections", title, headers=later))
                return
            asked = await self.converse(caller)
            if asked is not None and self._authority is not None:
                await self._tunnel(self._authority, asked, writer)
        except (OSError, TimeoutError, h11.LocalProtocolError):
            pass  # the caller has gone, or does not read
        except Exception:
            log.exception("proxy-failed")
        finally:
            _hang_up(caller, writer)

    async def _tunnel(self, authority: Authority, asked: Tunnelled, writer: asyncio.StreamWriter) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        context = await asyncio.to_thread(authority.context, asked.tunnel.place.host)
        writer.write(_ESTABLISHED)
        await writer.drain()
        line = Line()
        protocol = asyncio.StreamReaderProtocol(line, loop=loop)
        with suppress(ssl.SSLError):  # a caller that does not trust the authority
            transport = await loop.start_tls(
                writer.transport, protocol, context, server_side=True, ssl_handshake_timeout=_HANDSHAKE_S
            )
            if transport is None:
                return
            protocol.connection_made(transport)
            inner = asyncio.StreamWriter(transport, protocol, line, loop)
            caller = Caller(line, inner, self._patience, known=True, room=self._room)
            if task is not None:
                self._callers[task] = caller, inner
            try:
                await self.converse(caller, asked)
            finally:
                inner.close()


async def _open(connection: socket.socket) -> tuple[Line, asyncio.StreamWriter]:
    loop, line = asyncio.get_running_loop(), Line()
    protocol = asyncio.StreamReaderProtocol(line, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=connection)
    return line, asyncio.StreamWriter(transport, protocol, line, loop)


def _hang_up(caller: Caller, writer: asyncio.StreamWriter) -> None:
    """A stranger's connection does not last until he has read what is still to be sent."""
    (writer.close if caller.known else writer.transport.abort)()
