from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.payment import PURCHASE_MOVES, Answer, Hold, Payment, PaymentState
from farebox.stores import open_ledger, open_purse, places, sqlite, versions
from farebox.stores.engine import edges
from farebox.stores.ledger import SqlLedger
from farebox.stores.rows import row_of
from farebox.stores.sqlite import open_file
from farebox.stores.statements import migrations
from farebox.testing.ledger_stage import row, run_sql

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = sha256(b"a request").digest()


def ledger_at(path: Path) -> SqlLedger:
    return open_ledger(f"sqlite:///{path}", lambda: NOW)


def shut(ledger: SqlLedger) -> None:
    asyncio.run(ledger.close())


def invoice(number: int) -> Payment:
    return Payment(
        payment_hash=sha256(number.to_bytes(4)).digest(),
        state=PaymentState.OPEN,
        price=Amount.sats(21),
        digest=DIGEST,
        resource="POST /api/dvm",
        client="192.0.2.7/32",
        invoice="lnbcrt210n1…",
        created_at=NOW,
        expires_at=NOW + timedelta(minutes=10),
    )


async def buy(ledger: SqlLedger, number: int, body: bytes = b"answer") -> None:
    await ledger.open_payment(invoice(number))
    held = await ledger.hold(
        invoice(number).payment_hash, digest=DIGEST, proven=True, lease=timedelta(seconds=30), most_attempts=3
    )
    assert isinstance(held, Hold)
    assert await ledger.capture(held, Answer(status=200, headers=(), body=body))


def refusal(opening: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        opening()
    told = str(refused.value)
    assert "\n" not in told
    return told


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_ledger_and_what_lies_beside_it_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = ledger_at(tmp_path / "shop.db")
        asyncio.run(buy(ledger, 1))
        files = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        shut(ledger)
    finally:
        os.umask(before)
    assert {"shop.db": 0o600, "shop.db-wal": 0o600, "shop.db-shm": 0o600} == files


def test_a_purse_is_made_with_its_folder_and_a_ledger_is_not(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_purse(tmp_path / "new" / "folder" / "purse.db").close()
    finally:
        os.umask(before)
    assert 0o700 == (tmp_path / "new" / "folder").stat().st_mode & 0o777
    assert "No such file or directory" in refusal(lambda: open_ledger(f"sqlite:///{tmp_path}/mistyped/shop.db"))
    assert not (tmp_path / "mistyped").exists()


def test_a_purse_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / "purse.db"
    open_purse(file).close()
    file.chmod(0o644)
    purse = open_purse(file)
    assert {0o600} == {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
    purse.close()


def test_money_is_written_ahead_and_flushed_at_each_commit(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")
    settings = [
        asyncio.run(run_sql(ledger, f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    shut(ledger)
    assert [[("wal",)], [(2,)], [(1,)]] == settings


def test_a_ledger_opened_again_remembers(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")
    asyncio.run(buy(ledger, 1))
    shut(ledger)
    again = ledger_at(tmp_path / "shop.db")
    payment = asyncio.run(again.find_payment(invoice(1).payment_hash))
    shut(again)
    assert payment is not None
    assert PaymentState.SPENT == payment.state


def test_a_path_with_a_tilde_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shut(open_ledger("sqlite:///~/shop.db"))
    open_purse("~/purse.db").close()
    assert {"shop.db", "purse.db"} <= {file.name for file in tmp_path.iterdir()}


def test_a_relative_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shut(open_ledger("sqlite:///shop.db"))
    assert (tmp_path / "shop.db").exists()


# --- what can't be opened ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["shop.db", "mysql://u:hunter2@h/shop", "sqlite://shop.db", "sqlite:///", "", "sqlite:"]
)
def test_another_url_is_refused_in_a_line_that_says_how_and_tells_no_password(url: str) -> None:
    told = refusal(lambda: open_ledger(url))
    assert "sqlite:///" in told
    assert "hunter2" not in told


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but my notes\n" * 100)
    file.chmod(0o644)
    told = refusal(lambda: ledger_at(file))
    assert str(file) in told
    assert "choose another place" in told
    assert str(file) in refusal(lambda: open_purse(file))
    assert "not a database, but my notes\n" * 100 == file.read_text()
    assert 0o644 == file.stat().st_mode & 0o777


def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE notes (text)")
    other.close()
    assert f"{file} is a database of something else" in refusal(lambda: ledger_at(file))
    other = sqlite3.connect(file)
    assert [("notes",)] == other.execute("SELECT name FROM sqlite_master").fetchall()
    other.close()


def test_a_purse_is_no_ledger_and_a_ledger_no_purse(tmp_path: Path) -> None:
    open_purse(tmp_path / "purse.db").close()
    shut(ledger_at(tmp_path / "shop.db"))
    assert "is not a farebox ledger" in refusal(lambda: ledger_at(tmp_path / "purse.db"))
    assert "is not a farebox purse" in refusal(lambda: open_purse(tmp_path / "shop.db"))


def test_a_file_of_a_newer_farebox_is_refused_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    shut(ledger_at(file))
    newer = sqlite3.connect(file)
    newer.execute("INSERT INTO migrations (room, number, name, phase) VALUES ('ledger', 999, 'later', 'contract')")
    newer.commit()
    newer.close()
    told = refusal(lambda: ledger_at(file))
    assert "version 999" in told
    assert "update farebox" in told


def test_a_file_to_which_a_newer_farebox_has_only_added_is_opened_and_its_edges_stay(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    shut(ledger_at(file))
    newer = sqlite3.connect(file)
    newer.execute("INSERT INTO migrations (room, number, name, phase) VALUES ('ledger', 999, 'later', 'expand')")
    newer.execute("INSERT INTO payment_moves VALUES ('spent', 'funded')")
    newer.commit()
    newer.close()
    ledger = ledger_at(file)
    asyncio.run(buy(ledger, 1))
    rows = asyncio.run(run_sql(ledger, "SELECT * FROM payment_moves"))
    shut(ledger)
    assert ("spent", "funded") in rows


def test_a_file_from_before_there_were_phases_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    shut(ledger_at(file))
    older = sqlite3.connect(file)
    older.execute("ALTER TABLE migrations DROP COLUMN phase")
    older.commit()
    older.close()
    ledger = ledger_at(file)
    asyncio.run(buy(ledger, 1))
    phases = asyncio.run(run_sql(ledger, "SELECT DISTINCT phase FROM migrations"))
    shut(ledger)
    assert [("expand",)] == phases


def test_a_place_that_can_not_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert "choose a place" in refusal(lambda: ledger_at(tmp_path / "file" / "shop.db"))
    assert "choose a place" in refusal(lambda: ledger_at(tmp_path / "folder"))
    assert "choose a place" in refusal(lambda: open_purse(tmp_path / "file" / "purse.db"))
    assert "choose a place" in refusal(lambda: open_purse(tmp_path / "folder"))
    assert "choose a place" in refusal(lambda: open_purse(tmp_path / "a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    shut(ledger_at(tmp_path / "shop.db"))
    (tmp_path / "shop.db").chmod(0o400)
    assert "choose a place" in refusal(lambda: ledger_at(tmp_path / "shop.db"))
    tmp_path.chmod(0o500)
    assert "choose a place" in refusal(lambda: ledger_at(tmp_path / "new.db"))


# --- migrations -------------------------------------------------------------------------------------------------------


def test_an_older_file_is_migrated_and_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = migrations("purse", "sqlite")[:2]
    with monkeypatch.context() as older:
        older.setattr(versions, "migrations", lambda room, engine: first)
        connection = open_file(tmp_path / "purse.db", room="purse", moves={"draw_moves": edges(PURCHASE_MOVES)})
        connection.execute(
            "INSERT INTO purchases VALUES"
            " (zeroblob(32), 0, zeroblob(32), 'o', 'u', 1, 0, 0, '{}', 0, 'held', NULL, 0, '', 0, 1, 0)"
        )
        connection.close()
    connection = open_file(tmp_path / "purse.db", room="purse", moves={"draw_moves": edges(PURCHASE_MOVES)})
    assert [(1,)] == connection.execute("SELECT count(*) FROM purchases").fetchall()
    assert [("purse", number) for number in (1, 2, 3, 4, 5)] == connection.execute(
        "SELECT room, number FROM migrations"
    ).fetchall()
    connection.close()


def test_a_ledger_from_before_payments_remembered_their_node_is_migrated_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = migrations("ledger", "sqlite")[:5]
    made = invoice(1)
    with monkeypatch.context() as older:
        older.setattr(versions, "migrations", lambda room, engine: before)
        older.setattr(places, "MACHINES", {name: places.MACHINES[name] for name in ("payment_moves", "draw_moves")})
        ledger = ledger_at(tmp_path / "shop.db")
        columns = {**row_of(made), "state": "open"}
        del columns["receiver"]
        names = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        asyncio.run(run_sql(ledger, f"INSERT INTO payments ({names[0]}) VALUES ({names[1]})", columns))
        shut(ledger)
    ledger = ledger_at(tmp_path / "shop.db")
    assert made == asyncio.run(row(ledger, made))
    shut(ledger)


def test_the_tables_of_moves_are_what_the_code_says_each_time_a_file_is_opened(tmp_path: Path) -> None:
    shut(ledger_at(tmp_path / "shop.db"))
    edited = sqlite3.connect(tmp_path / "shop.db")
    edited.execute("INSERT INTO payment_moves VALUES ('spent', 'funded')")
    edited.commit()
    edited.close()
    ledger = ledger_at(tmp_path / "shop.db")
    rows = asyncio.run(run_sql(ledger, "SELECT * FROM payment_moves"))
    shut(ledger)
    assert 6 == len(rows)
    assert ("spent", "funded") not in rows


# --- trouble while it runs --------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_calls_and_loses_none(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")

    async def story() -> None:
        await buy(ledger, 0)
        [(pages,)] = await run_sql(ledger, "PRAGMA page_count")
        await run_sql(ledger, f"PRAGMA max_page_count = {pages + 8}")
        outcomes = await asyncio.gather(*(buy(ledger, n, b"x" * 9000) for n in range(1, 30)), return_exceptions=True)
        assert {StoreUnavailable, type(None)} == {type(outcome) for outcome in outcomes}
        assert await ledger.find_answer(invoice(0).payment_hash) is not None
        assert [] == await ledger.audit()
        await run_sql(ledger, "PRAGMA max_page_count = 100000")
        await buy(ledger, 99)
        assert (await ledger.balance()).balanced

    asyncio.run(story())
    shut(ledger)


def test_a_file_that_became_read_only_is_read_and_not_written(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")

    async def story() -> None:
        await buy(ledger, 0)
        await run_sql(ledger, "PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable):
            await ledger.open_payment(invoice(1))
        assert await ledger.find_answer(invoice(0).payment_hash) is not None

    asyncio.run(story())
    shut(ledger)


def test_a_file_that_another_keeps_locked_is_unavailable_and_then_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.02)
    ledger = ledger_at(tmp_path / "shop.db")
    other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        asyncio.run(ledger.open_payment(invoice(1)))
    with pytest.raises(StoreUnavailable, match="locked"):
        ledger_at(tmp_path / "shop.db")
    assert asyncio.run(ledger.find_payment(invoice(1).payment_hash)) is None
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(ledger.open_payment(invoice(1)))
    shut(ledger)


def test_a_purse_that_another_keeps_locked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.02)
    purse = open_purse(tmp_path / "purse.db", lambda: NOW)
    other = sqlite3.connect(tmp_path / "purse.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        purse.release(bytes(32), reason="")
    assert [] == purse.unfinished()
    other.close()
    purse.close()


def damage(file: Path, name: str) -> None:
    """Write over the page where a table or an index begins."""
    database = sqlite3.connect(file)
    ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    database.close()
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * 4096)
        damaged.write(b"\xff" * 64)


def test_a_file_that_was_damaged_is_unavailable_where_it_matters(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")
    asyncio.run(buy(ledger, 1))
    shut(ledger)
    damage(tmp_path / "shop.db", "sqlite_autoindex_payments_1")
    again = ledger_at(tmp_path / "shop.db")
    with pytest.raises(StoreUnavailable, match="malformed"):
        asyncio.run(again.find_payment(invoice(1).payment_hash))
    with pytest.raises(StoreUnavailable, match="malformed"):
        asyncio.run(again.settle(invoice(1).payment_hash, Amount.sats(21)))
    assert Amount.sats(21) == asyncio.run(again.balance()).earned
    shut(again)


def test_a_file_that_is_damaged_at_its_root_is_refused_with_advice(tmp_path: Path) -> None:
    shut(ledger_at(tmp_path / "shop.db"))
    damage(tmp_path / "shop.db", "migrations")
    assert "restore it from a backup" in refusal(lambda: ledger_at(tmp_path / "shop.db"))


def test_a_purse_is_not_used_across_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    purse = open_purse(tmp_path / "purse.db")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(StoreUnavailable, match="forked"):
            purse.unfinished()
    assert [] == purse.unfinished()
    purse.close()


def test_a_closed_ledger_and_a_closed_purse_are_unavailable(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "shop.db")
    shut(ledger)
    shut(ledger)
    with pytest.raises(StoreUnavailable):
        asyncio.run(ledger.find_payment(bytes(32)))
    purse = open_purse(tmp_path / "purse.db")
    purse.close()
    purse.close()
    with pytest.raises(StoreUnavailable):
        purse.unfinished()
