"""The buyer's purse, and how it is kept in SQLite: one file that all programs of a user share.

Rules
1. A transaction takes the file's write lock when it begins, so no other one is in the middle of it.
2. The file holds preimages, which are worth the calls they paid for, so it is for its owner alone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.payment import PURCHASE_MOVES
from farebox.core.ports import Clock
from farebox.stores.engine import Connection, edges, utc_now
from farebox.stores.places import MEMORY, need_driver, purse_place
from farebox.stores.sqlite import SqliteConnection, open_file
from farebox.stores.stored_purse import StoredPurse

_OTHERS: Final = 0o077


def open_purse(place: Path | str, clock: Clock | None = None, *, zone: tzinfo = UTC) -> StoredPurse:
    """The purse in a file, or at `postgresql://user:password@host:port/database`, made and migrated as needed.

    A file is a path or `sqlite:///path`; `:memory:` is gone when closed. clock: None for that of the machine the purse
    is on. zone: where the calendar's days of sub-purses begin.
    Raises ConfigError, in one line, for any other URL, a place that can't be written to, and one that is not a purse,
    is newer than this farebox or can't be closed to other users; StoreUnavailable when other processes keep a file
    locked, and when a server does not answer.
    """
    where = purse_place(place)
    if isinstance(where, str) and where != MEMORY:
        need_driver("purse")
        from farebox.stores.purse_postgres import PostgresPurse

        return PostgresPurse(where, clock, zone)
    file = where if isinstance(where, Path) else None
    # The folder too, for a user who has never bought anything.
    connection = open_file(file, room="purse", moves={"draw_moves": edges(PURCHASE_MOVES)}, make_folder=True)
    if file is not None:
        try:
            _close_to_others(file)
        except OSError as error:
            connection.close()
            told = f"The purse {file} can't be closed to other users ({error.strerror}); choose a place of your own."
            raise ConfigError(told) from None
    return SqlitePurse(connection, clock or utc_now, zone)


def _close_to_others(file: Path) -> None:
    for one in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        if one.exists() and one.stat().st_mode & _OTHERS:
            one.chmod(0o600)


class SqlitePurse(StoredPurse):
    """A core.purse.Purse in SQLite. Threads may share it, forks may not."""

    def __init__(self, connection: SqliteConnection, clock: Clock, zone: tzinfo = UTC) -> None:
        self.zone = zone
        self._connection = connection
        self._clock = clock
        self._turn = threading.Lock()
        self._process = os.getpid()

    def wall(self) -> datetime:
        """The time of its clock."""
        return self._clock()

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The connection, in its turn among threads."""
        with self._turn:
            if os.getpid() != self._process:
                raise StoreUnavailable("A purse can't be used in a process forked from the one that opened it.")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{error}.") from None

    @contextmanager
    def writing(self, *, lasting: bool = True) -> Iterator[Connection]:
        """The connection in a transaction, which has the file's write lock."""
        with self.reading() as tx:
            if not lasting:
                tx.execute("PRAGMA synchronous = NORMAL")
            try:
                self._connection.begin()
                yield tx
                self._connection.commit()
            except BaseException:
                with suppress(sqlite3.Error):  # where it can't be undone now, the next begin fails and says so
                    self._connection.rollback()
                raise
            finally:
                if not lasting:
                    tx.execute("PRAGMA synchronous = FULL")
