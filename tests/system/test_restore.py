"""A ledger that is restored from a backup learns from the node what it has forgotten, and nobody pays a second time."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.core.ports import Paid
from farebox.stores import open_ledger

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
LEARNT_WITHIN_S = 5.0

CONFIG = """
free_calls = 0
unpaid_per_client = 100000

[[route]]
path = "/"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


@dataclass
class Call:
    """A call, its invoice, and the proof once that is paid."""

    prompt: str
    asked: Any
    proof: dict[str, str]
    answer: bytes = b""


@dataclass
class Restorer:
    """A shop whose ledger is copied, and later put back."""

    shop: Any
    payer: Any
    count: int = 0

    @property
    def file(self) -> Path:
        return Path(self.shop.place["store"].removeprefix("sqlite:///"))

    async def ask(self, count: int) -> list[Call]:
        calls = []
        for _ in range(count):
            self.count += 1
            prompt = f"prompt {self.count}"
            calls.append(Call(prompt, await self.payer.challenge(self.shop.url, prompt), {}))
        return calls

    async def pay(self, calls: list[Call]) -> list[Call]:
        for call in calls:
            paid = await self.payer.pay(self.shop.place["buyer_wallet"], call.asked["invoice"])
            assert isinstance(paid, Paid), paid
            call.proof = {"authorization": f"L402 {call.asked['macaroon']}:{paid.preimage.reveal().hex()}"}
        return calls

    async def claim(self, calls: list[Call]) -> Counter[int]:
        """Show every proof; the statuses of the answers."""
        statuses = Counter[int]()
        for call in calls:
            answer = await self.payer.http.post(self.shop.url, content=call.prompt, headers=call.proof)
            statuses[answer.status_code] += 1
            call.answer = answer.content
        return statuses

    def back_up(self, to: Path) -> None:
        """While it serves."""
        source, target = sqlite3.connect(self.file), sqlite3.connect(to)
        source.backup(target)
        source.close()
        target.close()

    def restore(self, backup: Path) -> None:
        """After `kill -9`."""
        self.shop.kill()
        for name in (self.file.name, f"{self.file.name}-wal", f"{self.file.name}-shm"):
            self.file.with_name(name).unlink(missing_ok=True)
        self.file.write_bytes(backup.read_bytes())
        self.file.chmod(0o600)
        self.shop.start()

    async def learnt(self, calls: list[Call], strays: int) -> float:
        """Seconds until all of these are funded and so many strays are known, without anybody asking."""
        began, hashes = time.monotonic(), [bytes.fromhex(call.asked["payment_hash"]) for call in calls]
        ledger = open_ledger(self.shop.place["store"])
        try:
            while True:
                rows = [await ledger.find_payment(payment_hash) for payment_hash in hashes]
                funded = sum(row is not None and row.state is PaymentState.FUNDED for row in rows)
                found = len(await ledger.strays(100_000))
                if (funded, found) == (len(calls), strays):
                    return time.monotonic() - began
                assert time.monotonic() < began + LEARNT_WITHIN_S, (funded, found)
                await asyncio.sleep(0.05)
        finally:
            await ledger.close()


@pytest.mark.parametrize("each", [6, pytest.param(100, marks=pytest.mark.full)])
async def test_a_restored_ledger_learns_all_that_was_paid_since_its_backup_and_serves_it(
    open_shop: Any,
    payer: Any,
    writer_url: str,
    tmp_path: Path,
    read_books: Any,
    tell: Callable[[str], object],
    each: int,
) -> None:
    config, backup = tmp_path / "farebox.toml", tmp_path / "backup.db"
    config.write_text(CONFIG.format(upstream=writer_url))
    with open_shop(str(config), "--log-level", "info") as shop:
        restorer = Restorer(shop, payer)
        before = await restorer.pay(await restorer.ask(each))
        assert {200: each} == await restorer.claim(before)
        asked_before = await restorer.ask(each)
        spent_before = await restorer.ask(each)
        restorer.back_up(backup)

        await restorer.pay([*asked_before, *spent_before])
        lost, spent_lost = await restorer.pay(await restorer.ask(each)), await restorer.pay(await restorer.ask(each))
        assert {200: 2 * each} == await restorer.claim([*spent_before, *spent_lost])
        first = {call.prompt: call.answer for call in before}
        restorer.restore(backup)

        took = await restorer.learnt([*asked_before, *spent_before], strays=2 * each)
        since = [*asked_before, *spent_before, *lost, *spent_lost]
        assert {200: len(since)} == await restorer.claim(since)
        assert {200: each} == await restorer.claim(before)
        assert first == {call.prompt: call.answer for call in before}
        balance, payments = await read_books(shop)
        tell(
            f"C6: {len(since)} payments since the backup, all re-learned (100 %) {took:.2f} s after the start, "
            f"{2 * each} as strays; all served on their proofs, {2 * each} of them a second time for the same money"
        )
    assert PRICE * 5 * each == balance.earned == balance.received
    assert NOTHING == balance.held
    assert {PaymentState.SPENT: 5 * each} == Counter(payment.state for payment in payments)
