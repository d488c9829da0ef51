"""What a person does with a purse itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farebox.cli.books import moment
from farebox.cli.sub_purses import add_purse, repair_purse, revoke_purse, show_purse
from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import MalformedValue, UsageError
from farebox.stores import open_purse
from farebox.testing.purse_stage import DAILY, buy, purchase

AHEAD = timedelta(days=1000)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_purse_that_was_written_by_a_clock_that_was_ahead_is_set_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    ahead = open_purse(tmp_path / "purse.db", lambda: now + AHEAD)
    buy(ahead, purchase(lambda: now))
    ahead.close()
    for latest in (moment(now + AHEAD), None):
        repair_purse(folder=tmp_path, as_json=as_json)
        told = capsys.readouterr().out
        if as_json:
            assert {"latest": latest} == json.loads(told)
        else:
            assert (latest or "Nothing was written ahead of this clock.") in told
    tomorrow = open_purse(tmp_path / "purse.db", lambda: datetime.now(UTC) + timedelta(hours=23))
    assert Amount.sats(21) == tomorrow.spent(DAILY)
    tomorrow.close()
    day_after = open_purse(tmp_path / "purse.db", lambda: datetime.now(UTC) + timedelta(hours=25))
    assert NOTHING == day_after.spent(DAILY)
    day_after.close()


def test_limits_that_take_the_place_of_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for limits in (("100 sat/day",), ("100 sat/day",), ("5 sat/call", "0 sat/day")):
        add_purse("bot", limits, folder=tmp_path, as_json=False)
        told.append(capsys.readouterr().err)
    assert ["", "", "the limit of the purse bot was 100 sat/day and is now 5 sat/call, 0 sat/day\n"] == told


def test_a_name_that_nobody_knows_was_said_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no purse nobody"):
        show_purse("nobody", token=True, folder=tmp_path, as_json=True)
    with pytest.raises(UsageError, match="there is no purse nobody"):
        revoke_purse("nobody", folder=tmp_path, as_json=True)


def test_a_name_that_can_not_be_one_is_told_as_a_name_and_not_as_a_budget(tmp_path: Path) -> None:
    with pytest.raises(MalformedValue, match="a purse is named with up to 40 lower-case letters") as refused:
        add_purse("Bad Name", ("100 sat/day",), folder=tmp_path, as_json=False)
    assert "budget" not in str(refused.value)


def test_a_name_that_was_revoked_is_not_given_again(tmp_path: Path) -> None:
    add_purse("bot", ("100 sat/day",), folder=tmp_path, as_json=False)
    revoke_purse("bot", folder=tmp_path, as_json=True)
    with pytest.raises(UsageError, match="was revoked"):
        add_purse("bot", ("100 sat/day",), folder=tmp_path, as_json=False)
