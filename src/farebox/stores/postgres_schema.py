"""The schema in PostgreSQL: made and migrated by whoever opens a database first, while others run.

Rules
1. Tables lie in the first schema of the connection's search_path: `public`, unless the URL says otherwise by
   `?options=-csearch_path%3Dfarebox`.
2. Of any number of processes that open a database at once one migrates it; the others wait, and then find it done.
3. Where nothing is to be done nothing is locked and nothing written: a gateway may run as a role that owns no table.
4. A migration waits for a lock only so long: calls that run are worth more than a migration that may be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.stores.engine import Edges
from farebox.stores.postgres_link import connected, is_config, place_of, read_url, told
from farebox.stores.statements import Phase
from farebox.stores.versions import Plan, plan

TIME: Final[LiteralString] = "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"
_ENGINE: Final = "postgresql"
_FIRST: Final[LiteralString] = """
CREATE DOMAIN blob AS bytea;
CREATE TABLE migrations (
    room TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    phase TEXT NOT NULL DEFAULT 'expand',
    PRIMARY KEY (room, number)
);
"""
_LOCK: Final[LiteralString] = """
SET LOCAL statement_timeout = '0';
SET LOCAL lock_timeout = '60s';
SELECT pg_advisory_xact_lock(hashtext('farebox'), hashtext(current_schema()));
SET LOCAL lock_timeout = '3s';
"""
_TABLES: Final[LiteralString] = "SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace"


def migrate_database(url: str, *, room: str, moves: Mapping[str, Edges], contract: bool = False) -> int:
    """Make the tables of a room at a URL what this farebox needs; the server's time, in milliseconds since 1970 UTC.

    moves: the tables that keep the edges of state machines, and what they hold. contract: also apply the migrations
    that an older farebox can't live with. Raises ConfigError, in one line, for a URL that can't be read and a database
    that is not there, not ours or newer than we can live with; StoreUnavailable for a server that does not answer.
    """
    conninfo = read_url(url, room=room)
    place = place_of(conninfo)
    try:
        with connected(conninfo) as connection:
            _migrate(connection, place=place, room=room, moves=moves, contract=contract)
            now_ms: int = connection.execute(TIME).fetchall()[0][0]
            return now_ms
    except psycopg.Error as error:
        reason = told(error, conninfo)
        if is_config(error):
            raise ConfigError(f"The {room} can't be kept in {place}: {reason}.") from None
        raise StoreUnavailable(f"The {room}'s database {place} does not answer: {reason}.") from None


def _migrate(
    connection: psycopg.Connection, *, place: str, room: str, moves: Mapping[str, Edges], contract: bool
) -> None:
    planned = _planned(connection, place=place, room=room, contract=contract)
    if planned is not None and not planned.needed and not _differing(connection, moves, planned):
        return
    with connection.transaction():
        connection.execute(_LOCK)
        planned = _planned(connection, place=place, room=room, contract=contract)  # somebody may have been before us
        if planned is None:
            connection.execute(_FIRST)
            planned = plan({}, place=place, room=room, engine=_ENGINE, contract=contract)
        for migration in planned.needed:
            connection.execute(migration.text.encode())
            connection.execute(
                "INSERT INTO migrations (room, number, name, phase) VALUES (%s, %s, %s, %s)",
                (room, migration.number, migration.name, migration.phase.value),
            )
        for table, (surplus, missing) in _differing(connection, moves, planned).items():
            _change(connection, table, surplus, missing)


def _planned(connection: psycopg.Connection, *, place: str, room: str, contract: bool) -> Plan | None:
    """What is to be done; None where there is nothing yet."""
    if connection.execute("SELECT current_schema()").fetchone() == (None,):
        raise ConfigError(f"{place} has no schema that its search_path names; make one, or name another in the URL.")
    tables = {name for (name,) in connection.execute(_TABLES)}
    if "migrations" not in tables:
        if tables & {"payments", "draws", "entries", "answers", "purchases"}:
            raise ConfigError(f"{place} is a database of something else; choose another place for the {room}.")
        return None
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'migrations'::regclass AND attnum > 0"
    ).fetchall()
    if not {("room",), ("number",), ("phase",)} <= set(columns):
        raise ConfigError(f"{place} is a database of something else; choose another place for the {room}.")
    rows = connection.execute("SELECT number, phase FROM migrations WHERE room = %s", (room,)).fetchall()
    applied = {number: Phase(phase) for number, phase in rows}
    return plan(applied, place=place, room=room, engine=_ENGINE, contract=contract)


def _differing(
    connection: psycopg.Connection, moves: Mapping[str, Edges], planned: Plan
) -> Mapping[str, tuple[Edges, Edges]]:
    """The tables of moves that are not as they should be: what is too much in them, and what is missing."""
    found = {}
    for table, edges in moves.items():
        rows = connection.execute(sql.SQL("SELECT from_state, to_state FROM {}").format(sql.Identifier(table)))
        present = frozenset((before, after) for before, after in rows)
        surplus, missing = planned.surplus(edges, present), planned.missing(edges, present)
        if surplus or missing:
            found[table] = (surplus, missing)
    return found


def _change(connection: psycopg.Connection, table: str, surplus: Edges, missing: Edges) -> None:
    name = sql.Identifier(table)
    for edge in surplus:
        connection.execute(sql.SQL("DELETE FROM {} WHERE from_state = %s AND to_state = %s").format(name), edge)
    for edge in sorted(missing):
        connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(name), edge)
