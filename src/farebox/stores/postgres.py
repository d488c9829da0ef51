"""PostgreSQL: one database for any number of gateways, on any number of machines.

Rules
1. A batch is one transaction. Its operations run in step (farebox.stores.waves): what they ask at the same time goes
   to the server in one round trip, and a statement that many of them ask is asked once for all of them.
2. A batch first locks the payments that it is about, in the order of their hashes, so that gateways that are asked
   about the same payments wait for one another, and not in a circle. The locks decide nothing: each WHERE does.
3. The time is the server's, read when a batch has its locks; between batches it goes on by this machine's monotonic
   clock, never by its wall clock.
4. What passes is run again, a few times and for about two seconds: a deadlock, a serialization failure, a connection
   that was lost, also while a commit was under way. Operations find out what they did before (farebox.stores.names).
   Of a server that has been away for longer everybody is told at once, until it is there again.
5. What does not pass is StoreUnavailable, soon: no wait is without an end, and no message tells a password.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import psycopg

from farebox.core.errors import StoreUnavailable
from farebox.core.ports import Clock
from farebox.stores.engine import Edges, Row, Step, Work, from_ms, in_ms
from farebox.stores.group_commit import Asked, GroupCommit, Remedy
from farebox.stores.postgres_link import (
    LOST,
    NO_WRITER,
    OUTDATED,
    PASSES,
    ROUND_TRIP,
    Link,
    is_for_good,
    place_of,
    read_url,
    told,
)
from farebox.stores.postgres_notices import CHANNEL, Notices
from farebox.stores.postgres_schema import TIME, migrate_database
from farebox.stores.postgres_text import Asking, asking, asking_for_many, translated
from farebox.stores.statements import statements
from farebox.stores.waves import grouped, run_in_step

T = TypeVar("T")

_MOST_TRIES: Final = 8
_TROUBLE_S: Final = 2.0
_PAUSES_S: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
_JITTER: Final = timedelta(seconds=1)

_BEGIN: Final = asking(translated("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"), {})
_BEGIN_READING: Final = asking(translated("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), {})
_COMMIT: Final = asking(translated("COMMIT"), {})
_ROLLBACK: Final = asking(translated("ROLLBACK"), {})
_TIME: Final = asking(translated(TIME), {})
_NOTIFY: Final = translated(
    "SELECT pg_notify(asked.channel, asked.about)"
    " FROM unnest(CAST(:channel AS TEXT[]), CAST(:about AS TEXT[])) AS asked (channel, about)"
)


class ServerClock:
    """The server's time, as last heard and carried on by the monotonic clock."""

    def __init__(self) -> None:
        self._heard: tuple[int, float] | None = None

    def hear(self, now_ms: int) -> None:
        """The server said that it is so late."""
        before = self._heard
        if before is not None:
            # An answer that took longer on its way tells an earlier time; the earlier one that it was told is better.
            ahead = _since(before) - from_ms(now_ms)
            if timedelta(0) <= ahead < _JITTER:
                return
        self._heard = (now_ms, time.monotonic())

    def __call__(self) -> datetime:
        """The time. Raises StoreUnavailable as long as none was heard."""
        if self._heard is None:
            raise StoreUnavailable("The database has not told its time yet.")
        return _since(self._heard)


def _since(heard: tuple[int, float]) -> datetime:
    heard_ms, heard_at = heard
    return from_ms(heard_ms) + timedelta(seconds=time.monotonic() - heard_at)


class PostgresConnection:
    """A farebox.stores.group_commit.TransactionalConnection to a server that may go away and come back."""

    def __init__(
        self, link: Link, *, own: Mapping[str, str], locks: str | None, server: ServerClock, clock: Clock | None
    ) -> None:
        """own: the statements that PostgreSQL says in a way of its own, by their common text.

        locks: the statement that locks what a batch is about; None where nothing is written. clock: None for the
        server's.
        """
        self._link = link
        self._own = own
        self._locks = None if locks is None else translated(locks)
        self._server = server
        self._clock = clock
        self._tells: list[bytes] = []
        self._trouble_since = self._troubled_at = -math.inf
        self.retries = 0

    def begin(self) -> None:
        """Have a connection. The transaction begins with what is asked first, in one round trip."""
        if not self._link.is_open or self._link.in_transaction:
            self._link.open()

    def perform(self, batch: Sequence[Asked]) -> Sequence[Any]:
        """Run the operations in step; what each of them returned."""
        self._tells = sorted({asked.about for asked in batch if asked.tells})
        first = [_BEGIN_READING] if self._locks is None else [_BEGIN]
        if self._locks is not None:
            first.append(asking_for_many(self._locks, [{"about": asked.about} for asked in batch]))
        if self._clock is None:
            self._server.hear(self._link.ask([*first, _TIME])[-1][0][0])
            now = self._server()
        else:
            self._link.ask(first)
            now = self._clock()
        return run_in_step(batch, in_ms(now), self._ask, only_reading=self._locks is None)

    def commit(self) -> None:
        """Make it durable, and tell of it."""
        words = [{"channel": CHANNEL, "about": about.hex()} for about in self._tells]
        self._link.ask([*([asking_for_many(_NOTIFY, words)] if words else []), _COMMIT])
        self._troubled_at = -math.inf

    def rollback(self) -> None:
        """Undo it; does nothing where there is none."""
        if self._link.in_transaction:
            self._link.ask([_ROLLBACK])

    def close(self) -> None:
        """Let go of the server."""
        self._link.close()

    def remedy(self, error: Exception, tries: int) -> Remedy:
        """Again for what passes, as long as that takes a moment; nothing when the server is away."""
        if not isinstance(error, psycopg.Error):
            return Remedy.APART
        now = time.monotonic()
        if tries == 1 and now - self._troubled_at > _TROUBLE_S:  # else it is the same trouble as a moment ago
            self._trouble_since = now
        state = error.sqlstate or ""
        lost = not self._link.is_open or state.startswith(LOST) or state == NO_WRITER
        if state in OUTDATED:
            self._link.close()
        if lost or state in PASSES:
            self._troubled_at = now
            if tries >= _MOST_TRIES or now - self._trouble_since >= _TROUBLE_S or is_for_good(error):
                return Remedy.NONE
            time.sleep(_PAUSES_S[min(tries, len(_PAUSES_S)) - 1])
            self.retries += 1
            return Remedy.AGAIN
        return Remedy.APART

    def translate(self, error: Exception) -> Exception:
        """PostgreSQL's errors, and what it can't keep, as StoreUnavailable."""
        if isinstance(error, psycopg.Error):
            return StoreUnavailable(f"{told(error, self._link.conninfo)}.")
        return StoreUnavailable(f"{error}.") if isinstance(error, ValueError) else error

    def _ask(self, steps: Sequence[Step]) -> Sequence[list[Row]]:
        """A wave: what many ask is asked once, where there is a statement for many."""
        asked: list[Asking] = []
        places: list[list[int]] = []
        for text, together in grouped(steps).items():
            statement = translated(self._own.get(text, text))
            if statement.many:
                asked.append(asking_for_many(statement, [steps[place][1] for place in together]))
                places.append(together)
            else:
                asked += [asking(statement, steps[place][1]) for place in together]
                places += [[place] for place in together]
        given: list[list[Row]] = [[] for _ in steps]
        for one, together, rows in zip(asked, places, self._link.ask(asked), strict=True):
            if one.statement.many:
                for place, *row in rows:
                    given[together[place - 1]].append(tuple(row))
            else:
                given[together[0]] = rows
        return given


class PostgresEngine:
    """An engine on one PostgreSQL, shared with whoever else uses that database."""

    def __init__(self, url: str, *, room: str, moves: Mapping[str, Edges], clock: Clock | None) -> None:
        """clock: None for the server's.

        Raises ConfigError, in one line, for a URL that can't be read, a database that is not there, not ours or newer
        than we can live with, and StoreUnavailable for a server that does not answer.
        """
        self._conninfo = read_url(url)
        self.place = place_of(self._conninfo)
        self._server = ServerClock()
        self._clock = clock
        self._server.hear(migrate_database(url, room=room, moves=moves))
        mine, common = statements(f"{room}.postgresql"), statements(room)
        self._own = {common[name]: text for name, text in mine.items() if name in common}
        self._room = room
        self._writing = self._connection(Link(self._conninfo, writes=True, patience=ROUND_TRIP), locks=mine["lock"])
        self._reading = self._connection(Link(self._conninfo, writes=False, patience=ROUND_TRIP))
        self._writer = GroupCommit(self._writing, name=f"{room} writer")
        self._reader = GroupCommit(self._reading, name=f"{room} reader")
        self._thorough: GroupCommit | None = None
        self._notices = Notices(self._conninfo)

    @property
    def retries(self) -> int:
        """How often a batch was run again because of something that passed."""
        return self._writing.retries + self._reading.retries

    def now(self) -> datetime:
        """The time that everybody who shares this database goes by."""
        return self._server() if self._clock is None else self._clock()

    async def write(self, work: Work[T], *, about: bytes, tells: bool = False) -> T:
        """What the operation returns, once it is durable; whatever it raises, with nothing done."""
        try:
            return await self._writer.run(work, about=about, tells=tells)
        finally:
            if tells:
                self._notices.tell(about)

    async def read(self, work: Work[T], *, thorough: bool = False) -> T:
        """What the operation returns; it sees one state of the database and must not change it."""
        if not thorough:
            return await self._reader.run(work)
        if self._thorough is None:
            link = Link(self._conninfo, writes=False, patience=None)
            self._thorough = GroupCommit(self._connection(link), name=f"{self._room} thorough reader")
        return await self._thorough.run(work)

    async def changed(self, about: bytes, *, within: timedelta) -> None:
        """Returns when something was told about this in any process, and in a moment in any case."""
        await self._notices.wait(about, within=within)

    async def close(self) -> None:
        """Finish what is under way, then let go of the server."""
        await self._reader.close()
        await self._writer.close()
        if self._thorough is not None:
            await self._thorough.close()
        await asyncio.to_thread(self._notices.close)

    def _connection(self, link: Link, *, locks: str | None = None) -> PostgresConnection:
        return PostgresConnection(link, own=self._own, locks=locks, server=self._server, clock=self._clock)
