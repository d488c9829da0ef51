from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.core.ports import Clock
from farebox.stores import open_ledger
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_model import check_against_model
from farebox.testing.ledger_stage import run_sql
from farebox.testing.ledgers import LedgerSuite
from farebox.testing.postgres import Ledgers, Postgres


class TestSqliteInMemory(LedgerSuite):
    def open_ledger(self, clock: Clock) -> SqlLedger:
        return open_ledger("sqlite::memory:", clock)


@pytest.mark.system  # no process, but a disk
class TestSqliteFile(LedgerSuite):
    model_runs = 12

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    def open_ledger(self, clock: Clock) -> SqlLedger:
        return open_ledger(f"sqlite:///{next(self.paths)}", clock)


@pytest.fixture(scope="module")
def ledgers(postgres: Postgres) -> Ledgers:
    """Databases with empty tables."""
    return Ledgers(postgres)


@pytest.mark.system
class TestPostgres(LedgerSuite):
    model_runs = 12

    @pytest.fixture(autouse=True)
    def databases(self, ledgers: Ledgers) -> Iterator[None]:
        self.ledgers, self.spoilt, self.taken = ledgers, False, ""
        yield
        if self.spoilt:
            ledgers.spoil(self.taken)

    def open_ledger(self, clock: Clock) -> SqlLedger:
        self.taken = self.ledgers.take()
        return open_ledger(self.taken, clock)

    async def drop_guards(self, ledger: SqlLedger) -> None:
        self.spoilt = True
        tables = await run_sql(ledger, "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")
        for trigger, table in tables:
            await run_sql(ledger, f"DROP TRIGGER {trigger} ON {table}")


@pytest.mark.parametrize(
    "runs", [pytest.param(500, marks=pytest.mark.full), pytest.param(10_000, marks=pytest.mark.soak)]
)
def test_the_ledger_agrees_with_its_model_as_often_as_the_target_says(runs: int) -> None:
    counted = itertools.count()

    def open_one(clock: Clock) -> SqlLedger:
        next(counted)
        return open_ledger("sqlite::memory:", clock)

    check_against_model(open_one, runs=runs, steps=50)
    assert next(counted) >= runs
