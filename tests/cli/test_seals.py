"""The audit log while a shop serves, and `farebox ledger verify`."""

import asyncio
import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from farebox.cli.app import app
from farebox.cli.seals import seal_all, sealing
from farebox.cli.state import LiveKeyRing
from farebox.stores import open_ledger
from farebox.testing.ledger_seals import sell
from farebox.testing.market import StillClock


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a shop that has sold twice and sealed once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAREBOX_STATE", str(tmp_path))
    asyncio.run(_sell_and_seal(tmp_path))
    return tmp_path


async def _sell_and_seal(folder: Path) -> None:
    clock = StillClock()
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.db'}", clock)
    await sell(ledger, clock, "one", "two")
    assert await seal_all(ledger, LiveKeyRing(folder / "keys").ring()) is not None
    await ledger.close()


def verify(*arguments: str) -> tuple[int, dict[str, Any], list[str]]:
    """The exit code, what was looked at, and each finding."""
    ran = CliRunner().invoke(app, ["ledger", "verify", *arguments])
    first, *rest = [json.loads(line) for line in ran.stdout.splitlines()]
    return ran.exit_code, first, [line["finding"] for line in rest]


def tamper(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "ledger.db") as attacker:
        for (name,) in attacker.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            attacker.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            attacker.execute(statement)
    attacker.close()


def test_a_ledger_that_is_as_it_was_sealed_is_told_with_its_head(shop: Path) -> None:
    code, seen, findings = verify()
    head = seen.pop("head")
    expected = {
        "seals": 1,
        "sealed_entries": 4,
        "unsealed_entries": 0,
        "seals_of_revoked_keys": 0,
        "received": "42 sat",
        "balanced": True,
        "findings": 0,
    }
    assert (0, expected, []) == (code, seen, findings)
    assert (0, []) == verify(f"sqlite:///{shop / 'ledger.db'}", "--noted", head)[::2]


def test_each_thing_that_is_off_is_a_line_and_the_exit_code_is_nine(shop: Path) -> None:
    tamper(shop, "UPDATE entries SET amount_msat = amount_msat + 1 WHERE to_account = 'earned'")
    code, seen, findings = verify()
    assert (9, len(findings), False) == (code, seen["findings"], seen["balanced"])
    assert "seal 1 does not fit its entries or the seal before it" == findings[0]
    assert 2 == sum("captured by its row, and earned by the entries: 21000 and 21001" in each for each in findings)


def test_a_change_that_leaves_the_books_balanced_is_found_as_well(shop: Path) -> None:
    tamper(shop, "UPDATE entries SET at_ms = at_ms - 86400000")
    assert (9, ["seal 1 does not fit its entries or the seal before it"]) == verify()[::2]


def test_an_account_below_nothing_is_a_finding(shop: Path) -> None:
    tamper(shop, "UPDATE entries SET amount_msat = amount_msat * 3 WHERE to_account = 'earned'")
    code, seen, findings = verify()
    assert (9, None) == (code, seen["received"])
    assert "what was received is not what the accounts add up to" in findings


def test_a_head_that_was_noted_and_is_gone_is_a_finding(shop: Path) -> None:
    assert (9, ["seal 7 was noted, and is missing"]) == verify("--noted", "7:0123456789abcdef")[::2]


def test_the_key_of_another_shop_verifies_nothing(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "keys"
    LiveKeyRing(other)
    code, _, (finding,) = verify("--keys", str(other))
    assert (9, True) == (code, finding.startswith("seal 1 is under a key that is not in the ring"))


@pytest.mark.parametrize("arguments", [[], ["show"], ["-n", "1"], ["--json"]])
def test_the_books_are_shown_with_and_without_saying_so(shop: Path, arguments: list[str]) -> None:
    ran = CliRunner().invoke(app, ["ledger", *arguments])
    assert (0, "42 sat") == (ran.exit_code, json.loads(ran.stdout.splitlines()[0])["received"])


def test_a_store_can_be_named_without_a_command(shop: Path) -> None:
    ran = CliRunner().invoke(app, ["ledger", f"sqlite:///{shop / 'ledger.db'}", "-n", "1"])
    assert (0, 2) == (ran.exit_code, len(ran.stdout.splitlines()))


def test_a_shop_seals_now_and_then_and_when_it_closes(tmp_path: Path) -> None:
    async def serve() -> list[Any]:
        clock = StillClock()
        ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", clock)
        keys = LiveKeyRing(tmp_path / "keys")
        with capture_logs() as logs:
            async with sealing(ledger, keys, every=timedelta(milliseconds=1)):
                await sell(ledger, clock, "while it serves")
                async with asyncio.timeout(5):
                    while sum(each["entries"] for each in logs) < 2:
                        await asyncio.sleep(0.001)
            async with sealing(ledger, keys):
                await sell(ledger, clock, "and then closes")
        await ledger.close()
        return list(logs)

    logs = asyncio.run(serve())
    assert ["ledger-sealed"] * len(logs) == [each["event"] for each in logs]
    assert 4 == sum(each["entries"] for each in logs)
    number, _, digits = logs[-1]["head"].partition(":")
    assert (len(logs), 32) == (int(number), len(digits))


def test_what_can_not_be_sealed_now_is_told_and_sealed_later(tmp_path: Path) -> None:
    async def close_early() -> list[Any]:
        ledger = open_ledger("sqlite::memory:")
        await ledger.close()
        with capture_logs() as logs:
            assert await seal_all(ledger, LiveKeyRing(tmp_path / "keys").ring()) is None
        return list(logs)

    assert [("warning", "not-sealed")] == [(each["log_level"], each["event"]) for each in asyncio.run(close_early())]
