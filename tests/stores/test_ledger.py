from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from farebox.core.ports import Clock
from farebox.stores import open_ledger
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledgers import LedgerSuite


class TestSqliteInMemory(LedgerSuite):
    def open_ledger(self, clock: Clock) -> SqlLedger:
        return open_ledger("sqlite::memory:", clock)


class TestSqliteFile(LedgerSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    def open_ledger(self, clock: Clock) -> SqlLedger:
        return open_ledger(f"sqlite:///{next(self.paths)}", clock)
