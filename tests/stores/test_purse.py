from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from farebox.core.ports import Clock, Purse
from farebox.stores import open_purse
from farebox.testing.purses import PurseSuite


class TestSqliteInMemory(PurseSuite):
    def open_purse(self, clock: Clock) -> Purse:
        return open_purse(":memory:", clock)


class TestSqliteFile(PurseSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    def open_purse(self, clock: Clock) -> Purse:
        return open_purse(next(self.paths), clock)
