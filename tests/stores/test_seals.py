"""The audit log in a file that somebody has got hold of."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.core.errors import MalformedValue, StoreUnavailable
from farebox.stores import open_ledger, seals
from farebox.stores.engine import drive
from farebox.stores.seals import Noted, seal_entries, verify_seals
from farebox.testing.ledger_seals import RING, sell, sell_and_seal, verified
from farebox.testing.market import StillClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount_msat = 'plenty' WHERE seal = 1",
        "UPDATE entries SET at_ms = x'00' WHERE seal = 1",
        "UPDATE entries SET amount_msat = 1.5 WHERE seal = 1",
        "UPDATE seals SET sealed_at_ms = 'yesterday' WHERE seal = 1",
        "UPDATE payments SET payment_hash = 'a text of thirty-two characters.'",
    ],
)
async def test_what_is_of_another_type_than_it_should_be_is_a_finding_and_no_crash(
    tmp_path: Path, statement: str
) -> None:
    clock, path = StillClock(), tmp_path / "ledger.db"
    ledger = open_ledger(f"sqlite:///{path}", clock)
    await sell_and_seal(ledger, clock)
    await sell(ledger, clock, "unsealed")
    with sqlite3.connect(path) as attacker:
        attacker.execute("PRAGMA ignore_check_constraints = ON")
        for (name,) in attacker.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            attacker.execute(f"DROP TRIGGER {name}")
        try:
            attacker.execute(statement)
        except sqlite3.IntegrityError:
            attacker.execute(statement + " WHERE payment_id = 1")
    attacker.close()
    findings = (await verified(ledger)).findings
    await ledger.close()
    assert any("seal 1 does not fit" in each for each in findings), findings


async def test_two_ledgers_on_one_file_make_one_chain(tmp_path: Path) -> None:
    clock, url = StillClock(), f"sqlite:///{tmp_path / 'ledger.db'}"
    one, two = open_ledger(url, clock), open_ledger(url, clock)
    await sell(one, clock, *map(str, range(20)))
    both = [seal_entries(ledger.engine, RING, most=3) for _ in range(10) for ledger in (one, two)]
    await asyncio.gather(*both)
    seen = await verify_seals(two.engine, RING)
    await one.close()
    await two.close()
    assert (14, 40, 0, ()) == (seen.seals, seen.entries, seen.unsealed, seen.findings)


@pytest.mark.parametrize("text", ["", "17", "17:", "17:abc", "x:0123456789abcdef", "17:0123456789abcdeg"])
def test_what_is_no_noted_head_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue):
        Noted.read(text)


def test_a_noted_head_may_be_cut_short_as_a_log_does() -> None:
    assert Noted(seal=17, digits="0123456789abcdef") == Noted.read(" 17:0123456789ABCDEF… ")


@pytest.mark.full
async def test_a_hundred_thousand_entries_are_sealed_and_verified_in_seconds(
    tmp_path: Path, tell: Callable[[str], object]
) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_ledger(f"sqlite:///{path}")
    fill(path, 50_000)
    began = time.perf_counter()
    while await seal_entries(ledger.engine, RING):
        pass
    sealed_s = time.perf_counter() - began
    began = time.perf_counter()
    seen = await verify_seals(ledger.engine, RING)
    verified_s = time.perf_counter() - began
    began = time.perf_counter()
    balance, wrong = await ledger.balance(), await ledger.audit()
    audited_s = time.perf_counter() - began
    await ledger.close()
    told: dict[str, Any] = {"sealed_s": sealed_s, "verified_s": verified_s, "audited_s": audited_s}
    tell(f"100,000 entries: { ({name: round(value, 2) for name, value in told.items()}) }")
    assert (50, 100_000, (), [], True) == (seen.seals, seen.entries, seen.findings, list(wrong), balance.balanced)
    assert max(told.values()) < 60


def fill(path: Path, payments: int) -> None:
    """So many sales, as if they had been made."""
    with sqlite3.connect(path) as file:
        file.execute(
            """
            INSERT INTO payments (payment_id, payment_hash, state, price_msat, digest, resource, client, invoice,
                created_at_ms, expires_at_ms, settled_at_ms, received_msat, captured_msat, attempts, epoch)
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
            SELECT n, randomblob(32), 'spent', 1000, randomblob(32), '/x', '', '', n, n, n, 1000, 1000, 1, 1 FROM n
            """,
            (payments,),
        )
        file.execute(
            "INSERT INTO draws (payment_id, epoch, amount_msat, state, held_at_ms, ended_at_ms) "
            "SELECT payment_id, 1, 1000, 'captured', payment_id, payment_id FROM payments"
        )
        for epoch, source, target in ((0, "received", "held"), (1, "held", "earned")):
            file.execute(
                "INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms) "
                "SELECT payment_id, ?, ?, ?, 1000, payment_id FROM payments",
                (epoch, source, target),
            )
    file.close()


def test_the_order_in_which_a_database_gives_its_rows_changes_no_digest() -> None:
    entries = [(bytes([n]) * 32, epoch, "held", to, 5, 7) for n in (1, 2) for epoch in (1, 2) for to in ("a", "b")]
    assert 1 == len(
        {seals._digest(bytes(32), 1, 0, order) for order in (entries, entries[::-1], entries[3:] + entries[:3])}
    )


def test_whoever_comes_second_to_a_seal_has_done_nothing() -> None:
    def answered(statement: str, _: object) -> list[tuple[Any, ...]]:
        if "INSERT INTO seals" in statement:
            return []  # somebody else's is there
        return [(1, bytes(32), 1, "held", "earned", 5, 7)] if "LEFT JOIN payments" in statement else [(1, bytes(32))]

    with pytest.raises(StoreUnavailable, match="Another process"):
        drive(seals._seal(RING, 10, 0), answered)
