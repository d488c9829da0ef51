"""A purse in PostgreSQL: what only a real server shows, and a network between that loses what hurts most."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import psycopg
import pytest

import farebox.stores.purse_postgres
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import ConfigError, FareboxError, OverBudget, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import Purse
from farebox.http.buyer import open_buyer
from farebox.stores import open_ledger, open_purse
from farebox.stores.purse_postgres import MACHINES, ROOM, PostgresPurse
from farebox.stores.statements import statements
from farebox.testing.market import StillClock
from farebox.testing.postgres import Ledgers, Postgres, database_of, free_port, wait_for
from farebox.testing.postgres_proxy import Loss, PostgresProxy
from farebox.testing.purse_stage import DAILY, PAYEE, PREIMAGE, buy, purchase

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def purses(postgres: Postgres) -> Ledgers:
    """Databases with empty tables."""
    return Ledgers(postgres, room=ROOM, moves=MACHINES)


@pytest.fixture
def url(purses: Ledgers) -> str:
    """A purse that remembers nothing."""
    return purses.take()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def purse(url: str, clock: StillClock) -> Iterator[PostgresPurse]:
    purse = PostgresPurse(url, clock)
    yield purse
    purse.close()


def proxied(url: str, proxy: PostgresProxy) -> str:
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database_of(url)}"


def refusal(opening: Callable[[], object], error: type[FareboxError] = ConfigError) -> str:
    with pytest.raises(error) as refused:
        opening()
    told = str(refused.value)
    assert "\n" not in told
    assert "hunter2" not in told
    return told


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://postgres:hunter2@127.0.0.1:{port}/there_is_no_such_database",
        "postgresql://nobody:hunter2@127.0.0.1:{port}/postgres",
        "postgresql://u:hunter2@127.0.0.1:port/db",
        "postgres://u:hunter2@127.0.0.1:{port}/db?no_such_option=1",
    ],
)
def test_a_place_that_is_not_there_is_refused_in_a_line_that_tells_no_password(postgres: Postgres, wrong: str) -> None:
    assert "purse" in refusal(lambda: open_purse(wrong.format(port=postgres.port)))


def test_a_server_that_is_not_there_is_told_in_a_line() -> None:
    told = refusal(lambda: open_purse(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/me"), StoreUnavailable)
    assert "The purse's database postgresql://u@127.0.0.1" in told


def test_a_database_of_something_else_is_refused_and_left_as_it_is(raw_url: str, postgres: Postgres) -> None:
    postgres.run("CREATE TABLE purchases (id INTEGER)", database=database_of(raw_url))
    assert "something else" in refusal(lambda: open_purse(raw_url))
    tables = postgres.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=database_of(raw_url))
    assert [("purchases",)] == tables


def test_a_buyer_opens_it_by_its_url(url: str) -> None:
    buyer = open_buyer(wallet="sandbox:", purse=url)
    assert [Amount.sats(500)] == [left.left for left in buyer.left()]
    assert isinstance(buyer.drivers.purse, PostgresPurse)
    assert abs(buyer.drivers.purse.wall() - datetime.now(UTC)) < timedelta(minutes=1)
    buyer.close()


@pytest.mark.parametrize("first", ["ledger", "purse"])
def test_a_ledger_may_lie_in_the_same_database(raw_url: str, clock: StillClock, first: str) -> None:
    import asyncio

    if first == "ledger":
        asyncio.run(open_ledger(raw_url).close())
    one = open_purse(raw_url, clock)
    asyncio.run(open_ledger(raw_url).close())
    buy(one, purchase(clock), [DAILY])
    one.close()
    other = open_purse(raw_url, clock)
    assert Amount.sats(21) == other.spent(DAILY)
    other.close()


def test_purses_in_two_schemas_of_a_database_are_two_purses(
    raw_url: str, postgres: Postgres, clock: StillClock
) -> None:
    names = ("one", "other")
    for name in names:
        postgres.run(f"CREATE SCHEMA {name}", database=database_of(raw_url))
    one, other = (open_purse(f"{raw_url}?options=-csearch_path%3D{name}", clock) for name in names)
    buy(one, purchase(clock, sats=500), [DAILY])
    with one.writing():  # its lock is not the other's
        buy(other, purchase(clock, sats=499), [DAILY])
    assert [500, 499] == [each.spent(DAILY).in_sats_exact() for each in (one, other)]
    for each in (one, other):
        each.close()


def test_a_program_may_run_as_a_role_that_owns_no_table(url: str, postgres: Postgres, clock: StillClock) -> None:
    name = database_of(url)
    postgres.run("CREATE ROLE buyer LOGIN")
    postgres.run("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO buyer", database=name)
    purse = open_purse(url.replace("postgres@", "buyer@"), clock)
    buy(purse, purchase(clock), [DAILY])
    purse.mark_served(purchase(clock).payment_hash)
    assert purchase(clock).amount == purse.spent(DAILY)
    purse.close()
    postgres.run("DROP OWNED BY buyer", database=name)
    postgres.run("DROP ROLE buyer")


def test_what_is_committed_is_flushed_and_only_a_server_that_takes_writes_is_asked(
    raw_url: str, postgres: Postgres
) -> None:
    open_purse(raw_url).close()
    postgres.run(f"ALTER DATABASE {database_of(raw_url)} SET synchronous_commit = off")
    purse = open_purse(raw_url)
    with purse.writing() as tx:
        assert ("on",) == tx.execute("SHOW synchronous_commit").fetchone()
        assert ("read committed",) == tx.execute("SHOW transaction_isolation").fetchone()
    postgres.run(f"ALTER DATABASE {database_of(raw_url)} SET default_transaction_read_only = on")
    with purse.reading():
        pass  # as it was connected before
    purse.close()
    standby = open_purse(f"{raw_url}?target_session_attrs=any")  # as a standby is: it can be read, and not written
    for ask in (standby.unfinished, lambda: standby.release(bytes(32), reason="")):
        assert "read" in refusal(ask, StoreUnavailable)
    standby.close()


@pytest.mark.parametrize("name", [*statements("purse"), "lock"])
def test_every_statement_is_one_that_the_server_understands(purse: PostgresPurse, name: str) -> None:
    from farebox.stores.postgres_text import translated

    row = "(CAST(:since_0_ms AS BIGINT), CAST(:limit_0_msat AS BIGINT), CAST(:label_0 AS TEXT))"
    text = {**statements("purse"), **statements("purse.postgresql")}[name].replace(":windows", row)
    with purse.reading() as tx:
        tx.execute("PREPARE it AS " + translated(text).text)


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_time_is_the_servers_and_does_not_go_back(url: str, postgres: Postgres) -> None:
    purse = open_purse(url)
    purse.hold(purchase(purse.wall), [DAILY])
    [held] = purse.history(1)
    [(now,)] = postgres.run("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    assert held.held_at is not None
    assert timedelta(0) <= now - held.held_at < timedelta(seconds=10)
    later = "UPDATE purchases SET counted_at_ms = counted_at_ms + 7200000"  # as if the server's clock had been ahead
    postgres.run(later, database=database_of(url))
    purse.hold(purchase(purse.wall, "b"), [DAILY])
    assert purse.history(1)[0].held_at == held.held_at + timedelta(hours=2)
    purse.close()


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_connection_that_the_server_ended_is_opened_again(
    purse: PostgresPurse, url: str, postgres: Postgres, clock: StillClock
) -> None:
    ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database_of(url)}'"
    for number, ask in enumerate((lambda: purse.hold(purchase(clock), [DAILY]), purse.unfinished)):
        buy(purse, purchase(clock, f"{number}"), [DAILY])
        postgres.run(ended)
        ask()
    assert 3 == len(purse.history(9))


def test_a_server_that_crashed_and_came_back_has_forgotten_nothing(
    open_postgres: Callable[..., object], clock: StillClock
) -> None:
    with open_postgres() as server:  # type: ignore[attr-defined] # a context manager of it
        purse = open_purse(server.new_database(), clock)
        buy(purse, purchase(clock, "a", 400), [DAILY])
        server.stop("immediate")
        assert "refused" in refusal(lambda: purse.hold(purchase(clock, "b"), [DAILY]), StoreUnavailable)
        server.start()
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 101), [DAILY])
        assert purse.hold(purchase(clock, "b", 100), [DAILY]) is None
        purse.close()


def test_a_deadlock_is_run_again_and_its_caller_hears_nothing_of_it(
    purse: PostgresPurse, url: str, clock: StillClock
) -> None:
    inside = threading.Event()

    def cross() -> None:
        with psycopg.connect(url) as other:
            other.execute("SET LOCAL deadlock_timeout = '10s'")  # so that the other one is the victim
            other.execute("LOCK TABLE payees IN EXCLUSIVE MODE")
            inside.set()
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'payees'::regclass"
            wait_for("the purse waits", lambda: other.execute(waits).fetchall())
            other.execute(statements("purse.postgresql")["lock"].encode())

    thread = threading.Thread(target=cross)
    thread.start()
    assert inside.wait(10)
    assert purse.hold(purchase(clock), [DAILY]) is None
    thread.join()
    assert [DrawState.HELD] == [one.state for one in purse.history(9)]
    assert PAYEE == purse.seen(purchase(clock).origin, purchase(clock).resource).payee


def test_whoever_does_not_get_the_lock_is_told_so_within_seconds(
    purse: PostgresPurse, url: str, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farebox.stores.purse_postgres, "_PATIENCE_S", 0.0)
    with psycopg.connect(url) as other:
        other.execute(statements("purse.postgresql")["lock"].encode())
        assert "lock timeout" in refusal(lambda: purse.hold(purchase(clock), [DAILY]), StoreUnavailable)
        assert [] == purse.history(9)
    assert purse.hold(purchase(clock), [DAILY]) is None


@pytest.mark.parametrize("loss", [Loss.REPLY, Loss.UNSENT])
def test_a_hold_of_whose_commit_nobody_can_tell_is_found_by_asking_again(
    url: str, postgres: Postgres, clock: StillClock, loss: Loss
) -> None:
    with PostgresProxy(postgres.port) as proxy:
        purse = open_purse(proxied(url, proxy), clock)
        proxy.choose = lambda: loss
        assert "ask again" in refusal(lambda: purse.hold(purchase(clock), [DAILY]), StoreUnavailable)
        proxy.choose = lambda: Loss.NONE
        known = purse.hold(purchase(clock), [DAILY])
        assert [loss is Loss.REPLY, 1] == [known is not None, len(purse.history(9))]
        purse.close()


def test_a_server_that_falls_silent_is_an_error_within_seconds_and_not_a_hang(
    url: str, postgres: Postgres, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farebox.stores.purse_postgres, "ROUND_TRIP", timedelta(seconds=1))
    monkeypatch.setattr(farebox.stores.purse_postgres, "_PATIENCE_S", 1.0)
    with PostgresProxy(postgres.port) as proxy:
        purse = open_purse(proxied(url, proxy), clock)
        proxy.silent = True
        began = time.monotonic()
        refusal(lambda: purse.hold(purchase(clock), [DAILY]), StoreUnavailable)
        assert time.monotonic() - began < 8
        proxy.silent = False
        assert purse.hold(purchase(clock), [DAILY]) is None
        purse.close()


def test_what_postgresql_can_not_keep_is_refused_and_the_purse_goes_on(purse: Purse, clock: StillClock) -> None:
    assert "NUL" in refusal(lambda: purse.hold(replace(purchase(clock), url="a\0b"), [DAILY]), StoreUnavailable)
    assert purse.hold(purchase(clock), [DAILY]) is None


def test_a_purse_is_not_used_across_a_fork_and_not_after_it_was_closed(url: str) -> None:
    purse = open_purse(url)
    with pytest.MonkeyPatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert "forked" in refusal(purse.unfinished, StoreUnavailable)
        purse.close()
    assert [] == purse.unfinished()
    for _ in range(2):
        purse.close()
    assert "closed" in refusal(purse.unfinished, StoreUnavailable)


@pytest.mark.parametrize("losses", [40, pytest.param(1000, marks=pytest.mark.full)])
def test_connections_lost_while_they_commit_spend_nothing_twice_and_nothing_beyond(
    url: str, postgres: Postgres, seed: int, tell: Callable[[str], object], losses: int
) -> None:
    chance, clock = Random(seed), StillClock()
    chances = [*[Loss.NONE] * 8, Loss.UNSENT, Loss.SENT, Loss.RESET, Loss.REPLY, Loss.REPLY]
    limits = [Window.read("500 sat/hour")]
    tally: Counter[str] = Counter()
    paid: dict[bytes, bool] = {}

    def again(ask: Callable[[], object]) -> object:
        while True:
            try:
                return ask()
            except StoreUnavailable:
                tally["asked again"] += 1

    def spend(purse: Purse, name: str) -> None:
        bought = purchase(clock, name, 20, fee_sats=3)
        try:
            again(lambda: purse.hold(bought, limits))
        except OverBudget:
            tally["refused"] += 1
            return
        pays = bool(bought.payment_hash[0] % 3)
        if pays:
            again(lambda: purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount.sats(1)))
        else:
            again(lambda: purse.release(bought.payment_hash, reason="no route"))
        paid[bought.payment_hash] = pays
        tally["spent"] += 1

    with PostgresProxy(postgres.port) as proxy:
        ours = [open_purse(proxied(url, proxy), clock) for _ in range(3)]
        proxy.choose = lambda: chance.choice(chances)
        number = 0
        while proxy.lost.total() - proxy.lost[Loss.UNSENT] < losses:
            number += 1
            threads = [threading.Thread(target=spend, args=(ours[one], f"{number} {one}")) for one in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert ours[0].spent(limits[0]) <= limits[0].limit, f"seed {seed}"
            if tally["refused"] > 9 * (1 + tally["hours"]):
                clock.pass_by(timedelta(hours=1))
                tally["hours"] += 1
        proxy.choose = lambda: Loss.NONE
        for purse in ours:
            purse.close()
    look = open_purse(url, clock)
    ended = {one.payment_hash: one.state is DrawState.CAPTURED for one in look.history(10**6)}
    assert paid == ended, f"seed {seed}"
    assert [one for one in look.history(10**6) if one.attempt] == [], f"seed {seed}"
    look.close()
    lost = ", ".join(f"{count} {loss.name.lower()}" for loss, count in sorted(proxy.lost.items(), key=str))
    told = f"{proxy.lost.total()} connections lost of {proxy.commits} commits ({lost})"
    tell(f"B2 and C3: seed {seed}: {told}; {dict(tally)}")


def test_a_file_whose_name_only_looks_like_it_is_a_file(tmp_path: Path, clock: StillClock) -> None:
    open_purse(tmp_path / "postgresql:" / "purse.db", clock).close()
    assert (tmp_path / "postgresql:" / "purse.db").exists()
