"""Places: the engine behind a ledger's URL, where a purse is, and the migrations that wait for an operator's word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from farebox.core.errors import ConfigError
from farebox.core.escrow import ESCROW_MOVES
from farebox.core.payment import DRAW_MOVES, PAYMENT_MOVES
from farebox.core.ports import Clock
from farebox.stores.engine import Engine, edges, utc_now
from farebox.stores.sqlite import SqliteEngine, open_file

ROOM: Final = "ledger"
MACHINES: Final = {
    "payment_moves": edges(PAYMENT_MOVES),
    "draw_moves": edges(DRAW_MOVES),
    "escrow_moves": edges(ESCROW_MOVES),
}
MEMORY: Final = ":memory:"
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one letter is a drive; in a Path the second / is gone


def open_engine(url: str, clock: Clock | None) -> Engine:
    """The engine at a URL, its tables made and migrated as needed; clock: None for the database's.

    Raises ConfigError, in one line, and StoreUnavailable, as `open_ledger` says.
    """
    if not is_postgresql(url):
        return SqliteEngine(sqlite_path(url), room=ROOM, moves=MACHINES, clock=clock or utc_now)
    need_driver(ROOM)
    from farebox.stores.postgres import PostgresEngine

    return PostgresEngine(url, room=ROOM, moves=MACHINES, clock=clock)


def migrate_ledger(url: str) -> None:
    """Apply every migration, also those that an older farebox can't live with: every gateway must be new.

    Raises ConfigError, in one line, and StoreUnavailable, as `open_ledger` does.
    """
    if not is_postgresql(url):
        open_file(sqlite_path(url), room=ROOM, moves=MACHINES, contract=True).close()
        return
    need_driver(ROOM)
    from farebox.stores.postgres_schema import migrate_database

    migrate_database(url, room=ROOM, moves=MACHINES, contract=True)


def purse_place(named: Path | str) -> Path | str:
    """Where a purse is, as everybody who opens or looks for it takes it: a file, a URL of PostgreSQL, or `:memory:`.

    named: that, or `sqlite:///path`; `~` in a path is a home. Raises ConfigError for any other URL, without showing it.
    """
    text = str(named)
    if text == MEMORY or is_postgresql(text):
        return text
    if text.startswith("sqlite:"):
        return sqlite_path(text) or MEMORY
    if url := _URL.match(text):
        raise ConfigError(
            f"a purse is a file (a path, or sqlite:///path) or in PostgreSQL (postgresql://…); {url[1]}:// is neither"
        )
    return at_home(Path(named))


def at_home(path: Path) -> Path:
    """A path whose `~` or `~name` is that user's home, as a shell reads it. Raises ConfigError where there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home for {path.parts[0]} on this machine; write the path in full") from None


def sqlite_path(url: str) -> Path | None:
    """The file that a URL names; None for a database in memory. Raises ConfigError for any other URL."""
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite":
        raise ConfigError(
            "a ledger is kept at a URL; for a file write sqlite:/// in front of its path, for PostgreSQL postgresql://…"
        )
    if rest == MEMORY:
        return None
    if rest.startswith("///") and len(rest) > len("///"):
        return at_home(Path(rest.removeprefix("///")))
    raise ConfigError("SQLite is named as sqlite:///relative/path, sqlite:////absolute/path or sqlite::memory:.")


def shown(url: str) -> str:
    """A URL as it may be shown to others: without a password, and without anything else that may hold one."""
    if not is_postgresql(url):
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, user.partition(":")[0] + at + host, parts.path, "", ""))


def is_postgresql(url: str) -> bool:
    """Whether a URL names a database in PostgreSQL."""
    return url.startswith(("postgresql://", "postgres://"))


def need_driver(room: str) -> None:
    """Raises ConfigError where the driver for PostgreSQL is missing."""
    try:
        import psycopg  # noqa: F401 - it is not there, or finds no libpq
    except ImportError:
        raise ConfigError(f"a {room} in PostgreSQL needs its driver: pip install 'farebox[postgresql]'") from None
