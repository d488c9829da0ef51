"""The auditor: looks into the books now and then, and says it loudly when they do not add up.

Rules
1. One process for each ledger looks, on a connection of its own where there is one, so that no caller waits for it.
2. Looking into everything takes longer the more was sold; the pause is at least `PAUSES` times as long as looking took,
   so that it never takes more than a twentieth of one core.
3. Books that can't be read are not unbalanced; that is told apart.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from time import perf_counter
from typing import Final, Protocol

import structlog

from farebox.core.errors import MalformedAmount, StoreUnavailable
from farebox.core.payment import Balance
from farebox.core.ports import Clock, Ledger

log = structlog.get_logger("farebox")

EVERY: Final = timedelta(minutes=1)
PAUSES: Final = 20
_MOST_TOLD: Final = 10


class Looked(Protocol):
    """Told what was seen; `BooksMetrics.looked` is one. balance: None where an account is below nothing."""

    def __call__(self, balance: Balance | None, *, balanced: bool, at: datetime, took: timedelta) -> None: ...


class Auditor:
    """Looks into one ledger: `await Auditor(ledger, clock, told=[books.looked]).run()` in a task of its own."""

    def __init__(
        self, ledger: Ledger, clock: Clock, *, told: tuple[Looked, ...] = (), every: timedelta = EVERY
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._told = told
        self._every = every

    async def run(self) -> None:
        """Look, pause, look again, until cancelled."""
        while True:
            took = await self.look()
            await asyncio.sleep(max(self._every, took * PAUSES).total_seconds())

    async def look(self) -> timedelta:
        """Look once; how long it took."""
        began_s = perf_counter()
        try:
            wrong = list(await self._ledger.audit())
            balance = await self._balance()
        except StoreUnavailable as error:
            log.error("ledger-unreadable", detail=error.detail)
            return timedelta(seconds=perf_counter() - began_s)
        took = timedelta(seconds=perf_counter() - began_s)
        balanced = balance is not None and balance.balanced and not wrong
        if not balanced:
            log.critical("ledger-unbalanced", findings=len(wrong), wrong=wrong[:_MOST_TOLD], **_accounts(balance))
        for told in self._told:
            told(balance, balanced=balanced, at=self._clock(), took=took)
        return took

    async def _balance(self) -> Balance | None:
        try:
            return await self._ledger.balance()
        except MalformedAmount:  # an account is below nothing, which no order of sales brings about
            return None


def _accounts(balance: Balance | None) -> dict[str, int]:
    if balance is None:
        return {}
    return {
        "received_msat": balance.received.msat,
        "earned_msat": balance.earned.msat,
        "held_msat": balance.held.msat,
        "credit_msat": balance.credit.msat,
        "refunded_msat": balance.refunded.msat,
    }
