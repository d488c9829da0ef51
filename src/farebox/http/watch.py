"""Watch: looks over the open connections of one server, and ends those whose callers make it wait.

Rules
1. One look a second over all of them, in slices, instead of a timer for each request; so a span ends up to a second or
   two late.
2. What counts is waiting for the caller: not the time that a call itself takes, nor a caller who waits for us.
3. There is always room for one more: the connection that has waited longest for its caller is closed for it. Only when
   all of them are at work is the new one turned away.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

_SLICE: Final = 64
_BETWEEN_SLICES_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server waits for its callers.

    head: for a request's whole head, and for the first byte of a new connection. body: the span in which a body has to
    grow by `slowest_body` bytes a second on average, or to end. reading: for any part of an answer to be taken.
    leaving: for a caller to hear the last words and to stop sending. look: how often it looks. most_connections: how
    many may be open.
    """

    head: timedelta = timedelta(seconds=10)
    body: timedelta = timedelta(seconds=20)
    slowest_body: int = 256
    reading: timedelta = timedelta(seconds=30)
    leaving: timedelta = timedelta(seconds=5)
    look: timedelta = timedelta(seconds=1)
    most_connections: int = 8192


class Wait(Enum):
    """What a connection waits for."""

    NOTHING = auto()  # of the caller's: it is at work, or idle for as long as the server's keep-alive allows
    HEAD = auto()
    BODY = auto()
    READER = auto()  # the caller does not take what was written
    LEAVING = auto()  # all is said


class Waiting(NamedTuple):
    """What a connection waits for, and how far that is.

    turn: changes when it is another wait of the same kind: the number of the request, or of the times that a reader has
    caught up. done: bytes of the body so far; for a reader, bytes that are not taken yet, below zero.
    """

    wait: Wait
    turn: int
    done: int


class Watched(Protocol):
    """A connection, as a watch sees it."""

    def waits_for(self) -> Waiting:
        """What it waits for now."""

    def run_out(self, wait: Wait) -> None:
        """The patience with this has run out."""

    def make_room(self) -> None:
        """Close it now, for another one."""


@dataclass(slots=True)
class _Pace:
    seen: Waiting
    since: float


class Watch:
    """Looks over connections from the first one that is taken until the last one is dropped."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._spans = {
            Wait.HEAD: patience.head.total_seconds(),
            Wait.BODY: patience.body.total_seconds(),
            Wait.READER: patience.reading.total_seconds(),
            Wait.LEAVING: patience.leaving.total_seconds(),
        }
        self._least = patience.slowest_body * self._spans[Wait.BODY]
        self._between_s = patience.look.total_seconds()
        self._open: dict[Watched, _Pace] = {}
        self._waiting: dict[Watched, None] = {}  # for their callers; the longest first
        self._timer: asyncio.TimerHandle | None = None

    def take(self, connection: Watched) -> bool:
        """Look after a new connection; False when there is no room for it."""
        loop = asyncio.get_running_loop()
        self._open[connection] = _Pace(Waiting(Wait.HEAD, 0, 0), loop.time())
        if len(self._open) > self._patience.most_connections:
            if not self._waiting:
                return False
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.make_room()
        self._waiting[connection] = None
        if self._timer is None:
            self._timer = loop.call_later(self._between_s, self._look_over)
        return True

    def drop(self, connection: Watched) -> None:
        """It is closed."""
        self._open.pop(connection, None)
        self._waiting.pop(connection, None)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def busy(self, connection: Watched) -> None:
        """It has a whole request to answer."""
        self._waiting.pop(connection, None)

    def idle(self, connection: Watched) -> None:
        """It has answered, and waits for its caller again."""
        if connection in self._open:
            self._waiting[connection] = None

    def _look_over(self, rest: list[Watched] | None = None) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        rest = list(self._open) if rest is None else rest
        for connection in rest[-_SLICE:]:
            self.look(connection, now)
        del rest[-_SLICE:]
        # Closing thousands at once would keep everybody else waiting.
        if not self._open:
            self._timer = None
        elif rest:
            self._timer = loop.call_later(_BETWEEN_SLICES_S, self._look_over, rest)
        else:
            self._timer = loop.call_later(self._between_s, self._look_over)

    def look(self, connection: Watched, now: float) -> None:
        """Look at one connection, at this time of the loop."""
        if (pace := self._open.get(connection)) is not None:
            self._look_at(connection, pace, now)

    def _look_at(self, connection: Watched, pace: _Pace, now: float) -> None:
        seen, before = connection.waits_for(), pace.seen
        wait = seen.wait
        taken = wait is Wait.READER and seen.done > before.done
        if seen[:2] != before[:2] or wait is Wait.NOTHING or taken:
            pace.seen, pace.since = seen, now
        elif now - pace.since >= self._spans[wait]:
            if wait is Wait.BODY and seen.done - before.done >= self._least:
                pace.seen, pace.since = seen, now
            else:
                connection.run_out(wait)
        elif wait is Wait.READER:
            pace.seen = seen
