from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

from farebox.core.errors import ConfigError
from farebox.stores import open_ledger, open_purse, versions
from farebox.stores.places import migrate_ledger, shown
from farebox.stores.statements import Migration, Phase, migrations


def test_a_place_in_postgresql_without_its_driver_is_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for opening in (open_ledger, migrate_ledger, open_purse):
        with pytest.raises(ConfigError) as refused:
            opening("postgresql://u:hunter2@127.0.0.1/shop")
        assert "pip install 'farebox[postgresql]'" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///shop.db", "sqlite:///shop.db"),
        ("postgresql://u:hunter2@db.example:5433/shop?sslpassword=hunter2", "postgresql://u@db.example:5433/shop"),
        ("postgres://db.example/shop", "postgres://db.example/shop"),
    ],
)
def test_a_url_is_shown_without_a_password(url: str, told: str) -> None:
    assert told == shown(url)


def test_what_older_ones_count_on_is_taken_from_a_file_when_an_operator_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = migrations("ledger", "sqlite")
    less = Migration(number=ours[-1].number + 1, name="less", phase=Phase.CONTRACT, text="DROP TABLE salts;")
    url = f"sqlite:///{tmp_path / 'shop.db'}"

    def tables() -> set[str]:
        database = sqlite3.connect(tmp_path / "shop.db")
        found = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        database.close()
        return found

    with monkeypatch.context() as newer:
        newer.setattr(versions, "migrations", lambda room, engine: (*ours, less))
        asyncio.run(open_ledger(url).close())
        assert "salts" in tables()
        migrate_ledger(url)
        assert "salts" not in tables()
        asyncio.run(open_ledger(url).close())
    with pytest.raises(ConfigError, match="newer farebox"):
        open_ledger(url)
