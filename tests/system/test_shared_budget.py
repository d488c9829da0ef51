"""Many programs of one user share a purse, and together never spend more than its budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget
from farebox.stores import open_purse

pytestmark = [pytest.mark.system, pytest.mark.anyio]

BUYERS = 16
PRICE = Amount.sats(20)
BUDGET = Budget.read("500 sat/day")
MOST = Amount.sats(500)

ROUNDS = 10

# Each buys until the budget is spent. A library's own way to call is `buy`: it returns the text that was bought.
HTTPX = """
with farebox.Client(**terms, trust_env=False, timeout=30) as client:
    shop_around(lambda body: client.post(url, content=body).raise_for_status().json()["text"])
"""
REQUESTS = """
import farebox.requests

with farebox.requests.Session(**terms) as session:
    session.trust_env = False
    shop_around(lambda body: session.post(url, data=body, timeout=30).json()["text"])
"""
AIOHTTP = """
import asyncio
import farebox.aiohttp


async def main():
    async with farebox.aiohttp.ClientSession(**terms) as session:

        async def buy(body):
            async with session.post(url, data=body) as answer:
                return (await answer.json())["text"]

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(shop_around, lambda body: asyncio.run_coroutine_threadsafe(buy(body), loop).result())


asyncio.run(main())
"""
LIBRARIES = (HTTPX, REQUESTS, AIOHTTP)

BUYER = """
import json, sys
import farebox

url, wallet, purse, name = sys.argv[1:]
terms = {"buyer": farebox.open_buyer(wallet=wallet, budget="500 sat/day", purse=purse, max_fee="0 sat")}


def shop_around(buy):
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    try:
        while True:
            answers.append(buy(f"{name} {len(answers)}"))
    except farebox.OverBudget as error:
        print(json.dumps({"answers": answers, "money_moved": error.money_moved}))
"""


def started(url: str, wallet: str, purse: Path, number: int) -> subprocess.Popen[str]:
    program = BUYER + LIBRARIES[number % len(LIBRARIES)]
    return subprocess.Popen(
        [sys.executable, "-c", program, url, wallet, str(purse), f"buyer {number}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS, marks=pytest.mark.full)])
async def test_16_processes_of_3_libraries_at_once_on_one_purse_spend_500_sat_and_never_more(
    rounds: int,
    open_shop: Any,
    writer: Any,
    writer_url: str,
    payer: Any,
    read_books: Any,
    tmp_path: Path,
    tell: Callable[[str], object],
) -> None:
    with open_shop("--upstream", writer_url, "--price", str(PRICE), "--free-calls", "0") as shop:
        wallet = shop.place["buyer_wallet"]
        earned, left = NOTHING, await payer.balance(wallet)
        for number in range(rounds):
            purse_file = tmp_path / f"purse {number}.db"
            writer.runs.clear()
            told = bought_at_once(f"{shop.url}/write", wallet, purse_file)
            balance, _ = await read_books(shop)
            earned, spent_here = balance.earned, balance.earned.less(earned)
            before, left = left, await payer.balance(wallet)
            purse = open_purse(purse_file)
            counted, unfinished = purse.spent(BUDGET.windows[0]), purse.unfinished()
            purse.close()
            calls = Counter(len(each["answers"]) for each in told)
            tell(f"{BUYERS} processes bought for {spent_here} of {MOST}; calls of each: {sorted(calls.elements())}")
            answers = [answer for each in told for answer in each["answers"]]
            assert {False} == {each["money_moved"] for each in told}
            assert sorted(answers) == sorted(text for runs in writer.runs.values() for text in runs)
            assert MOST == PRICE * len(answers) == spent_here == counted == before.less(left)
            assert [] == list(unfinished)
            assert (NOTHING, balance.earned) == (balance.held, balance.received)


def bought_at_once(url: str, wallet: str, purse: Path) -> list[Any]:
    """What each buyer tells that starts when all are ready."""
    buyers = [started(url, wallet, purse, number) for number in range(BUYERS)]
    try:
        assert ["ready\n"] * BUYERS == [buyer.stdout.readline() for buyer in buyers if buyer.stdout]
        for buyer in buyers:
            assert buyer.stdin is not None
            buyer.stdin.write("go\n")
            buyer.stdin.flush()
        return [json.loads(buyer.communicate(timeout=60)[0]) for buyer in buyers]
    finally:
        for buyer in buyers:
            buyer.kill()
            buyer.communicate()
