"""C7: from one version to the next, and back, while calls are being made: none fails and nothing is lost.

The next version is a copy of this one, with another number and one more migration.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psycopg
import pytest

import farebox as this_farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.stores.statements import migrations
from farebox.testing.street import Street

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
FIRST_BALANCE = Amount.sats(1_000_000)
BUYERS = 6
MOST_S = 280
PATIENCE_S = 60.0
NOW, NEXT = "0.1.0+now", "0.1.0+next"
MIGRATION = "ALTER TABLE payments ADD COLUMN noted TEXT;\nCREATE INDEX payments_noted ON payments (noted);\n"

CONFIG = """
keys = "keys"
free_calls = 0
{more}

[[route]]
path = "/write"
method = "POST"
price = "21 sat"
upstream = "{upstream}"
"""


class Versions:
    """Two versions of farebox beside each other, and a link to the one that is installed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.number = len(migrations("ledger", "sqlite")) + 1
        package = Path(this_farebox.__file__).parent
        for name in (NOW, NEXT):
            shutil.copytree(package, folder / name / "farebox", ignore=shutil.ignore_patterns("__pycache__"))
            told = folder / name / "farebox-0.1.0.dist-info"
            told.mkdir()
            metadata = distribution("farebox").read_text("METADATA") or ""
            (told / "METADATA").write_text(metadata.replace("\nVersion: 0.1.0\n", f"\nVersion: {name}\n"))
            (told / "entry_points.txt").write_text(distribution("farebox").read_text("entry_points.txt") or "")
        sql = folder / NEXT / "farebox" / "stores" / "sql" / "ledger"
        (sql / f"{self.number:04}_noted.sql").write_text(MIGRATION)
        self.install(NOW)
        monkeypatch.setenv("PYTHONPATH", str(folder / "installed"))

    def install(self, name: str) -> None:
        """From now on this one is imported."""
        beside = self._folder / "beside"
        beside.symlink_to(self._folder / name)
        beside.replace(self._folder / "installed")


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    return Versions(tmp_path, monkeypatch)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)


async def check(street: Street, shop: Any, writer: Any, read_books: Any, seed: int) -> None:
    """Every call was answered, ran once and was charged once."""
    balance, payments = await read_books(shop)
    assert [] == street.failures, f"seed {seed}"
    assert {"402", "200"} == street.tally.keys()
    assert {PaymentState.SPENT} == {payment.state for payment in payments}
    assert {payment.payment_hash for payment in payments} == {each.payment_hash for each in street.purchases}
    assert [1] * len(street.purchases) == [len(writer.runs[each.prompt]) for each in street.purchases]
    assert [1] * len(street.purchases) == [len(each.answers) for each in street.purchases]
    assert (PRICE * len(payments), NOTHING, NOTHING) == (balance.earned, balance.held, balance.credit)
    assert FIRST_BALANCE == street.balance() + balance.earned


@pytest.mark.parametrize(
    "upgrades", [(NEXT,), pytest.param((NEXT, NOW) * 5, marks=pytest.mark.full)], ids=["once", "there and back"]
)
async def test_an_upgrade_on_one_machine_fails_no_call(
    open_shop: Any, versions: Versions, writer: Any, writer_url: str, read_books: Any, tmp_path: Path, seed: int,
    tell: Any, upgrades: tuple[str, ...],
) -> None:  # fmt: skip
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(more="workers = 2", upstream=writer_url))
    async with asyncio.timeout(MOST_S):
        with open_shop(str(config)) as shop:
            street = Street(shop.url + "/write", shop.folder / "seller" / "sandbox.db", insisting=False)
            async with street.busy(BUYERS):
                for upgrade, name in enumerate(upgrades, 1):
                    versions.install(name)
                    shop.process.send_signal(signal.SIGHUP)
                    await until(lambda upgrade=upgrade: upgrade == shop.told.count('"event": "reloaded"'))  # type: ignore[misc]
                    assert f'"version": "{name}"' in shop.told
            tell(f"C7, one machine: {len(upgrades)} changes between N and N+1 under load: "
                 f"{len(street.purchases)} paid calls, {dict(street.tally)} (seed {seed})")  # fmt: skip
            await check(street, shop, writer, read_books, seed)
            with sqlite3.connect(shop.folder / "seller" / "ledger.db") as ledger:
                applied = ledger.execute("SELECT number, name FROM migrations ORDER BY number DESC").fetchone()
            ledger.close()
            assert (versions.number, "noted") == applied
            await street.close()


# --- two machines -----------------------------------------------------------------------------------------------------


class Balancer:
    """Deals connections out to several gateways in turn, and tries the next one where nobody listens: that, only."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.refused = 0
        self._turn = 0
        self._dealing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            while self._dealing:
                await asyncio.wait(self._dealing)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dealing = asyncio.create_task(self._deal(reader, writer))
        self._dealing.add(dealing)
        dealing.add_done_callback(self._dealing.discard)

    async def _deal(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn = (self._turn + 1) % len(self.ports)
        for port in self.ports[self._turn :] + self.ports[: self._turn]:
            try:
                behind = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                self.refused += 1
                continue
            await asyncio.gather(_pass_on(reader, behind[1]), _pass_on(behind[0], writer))
            return
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.mark.full
async def test_an_upgrade_of_two_gateways_on_one_postgresql_fails_no_call(
    open_shop_in: Any, versions: Versions, writer: Any, writer_url: str, read_books: Any, tmp_path: Path, seed: int,
    tell: Any, postgres: Any,
) -> None:  # fmt: skip
    sandbox, store, config = tmp_path / "sandbox.db", postgres.new_database(), tmp_path / "farebox.toml"
    config.write_text(
        CONFIG.format(more=f'receiver = "sandbox://{sandbox}"\nstore = "{store}"\nworkers = 1', upstream=writer_url)
    )
    async with asyncio.timeout(MOST_S):
        with open_shop_in("first", str(config)) as first, open_shop_in("second", str(config)) as second:
            balancer = Balancer([first.port, second.port])
            async with balancer.open() as url:
                street = Street(f"{url}/write", sandbox, insisting=False)
                async with street.busy(BUYERS):
                    versions.install(NEXT)
                    for gateway in (first, second):
                        assert 0 == await asyncio.to_thread(gateway.stop)
                        sold = len(street.purchases)
                        await until(lambda sold=sold: len(street.purchases) > sold + BUYERS)  # type: ignore[misc]
                        await asyncio.to_thread(gateway.start)
                    sold = len(street.purchases)
                    await until(lambda: len(street.purchases) > sold + BUYERS)
                tell(f"C7, two gateways on one PostgreSQL: N to N+1: {len(street.purchases)} paid calls, "
                     f"{dict(street.tally)}, {balancer.refused} connections refused, tried at the other")  # fmt: skip
                await street.hang_up()
            await check(street, first, writer, read_books, seed)
            await street.close()
            with psycopg.connect(store) as connection:
                applied = connection.execute("SELECT max(number) FROM migrations").fetchone()
            assert (versions.number,) == applied
