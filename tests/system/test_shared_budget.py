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
PRICE = Amount.sats(21)
BUDGET = Budget.read("500 sat/day")
MOST = Amount.sats(500)
LEAST = Amount.sats(440)  # that one more would not have fitted, whatever was held at the time
FIRST_BALANCE = Amount.sats(1_000_000)

BUYER = """
import json, sys
import farebox

url, wallet, purse, name = sys.argv[1:]
with farebox.Client(wallet=wallet, budget="500 sat/day", purse=purse, trust_env=False, timeout=30) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    try:
        while True:
            answers.append(client.post(url, content=f"{name} {len(answers)}").raise_for_status().json()["text"])
    except farebox.OverBudget as error:
        print(json.dumps({"answers": answers, "money_moved": error.money_moved}))
"""


def started(url: str, wallet: str, purse: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUYER, url, wallet, str(purse), f"buyer {number}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_16_processes_at_once_on_one_purse_never_spend_more_than_500_sat(
    open_shop: Any,
    writer: Any,
    writer_url: str,
    payer: Any,
    read_books: Any,
    tmp_path: Path,
    tell: Callable[[str], object],
) -> None:
    purse_file = tmp_path / "purse.db"
    with open_shop("--upstream", writer_url, "--price", str(PRICE), "--free-calls", "0") as shop:
        wallet = shop.place["buyer_wallet"]
        buyers = [started(f"{shop.url}/write", wallet, purse_file, number) for number in range(BUYERS)]
        try:
            assert ["ready\n"] * BUYERS == [buyer.stdout.readline() for buyer in buyers if buyer.stdout]
            for buyer in buyers:
                assert buyer.stdin is not None
                buyer.stdin.write("go\n")
                buyer.stdin.flush()
            told = [json.loads(buyer.communicate(timeout=60)[0]) for buyer in buyers]
        finally:
            for buyer in buyers:
                buyer.kill()
                buyer.communicate()
        balance, _ = await read_books(shop)
        left = await payer.balance(wallet)
    purse = open_purse(purse_file)
    counted, unfinished = purse.spent(BUDGET.windows[0]), purse.unfinished()
    purse.close()
    calls = Counter(len(each["answers"]) for each in told)
    tell(f"{BUYERS} processes bought for {balance.earned} of {MOST}; calls of each: {sorted(calls.elements())}")
    answers = [answer for each in told for answer in each["answers"]]
    assert {False} == {each["money_moved"] for each in told}
    assert sorted(answers) == sorted(text for runs in writer.runs.values() for text in runs)
    assert LEAST <= balance.earned <= MOST
    assert PRICE * len(answers) == balance.earned == balance.received == counted == FIRST_BALANCE - left
    assert [] == list(unfinished)
    assert NOTHING == balance.held
