from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.core.ports import Clock
from farebox.stores import open_ledger
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import run_sql
from farebox.testing.ledgers import LedgerSuite
from farebox.testing.postgres import Ledgers, Postgres


class TestSqliteInMemory(LedgerSuite):
    def open_ledger(self, clock: Clock) -> SqlLedger:
        return open_ledger("sqlite::memory:", clock)


class TestSqliteFile(LedgerSuite):
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
