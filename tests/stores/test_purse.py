from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import ConfigError, OverBudget, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import KEPT, Clock, Purse
from farebox.stores import open_purse, versions
from farebox.stores.statements import migrations
from farebox.testing.market import StillClock
from farebox.testing.postgres import Ledgers, Postgres
from farebox.testing.purse_stage import DAILY, DAY, DIGEST, HOURLY, PREIMAGE, purchase
from farebox.testing.purses import PurseSuite

NOTHING = Amount(0)


class TestSqliteInMemory(PurseSuite):
    def open_purse(self, clock: Clock) -> Purse:
        return open_purse(":memory:", clock)


class TestSqliteFile(PurseSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    def open_purse(self, clock: Clock) -> Purse:
        return open_purse(next(self.paths), clock)


@pytest.fixture(scope="module")
def purses(postgres: Postgres) -> Ledgers:
    """Databases with empty tables."""
    from farebox.stores.purse_postgres import MACHINES, ROOM

    return Ledgers(postgres, room=ROOM, moves=MACHINES)


@pytest.mark.system
class TestPostgres(PurseSuite):
    model_runs = 8

    @pytest.fixture(autouse=True)
    def databases(self, purses: Ledgers) -> None:
        self.purses = purses

    def open_purse(self, clock: Clock) -> Purse:
        return open_purse(self.purses.take(), clock)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def purse(clock: StillClock) -> Iterator[Purse]:
    purse = open_purse(":memory:", clock)
    yield purse
    purse.close()


def test_an_empty_purse_has_spent_nothing_and_goes_by_its_clock(purse: Purse, clock: StillClock) -> None:
    assert NOTHING == purse.spent(DAILY)
    purse.hold(purchase(clock), ())
    assert [clock()] == [kept.held_at for kept in purse.history(9)]


def test_an_attempt_that_follows_a_released_one_has_the_next_number(purse: Purse, clock: StillClock) -> None:
    for attempt in range(3):
        purse.hold(purchase(clock), ())
        assert [attempt] == [kept.attempt for kept in purse.unfinished(DIGEST)]
        purse.release(purchase(clock).payment_hash, reason="no balance")


def test_what_is_bought_after_the_clock_was_set_back_counts_a_whole_window(purse: Purse, clock: StillClock) -> None:
    began = clock()
    for name, at in (("before", began), ("set back", began - DAY * 30)):
        clock.at = at
        bought = purchase(clock, name, 200)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=NOTHING)
    clock.at = began + DAY - timedelta(milliseconds=1)
    assert Amount.sats(400) == purse.spent(DAILY)
    clock.at = began + DAY
    assert NOTHING == purse.spent(DAILY)


def test_a_window_with_just_enough_room_is_not_the_one_that_is_named(purse: Purse, clock: StillClock) -> None:
    purse.hold(purchase(clock, "a", 90), ())
    with pytest.raises(OverBudget) as refused:
        purse.hold(purchase(clock, "b", 21), [Window.read("111 sat/day"), HOURLY])
    assert ("100 sat/hour", 10_000) == (refused.value.evidence["window"], refused.value.evidence["left_msat"])


def test_what_was_served_is_not_kept_by_its_seller(purse: Purse, clock: StillClock) -> None:
    bought = purchase(clock)
    purse.hold(bought, ())
    purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=NOTHING)
    purse.mark_served(bought.payment_hash)
    purse.mark_kept(bought.payment_hash)
    assert ([], [""]) == (purse.unfinished(), [kept.reason for kept in purse.history(9)])


@pytest.mark.parametrize("state", [None, DrawState.HELD, DrawState.RELEASED])
def test_what_was_not_paid_is_not_kept_by_its_seller(purse: Purse, clock: StillClock, state: DrawState | None) -> None:
    bought = purchase(clock)
    if state is not None:
        purse.hold(bought, ())
    if state is DrawState.RELEASED:
        purse.release(bought.payment_hash, reason="no route")
    with pytest.raises(StoreUnavailable) as refused:
        purse.mark_kept(bought.payment_hash)
    assert (state or "unknown") in str(refused.value)
    assert KEPT not in [kept.reason for kept in purse.history(9)]


def test_a_purse_keeps_what_it_holds_for_whoever_opens_its_file_next(tmp_path: Path, clock: StillClock) -> None:
    one, other = (open_purse(tmp_path / "purse.db", clock) for _ in range(2))
    bought = purchase(clock)
    one.hold(bought, [DAILY])
    one.close()
    assert [replace(bought, held_at=clock())] == other.unfinished()
    other.close()


def test_a_purse_in_memory_leaves_no_file(tmp_path: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_purse(":memory:", clock).close()
    assert [] == list(tmp_path.iterdir())


def test_a_draw_that_is_no_move_of_the_table_is_refused_by_the_file(purse: Purse, clock: StillClock) -> None:
    bought = purchase(clock)
    purse.hold(bought, ())
    purse.release(bought.payment_hash, reason="no route")
    with pytest.raises(StoreUnavailable), purse.writing() as tx:  # type: ignore[attr-defined]  # behind its back
        tx.execute("UPDATE purchases SET state = 'held', counted_msat = amount_msat + fee_limit_msat")
    assert [DrawState.RELEASED] == [kept.state for kept in purse.history(9)]


def test_a_purse_that_can_not_be_closed_to_others_is_not_used(
    tmp_path: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_purse(tmp_path / "purse.db", clock).close()
    (tmp_path / "purse.db").chmod(0o644)

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigError) as refused:
        open_purse(tmp_path / "purse.db", clock)
    assert str(tmp_path / "purse.db") in str(refused.value)


# --- files of before --------------------------------------------------------------------------------------------------

ORIGINS = {
    "https://api.example.com:443": "host:api.example.com",
    "http://api2:8402": "host:api2",
    "https://API.example.com:8443": "host:api.example.com",
    "http://192.0.2.17:8402": "host:192.0.2.17",
    "http://192.0.2.17": "host:192.0.2.17",
    "https://shop42": "host:shop42",
    "http://[::1]:8402": "host:[::1]",
    "http://[2001:db8::17]:443": "host:[2001:db8::17]",
    "http://[2001:db8::17]": "host:[2001:db8::17]",
}


def test_a_purse_of_before_is_given_the_hosts_of_what_was_bought(tmp_path: Path, clock: StillClock) -> None:
    file = tmp_path / "purse.db"
    with pytest.MonkeyPatch.context() as older:
        ours = migrations("purse", "sqlite")
        older.setattr(versions, "migrations", lambda room, engine: ours[:2])
        open_purse(file, clock).close()
    database = sqlite3.connect(file)
    for number, origin in enumerate(ORIGINS):
        payment_hash, state = purchase(clock, origin).payment_hash, "held" if number else "captured"
        database.execute(
            "INSERT INTO purchases (payment_hash, attempt, request_digest, origin, url, amount_msat, fee_limit_msat,"
            " challenge_json, invoice_expires_at_ms, state, preimage, held_at_ms, counted_msat, counted_at_ms)"
            " VALUES (?, 0, ?, ?, '', 5000, 0, ?, 0, ?, ?, ?, 5000, ?)",
            (payment_hash, DIGEST, origin, CHALLENGE, state, None if number else payment_hash, number + 1, number + 1),
        )
    database.commit()
    database.close()
    purse = open_purse(file, clock)
    assert ORIGINS == {one.origin: " ".join(one.labels) for one in purse.history(99)}
    assert Amount.sats(10) == purse.spent(Window.read("9 sat/month on 192.0.2.17"))
    assert ("", b"", None, None) == (
        (one := purse.history(1)[0]).resource, one.payee, one.undelivered_at, one.reusable_until
    )  # fmt: skip
    with pytest.raises(OverBudget):
        purse.hold(purchase(clock, labels=["host:shop42"]), [Window.read("25 sat/day on shop42")])
    assert len(ORIGINS) == len(purse.unfinished())
    purse.close()


CHALLENGE = (
    '{"dialect": "L402", "invoice": "lnbcrt1", "payment_hash": "", "amount_msat": null, "token": "", "parameters": [],'
    ' "expires_at_ms": null}'
)
