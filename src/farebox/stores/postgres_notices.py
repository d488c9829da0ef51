"""Notices: a word from any process that shares a PostgreSQL, to whoever waits for it here.

Rules
1. A word is sent in the transaction of what it tells, so it comes when that is durable, and not otherwise.
2. A word may be missed: while there was no connection, or just before somebody began to wait. So nobody waits for
   longer than a moment without looking again, and everybody is woken up when a connection is there again.
3. The connection is there for as long as somebody may wait: from the first who does until the store is closed.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from asyncio import AbstractEventLoop
from collections import OrderedDict
from contextlib import suppress
from datetime import timedelta
from typing import Final

import psycopg

from farebox.stores.postgres_link import CONNECT_S, connected
from farebox.stores.waiting import Waiting

CHANNEL: Final = "farebox"
LOOK_AGAIN: Final = timedelta(seconds=2)
_JUST_NOW: Final = timedelta(milliseconds=250)  # whoever looked before a word and waits after it missed it
_REMEMBERED: Final = 1024
_ALIVE_S: Final = 5.0  # a connection on which nothing comes is asked whether it still is one
_AGAIN_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Notices:
    """Listens on a connection of its own, and wakes up whoever waits, on any event loop of this process."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._turn = threading.Lock()
        self._waiting: dict[AbstractEventLoop, Waiting] = {}
        self._recent: OrderedDict[bytes, float] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake: socket.socket | None = None  # closing it wakes up the thread
        self.connections = 0  # how often it connected

    async def wait(self, about: bytes, *, within: timedelta) -> None:
        """Returns when a word about this came, or may have been missed, at the latest after so long."""
        with self._turn:
            if self._closed:
                return
            waiting = self._waiting.setdefault(asyncio.get_running_loop(), Waiting())
            if self._thread is None:
                self._wake, woken = socket.socketpair()
                self._thread = threading.Thread(target=self._listen, args=(woken,), name="farebox notices", daemon=True)
                self._thread.start()
            told_at = self._recent.get(about)
        span = min(within, LOOK_AGAIN)
        if told_at is not None:
            span = min(span, max(timedelta(0), timedelta(seconds=told_at - time.monotonic()) + _JUST_NOW))
        if span > timedelta(0):
            await waiting.wait(about, within=span)

    def tell(self, about: bytes) -> None:
        """A word about this; from any thread."""
        with self._turn:
            self._recent[about] = time.monotonic()
            self._recent.move_to_end(about)
            while len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
            listening = tuple(self._waiting.items())
        for loop, waiting in listening:
            self._on(loop, waiting, about)

    def close(self) -> None:
        """Stop listening; blocks until the connection is closed. Whoever waits looks again."""
        with self._turn:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._thread is not None and self._wake is not None:
            self._wake.close()
            self._thread.join()
        self._tell_all()

    def _tell_all(self) -> None:
        with self._turn:
            listening = tuple(self._waiting.items())
        for loop, waiting in listening:
            self._on(loop, waiting, None)

    def _on(self, loop: AbstractEventLoop, waiting: Waiting, about: bytes | None) -> None:
        try:
            if about is None:
                loop.call_soon_threadsafe(waiting.tell_all)
            else:
                loop.call_soon_threadsafe(waiting.tell, about)
        except RuntimeError:  # that loop was closed: nobody waits there any more
            with self._turn:
                self._waiting.pop(loop, None)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _listen(self, woken: socket.socket) -> None:
        failures = 0
        with woken:
            while not self._closed:
                try:
                    with connected(self._conninfo) as connection:
                        connection.execute(f"SET statement_timeout = '{CONNECT_S}s'".encode())
                        connection.execute(f"LISTEN {CHANNEL}".encode())
                        self.connections, failures = self.connections + 1, 0
                        self._tell_all()
                        self._hear(connection, woken)
                except psycopg.Error:
                    select.select((woken,), (), (), _AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
                    failures += 1

    def _hear(self, connection: psycopg.Connection, woken: socket.socket) -> None:
        """Until closing. Raises psycopg.Error when the connection is lost."""
        pipe = connection.pgconn
        here = [pipe.socket, woken.fileno()]
        while not self._closed:
            ready, _, _ = select.select(here, (), (), _ALIVE_S)
            if woken.fileno() in ready:
                return
            if not ready:
                pipe.send_query(b"SELECT 1")
                if not select.select(here, (), (), CONNECT_S)[0]:
                    raise psycopg.OperationalError("the connection is silent")
            pipe.consume_input()
            while not pipe.is_busy() and pipe.get_result() is not None:
                pass
            while (notice := pipe.notifies()) is not None:
                with suppress(ValueError):  # somebody else's word on our channel
                    self.tell(bytes.fromhex(notice.extra.decode("ascii", "replace")))
