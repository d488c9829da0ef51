"""Where the books are that a command means, as its words or the environment name them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from farebox.cli.app import app
from farebox.cli.approvals import watch_approvals
from farebox.cli.books import purse_place, purse_to_read
from farebox.cli.options import folder
from farebox.cli.sub_purses import known_names
from farebox.stores import open_ledger

WALLET: Final = ("--wallet", "phoenixd+http://:pw@127.0.0.1:9")
ELSEWHERE: Final = "192.0.2.1:0"  # no address of this machine: what is not refused before does not serve either


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who has never used farebox, and is in it."""
    for name in ("FAREBOX_PURSE_STORE", "FAREBOX_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_fleet_s_purse_is_in_postgresql_for_every_command(
    scheme: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{scheme}://fleet:hunter2@db.example/fleet"
    monkeypatch.setenv("FAREBOX_PURSE_STORE", url)
    assert (url, url) == (purse_place(home / "state"), purse_to_read(home / "state"))
    assert [] == list(home.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("call", "http://127.0.0.1:9/", *WALLET),
        ("call", "http://127.0.0.1:9/", "--dry-run"),
        ("proxy", "--listen", ELSEWHERE, "--public", *WALLET),
        ("wallet", "serve", "--http", ELSEWHERE, "--public-url", "https://wallet.example", *WALLET),
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


@pytest.mark.parametrize(
    ("name", "named", "place"),
    [
        ("FAREBOX_PURSE_STORE", "~/deep/kept.db", "deep/kept.db"),
        ("FAREBOX_PURSE_STORE", "sqlite:///~/kept.db", "kept.db"),
        ("FAREBOX_STATE", "~/st8", "st8/purse.db"),
        ("XDG_STATE_HOME", "~/st8", "st8/farebox/purse.db"),
    ],
)
def test_what_is_written_to_a_purse_in_a_home_is_read_from_it(
    name: str, named: str, place: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, named)
    assert 0 == CliRunner().invoke(app, ["purse", "add", "bot", "--limit", "9 sat/day"]).exit_code
    assert (home / place).exists()
    assert ["bot"] == known_names(folder(None))
    for reading in (("purse", "list"), ("budget",), ("purse", "revoke", "bot")):
        ran = CliRunner().invoke(app, reading)
        assert (0, "") == (ran.exit_code, ran.stderr)
        assert "9 sat/day" in ran.stdout
    assert not (home / "~").exists()


READING = [
    ("budget",),
    ("history",),
    ("history", "--csv"),
    ("resume",),
    ("approvals", "list"),
    ("purse", "list"),
    ("purse", "revoke", "bot"),
    ("purse", "repair", "--json"),
]


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("name", ["FAREBOX_PURSE_STORE", "FAREBOX_STATE"])
def test_of_a_purse_that_was_named_and_is_not_there_a_line_is_told_besides_what_an_empty_one_says(
    command: tuple[str, ...], name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = CliRunner().invoke(app, command)
    assert "there is no purse at" not in usual.stderr
    monkeypatch.setenv(name, "~/mistyped")
    place = home / "mistyped" if name == "FAREBOX_PURSE_STORE" else home / "mistyped" / "purse.db"
    named = CliRunner().invoke(app, command)
    line = f"there is no purse at {place} yet; `farebox call` makes it\n"
    assert (usual.exit_code, usual.stdout, line + usual.stderr) == (named.exit_code, named.stdout, named.stderr)
    assert [] == list(home.iterdir())


def test_a_purse_that_is_not_there_yet_is_told_once_by_who_watches_and_never_by_a_completion(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [] == known_names(home / "mistyped")
    assert "" == capsys.readouterr().err
    looks = iter(range(3))

    def pause(_: float) -> None:
        if next(looks, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_approvals(folder=home / "mistyped", as_json=True, pause=pause)
    assert 1 == len(capsys.readouterr().err.splitlines())
