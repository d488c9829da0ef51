"""A shop in a process of its own, watched from outside: what it has learnt of what was paid, and what that costs it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from farebox.core.bolt11 import Invoice
from farebox.core.payment import Payment
from farebox.stores import open_ledger

_IDLE_S: Final = 2.0
_BETWEEN_S: Final = 0.05


class WatchedShop:
    """store: the URL of its ledger. pid: of its process."""

    def __init__(self, store: str, pid: int) -> None:
        self._store = store
        self._pid = pid

    async def rows(self, invoices: Sequence[Invoice]) -> list[Payment]:
        """What its ledger says of these, where it knows them."""
        ledger = open_ledger(self._store)
        try:
            found = [await ledger.find_payment(invoice.payment_hash) for invoice in invoices]
            return [row for row in found if row is not None]
        finally:
            await ledger.close()

    async def known_within(self, invoices: Sequence[Invoice], span_s: float) -> float:
        """Seconds until all of them are settled in the ledger. Raises AssertionError."""
        began = time.monotonic()
        while missing := [row for row in await self.rows(invoices) if row.settled_at is None]:
            assert time.monotonic() < began + span_s, f"{len(missing)} of {len(invoices)} are not known"
            await asyncio.sleep(_BETWEEN_S)
        return time.monotonic() - began

    async def idle_cpu(self) -> float:
        """The share of a processor that it takes while nothing happens."""
        before = _cpu_s(self._pid)
        await asyncio.sleep(_IDLE_S)
        return (_cpu_s(self._pid) - before) / _IDLE_S


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p99(sorted_delays: Sequence[float]) -> float:
    """What 99 of 100 do not exceed."""
    return sorted_delays[max(0, len(sorted_delays) * 99 // 100 - 1)]
