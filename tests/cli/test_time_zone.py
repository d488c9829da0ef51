"""Where a calendar's day begins: the same for every command that spends or shows a window of one."""

from __future__ import annotations

import json
from datetime import datetime, time
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from farebox.cli.app import app
from farebox.cli.call import buyer_of
from farebox.cli.call_request import Wanted
from farebox.cli.call_wait import NoWallet, Told
from farebox.core.purse_token import PurseToken
from farebox.stores import open_purse

KATHMANDU: Final = "Asia/Kathmandu"  # whose midnight is nobody else's
WALLET: Final = ("--wallet", "phoenixd+http://:pw@127.0.0.1:9")
SHOWING: Final = [
    ("budget", "9 sat/calendar day"),
    ("purse", "list"),
    ("purse", "show", "bot"),
    ("purse", "revoke", "bot"),
]
SPENDING: Final = [
    ("call", "http://127.0.0.1:9/", *WALLET),
    ("call", "http://127.0.0.1:9/", "--dry-run"),
    ("proxy", "--listen", "127.0.0.1:0", *WALLET),
    ("wallet", "serve", *WALLET),
    ("purse", "add", "another", "--limit", "9 sat/day"),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of somebody who has a sub-purse with a limit by the calendar."""
    monkeypatch.delenv("FAREBOX_TIME_ZONE", raising=False)
    monkeypatch.delenv("FAREBOX_PURSE_STORE", raising=False)
    monkeypatch.setenv("FAREBOX_STATE", str(tmp_path))
    assert 0 == CliRunner().invoke(app, ["purse", "add", "bot", "--limit", "9 sat/calendar day"]).exit_code
    return tmp_path


@pytest.mark.parametrize("command", SHOWING)
@pytest.mark.parametrize("by_option", [True, False])
def test_a_window_is_shown_by_the_zone_that_was_named(
    command: tuple[str, ...], by_option: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_option:
        command = (*command, "--time-zone", KATHMANDU)
    else:
        monkeypatch.setenv("FAREBOX_TIME_ZONE", KATHMANDU)
    rows = [json.loads(line) for line in CliRunner().invoke(app, command).stdout.splitlines()]
    assert rows
    assert {time(0)} == {datetime.fromisoformat(row["resets"]).astimezone(ZoneInfo(KATHMANDU)).time() for row in rows}


@pytest.mark.parametrize("command", SHOWING + SPENDING)
def test_a_zone_that_is_not_known_is_one_and_the_same_usage_error(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_option = CliRunner().invoke(app, (*command, "--time-zone", "Europe/Nowhere"))
    monkeypatch.setenv("FAREBOX_TIME_ZONE", "Europe/Nowhere")
    by_variable = CliRunner().invoke(app, command)
    for ran in (by_option, by_variable):
        assert (2, "") == (ran.exit_code, ran.stdout)
        (line,) = ran.stderr.splitlines()
        told = "Europe/Nowhere is no time zone that is known here; name one, such as Europe/Paris or UTC"
        assert ("usage-error", told, False) == tuple(
            json.loads(line)[name] for name in ("type", "detail", "money_moved")
        )


@pytest.mark.parametrize("command", SHOWING + SPENDING)
def test_the_help_says_which_variable_names_it(command: tuple[str, ...]) -> None:
    told = CliRunner().invoke(app, (*command, "--help"), terminal_width=200).stdout
    assert "--time-zone" in told
    assert "FAREBOX_TIME_ZONE" in told


def test_a_call_goes_by_it_in_its_budget_and_in_its_sub_purse(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "purse.db")
    (bot,) = purse.purses()
    purse.close()
    wanted = Wanted(url="http://127.0.0.1:9/", budget="9 sat/calendar day", time_zone=KATHMANDU)
    buyer = buyer_of(wanted, Told(quiet=True, verbose=False), NoWallet(), tmp_path / "purse.db")
    token = PurseToken.mint(bot.name, bot.key).reveal()
    assert [ZoneInfo(KATHMANDU)] * 2 == [each.zone for each in (*buyer.budget.windows, *buyer.admit(token).windows)]
    buyer.close()
