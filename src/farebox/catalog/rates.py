"""Rates in force: which of the rates that were seen is used to ask for money, and until when.

Rules
1. A rate is in force for so long after it was seen, and then no rate is: nobody guesses.
2. Of several sources the middle one is believed, and of two in the middle the lower, which asks for more satoshis: one
   that lies can't move it beyond what another says.
3. A rate that is far from the last one is not believed at once. It comes into force when all that was seen since, for
   as long as a rate is in force, agrees with it; by then the last one is void, so it is never a choice between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from farebox.core.fiat import Rate

STALE_AFTER: Final = timedelta(minutes=10)
MOST_JUMP_PERCENT: Final = 25


def middle(rates: Sequence[Rate]) -> Rate:
    """The one in the middle, the lower of two; of at least one."""
    return sorted(rates, key=lambda rate: rate.per_btc)[(len(rates) - 1) // 2]


class RatesInForce:
    """The rate of each currency: those that were seen are taken, and the one in force is found.

    most_jump_percent: how far a rate may be from the one before, either way.
    """

    __slots__ = ("_doubted", "_last", "_most_jump_percent", "_stale_after")

    def __init__(self, *, stale_after: timedelta = STALE_AFTER, most_jump_percent: int = MOST_JUMP_PERCENT) -> None:
        self._stale_after = stale_after
        self._most_jump_percent = most_jump_percent
        self._last: dict[str, Rate] = {}
        self._doubted: dict[str, Rate] = {}

    def find(self, currency: str, now: datetime) -> Rate | None:
        """The rate in force, if there is one."""
        rate = self._last.get(currency)
        return rate if rate is not None and self.is_fresh(rate, now) else None

    def is_fresh(self, rate: Rate, now: datetime) -> bool:
        """Whether it was seen lately; what claims to be seen in the future was not."""
        return abs(now - rate.seen_at) <= self._stale_after

    def take(self, rate: Rate) -> bool:
        """Whether a rate that was seen is believed, and so in force."""
        last = self._last.get(rate.currency)
        if last is not None and self._jumps(last, rate):
            doubted = self._doubted.get(rate.currency)
            if doubted is None or self._jumps(doubted, rate):
                self._doubted[rate.currency] = rate
                return False
            if rate.seen_at - doubted.seen_at < self._stale_after:
                return False
        self._last[rate.currency] = rate
        self._doubted.pop(rate.currency, None)
        return True

    def _jumps(self, one: Rate, other: Rate) -> bool:
        return one.differs(other, percent=self._most_jump_percent)
