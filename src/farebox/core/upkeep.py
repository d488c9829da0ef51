"""Upkeep: what is done to a ledger because time has passed, a little at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class UpkeepLedger(Protocol):
    """The part of core.ports.Ledger that is called from time to time, until it has done less than it may."""

    async def expire_payments(self, *, grace: timedelta, most: int = 500) -> int:
        """OPEN to EXPIRED for invoices past their time and the grace; how many, at most `most`."""

    async def forget_unpaid(self, *, ended_for: timedelta, most: int = 500) -> int:
        """Forget EXPIRED payments whose invoice ended so long ago; how many, at most `most`."""

    async def forget_answers(self, *, most: int = 500) -> int:
        """Forget answers that were kept long enough; how many, at most `most`."""

    async def give_up_unclaimed(self, *, unclaimed_for: timedelta, most: int) -> int:
        """FUNDED to CREDIT for what was settled, and its invoice ended, so long ago; how many, at most `most`."""
