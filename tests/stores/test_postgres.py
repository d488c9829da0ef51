"""PostgreSQL: what only a real server shows, and a network between that loses what hurts most."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any

import psycopg
import pytest

import farebox.stores.postgres
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.stores import open_ledger, versions
from farebox.stores.engine import Operation, rows_of
from farebox.stores.ledger import SqlLedger
from farebox.stores.places import MACHINES, ROOM, migrate_ledger
from farebox.stores.postgres import PostgresEngine, ServerClock
from farebox.stores.postgres_schema import migrate_database
from farebox.stores.postgres_text import translated
from farebox.stores.statements import Migration, Phase, migrations, statements
from farebox.testing.ledger_stage import run_sql
from farebox.testing.postgres import Ledgers, Postgres, database_of, free_port
from farebox.testing.postgres_proxy import Loss, PostgresProxy

pytestmark = pytest.mark.system

DIGEST = sha256(b"a request").digest()
LEASE = timedelta(minutes=5)
CALLERS = 16


@pytest.fixture(scope="module")
def ledgers(postgres: Postgres) -> Ledgers:
    """Databases with empty tables."""
    return Ledgers(postgres)


@pytest.fixture
def url(ledgers: Ledgers) -> str:
    """A ledger that remembers nothing."""
    return ledgers.take()


def engine_of(ledger: SqlLedger) -> PostgresEngine:
    assert isinstance(ledger.engine, PostgresEngine)
    return ledger.engine


def invoice(name: str) -> Payment:
    now = datetime.now(UTC)
    return Payment(
        payment_hash=sha256(name.encode()).digest(),
        state=PaymentState.OPEN,
        price=Amount.sats(21),
        digest=DIGEST,
        resource="POST /api/dvm",
        client="192.0.2.7/32",
        invoice=f"lnbcrt {name}",
        created_at=now.replace(microsecond=0),
        expires_at=now.replace(microsecond=0) + timedelta(minutes=10),
    )


async def hold(ledger: SqlLedger, name: str) -> Hold | Payment | None:
    payment_hash = invoice(name).payment_hash
    return await ledger.hold(payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=3)


async def buy(ledger: SqlLedger, name: str) -> None:
    await ledger.open_payment(invoice(name))
    held = await hold(ledger, name)
    assert isinstance(held, Hold)
    assert await ledger.capture(held, Answer(status=200, headers=(), body=name.encode()))


async def must_balance(ledger: SqlLedger) -> None:
    assert [] == await ledger.audit()
    assert (await ledger.balance()).balanced


def refusal(opening: Callable[[], object], error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as refused:
        opening()
    told = str(refused.value)
    assert "\n" not in told
    assert "hunter2" not in told
    return told


def proxied(url: str, proxy: PostgresProxy) -> str:
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database_of(url)}"


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_ledger_opened_again_remembers(url: str) -> None:
    async def story() -> Payment | None:
        first = open_ledger(url)
        await buy(first, "1")
        await first.close()
        again = open_ledger(url)
        found = await again.find_payment(invoice("1").payment_hash)
        await must_balance(again)
        await again.close()
        return found

    found = asyncio.run(story())
    assert found is not None
    assert PaymentState.SPENT is found.state


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://postgres:hunter2@127.0.0.1:{port}/there_is_no_such_database",
        "postgresql://nobody:hunter2@127.0.0.1:{port}/postgres",
        "postgresql://u:hunter2@127.0.0.1:port/db",
        "postgresql://u:hunter2@127.0.0.1:{port}/db?no_such_option=1",
    ],
)
def test_a_place_that_is_not_there_is_refused_in_a_line_that_tells_no_password(postgres: Postgres, wrong: str) -> None:
    assert "hunter2" not in refusal(lambda: open_ledger(wrong.format(port=postgres.port)))


def test_a_server_that_is_not_there_is_told_in_a_line(postgres: Postgres) -> None:
    told = refusal(lambda: open_ledger(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/shop"), StoreUnavailable)
    assert "does not answer" in told


def test_a_server_that_swallows_everything_is_given_up_within_seconds(url: str, postgres: Postgres) -> None:
    with PostgresProxy(postgres.port) as proxy:
        proxy.silent = True
        began = time.monotonic()
        refusal(lambda: open_ledger(proxied(url, proxy)), StoreUnavailable)
        assert time.monotonic() - began < 5


def test_a_database_of_something_else_is_refused_and_left_as_it_is(raw_url: str, postgres: Postgres) -> None:
    postgres.run("CREATE TABLE migrations (version INTEGER)", database=database_of(raw_url))
    assert "something else" in refusal(lambda: open_ledger(raw_url))
    found = postgres.run(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace", database=database_of(raw_url)
    )
    assert [("migrations",)] == found


def test_the_tables_lie_where_the_search_path_says(raw_url: str, postgres: Postgres) -> None:
    postgres.run("CREATE SCHEMA shop", database=database_of(raw_url))
    asyncio.run(open_ledger(f"{raw_url}?options=-csearch_path%3Dshop").close())
    schemas = postgres.run(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'payments'", database=database_of(raw_url)
    )
    assert [("shop",)] == schemas


def test_a_gateway_may_run_as_a_role_that_owns_no_table(url: str, postgres: Postgres) -> None:
    name = database_of(url)
    postgres.run("DROP ROLE IF EXISTS gateway")
    postgres.run("CREATE ROLE gateway LOGIN")
    postgres.run("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO gateway", database=name)
    postgres.run("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO gateway", database=name)

    async def story() -> None:
        ledger = open_ledger(url.replace("postgres@", "gateway@"))
        await buy(ledger, "1")
        await must_balance(ledger)
        assert Amount.sats(21) == (await ledger.balance()).earned
        await ledger.close()

    asyncio.run(story())
    postgres.run("DROP OWNED BY gateway", database=name)
    postgres.run("DROP ROLE gateway")


def test_what_is_committed_is_flushed_whatever_the_role_would_have(url: str, postgres: Postgres) -> None:
    postgres.run(f"ALTER DATABASE {database_of(url)} SET synchronous_commit = off")
    ledger = open_ledger(url)
    found = asyncio.run(run_sql(ledger, "SHOW synchronous_commit"))
    asyncio.run(ledger.close())
    postgres.run(f"ALTER DATABASE {database_of(url)} RESET synchronous_commit")
    assert [("on",)] == found


# --- the schema, in two phases ----------------------------------------------------------------------------------------


def test_many_that_open_a_database_at_the_same_moment_make_its_tables_once(raw_url: str) -> None:
    outcomes: list[object] = []

    def opened() -> None:
        try:
            outcomes.append(migrate_database(raw_url, room=ROOM, moves=MACHINES))
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=opened) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int] * 8 == [type(outcome) for outcome in outcomes], outcomes
    ledger = open_ledger(raw_url)
    applied = asyncio.run(run_sql(ledger, "SELECT number FROM migrations ORDER BY number"))
    asyncio.run(ledger.close())
    assert [(one.number,) for one in migrations(ROOM, "postgresql")] == applied


EXPAND = Migration(number=900, name="more", phase=Phase.EXPAND, text="ALTER TABLE payments ADD COLUMN more TEXT")
CONTRACT = Migration(number=901, name="less", phase=Phase.CONTRACT, text="ALTER TABLE payments DROP COLUMN more")


@contextmanager
def newer(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A farebox that knows two migrations more."""
    ours = migrations(ROOM, "postgresql")
    with patch.context() as version:
        version.setattr(versions, "migrations", lambda room, engine: (*ours, EXPAND, CONTRACT))
        yield


def test_two_versions_run_side_by_side_until_an_operator_says_that_the_older_one_is_gone(
    raw_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        older = open_ledger(raw_url)
        await buy(older, "before")
        with newer(monkeypatch):
            other = open_ledger(raw_url)
        await buy(older, "older, beside the newer one")
        await buy(other, "newer")
        restarted = open_ledger(raw_url)
        await buy(restarted, "older, started after the newer one")
        for ledger in (older, restarted):
            await ledger.close()
        with newer(monkeypatch):
            migrate_ledger(raw_url)
            again = open_ledger(raw_url)
        await buy(other, "newer, over a migration that took a column away")
        await must_balance(again)
        for ledger in (other, again):
            await ledger.close()

    asyncio.run(story())
    assert "version 901" in refusal(lambda: open_ledger(raw_url))


@pytest.mark.parametrize("name", [*statements(ROOM), "lock"])
def test_every_statement_is_one_that_the_server_understands(url: str, postgres: Postgres, name: str) -> None:
    own = statements(f"{ROOM}.postgresql")
    text = translated(own.get(name) or statements(ROOM)[name]).text
    with psycopg.connect(url) as connection:
        connection.pgconn.prepare(b"it", text.encode())
        assert psycopg.pq.ExecStatus.COMMAND_OK == connection.pgconn.describe_prepared(b"it").status, text


# --- several gateways -------------------------------------------------------------------------------------------------


def test_whoever_waits_at_another_gateway_is_told_and_does_not_poll(url: str) -> None:
    async def story() -> float:
        here, there = open_ledger(url), open_ledger(url)
        await here.open_payment(invoice("1"))
        held = await hold(here, "1")
        assert isinstance(held, Hold)
        await there.changed(held.payment_hash, within=timedelta(seconds=2))  # until it listens
        waiting = asyncio.create_task(there.changed(held.payment_hash, within=timedelta(seconds=20)))
        await asyncio.sleep(0)
        assert await here.capture(held, None)
        captured_at = time.monotonic()
        await waiting
        took = time.monotonic() - captured_at
        for ledger in (here, there):
            await ledger.close()
        return took

    assert asyncio.run(story()) < 1  # the fallback is two seconds


def test_whoever_waits_is_woken_up_when_a_lost_connection_is_there_again(url: str, postgres: Postgres) -> None:
    async def story() -> float:
        ledger = open_ledger(url)
        about = bytes(32)
        await ledger.changed(about, within=timedelta(seconds=2))
        waiting = asyncio.create_task(ledger.changed(about, within=timedelta(seconds=20)))
        await asyncio.sleep(0)
        began = time.monotonic()
        await asyncio.to_thread(
            postgres.run,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{database_of(url)}' AND query LIKE 'LISTEN%'",
        )
        await waiting
        took = time.monotonic() - began
        await ledger.close()
        return took

    assert asyncio.run(story()) < 1.5


def test_gateways_that_are_asked_about_the_same_payments_wait_for_one_another_and_not_in_a_circle(url: str) -> None:
    async def story() -> int:
        here, there = gateways = open_ledger(url), open_ledger(url)
        for turn in range(6):
            names = sorted((f"{turn} {number}" for number in range(160)), key=lambda name: invoice(name).payment_hash)
            await asyncio.gather(*(here.open_payment(invoice(name)) for name in names))
            even, odd = names[0::2], names[1::2]
            # Each settles what the other claims; which of the two it says first is not the same here and there.
            settled = [here.settle(invoice(name).payment_hash, Amount.sats(21)) for name in even]
            settled += [there.settle(invoice(name).payment_hash, Amount.sats(21)) for name in odd]
            claims = [*(hold(here, name) for name in odd), *(hold(there, name) for name in even[1:])]
            outcomes = await asyncio.gather(*settled, *claims)
            assert {Hold} == {type(each) for each in outcomes[len(settled) :]}
        retries = sum(engine_of(ledger).retries for ledger in gateways)
        await must_balance(here)
        for ledger in gateways:
            await ledger.close()
        return retries

    assert 0 == asyncio.run(story())


SKEWED = """
import asyncio, json, os, sys, time
import psycopg        # it is compiled against the real datetime
from datetime import datetime, timedelta
skew = float(sys.argv[2])
real = time.time
jumps = iter(range(10**9))
time.time = lambda: real() + skew * (-1) ** next(jumps)        # it jumps to and fro by as much
class Wrong(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(time.time(), tz)
import datetime as module
module.datetime = Wrong
import farebox
from farebox.stores import engine
from farebox.http.selling import open_gate
gate = open_gate(store=sys.argv[1], keys=[os.urandom(32)])
instants = [gate.now() for _ in range(50)]
held = []
async def main():
    from hashlib import sha256
    for number in range(int(sys.argv[3])):
        name = sha256(f"{number}".encode()).digest()
        found = await gate.ledger.hold(
            name, digest=sha256(b"a request").digest(), proven=True, lease=timedelta(minutes=10), most_attempts=3
        )
        held.append(type(found).__name__)
    await gate.ledger.expire_payments(grace=timedelta(0))
    await gate.close()
asyncio.run(main())
print(json.dumps([[each.timestamp() for each in instants], held]))
"""


def test_gateways_whose_own_clocks_are_an_hour_off_and_jump_decide_by_the_databases(url: str) -> None:
    count = 40

    async def prepare() -> None:
        ledger = open_ledger(url)
        await asyncio.gather(*(ledger.open_payment(invoice(f"{number}")) for number in range(count)))
        await ledger.open_payment(invoice("unpaid, and good for ten minutes more"))
        held = await asyncio.gather(*(hold(ledger, f"{number}") for number in range(0, count, 2)))
        assert {Hold} == {type(each) for each in held}
        await ledger.close()

    asyncio.run(prepare())
    for skew in (-3600, 3600):
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", SKEWED, url, str(skew), str(count)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert 0 == ran.returncode, ran.stderr
        instants, held = json.loads(ran.stdout)
        assert max(abs(instant - time.time()) for instant in instants) < 60
        assert sorted(instants) == instants
        # A lease of five minutes that began just now has not run out, and what is free is free; nothing has expired.
        free = "Hold" if skew < 0 else "Payment"  # the first gateway claimed what was left
        assert ["Payment", free] * (count // 2) == held

    async def look() -> Payment | None:
        ledger = open_ledger(url)
        await must_balance(ledger)
        found = await ledger.find_payment(invoice("unpaid, and good for ten minutes more").payment_hash)
        await ledger.close()
        return found

    found = asyncio.run(look())
    assert found is not None
    assert PaymentState.OPEN is found.state


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_deadlock_is_run_again_and_its_caller_hears_nothing_of_it(url: str, postgres: Postgres) -> None:
    names = sorted((invoice(name).payment_hash, name) for name in ("a", "b"))
    (first, _), (second, _) = names

    async def story() -> int:
        ledger = open_ledger(url)
        await asyncio.gather(*(ledger.open_payment(invoice(name)) for _, name in names))
        update = "UPDATE payments SET resource = resource WHERE payment_hash = :hash"
        inside = threading.Event()

        def crossing(_: int) -> Operation[None]:
            yield update, {"hash": first}
            inside.set()
            yield update, {"hash": second}

        def cross() -> None:
            with psycopg.connect(url) as other:
                other.execute("UPDATE payments SET resource = resource WHERE payment_hash = %s", (second,))
                assert inside.wait(10)
                other.execute("SET deadlock_timeout = '10s'")  # so that the other one is the victim
                other.execute("UPDATE payments SET resource = resource WHERE payment_hash = %s", (first,))

        crossed = asyncio.create_task(asyncio.to_thread(cross))
        await asyncio.sleep(0.2)
        await ledger.engine.write(crossing, about=b"crossing")
        await crossed
        retries = engine_of(ledger).retries
        await ledger.close()
        return retries

    assert asyncio.run(story()) > 0


def test_a_connection_that_the_server_ended_is_opened_again(url: str, postgres: Postgres) -> None:
    async def story() -> int:
        ledger = open_ledger(url)
        await buy(ledger, "1")
        await ledger.find_payment(invoice("1").payment_hash)
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database_of(url)}'"
        await asyncio.to_thread(postgres.run, ended)
        await buy(ledger, "2")
        assert await ledger.find_payment(invoice("1").payment_hash) is not None
        retries = engine_of(ledger).retries
        await must_balance(ledger)
        await ledger.close()
        return retries

    assert asyncio.run(story()) > 0


def test_a_server_that_falls_silent_is_an_error_within_seconds_and_not_a_hang(
    url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(proxy: PostgresProxy) -> None:
        ledger = open_ledger(proxied(url, proxy))
        await buy(ledger, "1")
        proxy.silent = True
        began = time.monotonic()
        outcomes = await asyncio.gather(
            ledger.open_payment(invoice("2")), ledger.find_payment(invoice("1").payment_hash), return_exceptions=True
        )
        assert [StoreUnavailable] * 2 == [type(outcome) for outcome in outcomes]
        assert time.monotonic() - began < 8
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ledger.open_payment(invoice("2"))
        assert time.monotonic() - began < 6
        proxy.silent = False
        await buy(ledger, "2")
        await must_balance(ledger)
        await ledger.close()

    monkeypatch.setattr(farebox.stores.postgres, "ROUND_TRIP", timedelta(seconds=1))
    with PostgresProxy(postgres.port) as proxy:
        asyncio.run(story(proxy))


def test_a_full_disk_refuses_calls_and_loses_none(open_postgres: Any, seed: int) -> None:
    chance = Random(seed)

    async def sell(ledger: SqlLedger, name: str) -> None:
        await ledger.open_payment(invoice(name))
        held = await hold(ledger, name)
        assert isinstance(held, Hold)
        assert await ledger.capture(held, Answer(status=200, headers=(), body=chance.randbytes(8192)))

    async def story(server: Postgres) -> None:
        ledger = open_ledger(server.new_database())
        await buy(ledger, "before")
        [(process,)] = await run_sql(ledger, "SELECT pg_backend_pid()")
        server.limit_files(process, 2 << 20)
        outcomes: list[BaseException | None] = []
        for number in range(24):
            sales = (sell(ledger, f"{number} {caller}") for caller in range(CALLERS))
            outcomes += await asyncio.gather(*sales, return_exceptions=True)
        assert {StoreUnavailable, type(None)} == {type(outcome) for outcome in outcomes}, f"seed {seed}"
        assert await ledger.find_answer(invoice("before").payment_hash) is not None
        await must_balance(ledger)
        server.limit_files(process, None)
        await sell(ledger, "there is room again")
        await must_balance(ledger)
        assert Amount.sats(21) * (2 + outcomes.count(None)) == (await ledger.balance()).earned, f"seed {seed}"
        await ledger.close()

    with open_postgres(fsync="off") as server:
        asyncio.run(story(server))


def test_a_database_that_may_only_be_read_is_read_and_not_written(url: str, postgres: Postgres) -> None:
    name = database_of(url)
    postgres.run("CREATE ROLE reader LOGIN")

    async def story() -> None:
        ledger = open_ledger(url)
        await buy(ledger, "1")
        await ledger.close()
        postgres.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database=name)
        reader = open_ledger(url.replace("postgres@", "reader@"))
        with pytest.raises(StoreUnavailable, match="permission denied"):
            await reader.open_payment(invoice("2"))
        assert await reader.find_answer(invoice("1").payment_hash) is not None
        await must_balance(reader)
        await reader.close()

    asyncio.run(story())
    postgres.run("DROP OWNED BY reader", database=name)
    postgres.run("DROP ROLE reader")


def test_the_time_goes_on_by_the_monotonic_clock_and_not_back_by_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, at = ServerClock(), [100.0]
    monkeypatch.setattr(farebox.stores.postgres.time, "monotonic", lambda: at[0])
    with pytest.raises(StoreUnavailable):
        clock()
    clock.hear(1_000_000)
    at[0] += 5
    clock.hear(1_004_900)  # told 5 s later, and a tenth of a second on its way
    assert 1_005 == clock().timestamp()
    clock.hear(1_000_000)  # the server's clock was set back
    assert 1_000 == clock().timestamp()
    clock.hear(9_000_000)  # or forward
    assert 9_000 == clock().timestamp()


def test_a_statement_that_the_server_refuses_fails_its_own_caller_alone(url: str) -> None:
    async def story() -> None:
        ledger = open_ledger(url)
        wrong = ledger.engine.write(lambda _: rows_of("SELECT no_such_column FROM payments", {}), about=b"wrong")
        outcomes = await asyncio.gather(buy(ledger, "1"), wrong, buy(ledger, "2"), return_exceptions=True)
        assert [None, StoreUnavailable, None] == [each and type(each) for each in outcomes]
        await must_balance(ledger)
        await ledger.close()

    asyncio.run(story())


def test_what_postgresql_can_not_keep_is_an_error_of_its_own_caller(url: str) -> None:
    async def story() -> None:
        ledger = open_ledger(url)
        with pytest.raises(StoreUnavailable, match="NUL"):
            await run_sql(ledger, "SELECT CAST(:x AS TEXT)", {"x": "a\0b"})
        await buy(ledger, "1")
        await ledger.close()

    asyncio.run(story())


async def lose_connections(url: str, postgres: Postgres, *, losses: int, seed: int) -> tuple[int, str]:
    """Buy through a proxy that loses connections while they commit, beside a rival that claims the same payments.

    Whoever is in doubt asks again; nobody is told anything that is not so. Returns how many connections were lost after
    the server had been sent their commit, and the tally.
    """
    chance = Random(seed)
    chances = [Loss.NONE, Loss.NONE, Loss.NONE, Loss.UNSENT, Loss.SENT, Loss.RESET, Loss.REPLY, Loss.REPLY]
    tally = {"paid calls": 0, "rival won": 0, "asked again": 0}
    answers: dict[str, bytes] = {}

    with PostgresProxy(postgres.port) as proxy:
        ours, rival = open_ledger(proxied(url, proxy)), open_ledger(url)
        proxy.choose = lambda: chance.choice(chances)

        async def again(ask: Callable[[], Any]) -> Any:
            while True:
                try:
                    return await ask()
                except StoreUnavailable:
                    tally["asked again"] += 1

        async def call(name: str) -> None:
            await again(lambda: ours.open_payment(invoice(name)))
            claims = await asyncio.gather(again(lambda: hold(ours, name)), again(lambda: hold(rival, name)))
            held = [
                (ledger, each) for ledger, each in zip((ours, rival), claims, strict=True) if isinstance(each, Hold)
            ]
            assert 1 == len(held), (seed, name, claims)
            ledger, won = held[0]
            tally["rival won"] += ledger is rival
            if chance.random() < 0.2:
                released = await again(lambda: ours.release(won, most_attempts=9))
                assert PaymentState.FUNDED is released.state, (seed, name, released)
                won = await again(lambda: hold(ours, name))
                assert isinstance(won, Hold), (seed, name, won)
            answers[name] = chance.randbytes(200)
            answer = Answer(status=200, headers=(("x", name),), body=answers[name])
            assert await again(lambda: ours.capture(won, answer)), (seed, name)
            assert not await rival.capture(won, answer), (seed, name)
            tally["paid calls"] += 1

        number = 0
        while (sent := proxy.lost.total() - proxy.lost[Loss.UNSENT]) < losses:
            await asyncio.gather(*(call(f"{number} {caller}") for caller in range(CALLERS)))
            number += 1
        proxy.choose = lambda: Loss.NONE
        for name, body in answers.items():
            kept = await rival.find_answer(invoice(name).payment_hash)
            assert kept is not None
            assert body == kept.body, (seed, name)
        await must_balance(rival)
        assert Amount.sats(21) * len(answers) == (await rival.balance()).earned
        tally["run again"] = engine_of(ours).retries
        for each in (ours, rival):
            await each.close()
        lost = ", ".join(f"{count} {loss.name.lower()}" for loss, count in sorted(proxy.lost.items(), key=str))
        return sent, f"seed {seed}: {proxy.lost.total()} connections lost of {proxy.commits} commits ({lost}); {tally}"


@pytest.mark.parametrize("losses", [40, pytest.param(2000, marks=pytest.mark.full)])
def test_connections_lost_while_they_commit_lose_nothing_and_do_nothing_twice(
    url: str, postgres: Postgres, seed: int, tell: Callable[[str], object], losses: int
) -> None:
    sent, told = asyncio.run(lose_connections(url, postgres, losses=losses, seed=seed))
    tell(f"C3: {told}")
    assert losses <= sent
