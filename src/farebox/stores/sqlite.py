"""SQLite: one file, opened with care, and the engine on top of it.

Rules
1. Money is durable when a call returns: write-ahead log, and an fsync for each commit (`synchronous = FULL`).
2. A transaction takes the write lock when it begins, so it never fails half-way for want of it; other processes wait.
3. The file is made for its owner alone (0600); so are the files that SQLite puts beside it.
4. A file that is not ours, or that a newer farebox wrote, is left as it is.
5. One connection writes, on its own thread; one reads, on another, so that reading goes on where writing can't.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.ports import Clock
from farebox.stores.engine import Edges, Row, Work, drive, in_ms, utc_now
from farebox.stores.group_commit import Asked, GroupCommit, Remedy
from farebox.stores.statements import Phase
from farebox.stores.versions import Plan, plan
from farebox.stores.waiting import Waiting

T = TypeVar("T")

_BUSY_S: Final = 5.0
_CACHE_KIB: Final = 16_000  # the pages that today's payments are on, instead of reading them back at each call
_READING_CACHE_KIB: Final = 4000  # it looks up a row here and there
_CHECKPOINT_PAGES: Final = 4000  # of 4 KiB: a checkpoint is rarer, and a page that changed often is copied once
_NOT_BUSY_S: Final = 0.01
_LOOK_AGAIN: Final = timedelta(milliseconds=200)

# SQLite locks with fcntl, and closing any descriptor of a file drops every fcntl lock that the process has on it. So
# while one thread makes the file (and closes it), no other may be opening it.
_MAKING: Final = threading.Lock()


class SqliteConnection(sqlite3.Connection):
    """A connection to one file. Begins transactions with the write lock unless it only reads."""

    reads_only = False
    clock: Clock = staticmethod(utc_now)

    def begin(self) -> None:
        """Begin, with the write lock."""
        self.execute("BEGIN" if self.reads_only else "BEGIN IMMEDIATE")

    def perform(self, batch: Sequence[Asked]) -> Sequence[object]:
        """Run the operations one after the other; what each of them returned."""
        return [drive(asked.work(in_ms(self.clock())), self._rows) for asked in batch]

    def _rows(self, statement: str, parameters: Mapping[str, object]) -> list[Row]:
        return self.execute(statement, parameters).fetchall()

    def remedy(self, error: Exception, tries: int) -> Remedy:
        """SQLite has waited for its lock already, and is not away."""
        return Remedy.APART

    def translate(self, error: Exception) -> Exception:
        """SQLite's errors as StoreUnavailable."""
        return StoreUnavailable(f"{error}.") if isinstance(error, sqlite3.Error) else error


def open_file(
    path: Path | None, *, room: str, moves: Mapping[str, Edges], contract: bool = False, make_folder: bool = False
) -> SqliteConnection:
    """A connection to the file of a `ledger` or a `purse`, made and migrated as needed; None is a database in memory.

    moves: the tables that keep the edges of state machines, and what they hold. contract: also apply the migrations
    that an older farebox can't live with. make_folder: that the file is to lie in. Raises ConfigError, in one line, for
    a file that can't be written, is not ours or is newer than we can live with, and StoreUnavailable when other
    processes keep it locked.
    """
    connection = _connect(path, room=room, make_folder=make_folder)
    try:
        _migrate(connection, path, room=room, moves=moves, contract=contract)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path | None, *, room: str, make_folder: bool = False) -> SqliteConnection:
    try:
        with _MAKING:
            if path is not None:
                _make(path, with_folder=make_folder)
            connection = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=_BUSY_S,
                isolation_level=None,
                check_same_thread=False,
                factory=SqliteConnection,
            )
    except (OSError, ValueError, sqlite3.Error) as error:
        raise _unusable(path, room, error) from None
    try:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, room, error) from None
    return connection


def _make(path: Path, *, with_folder: bool) -> None:
    if with_folder:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _write_ahead(connection: sqlite3.Connection) -> None:
    # Of several processes that make one file at the same moment, SQLite tells all but one at once that it is locked:
    # for this pragma it does not wait.
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_NOT_BUSY_S)
        else:
            return


def _unusable(path: Path | None, room: str, error: Exception) -> ConfigError | StoreUnavailable:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the error may be Python's own; the low byte is the kind
    if code == sqlite3.SQLITE_BUSY:
        return StoreUnavailable(f"Another process keeps {path} locked.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ConfigError(f"{path} is not a {room} or is damaged; restore it from a backup or choose another place.")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"The {room} can't be kept in {path} ({reason}); choose a place that can be written to.")


def _migrate(
    connection: SqliteConnection, path: Path | None, *, room: str, moves: Mapping[str, Edges], contract: bool
) -> None:
    try:
        connection.begin()  # also where it has all been done: a file that can't be written to is told now
        applied = _applied(connection, path, room=room)
        planned = plan(applied, place=str(path), room=room, engine="sqlite", contract=contract)
        for migration in planned.needed:
            for statement in _split(migration.text):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (room, number, name, phase) VALUES (?, ?, ?, ?)",
                (room, migration.number, migration.name, migration.phase.value),
            )
        for table, edges in moves.items():
            _fill(connection, table, edges, planned)
        connection.commit()
    except sqlite3.Error as error:
        raise _unusable(path, room, error) from None


def _applied(connection: sqlite3.Connection, path: Path | None, *, room: str) -> Mapping[int, Phase]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        connection.execute(
            "CREATE TABLE migrations (room TEXT NOT NULL, number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " phase TEXT NOT NULL DEFAULT 'expand')"
        )
        return {}
    if "migrations" not in tables:
        raise ConfigError(f"{path} is a database of something else; choose another place for the {room}.")
    if not any(column == "phase" for _, column, *_ in connection.execute("PRAGMA table_info(migrations)")):
        connection.execute("ALTER TABLE migrations ADD COLUMN phase TEXT NOT NULL DEFAULT 'expand'")
    rows = connection.execute("SELECT room, number, phase FROM migrations ORDER BY number").fetchall()
    if {name for name, _, _ in rows} != {room}:
        raise ConfigError(f"{path} is not a farebox {room}; choose another place for it.")
    return {number: Phase(phase) for _, number, phase in rows}


def _split(script: str) -> list[str]:
    statements, lines = [], ""
    for line in script.splitlines(keepends=True):
        lines += line
        if sqlite3.complete_statement(lines):  # knows that a trigger has semicolons inside
            statements.append(lines)
            lines = ""
    return statements


def _fill(connection: sqlite3.Connection, table: str, edges: Edges, planned: Plan) -> None:
    present = frozenset(connection.execute(f"SELECT from_state, to_state FROM {table}"))  # noqa: S608 - a name of ours
    for surplus in planned.surplus(edges, present):
        connection.execute(f"DELETE FROM {table} WHERE from_state = ? AND to_state = ?", surplus)  # noqa: S608 - as above
    for missing in sorted(planned.missing(edges, present)):
        connection.execute(f"INSERT INTO {table} VALUES (?, ?)", missing)  # noqa: S608 - as above


class SqliteEngine:
    """An engine on one file, or in memory."""

    def __init__(self, path: Path | None, *, room: str, moves: Mapping[str, Edges], clock: Clock) -> None:
        """Raises ConfigError and StoreUnavailable as open_file does."""
        writing = open_file(path, room=room, moves=moves)
        reading = None if path is None else _connect(path, room=room)
        writing.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        writing.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        writing.clock = clock
        self.now = clock
        self._waiting = Waiting()
        self._writer = GroupCommit(writing, name=f"{room} writer")
        self._reader = self._writer
        if reading is not None:
            reading.execute("PRAGMA query_only = ON")
            reading.execute(f"PRAGMA cache_size = -{_READING_CACHE_KIB}")
            reading.reads_only = True
            reading.clock = clock
            self._reader = GroupCommit(reading, name=f"{room} reader")

    async def write(self, work: Work[T], *, about: bytes, tells: bool = False) -> T:
        """What the operation returns, once it is durable; whatever it raises, with nothing done."""
        try:
            return await self._writer.run(work, about=about)
        finally:
            if tells:
                self._waiting.tell(about)

    async def read(self, work: Work[T], *, thorough: bool = False) -> T:
        """What the operation returns; it sees one state of the database and must not change it."""
        return await self._reader.run(work)

    async def changed(self, about: bytes, *, within: timedelta) -> None:
        """Returns when something was told in this process, and soon in any case: other processes can't tell us."""
        await self._waiting.wait(about, within=min(within, _LOOK_AGAIN))

    async def close(self) -> None:
        """Finish what is under way, then let go of the file."""
        await self._reader.close()
        await self._writer.close()
