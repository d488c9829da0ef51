from __future__ import annotations

import asyncio
import itertools
import sqlite3
import sys
from pathlib import Path

import pytest

from farebox.core.errors import ConfigError
from farebox.core.secret import Secret
from farebox.stores import open_ledger, open_purse, versions
from farebox.stores.places import migrate_ledger, purse_place, shown
from farebox.stores.statements import Migration, Phase, migrations
from farebox.testing.purse_stage import DAILY


def test_a_place_in_postgresql_without_its_driver_is_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for opening, scheme in itertools.product((open_ledger, migrate_ledger, open_purse), ("postgresql", "postgres")):
        with pytest.raises(ConfigError) as refused:
            opening(f"{scheme}://u:hunter2@127.0.0.1/shop")
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


# --- where a purse is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("purse.db", Path("purse.db")),
        (Path("shop/purse.db"), Path("shop/purse.db")),
        ("~/purse.db", Path("/home/somebody/purse.db")),
        (Path("~/purse.db"), Path("/home/somebody/purse.db")),
        ("sqlite:///purse.db", Path("purse.db")),
        ("sqlite:////var/purse.db", Path("/var/purse.db")),
        ("sqlite:///~/purse.db", Path("/home/somebody/purse.db")),
        ("./odd:/purse.db", Path("odd:/purse.db")),
        ("C:/purse.db", Path("C:/purse.db")),
        (":memory:", ":memory:"),
        ("sqlite::memory:", ":memory:"),
        ("postgres://u:p@db.example/fleet", "postgres://u:p@db.example/fleet"),
        ("postgresql://db.example/fleet", "postgresql://db.example/fleet"),
    ],
)
def test_a_purse_is_in_a_file_in_postgresql_or_in_memory(
    named: Path | str, place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert place == purse_place(named)


@pytest.mark.parametrize(
    "named",
    [
        "mysql://fleet:hunter2@db.example/fleet",
        "redis://:hunter2@db.example",
        "postgresql+psycopg://fleet:hunter2@db.example/fleet",
        "POSTGRES://fleet:hunter2@db.example/fleet",
        "postgres:/fleet:hunter2@db.example/fleet",
        Path("postgres://fleet:hunter2@db.example/fleet"),
        "sqlite://hunter2.db",
        "sqlite:hunter2.db",
        Path("sqlite:///hunter2.db"),
        "file:///hunter2.db",
    ],
)
def test_any_other_url_is_no_file_of_that_name_but_refused_in_a_line_without_its_password(
    named: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="sqlite:///") as refused:
        open_purse(named)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert [] == list(tmp_path.iterdir())


def test_a_home_that_nobody_has_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for named in ("~nobody-of-this-name/purse.db", "sqlite:///~nobody-of-this-name/purse.db"):
        with pytest.raises(ConfigError, match="there is no home for ~nobody-of-this-name"):
            open_purse(named)
    assert [] == list(tmp_path.iterdir())


def test_a_purse_is_one_however_its_file_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    first = open_purse("purse.db")
    first.add_purse("bot", [DAILY], Secret(bytes(32)))
    first.close()
    for named in ("~/purse.db", "sqlite:///purse.db", "sqlite:///~/purse.db"):
        purse = open_purse(named)
        assert ["bot"] == [each.name for each in purse.purses()]
        purse.close()
    assert [tmp_path / "purse.db"] == list(tmp_path.iterdir())
