"""Two gateways on one PostgreSQL are one shop, whatever happens to them and to the database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.stores import versions
from farebox.stores.places import MACHINES, ROOM
from farebox.stores.postgres_schema import migrate_database
from farebox.stores.statements import Migration, Phase, migrations
from farebox.testing.postgres import Postgres
from farebox.testing.street import PATIENCE_S, Street

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(1)  # a wallet of the sandbox can afford a million calls
FIRST_BALANCE = Amount.sats(1_000_000)
AT_ONCE = 4  # payments whose retries come together
BUYERS = 16

CONFIG = """
public_url = "https://shop.example"
receiver = "sandbox://{folder}/sandbox.db"
store = "{store}"
keys = "{folder}/keys"
free_calls = 0
calls_per_client_s = 1e6
calls_at_once = 100000
unpaid_per_client = 100000

[[route]]
path = "/write"
method = "POST"
price = "1 sat"
upstream = "{upstream}"
rerun = true
"""


class Streets(Street):
    """Buyers who go to either gateway, each time they call."""

    def __init__(self, urls: list[str], sandbox: Path, *, insisting: bool, chance: random.Random) -> None:
        self.open, self._chance = list(urls), chance
        super().__init__(urls[0], sandbox, insisting=insisting)

    @property
    def url(self) -> str:
        return self._chance.choice(self.open) + "/write"

    @url.setter
    def url(self, _: str) -> None: ...


@dataclass
class Gateways:
    """Two shops, one database, one node, and who buys there."""

    shops: list[Any]
    street: Streets
    database: str


@pytest.fixture
def open_gateways(open_shop_in: Any, writer: Any, writer_url: str, tmp_path: Path) -> Any:
    """Opens them: `async with open_gateways(postgres, chance, insisting=True) as gateways`."""

    @asynccontextmanager
    async def opened(server: Postgres, chance: random.Random, *, insisting: bool) -> AsyncIterator[Gateways]:
        store = server.new_database()
        (tmp_path / "farebox.toml").write_text(CONFIG.format(folder=tmp_path, store=store, upstream=writer_url))
        arguments = (str(tmp_path / "farebox.toml"), "--log-level", "warning")
        with open_shop_in("first", *arguments) as first, open_shop_in("second", *arguments) as second:
            streets = Streets([first.url, second.url], tmp_path / "sandbox.db", insisting=insisting, chance=chance)
            try:
                yield Gateways([first, second], streets, store.rpartition("/")[2])
            finally:
                await streets.close()

    return opened


async def check(gateways: Gateways, writer: Any, read_books: Any, seed: int) -> None:
    """Each payment bought one answer, and each msat is where it belongs."""
    street = gateways.street
    balance, payments = await read_books(gateways.shops[0])
    spent = {payment.payment_hash for payment in payments if payment.state is PaymentState.SPENT}
    assert spent == {purchase.payment_hash for purchase in street.purchases}, f"seed {seed}: {street.tally}"
    for purchase in street.purchases:
        ran = [text.encode() for text in writer.runs.get(purchase.prompt, ())]
        assert 1 == len(set(purchase.answers)), f"seed {seed}: {purchase}"
        assert len(ran) <= 1 + purchase.hits, f"seed {seed}: {purchase} {len(ran)}"
        assert any(text in purchase.answers[0] for text in ran), f"seed {seed}: {purchase}"
    assert (PRICE * len(spent), NOTHING, NOTHING) == (balance.earned, balance.held, balance.credit), f"seed {seed}"
    assert FIRST_BALANCE == street.balance() + balance.received, f"seed {seed}"


# --- one payment, many callers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payments", "callers"), [(8, 32), pytest.param(1000, 64, marks=pytest.mark.full)], ids=["quick", "A1"]
)
async def test_identical_retries_at_two_gateways_are_one_run_and_equal_answers(
    open_gateways: Any,
    writer: Any,
    read_books: Any,
    postgres: Postgres,
    seed: int,
    tell: Any,
    payments: int,
    callers: int,
) -> None:
    async with open_gateways(postgres, random.Random(seed), insisting=False) as gateways:
        street = gateways.street
        numbers = iter(range(payments))

        async def retry() -> None:
            for number in numbers:
                purchase = await street.buy(f"prompt {number:06}")
                await asyncio.gather(*(street.call(purchase) for _ in range(callers)))

        await asyncio.gather(*(retry() for _ in range(AT_ONCE)))
        tell(f"A1: 2 gateways, {payments} payments x {callers} retries: {dict(street.tally)} (seed {seed})")
        assert [] == street.failures, f"seed {seed}"
        assert {"402": payments, "200": payments * callers} == street.tally, f"seed {seed}"
        assert [callers] * payments == [len(purchase.answers) for purchase in street.purchases]
        assert [1] * payments == [len(runs) for runs in writer.runs.values()]
        await check(gateways, writer, read_books, seed)
        finalised = postgres.run(
            "SELECT count(*) FROM draws WHERE state = 'captured'",
            database=gateways.database,
        )
        assert [(payments,)] == finalised


# --- what dies --------------------------------------------------------------------------------------------------------


async def until_answered(street: Street, more: int) -> None:
    """Until so many more calls were answered."""
    wanted = street.tally["200"] + more
    async with asyncio.timeout(10 * PATIENCE_S):
        while street.tally["200"] < wanted:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("crashes", "kills", "calls"),
    [
        (2, 0, 100),
        pytest.param(20, 100, 5000, marks=pytest.mark.full),
        pytest.param(20, 1000, 5000, marks=pytest.mark.soak),
    ],
    ids=["quick", "100 kills", "C1"],
)
async def test_a_database_that_crashes_and_gateways_that_are_killed_lose_nothing_and_do_nothing_twice(
    open_gateways: Any,
    open_postgres: Any,
    writer: Any,
    read_books: Any,
    seed: int,
    tell: Any,
    crashes: int,
    kills: int,
    calls: int,
) -> None:
    chance = random.Random(seed)
    writer.takes_s = 0.01
    with open_postgres() as server:
        async with open_gateways(server, chance, insisting=True) as gateways:
            street = gateways.street
            events = ["crash"] * crashes + ["kill"] * kills
            chance.shuffle(events)
            async with street.busy(BUYERS):
                for event in events:
                    await until_answered(street, chance.randrange(1, max(2, 2 * calls // len(events))))
                    if event == "crash":
                        await asyncio.to_thread(server.crash)
                    else:
                        shop = chance.choice(gateways.shops)
                        await asyncio.to_thread(shop.kill)
                        await asyncio.to_thread(shop.start)
                await until_answered(street, max(1, calls - street.tally["200"]))
            await street.catch_up()
            again = sum(len(runs) > 1 for runs in writer.runs.values())
            tell(
                f"C1: {crashes} crashes of PostgreSQL, {kills} kill -9 of 2 gateways:"
                f" {len(street.purchases)} paid calls,"
                f" {dict(street.tally)}, {again} run again after a kill (seed {seed})"
            )
            await check(gateways, writer, read_books, seed)


async def test_a_database_that_is_away_is_told_as_503_and_loses_nothing(
    open_gateways: Any, open_postgres: Any, writer: Any, read_books: Any, seed: int
) -> None:
    with open_postgres() as server:
        async with open_gateways(server, random.Random(seed), insisting=False) as gateways:
            street = gateways.street
            paid = await street.buy("paid before")
            server.stop("immediate")
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
                asked = await http.post(street.url, content="not paid")
                shown = await http.post(street.url, content=paid.prompt, headers=paid.proof)
            assert (503, 503) == (asked.status_code, shown.status_code)
            assert {"retry-after"} <= set(asked.headers) & set(shown.headers)
            server.start()
            await street.call(paid)
            assert [] == street.failures
            await check(gateways, writer, read_books, seed)


# --- and what is replaced is not missed -------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.full)], ids=["quick", "C7"])
async def test_gateways_replaced_one_after_the_other_over_a_newer_schema_fail_no_call(
    open_gateways: Any,
    writer: Any,
    read_books: Any,
    postgres: Postgres,
    seed: int,
    tell: Any,
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
) -> None:
    ours = migrations(ROOM, "postgresql")
    writer.takes_s = 0.01
    async with open_gateways(postgres, random.Random(seed), insisting=False) as gateways:
        street = gateways.street
        async with street.busy(BUYERS):
            for number in range(rounds):
                await until_answered(street, BUYERS)
                more = f"ALTER TABLE payments ADD COLUMN more_{number} TEXT NOT NULL DEFAULT 'something new'"
                newer = Migration(number=len(ours) + number + 1, name="more", phase=Phase.EXPAND, text=more)
                with monkeypatch.context() as version:  # in this process alone: the gateways do not know it
                    version.setattr(versions, "migrations", lambda room, engine, newer=newer: (*ours, newer))
                    url = postgres.url(gateways.database)
                    await asyncio.to_thread(migrate_database, url, room=ROOM, moves=MACHINES)
                for shop in gateways.shops:
                    street.open.remove(shop.url)  # as a load balancer does
                    await until_answered(street, BUYERS)
                    assert 0 == await asyncio.to_thread(shop.stop)
                    await asyncio.to_thread(shop.start)
                    street.open.append(shop.url)
                await until_answered(street, BUYERS)
        tell(f"C7: {rounds} rolling upgrades of 2 gateways: {len(street.purchases)} paid calls, {dict(street.tally)}")
        assert [] == street.failures, f"seed {seed}"
        await check(gateways, writer, read_books, seed)
