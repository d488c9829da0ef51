"""Where the books are that a command means, as its words or the environment name them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farebox.cli.app import app
from farebox.cli.books import purse_place
from farebox.stores import open_ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who has never used farebox, and is in it."""
    for name in ("FAREBOX_PURSE_STORE", "FAREBOX_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_fleet_s_purse_is_in_postgresql_for_every_command(
    scheme: str, make: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{scheme}://fleet:hunter2@db.example/fleet"
    monkeypatch.setenv("FAREBOX_PURSE_STORE", url)
    assert url == purse_place(home / "state", make=make)
    assert [] == list(home.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("call", "http://127.0.0.1:9/", "--wallet", "phoenixd+http://:pw@127.0.0.1:9"),
        ("call", "http://127.0.0.1:9/", "--dry-run"),
        ("proxy", "--listen", "127.0.0.1:0", "--wallet", "phoenixd+http://:pw@127.0.0.1:9"),
        ("wallet", "serve", "--wallet", "phoenixd+http://:pw@127.0.0.1:9"),
        ("budget",),
        ("history",),
        ("resume",),
        ("approvals", "list"),
        ("purse", "add", "bot", "--limit", "9 sat/day"),
        ("purse", "list"),
    ],
)
def test_a_purse_at_a_url_that_is_not_known_is_a_usage_error_and_no_file(
    command: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAREBOX_PURSE_STORE", "mysql://fleet:hunter2@db.example/fleet")
    ran = CliRunner().invoke(app, command)
    assert (2, "") == (ran.exit_code, ran.stdout)
    assert "mysql:// is neither" in ran.stderr
    assert 1 == len(ran.stderr.splitlines())
    assert "hunter2" not in ran.stderr
    assert [] == list(home.iterdir())


def test_a_ledger_is_found_where_serve_makes_it_also_in_a_home(home: Path) -> None:
    (home / "shop").mkdir()
    asyncio.run(open_ledger("sqlite:///~/shop/ledger.db").close())
    assert 0 == CliRunner().invoke(app, ["ledger", "sqlite:///~/shop/ledger.db"]).exit_code
    missing = CliRunner().invoke(app, ["ledger", "sqlite:///~/shop/another.db"])
    assert f"there is no ledger at {home / 'shop/another.db'} yet" in missing.stderr
