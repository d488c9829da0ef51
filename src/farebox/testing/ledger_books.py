"""The books: they balance, an audit finds what does not, and the ledger agrees with a model of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from farebox.core.amount import Amount
from farebox.core.payment import Balance, Hold, Payment
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_model import check_against_model
from farebox.testing.ledger_stage import (
    ANSWER,
    MOST,
    PRICE,
    LedgerStage,
    hold,
    invoice,
    must_hold,
    row,
    run_sql,
    told,
)
from farebox.testing.market import StillClock

_TAMPERED = (
    ("DELETE FROM entries WHERE to_account = 'earned'", "earned by the entries"),
    ("DELETE FROM entries WHERE from_account = 'received'", "received by its row"),
    ("UPDATE entries SET amount_msat = amount_msat + 1 WHERE to_account = 'credit'", "owed to its payer"),
    ("UPDATE payments SET received_msat = received_msat + 1 WHERE state = 'spent'", "received by its row"),
    ("UPDATE draws SET amount_msat = amount_msat + 1 WHERE state = 'captured'", "captured by its row"),
    ("UPDATE draws SET amount_msat = amount_msat + 1 WHERE state = 'held'", "held by its row"),
    ("UPDATE payments SET epoch = epoch + 1 WHERE state = 'funded'", "epoch of its row"),
    ("UPDATE payments SET captured_msat = captured_msat + 1 WHERE held_msat > 0", "left on its open tab"),
    (
        "INSERT INTO answers SELECT payment_id, epoch, 200, '[]', '', 0 FROM draws WHERE state = 'released'",
        "epoch with an answer",
    ),
)


class LedgerBooks(LedgerStage):
    """Balancing, and agreeing with the model."""

    model_runs = 40

    @told
    async def test_an_empty_ledger_balances(self, ledger: SqlLedger) -> None:
        """Nothing came in and nothing went anywhere."""
        nothing = Amount(0)
        expected = Balance(received=nothing, earned=nothing, held=nothing, credit=nothing, refunded=nothing)
        assert expected == await ledger.balance()

    @told
    async def test_every_millisatoshi_is_in_one_account(self, ledger: SqlLedger, clock: StillClock) -> None:
        """One payment spent, one waiting, one running, one owed."""
        await self._some_of_each(ledger, clock)
        expected = Balance(received=PRICE * 5, earned=PRICE, held=PRICE * 3, credit=PRICE, refunded=Amount(0))
        assert expected == await ledger.balance()

    @pytest.mark.parametrize(("statement", "told_as"), _TAMPERED)
    @told
    async def test_an_audit_finds_what_was_tampered_with(self, clock: StillClock, statement: str, told_as: str) -> None:
        """It names the payment, and what does not fit."""
        ledger = self.open_ledger(clock)
        await self._some_of_each(ledger, clock)
        assert [] == await ledger.audit()
        await self.drop_guards(ledger)
        await run_sql(ledger, statement)
        found = await ledger.audit()
        await ledger.close()
        hashes = {invoice(clock, name).payment_hash.hex() for name in ("spent", "waiting", "running", "owed")}
        assert any(told_as in line and line.partition(":")[0] in hashes for line in found)

    @told
    async def test_a_cancelled_caller_leaves_the_books_whole(self, ledger: SqlLedger, payment: Payment) -> None:
        """What was asked for is done or not done, never half."""
        asked = [asyncio.create_task(hold(ledger, payment)) for _ in range(8)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert (await row(ledger, payment)).attempts <= 1

    def test_several_event_loops_share_a_ledger(self, ledger: SqlLedger, payment: Payment) -> None:
        """Four threads, each with a loop of its own: one hold among them."""
        outcomes: list[Hold | Payment | None] = []

        async def ask() -> None:
            outcomes.extend(await asyncio.gather(*(hold(ledger, payment) for _ in range(8))))

        threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (32, 1) == (len(outcomes), sum(isinstance(outcome, Hold) for outcome in outcomes))

    def test_the_ledger_agrees_with_its_model(self) -> None:
        """Whatever is asked in whatever order, with time passing in between."""
        check_against_model(self.open_ledger, runs=self.model_runs)

    async def _some_of_each(self, ledger: SqlLedger, clock: StillClock) -> None:
        for name in ("spent", "waiting", "running", "owed"):
            await ledger.open_payment(invoice(clock, name))
        await ledger.capture(await must_hold(ledger, invoice(clock, "spent")), ANSWER)
        await ledger.release(await must_hold(ledger, invoice(clock, "waiting")), most_attempts=MOST)
        await ledger.settle(invoice(clock, "running").payment_hash, PRICE * 2)
        await must_hold(ledger, invoice(clock, "running"))
        await ledger.give_up(await must_hold(ledger, invoice(clock, "owed")))
