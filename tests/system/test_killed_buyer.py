"""A buyer that is killed at any moment, again and again, pays each call once and has every answer in the end."""

from __future__ import annotations

import random
import sqlite3
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.payment import DrawState
from farebox.stores import open_purse
from farebox.testing.regtest_payments import funds

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
FIRST_BALANCE = Amount.sats(1_000_000)
DAILY = Window.read("1000000 sat/day")
WARM_UP = 8
MOST_TRIES = 20

# Forks a buyer for each line `prompt seconds`, and kills it after so many seconds if it is not done by then. Importing
# everything anew for each of a thousand buyers would take ten times as long as buying.
NURSERY = """
import os, select, signal, sys, time
import farebox, httpx
from farebox.http.buy import Client
import farebox.lightning.phoenixd, farebox.stores.purse

url, wallet, purse = sys.argv[1:]

def buy(prompt, out):
    try:
        with Client(wallet=wallet, budget="1000000 sat/day", purse=purse, trust_env=False, timeout=30) as client:
            answer = client.post(url, content=prompt)
            bought = answer.extensions["farebox"]
            good = answer.status_code == 200
            word = f"{answer.json()['text']} {int(bought.replayed)}" if good else f"! {answer.text}"
    except farebox.PurchaseError as error:
        word = f"? {error.type} {error.detail}"
    except httpx.HTTPError as error:
        word = f"! {error!r}"
    os.write(out, word.encode())

print("ready", flush=True)
for line in sys.stdin:
    prompt, seconds = line.split()
    done, out = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(done)
        buy(prompt, out)
        os._exit(0)
    os.close(out)
    ready, _, _ = select.select([done], [], [], float(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    word = os.read(done, 65536).decode() if ready or select.select([done], [], [], 0)[0] else ""
    os.close(done)
    print(f"{time.monotonic() - began:.4f} {word}", flush=True)
"""


def is_answer(word: str) -> bool:
    """Whether a buyer that said this has its answer."""
    return bool(word) and word[0] not in "?!"


class Nursery:
    """Where buyers come from."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert "ready\n" == self._read()

    def buy(self, prompt: str, seconds: float) -> tuple[float, str]:
        """How long the buyer lived, and what it said, if it got so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{prompt} {seconds}\n")
        self._process.stdin.flush()
        lived, _, word = self._read().partition(" ")
        return float(lived), word.strip()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def nursery(url: str, wallet: str, purse: Path) -> Iterator[Nursery]:
    command = [sys.executable, "-c", NURSERY, url, wallet, str(purse)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


@dataclass
class Toll:
    """What came of buying while being killed."""

    calls: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    answers: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        counted = ", ".join(f"{times} {name}" for name, times in self.tally.items())
        return f"{self.calls} calls, each paid once and answered; {counted}"


def buy_and_be_killed(url: str, wallet: str, purse: Path, *, kills: int, dice: random.Random) -> Toll:
    """Buy one thing after the other until there were so many kills; each call is made again until it is answered.

    One that came whole, so that it is marked served, and whose buyer was killed before it could say so, is answered.
    """
    toll = Toll()
    with nursery(url, wallet, purse) as born:
        usual = statistics.median([born.buy(f"warm-up-{number}", 60)[0] for number in range(WARM_UP)][2:])
        toll.calls = WARM_UP
        while toll.tally["kills"] < kills:
            prompt, word = f"prompt-{toll.calls:05}", ""
            toll.calls += 1
            while not is_answer(word):  # some are killed many times over, and then one is let live
                _, word = born.buy(prompt, dice.choice((dice.uniform(0, usual), 90)))
                if not is_answer(word):
                    toll.tally[word or "kills"] += 1
                    if count_served(purse) == toll.calls:
                        toll.tally["answers that came whole just before the kill"] += 1
                        break
                assert toll.tally.total() < MOST_TRIES * kills, toll
            else:
                text, _, replayed = word.rpartition(" ")
                toll.answers[prompt] = [text]
                toll.tally["answers to a payment of an earlier process"] += replayed == "1"
    return toll


def count_served(purse: Path) -> int:
    """How many purchases are marked as served."""
    with closing(sqlite3.connect(purse)) as opened:
        (count,) = opened.execute("SELECT count(*) FROM purchases WHERE served = 1").fetchone()
    return int(count)


def check_runs(runs: dict[str, list[str]], toll: Toll, told: str) -> None:
    """The service ran once for each call, and what the buyer has is what it wrote."""
    ran = {prompt: texts for prompt, texts in runs.items() if prompt.startswith("prompt")}
    assert toll.calls - WARM_UP == len(ran), told
    assert all(1 == len(texts) for texts in ran.values()), told
    assert toll.answers.items() <= ran.items(), told


def check_purse(file: Path, toll: Toll) -> Amount:
    """Every call was paid once, and nothing is left open: what was spent."""
    purse = open_purse(file)
    counted, unfinished, history = purse.spent(DAILY), purse.unfinished(), purse.history(10_000)
    purse.close()
    assert [] == list(unfinished)
    assert toll.calls == sum(row.state is DrawState.CAPTURED for row in history)
    return counted


@pytest.mark.parametrize("kills", [40, pytest.param(1000, marks=pytest.mark.full)])
async def test_a_buyer_that_is_killed_pays_each_call_once_and_has_every_answer(
    kills: int,
    open_shop: Any,
    writer: Any,
    writer_url: str,
    payer: Any,
    read_books: Any,
    tmp_path: Path,
    seed: int,
    tell: Callable[[str], object],
) -> None:
    purse = tmp_path / "purse.db"
    flags = ("--upstream", writer_url, "--price", str(PRICE), "--free-calls", "0", "--invoices-per-s", "10000")
    with open_shop(*flags) as shop:
        wallet = shop.place["buyer_wallet"]
        toll = buy_and_be_killed(f"{shop.url}/write", wallet, purse, kills=kills, dice=random.Random(seed))
        balance, _ = await read_books(shop)
        left = await payer.balance(wallet)
    tell(f"B3, sandbox: {toll} (seed {seed})")
    check_runs(writer.runs, toll, f"seed {seed}")
    spent = check_purse(purse, toll)
    assert PRICE * toll.calls == balance.earned == balance.received == FIRST_BALANCE - left == spent, f"seed {seed}"
    assert NOTHING == balance.held


@pytest.mark.lightning
@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.full)])
async def test_a_buyer_over_lnd_that_is_killed_pays_each_call_once_and_has_every_answer(
    kills: int,
    open_shop: Any,
    lnd_config: Any,
    regtest: Any,
    writer: Any,
    read_books: Any,
    tmp_path: Path,
    seed: int,
    tell: Callable[[str], object],
) -> None:
    purse, had = tmp_path / "purse.db", funds(regtest.buyer)
    with open_shop(str(lnd_config())) as shop:
        url, wallet = f"{shop.url}/write", regtest.buyer.url()
        toll = buy_and_be_killed(url, wallet, purse, kills=kills, dice=random.Random(seed))
        balance, _ = await read_books(shop)
    tell(f"B3, lnd: {toll} (seed {seed})")
    check_runs(writer.runs, toll, f"seed {seed}")
    assert PRICE * toll.calls == balance.earned == balance.received, f"seed {seed}"
    assert had - funds(regtest.buyer) == check_purse(purse, toll), f"seed {seed}"
