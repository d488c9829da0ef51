"""A real PostgreSQL, started by whoever tests with it: on a free port, as an unprivileged user, gone when it is over.

Rules
1. Its binaries are those of the system's packages, the newest of several.
2. It listens on loopback only and trusts whoever connects; its socket lies in a folder of its own.
3. What is committed is flushed, so that a server that was stopped at once, and started again, is a real crash.
4. A ledger's database is emptied and used again, which takes milliseconds where making one takes half a second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import psycopg

from farebox.stores.engine import Edges
from farebox.stores.places import MACHINES, ROOM
from farebox.stores.postgres_schema import migrate_database

PATIENCE_S: Final = 30.0
_USER: Final = "postgres"  # the server's superuser, and who runs it where we are root
_DEBIAN: Final = Path("/usr/lib/postgresql")

# A small server that many connect to. WAL is flushed: `stop("immediate")` must find what was committed.
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "10s",
    "log_line_prefix": "'%m %p %e '",
}


def binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: the newest of the system's packages, or the one on PATH."""
    found = sorted(_DEBIAN.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("pg_ctl")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


# As a superuser, whom no trigger stops; what a TRUNCATE does takes longer where there is next to nothing.
_EMPTY: Final = r"""
SET session_replication_role = replica;
DO $$
DECLARE
    emptied TEXT := (
        SELECT string_agg('DELETE FROM ' || quote_ident(tablename), '; ')
        FROM pg_tables
        WHERE schemaname = current_schema() AND tablename <> 'migrations' AND tablename NOT LIKE '%\_moves'
    );
BEGIN
    EXECUTE emptied;
END;
$$
"""


@dataclass(slots=True, kw_only=True)
class Postgres:
    """A server of one test session, and the databases on it."""

    folder: Path
    bin: Path
    port: int
    settings: Mapping[str, str]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Where a database is; port: that of a proxy in front."""
        return f"postgresql://{_USER}@127.0.0.1:{port or self.port}/{database}"

    def make(self) -> None:
        """Make its files; small ones, so that one that may not grow can still have a log."""
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            _USER,
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--wal-segsize=1",
        )

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = {**_SETTINGS, **self.settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-t", f"{PATIENCE_S:.0f}", "-o", options, "start")

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `immediate` is a crash, after which it recovers from its log."""
        self._run("pg_ctl", "-D", str(self._data), "-m", how, "-w", "-t", f"{PATIENCE_S:.0f}", "stop")

    def crash(self) -> None:
        """`pg_ctl -m immediate stop`, and start it again."""
        self.stop("immediate")
        self.start()

    def new_database(self) -> str:
        """The URL of a database with nothing in it."""
        name = f"test_{next(self._numbers)}"
        self.run(f'CREATE DATABASE "{name}" STRATEGY wal_log')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.run(f'DROP DATABASE IF EXISTS "{database_of(url)}" WITH (FORCE)')

    def limit_files(self, process: int, most_bytes: int | None) -> None:
        """Let no file grow beyond this by what one of its processes writes, as a full disk would; None: as before."""
        self._run("/usr/bin/prlimit", f"--pid={process}", f"--fsize={most_bytes or 'unlimited'}:")  # not its hard limit

    def run(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of one statement, run as the superuser in a connection of its own."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    @property
    def log(self) -> str:
        """All that the server wrote to its log."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, command: str, *arguments: str) -> None:
        # `pg_ctl start` leaves the server with its own streams, so nothing here may wait for them to end.
        with tempfile.TemporaryFile() as told:
            code = subprocess.run(
                [self.bin / command, *arguments],  # an absolute path stays as it is
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                timeout=2 * PATIENCE_S,
                user=_USER if os.geteuid() == 0 else None,  # it refuses to run as root
                group=pwd.getpwnam(_USER).pw_gid if os.geteuid() == 0 else None,
            ).returncode
            told.seek(0)
            assert code == 0, f"{command}: {told.read().decode(errors='replace')}"


@contextmanager
def opened_postgres(**settings: str) -> Iterator[Postgres]:
    """A server with nothing on it, for as long as the block runs; settings: as in postgresql.conf.

    Raises FileNotFoundError where PostgreSQL is not installed.
    """
    found = binaries()
    if found is None:
        raise FileNotFoundError("PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="farebox-pg-"))  # a short path: a socket's may not exceed 107 bytes
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        server = Postgres(folder=folder, bin=found, port=free_port(), settings=settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Ledgers:
    """Databases of a server in which a ledger is made, or what else a room is kept in, and nothing is kept."""

    def __init__(self, server: Postgres, *, room: str = ROOM, moves: Mapping[str, Edges] = MACHINES) -> None:
        self._server = server
        self._room, self._moves = room, moves
        self._made: list[str] = []

    def take(self) -> str:
        """The URL of one to which nobody is connected; it may be given again when nobody is any more."""
        busy = {name for (name,) in self._server.run("SELECT DISTINCT datname FROM pg_stat_activity")}
        for url in self._made:
            if database_of(url) not in busy:
                self._server.run(_EMPTY, database=database_of(url))
                return url
        url = self._server.new_database()
        migrate_database(url, room=self._room, moves=self._moves)
        self._made.append(url)
        return url

    def spoil(self, url: str) -> None:
        """It is no longer what a ledger makes: drop it, whoever is connected to it."""
        self._made = [made for made in self._made if made != url]
        self._server.drop(url)


def database_of(url: str) -> str:
    """The name of the database that a URL leads to."""
    return url.rpartition("/")[2]


def free_port() -> int:
    """A port that nobody listens on now."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    return port


def wait_for(what: str, is_so: object, *, within_s: float = PATIENCE_S) -> None:
    """Poll until something is so; fails, saying what, when it takes too long."""
    assert callable(is_so)
    until = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.01)
