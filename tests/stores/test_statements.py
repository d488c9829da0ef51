from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

import farebox.stores
from farebox.core.payment import DRAW_MOVES, PAYMENT_MOVES, PURCHASE_MOVES
from farebox.stores.engine import edges
from farebox.stores.sqlite import SqliteConnection, open_file
from farebox.stores.statements import migrations, statements

ROOM = Path(farebox.stores.__file__).parent
MOVES = {
    "ledger": {"payment_moves": edges(PAYMENT_MOVES), "draw_moves": edges(DRAW_MOVES)},
    "purse": {"draw_moves": edges(PURCHASE_MOVES)},
}
ROOMS = sorted(MOVES)
EVERY = [(room, name) for room in ROOMS for name in statements(room)]


def opened(room: str) -> SqliteConnection:
    return open_file(None, room=room, moves=MOVES[room])


def asked(statement: str) -> tuple[str, dict[str, None]]:
    statement = statement.replace(":windows", "(:since_0_ms, :limit_0_msat, :label_0)")
    return statement, dict.fromkeys(re.findall(r":([a-z_0-9]+)", statement))


@pytest.mark.parametrize("room", ROOMS)
def test_every_statement_has_a_name_of_its_own_and_a_sentence(room: str) -> None:
    text = (ROOM / "sql" / f"{room}.sql").read_text()
    told = re.findall(r"^-- name: ([a-z_]+)\n-- (\S.*)$", text, re.MULTILINE)
    assert list(statements(room)) == [name for name, _ in told]
    assert text.count("-- name:") == len(told)


@pytest.mark.parametrize(("room", "name"), EVERY)
def test_every_statement_is_one_that_the_database_understands(room: str, name: str) -> None:
    connection = opened(room)
    statement, parameters = asked(statements(room)[name])
    assert connection.execute(f"EXPLAIN {statement}", parameters).fetchall()
    connection.close()


@pytest.mark.parametrize("room", ROOMS)
def test_every_statement_is_used_and_every_used_one_exists(room: str) -> None:
    sources = [file.read_text() for file in ROOM.glob("*.py")]
    shared = 'self.SQL["' if room == "purse" else f'statements("{room}")'  # a purse is in two files
    sources = [source for source in sources if shared in source]
    named = set(chain.from_iterable(re.findall(r'SQL\["([a-z_]+)"', source) for source in sources))
    named |= set(chain.from_iterable(re.findall(r'"([a-z_]+)" if ', source) for source in sources))
    named |= set(chain.from_iterable(re.findall(r' else "([a-z_]+)"', source) for source in sources))
    named |= set(chain.from_iterable(re.findall(r'_(?:purchases|move)\("([a-z_]+)"', source) for source in sources))
    assert set(statements(room)) == named


@pytest.mark.parametrize(
    ("room", "name"),
    [
        *(
            ("ledger", name)
            for name in ("find_payment", "reusable_payment", "recent_payments", "settle", "settle_proven")
        ),
        *(("ledger", name) for name in ("expire", "claim", "claim_proven", "give_up_exhausted", "renew", "capture")),
        *(("ledger", name) for name in ("release", "end_draw", "find_answer", "forget_answers")),
        *(("ledger", name) for name in ("taken_slots", "take_slot", "forget_free_calls")),
        *(
            ("purse", name)
            for name in ("hold", "spent", "newest", "find", "unfinished", "history", "capture", "release", "unserved")
        ),
        *(("purse", name) for name in ("mark_served", "mark_kept", "mark_undelivered", "forget_proof", "reusable")),
        *(("purse", name) for name in ("seen", "use_approval", "park", "parked", "decide", "approval", "revoke_purse")),
    ],
)
def test_no_statement_of_a_call_reads_a_whole_table(room: str, name: str) -> None:
    connection = opened(room)
    statement, parameters = asked(statements(room)[name])
    plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    connection.close()
    assert [] == [
        step
        for step in plan
        if re.match(
            r"SCAN (payments|draws|answers|entries|free_calls|purchases|prices|payees|approvals|purses)\b(?!.* INDEX )",
            step,
        )
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_migrations_are_numbered_from_one_without_gaps(room: str) -> None:
    assert list(range(1, len(migrations(room, "sqlite")) + 1)) == [one.number for one in migrations(room, "sqlite")]


@pytest.mark.parametrize("room", ROOMS)
def test_another_engine_gets_the_same_migrations_and_no_text_that_is_sqlites_own(room: str) -> None:
    ours, theirs = migrations(room, "sqlite"), migrations(room, "postgresql")
    assert [(one.number, one.name, one.phase) for one in ours] == [(one.number, one.name, one.phase) for one in theirs]
    assert not any("RAISE(" in one.text for one in theirs)


@pytest.mark.parametrize("room", ROOMS)
def test_statements_and_tables_name_their_units(room: str) -> None:
    connection = opened(room)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {column for table in tables for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")}
    connection.close()
    assert [] == [name for name in columns if re.search(r"(_at|_until|amount|price|received|captured|fee)$", name)]


def test_no_column_of_the_ledger_could_keep_a_proof() -> None:
    connection = opened("ledger")
    text = " ".join(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
    connection.close()
    assert not re.search(r"preimage|token|macaroon|credential|secret|password", text, re.IGNORECASE)


# --- what PostgreSQL says in a way of its own -------------------------------------------------------------------------

OWN = statements("ledger.postgresql")


def words(statement: str) -> str:
    return re.sub(r"(?<=[(]) | (?=[),])", "", " ".join(statement.split()))


MANY = r"FROM unnest\((?:CAST\(:\w+ AS \w+\[\]\)(?:, )?)+\)(?: WITH ORDINALITY)? AS asked \([^)]*\)"


def for_one(statement: str) -> str:
    """A statement for many, as it would be for one; housekeeping that waits for nobody, as if it waited."""
    alike = re.sub(MANY + ", ", "FROM ", words(statement))
    alike = re.sub(MANY + "(?: |$)", "", alike).strip().replace("asked.place, ", "")
    alike = re.sub(r"\basked\.(\w+)", r":\1", alike)
    alike = re.sub(r"= ANY \(ARRAY\((.*?) FOR UPDATE SKIP LOCKED\)\)", r"IN (\1)", alike)
    alike = alike.removesuffix(" FOR UPDATE SKIP LOCKED")
    alike = re.sub(r"json_array_elements_text\(CAST\((:\w+) AS json\)\)", r"value FROM json_each(\1)", alike)
    return re.sub(r"(?<=\)) SELECT (.*?)(?= ON CONFLICT|$)", r" VALUES (\1)", alike) if "INSERT" in alike else alike


def unqualified(statement: str) -> str:
    return re.sub(r"\b(?:payments|draws)\.", "", words(statement))


@pytest.mark.parametrize("name", [name for name in OWN if name != "lock"])
def test_what_postgresql_says_in_a_way_of_its_own_means_the_same(name: str) -> None:
    assert unqualified(statements("ledger")[name]) == unqualified(for_one(OWN[name]))


def test_every_statement_of_postgresqls_own_has_a_name_and_a_sentence() -> None:
    text = (ROOM / "sql" / "ledger.postgresql.sql").read_text()
    told = re.findall(r"^-- name: ([a-z_]+)\n-- (\S.*)$", text, re.MULTILINE)
    assert list(OWN) == [name for name, _ in told]
