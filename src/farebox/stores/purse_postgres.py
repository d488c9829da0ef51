"""The buyer's purse in PostgreSQL: one for a fleet, whose programs run on any number of machines.

Rules
1. A writing transaction first takes one lock that all of them take, or two that sum at once would both find the same
   room. It is an advisory lock of the transaction, named after the schema: there is no row that somebody could delete
   or must be allowed to write, it leaves nothing behind, and it ends with the transaction, however that ends.
2. READ COMMITTED, and the lock a statement of its own: each later statement sees all that was committed before it.
3. Only a server that takes writes is asked, also for reading: what a standby has not heard of would be paid again.
4. The time is the server's, heard when the lock is held; farebox.stores.stored_purse keeps it from running backwards.
5. What passes is run again for some seconds, as long as no commit was sent: a connection that was lost, a deadlock. A
   commit of which nobody can tell is StoreUnavailable; asked the same again, `hold` returns the row that it finds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from typing import Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from farebox.core.errors import StoreUnavailable
from farebox.core.payment import PURCHASE_MOVES
from farebox.core.ports import Clock
from farebox.stores.engine import Connection, Edges, Row, edges
from farebox.stores.postgres import ServerClock
from farebox.stores.postgres_link import (
    LOST,
    NO_WRITER,
    OUTDATED,
    PASSES,
    ROUND_TRIP,
    Link,
    is_for_good,
    read_url,
    told,
)
from farebox.stores.postgres_schema import TIME, migrate_database
from farebox.stores.postgres_text import asking, translated
from farebox.stores.statements import statements
from farebox.stores.stored_purse import StoredPurse

T = TypeVar("T")

ROOM: Final = "purse"
MACHINES: Final[Mapping[str, Edges]] = {"purchase_moves": edges(PURCHASE_MOVES)}

_PATIENCE_S: Final = 5.0
_PAUSES_S: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
_PASSES: Final = (*PASSES, NO_WRITER, "55P03")  # the last: others had the lock all the time

_LOCK: Final = asking(translated(statements("purse.postgresql")["lock"]), {})
_BEGIN: Final = (asking(translated("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"), {}), _LOCK)
_BEGIN_READING: Final = (asking(translated("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), {}),)
_TIME: Final = asking(translated(TIME), {})
_COMMIT: Final = asking(translated("COMMIT"), {})
_ROLLBACK: Final = asking(translated("ROLLBACK"), {})


class _Given:
    """A farebox.stores.engine.Cursor over the rows that a statement gave."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = iter(rows)

    def fetchone(self) -> Row | None:
        return next(self._rows, None)

    def fetchall(self) -> list[Row]:
        return list(self._rows)


class _Transaction:
    """A farebox.stores.engine.Connection to the server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None, /) -> _Given:
        try:
            asked = asking(translated(statement), parameters or {})
        except ValueError as error:  # a text that PostgreSQL can't keep
            raise StoreUnavailable(f"{error}.") from None
        return _Given(self._link.ask([asked])[0])


class PostgresPurse(StoredPurse):
    """A core.purse.Purse in PostgreSQL. Threads may share it, forks may not."""

    def __init__(self, url: str, clock: Clock | None = None, zone: tzinfo = UTC) -> None:
        """clock: None for the server's.

        Raises ConfigError, in one line, for a URL that can't be read, a database that is not there, not ours or newer
        than we can live with, and StoreUnavailable for a server that does not answer.
        """
        self.zone = zone
        self._clock = clock
        self._server = ServerClock()
        self._server.hear(migrate_database(url, room=ROOM, moves=MACHINES))
        conninfo = make_conninfo(read_url(url, room=ROOM), target_session_attrs="read-write")
        self._link = Link(conninfo, writes=True, patience=ROUND_TRIP)
        self._turn = threading.Lock()
        self._process = os.getpid()
        self._is_closed = False

    def wall(self) -> datetime:
        """The time of the server, or of the clock that was given."""
        return self._server() if self._clock is None else self._clock()

    def close(self) -> None:
        """Let go of the server."""
        if os.getpid() != self._process:
            return  # the connection is another process's
        with self._turn:
            self._is_closed = True
            self._link.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One state of the purse."""
        with self._translated(), self._transaction(writes=False) as tx:
            yield tx

    @contextmanager
    def writing(self, *, lasting: bool = True) -> Iterator[Connection]:
        """A transaction that has the lock of this purse; it lasts in any case."""
        with self._translated(), self._transaction(writes=True) as tx:
            yield tx

    def write(self, work: Callable[[Connection], T], *, lasting: bool = True) -> T:
        """What the work returns, once it is durable; whatever it raises, with nothing done. It may be run twice."""
        trouble = _Trouble()
        with self._translated():
            while True:
                try:
                    with self._transaction(writes=True) as tx:
                        return work(tx)
                except psycopg.Error as error:
                    if not trouble.passes(error):
                        raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise StoreUnavailable(f"{told(error, self._link.conninfo)}.") from None

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Raises psycopg.Error where nothing was done, and StoreUnavailable where nobody can tell."""
        with self._turn:
            if os.getpid() != self._process:
                raise StoreUnavailable("A purse can't be used in a process forked from the one that opened it.")
            if self._is_closed:
                raise StoreUnavailable("The purse is closed.")
            try:
                self._begin(writes=writes)
                yield _Transaction(self._link)
            except BaseException as error:
                self._undo(error)
                raise
            if writes:
                self._commit()
            else:
                self._undo()

    def _begin(self, *, writes: bool) -> None:
        """Have a connection, the lock and the time: three things in one round trip."""
        trouble = _Trouble()
        while True:
            try:
                if not self._link.is_open or self._link.in_transaction:
                    self._link.open()
                *_, [(now_ms,)] = self._link.ask([*(_BEGIN if writes else _BEGIN_READING), _TIME])
            except psycopg.Error as error:
                self._undo(error)
                if not trouble.passes(error):
                    raise
            else:
                self._server.hear(now_ms)
                return

    def _commit(self) -> None:
        try:
            self._link.ask([_COMMIT])
        except psycopg.Error as error:
            if not self._link.is_open or _is_lost(error):
                self._link.close()
                raise StoreUnavailable("The database went away while it kept this; ask again to find out.") from None
            raise
        except BaseException:
            self._link.close()
            raise

    def _undo(self, error: BaseException | None = None) -> None:
        """Leave nothing begun. What interrupts may have come between a question and its answer."""
        outdated = isinstance(error, psycopg.Error) and _is_outdated(error)
        if isinstance(error, Exception | None) and not outdated and self._link.is_open:
            with suppress(psycopg.Error):
                if self._link.in_transaction:
                    self._link.ask([_ROLLBACK])
                return
        self._link.close()


class _Trouble:
    """How often, and for how long, the same was tried."""

    def __init__(self) -> None:
        self._tries = 0
        self._began = time.monotonic()

    def passes(self, error: psycopg.Error) -> bool:
        """Whether to try again; returns when it is time to."""
        again = not is_for_good(error) if _is_lost(error) else error.sqlstate in _PASSES
        if not again or time.monotonic() - self._began > _PATIENCE_S:
            return False
        time.sleep(_PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)])
        self._tries += 1
        return True


def _is_lost(error: psycopg.Error) -> bool:
    return error.sqlstate is None or error.sqlstate.startswith(LOST)


def _is_outdated(error: psycopg.Error) -> bool:
    return _is_lost(error) or error.sqlstate in OUTDATED
