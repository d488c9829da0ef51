"""Many processes on one machine are one shop: whatever happens to any of them, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.cli.listening import listening_socket
from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.testing.street import Street

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
FIRST_BALANCE = Amount.sats(1_000_000)
BUYERS = 6
UPSTREAM_TAKES_S = 0.02
PATIENCE_S = 60.0
QUICK = 5  # kills, after which nobody waits for a lease to run out
MOST_S = 500  # a call that was hit can be made again when its lease of 30 s has run out

CONFIG = """
workers = {workers}
free_calls = {free_calls}
{more}

[[route]]
path = "/write"
method = "POST"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


# --- the processes ----------------------------------------------------------------------------------------------------


def children(shop: Any, which: str) -> list[int]:
    """The living processes of a shop whose command line ends so: `worker 1`, `keeper`, `worker` for any."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            told = (stat.parent / "cmdline").read_bytes().split(b"\0")[-2].decode()
        except (OSError, IndexError):
            continue
        if parent == shop.process.pid and (told == which or told.startswith(f"{which} ")):
            found.append(int(stat.parent.name))
    return found


async def until(true: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """What is true in the end."""
    deadline = time.monotonic() + patience_s
    while not (found := true()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


def gone(pids: Sequence[int]) -> bool:
    """Whether none of these processes runs any more."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return not any(map(runs, pids))


@dataclass
class Workers:
    """A shop with several processes, and buyers in front of it."""

    shop: Any
    config: Path
    street: Street


@pytest.fixture
def open_workers(open_shop: Any, writer: Any, writer_url: str, tmp_path: Path) -> Any:
    """Opens one: `async with open_workers(2, insisting=True) as workers`."""

    @asynccontextmanager
    async def opened(workers: int, *, insisting: bool, free_calls: int = 0, more: str = "") -> AsyncIterator[Workers]:
        config = tmp_path / "farebox.toml"
        config.write_text(CONFIG.format(workers=workers, free_calls=free_calls, more=more, upstream=writer_url))
        with open_shop(str(config), "--log-level", "warning") as shop:
            street = Street(shop.url + "/write", shop.folder / "seller" / "sandbox.db", insisting=insisting)
            try:
                yield Workers(shop, config, street)
            finally:
                await street.close()

    writer.takes_s = UPSTREAM_TAKES_S
    return opened


async def check(workers: Workers, writer: Any, read_books: Any, seed: int) -> None:
    """Each payment bought one answer, and each msat is where it belongs.

    Or none yet, where its call was interrupted, and then its price is held for it.
    """
    street = workers.street
    balance, payments = await read_books(workers.shop)
    spent = {payment.payment_hash for payment in payments if payment.state is PaymentState.SPENT}
    held = {payment.payment_hash for payment in payments if payment.state is PaymentState.FUNDED}
    answered = {purchase.payment_hash for purchase in street.purchases if purchase.answers}
    assert spent == answered, f"seed {seed}: {street.tally}"
    assert held == {purchase.payment_hash for purchase in street.purchases} - answered, f"seed {seed}: {street.tally}"
    assert len(spent) + len(held) == len(street.purchases), f"seed {seed}: {street.tally}"
    for purchase in street.purchases:
        ran = [text.encode() for text in writer.runs.get(purchase.prompt, ())]
        assert len(set(purchase.answers)) == (purchase.payment_hash in spent), f"seed {seed}: {purchase}"
        assert len(ran) <= 1 + purchase.hits, f"seed {seed}: {purchase} {len(ran)}"
        if purchase.answers:
            assert any(text in purchase.answers[0] for text in ran), f"seed {seed}: {purchase}"
    assert (PRICE * len(spent), PRICE * len(held), NOTHING) == (balance.earned, balance.held, balance.credit), seed
    assert FIRST_BALANCE == street.balance() + balance.received, f"seed {seed}"


# --- one payment, many callers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payments", "callers"), [(12, 8), pytest.param(200, 32, marks=pytest.mark.full)], ids=["quick", "A2"]
)
async def test_identical_retries_at_4_workers_are_one_run_and_equal_answers(
    open_workers: Any, writer: Any, read_books: Any, seed: int, tell: Any, payments: int, callers: int
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(4, insisting=False) as workers:
        street = workers.street
        for number in range(payments):
            purchase = await street.buy(f"prompt {number:06}")
            await asyncio.gather(*(street.call(purchase) for _ in range(callers)))
        assert [] == street.failures, f"seed {seed}"
        assert {"402": payments, "200": payments * callers} == street.tally
        assert [callers] * payments == [len(purchase.answers) for purchase in street.purchases]
        assert [1] * payments == [len(runs) for runs in writer.runs.values()]
        await check(workers, writer, read_books, seed)
        tell(f"A2: 4 workers, {payments} payments x {callers} retries: {payments} charged, {dict(street.tally)}")
        assert 4 == len(children(workers.shop, "worker"))


async def test_64_first_calls_of_one_address_at_2_workers_are_one_free_call_and_are_counted_together(
    open_workers: Any, writer: Any, tell: Any
) -> None:
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    more = f'metrics = "127.0.0.1:{port}"'
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=False, free_calls=1, more=more) as workers:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, limits=limits) as http:
            calls = (http.post(workers.street.url, content=f"prompt {number}") for number in range(64))
            answers = await asyncio.gather(*calls)
            metrics = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        tell(f"D3: 2 workers, 64 first calls of one address: {Counter(answer.status_code for answer in answers)}")
        assert [200] + [402] * 63 == sorted(answer.status_code for answer in answers)
        assert 1 == len(writer.runs)
        asked = dict(re.findall(r'^farebox_free_calls_total{granted="(.+?)".*} ([0-9.]+)$', metrics, re.MULTILINE))
        assert {"true": 1, "false": 63} == {granted: float(count) for granted, count in asked.items()}
        assert "farebox_ledger_balanced 1.0" in metrics


# --- what dies is replaced --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "kills"),
    [
        (("worker", "keeper"), 2),
        pytest.param(("worker",), 40, marks=pytest.mark.full),
        pytest.param(("keeper",), 40, marks=pytest.mark.full),
    ],
    ids=["either", "worker", "keeper"],
)
async def test_a_process_killed_under_load_loses_nothing_and_charges_nothing_twice(
    open_workers: Any, writer: Any, read_books: Any, seed: int, tell: Any, which: tuple[str, ...], kills: int
) -> None:
    chance = random.Random(seed)
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=True) as workers:
        street = workers.street
        async with street.busy(BUYERS):
            for killed in range(1, kills + 1):
                await asyncio.sleep(chance.uniform(0.1, 0.6))
                os.kill(chance.choice(children(workers.shop, chance.choice(which))), signal.SIGKILL)
                await until(lambda killed=killed: killed == workers.shop.told.count('"event": "replaced"'))  # type: ignore[misc]
            answered = street.tally["200"]
            await until(lambda: street.tally["200"] > answered)
        if kills > QUICK:
            await street.catch_up()
        else:  # its lease may have to run out first
            statuses = {await street.call_once(purchase) for purchase in street.later}
            assert statuses <= {200, 409}, f"seed {seed}"
        for purchase in street.purchases:  # what was answered stays answered
            if purchase.answers:
                assert 200 == await street.call_once(purchase), f"seed {seed}: {purchase}"
        again = sum(len(runs) > 1 for runs in writer.runs.values())
        tell(f"{kills} kills of a {' or '.join(which)}: {len(street.purchases)} payments, {dict(street.tally)}, "
             f"{again} calls run again (seed {seed})")  # fmt: skip
        await check(workers, writer, read_books, seed)
        assert kills == workers.shop.told.count('"event": "died"')


# --- and what is replaced is not missed -------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("reloads", [10])
async def test_workers_replaced_under_load_fail_no_call(
    open_workers: Any, writer: Any, read_books: Any, seed: int, tell: Any, reloads: int
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=False) as workers:
        street, shop = workers.street, workers.shop
        async with street.busy(BUYERS):
            for _ in range(reloads):
                before = children(shop, "worker") + children(shop, "keeper")
                assert 3 == len(before)
                shop.process.send_signal(signal.SIGHUP)
                await until(lambda before=before: gone(before), PATIENCE_S)  # type: ignore[misc]
        tell(f"{reloads} reloads under load: {len(street.purchases)} payments, {dict(street.tally)} (seed {seed})")
        assert [] == street.failures
        assert 2 == len(children(shop, "worker"))
        await check(workers, writer, read_books, seed)


async def test_a_reload_takes_up_the_configuration_and_keeps_the_old_ones_where_that_is_wrong(
    open_workers: Any, tmp_path: Path
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(1, insisting=False) as workers:
        shop, config, street = workers.shop, workers.config, workers.street
        quoted = await street.buy("quoted before")
        before = children(shop, "worker")
        right = config.read_text().replace("21 sat", "42 sat").replace("workers = 1", "workers = 2")
        for wrong in (
            "nonsense = 1\n" + right,
            f'store = "sqlite:///{tmp_path}/other.db"\n{right}',
            right.replace("workers = 2", ""),
        ):
            config.write_text(wrong)
            told = shop.told.count("not reloaded, and serving as before")
            shop.process.send_signal(signal.SIGHUP)
            await until(lambda told=told: shop.told.count("not reloaded") > told)  # type: ignore[misc]
        assert before == children(shop, "worker")
        config.write_text(right)
        shop.process.send_signal(signal.SIGHUP)
        await until(lambda: gone(before))
        await until(lambda: 2 == len(children(shop, "worker")))
        await street.call(quoted)  # at the price that was quoted
        async with httpx.AsyncClient(trust_env=False) as http:
            assert 42 == (await http.post(street.url, content="new")).json()["amount_sats"]
        assert 1 == len(quoted.answers)
        assert "`nonsense` is not known" in shop.told
        assert "Traceback" not in shop.told


# --- the end ----------------------------------------------------------------------------------------------------------


async def begun(workers: Workers, writer: Any) -> asyncio.Task[int]:
    """A paid call, running."""
    writer.held = True
    call = asyncio.create_task(workers.street.call_once(await workers.street.buy("hello")))
    await until(lambda: writer.runs)
    return call


async def closed(shop: Any) -> None:
    """Nobody is heard any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.02)


async def test_when_stopped_the_call_that_runs_is_answered_and_no_other_is_taken(
    open_workers: Any, writer: Any, read_books: Any
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=False) as workers:
        running, shop = await begun(workers, writer), workers.shop
        pids = children(shop, "worker") + children(shop, "keeper")
        shop.process.send_signal(signal.SIGTERM)
        await closed(shop)
        writer.held = False
        assert 200 == await running
        assert 0 == await asyncio.to_thread(shop.process.wait, PATIENCE_S)
        assert gone(pids)
        assert [] == list((shop.folder / "seller").glob("sandbox-[0-9]*"))
        assert PRICE == (await read_books(shop))[0].earned


@pytest.mark.full
async def test_who_insists_on_stopping_does_not_wait_and_the_payment_is_kept(
    open_workers: Any, writer: Any, read_books: Any
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=False) as workers:
        running, shop = await begun(workers, writer), workers.shop
        shop.process.send_signal(signal.SIGTERM)
        await closed(shop)
        shop.process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.to_thread(shop.process.wait, PATIENCE_S)
        writer.held = False
        assert await running >= 500
        balance, _ = await read_books(shop)
        assert (NOTHING, PRICE) == (balance.earned, balance.received)


async def test_a_killed_supervisor_leaves_nobody_behind_and_the_running_call_is_answered(
    open_workers: Any, writer: Any, read_books: Any
) -> None:
    async with asyncio.timeout(MOST_S), open_workers(2, insisting=False) as workers:
        running, shop = await begun(workers, writer), workers.shop
        pids = children(shop, "worker") + children(shop, "keeper")
        shop.kill()
        await closed(shop)
        await asyncio.to_thread(shop.start)  # on the same port, while the old ones finish
        writer.held = False
        assert 200 == await running
        await until(lambda: gone(pids))
        assert PRICE == (await read_books(shop))[0].earned


# --- the beginning ----------------------------------------------------------------------------------------------------


def test_what_workers_cant_begin_with_is_one_line_and_an_exit_code(farebox: Any, tmp_path: Path) -> None:
    arguments = ("serve", "--workers", "2", "--upstream", "http://127.0.0.1:9", "--price", "21sat")
    (tmp_path / "seller").mkdir()
    (tmp_path / "seller" / "keys").write_text("00" * 32)
    (tmp_path / "seller" / "keys").chmod(0o644)
    done = farebox(*arguments, "--listen", "127.0.0.1:0", "--state-dir", "seller")
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert "others can read the keys" in done.stderr


@pytest.mark.full
def test_workers_that_die_again_and_again_when_they_begin_end_the_shop_with_one_line(
    farebox: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif sys.orig_argv[-1] == 'worker 1': os._exit(3)\n")
    arguments = ("serve", "--workers", "2", "--upstream", "http://127.0.0.1:9", "--price", "21sat")
    done = farebox(*arguments, "--listen", "127.0.0.1:0", "--state-dir", "seller", PYTHONPATH=str(tmp_path))
    assert 1 == done.returncode
    assert 5 == done.stderr.count('"event": "died"')
    assert "worker 1 died 5 times before it was ready (exit code 3)" in done.stderr.splitlines()[-1]
