"""One connection of a caller: requests are read whole, answers are written as they come.

Rules
1. What is read is HTTP/1.1 with one framing (h11 sees to the grammar); a body is read only when it is asked for, and
   not beyond its limit.
2. Every wait has an end: for a head, for the next part of a body, for a caller that does not read.
3. A connection on which anything was left unread, or refused, is closed, after its caller had time to hear why.
4. Who closes his side of the connection has gone, as HTTP clients do when they don't want to wait any longer. It is
   learnt without reading, so that what he said before it has its limit; of who says more than that nothing is learnt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import h11

from farebox.http.forward.fields import Field, values
from farebox.http.forward.refusal import Refusal, malformed

_MOST_FIELDS: Final = 128
_READ_BYTES: Final = 64 * 1024
_BODILESS: Final = frozenset((204, 304))
_LINGER: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How much, and how long, a caller may take.

    stranger: until a connection has shown a good token. idle: between two requests. head, body: to send one. read: to
    take a part of an answer. Sizes are in bytes; most_bodies: of all callers together.
    """

    stranger: timedelta = timedelta(seconds=10)
    idle: timedelta = timedelta(seconds=75)
    head: timedelta = timedelta(seconds=30)
    body: timedelta = timedelta(seconds=120)
    read: timedelta = timedelta(seconds=60)
    most_head: int = 32 * 1024
    most_body: int = 16 * 1024 * 1024
    most_bodies: int = 64 * 1024 * 1024


class Room:
    """What the bodies of all callers may take up at once, in bytes."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """Whether there is room for so much, which then is taken."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """So much is not in memory any more."""
        self._left += size


class Reader(Protocol):
    """Where bytes come from: a Line."""

    async def read(self, n: int = -1) -> bytes:
        """Some bytes; none when there are no more."""

    async def ended(self) -> None:
        """Wait until nothing more will come, whether or not what came is read."""


class Line(asyncio.StreamReader):
    """What comes from a caller, of whom it is known when he hangs up also while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=_READ_BYTES)
        self._over = asyncio.Event()

    def feed_eof(self) -> None:
        """He has closed his side, or the connection was closed."""
        super().feed_eof()
        self._over.set()

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self._over.set()

    async def ended(self) -> None:
        """As in Reader."""
        await self._over.wait()


class Writer(Protocol):
    """Where bytes go: an asyncio.StreamWriter."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def drain(self) -> None:
        """Wait until there is room."""

    def can_write_eof(self) -> bool:
        """Whether one side can be closed alone."""

    def write_eof(self) -> None:
        """Say that no more will come."""


class Caller:
    """One caller, and what was said to him. begun: whether an answer has begun, so that nothing else can be said.

    known: whether a good token was shown on this connection; it is held for a stranger only for a short time in all.
    room: for the bodies of all callers; its own without one.
    """

    def __init__(
        self, reader: Reader, writer: Writer, patience: Patience, *, known: bool = False, room: Room | None = None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._patience = patience
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=patience.most_head)
        self._leaving = self._head_only = False
        self._room = room or Room(patience.most_bodies)
        self._taken = 0
        self._unsaid: int | None = None  # bytes that are missing from the answer; None where only its end tells
        self._since: float | None = None  # when the first request was waited for
        self.known = known
        self.idle = True
        self.begun = False

    @property
    def asking(self) -> bool:
        """Whether a request was heard, and its answer has not begun."""
        return self._http.our_state is h11.SEND_RESPONSE

    # --- hearing ----------------------------------------------------------------------------------------------------

    async def hear(self) -> h11.Request | None:
        """The next request's head; None when the caller has gone, or says nothing for too long. Raises Refusal."""
        self.idle, self.begun, self._unsaid = True, False, None
        try:
            async with asyncio.timeout_at(self._latest(self._patience.idle)) as limit:
                event = await self._next(limit)
        except TimeoutError:
            if self.idle:
                return None
            raise _slow() from None
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        if not isinstance(event, h11.Request):
            return None
        self.idle = False
        self._check_head(event)
        self._head_only = event.method == b"HEAD"
        return event

    async def body(self) -> bytes:
        """The body of the request that was heard, asked for if need be. Raises Refusal."""
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._drain()
        body = bytearray()
        try:
            async with asyncio.timeout(self._patience.body.total_seconds()):
                while not isinstance(event := await self._next(), h11.EndOfMessage):
                    if not isinstance(event, h11.Data):
                        raise malformed("the body broke off")
                    self._take_room(len(event.data))
                    body += event.data
                    if len(body) > self._patience.most_body:
                        raise _too_large(self._patience.most_body)
                return bytes(body)
        except TimeoutError:
            raise _slow() from None
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """What is done in here is cancelled when the caller hangs up before he was told all, with a TimeoutError."""
        async with asyncio.timeout(None) as end:
            watching = asyncio.create_task(self._end_when_gone(end))
            try:
                yield
            finally:
                watching.cancel()

    async def _end_when_gone(self, end: asyncio.Timeout) -> None:
        await self._reader.ended()
        if self._unsaid != 0:
            end.reschedule(asyncio.get_running_loop().time())

    def forget_body(self) -> None:
        """The body that was read is not needed any more."""
        self._room.give_back(self._taken)
        self._taken = 0

    def _take_room(self, size: int) -> None:
        if not self._room.take(size):
            raise _crowded()
        self._taken += size

    @property
    def unread(self) -> bytes:
        """What came behind the request."""
        return self._http.trailing_data[0]

    def _check_head(self, request: h11.Request) -> None:
        """Raises Refusal; and where it is not certain where the request ends, nothing behind it is heard."""
        fields = request.headers.raw_items()
        size = len(request.target) + sum(len(name) + len(value) for name, value in fields)
        if len(fields) > _MOST_FIELDS or size > self._patience.most_head:
            self.leave()
            raise _large_head()
        coded = values(fields, b"transfer-encoding")
        if coded and (values(fields, b"content-length") or request.http_version < b"1.1"):
            self.leave()
            raise malformed("the request is framed in two ways")

    def _latest(self, patience: timedelta) -> float:
        """Until when it is waited for what is to come now; for a stranger, in all."""
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        latest = now + patience.total_seconds()
        return latest if self.known else min(latest, self._since + self._patience.stranger.total_seconds())

    async def _next(self, limit: asyncio.Timeout | None = None) -> h11.Event | None:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_READ_BYTES)
            self._http.receive_data(data)
            if data and limit is not None and self.idle:  # in a head, which as a whole has so long from here
                self.idle = False
                limit.reschedule(self._latest(self._patience.head))
        return event if isinstance(event, h11.Event) else None

    # --- saying -----------------------------------------------------------------------------------------------------

    async def begin(self, status: int, fields: Sequence[Field]) -> None:
        """The head of the answer."""
        if self._leaving or self._http.their_state is not h11.DONE:
            self.leave()
            fields = [*fields, (b"connection", b"close")]
        head = h11.Response(status_code=status, headers=list(fields))
        self._send(head)
        self.begun = True
        await self._drain()
        if self._head_only or status in _BODILESS:
            self._unsaid = 0
        elif length := values(head.headers.raw_items(), b"content-length"):
            self._unsaid = int(length[0])

    async def part(self, data: bytes) -> None:
        """A part of the body."""
        self._send(h11.Data(data=data))
        await self._drain()
        if self._unsaid is not None:
            self._unsaid -= len(data)

    async def end(self) -> None:
        """The answer is whole."""
        self._send(h11.EndOfMessage())
        await self._drain()
        self._unsaid = 0

    async def say(self, status: int, fields: Sequence[Field], body: bytes) -> None:
        """A whole answer of the proxy's own."""
        if self._http.their_state is h11.SEND_BODY and not self._http.they_are_waiting_for_100_continue:
            with suppress(h11.RemoteProtocolError):
                self._http.next_event()  # the end, if there is no body
        length = (b"content-length", b"%d" % len(body))
        await self.begin(status, [*fields, (b"cache-control", b"no-store"), length])
        if not self._head_only:
            await self.part(body)
        await self.end()

    async def refuse(self, refusal: Refusal) -> None:
        """A problem, if anything can still be said."""
        if self.begun or self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._leaving = True
            return
        fields = [(b"content-type", b"application/problem+json"), *refusal.headers]
        await self.say(refusal.status, fields, refusal.body())

    def leave(self) -> None:
        """Let the answer that comes be the last."""
        self._leaving = True

    def next_one(self) -> bool:
        """Whether another request can be heard on this connection."""
        if self._leaving or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def linger(self) -> None:
        """Give a caller that is still sending time to hear what was said: closing at once would take it back."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER.total_seconds()):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self._reader.read(_READ_BYTES):
                    pass

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _drain(self) -> None:
        async with asyncio.timeout(self._patience.read.total_seconds()):
            await self._writer.drain()


def _too_large(most: int) -> Refusal:
    return Refusal(413, "body-too-large", "The request body is too large to be paid for", f"at most {most} bytes")


def _crowded() -> Refusal:
    return Refusal(503, "too-much-at-once", "Too much is being sent at once", headers=((b"retry-after", b"2"),))


def _slow() -> Refusal:
    return Refusal(408, "request-timeout", "The request did not arrive in time")


def _unreadable(error: h11.RemoteProtocolError) -> Refusal:
    return _large_head() if error.error_status_hint == 431 else malformed(str(error))


def _large_head() -> Refusal:
    return Refusal(431, "headers-too-large", "The request has too many or too large header fields")
