"""Amount: an amount of bitcoin, counted in millisatoshis and named in satoshis.

Rules
1. Inside it is one non-negative integer of millisatoshis; nothing else in the project multiplies or divides by a
   thousand.
2. Whoever wants satoshis says how a fraction is to be treated: exactly, rounded up or rounded down.
3. An amount never becomes a float and never becomes negative.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Self

from farebox.core.errors import MalformedAmount

_MSATS_PER_SAT: Final = 1000
_SATS_PER_BITCOIN: Final = 100_000_000
_MSATS_PER_BITCOIN: Final = _SATS_PER_BITCOIN * _MSATS_PER_SAT
_MOST: Final = 21_000_000 * _MSATS_PER_BITCOIN
_MOST_SHOWN: Final = 40
_TEXT: Final = re.compile(r"\s*([0-9]{1,19}(?:_[0-9]{3}){0,6})\s*(sats?|msats?)\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Amount:
    """An amount of bitcoin, exact to the millisatoshi.

    Make one with `Amount.sats(21)`, `Amount.msats(500)` or `Amount.read("21 sat")`.
    """

    msat: int

    def __post_init__(self) -> None:
        if type(self.msat) is not int or not 0 <= self.msat <= _MOST:  # a float or a bool from JSON is no amount either
            raise MalformedAmount(given=_shown(self.msat))

    @classmethod
    def sats(cls, count: int) -> Self:
        """An amount of whole satoshis."""
        return cls(count * _MSATS_PER_SAT)

    @classmethod
    def msats(cls, count: int) -> Self:
        """An amount of millisatoshis."""
        return cls(count)

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `21 sat`, `21sat`, `21 sats`, `500 msat`; a number without a unit is refused.

        Raises MalformedAmount.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise MalformedAmount(given=_shown(text))
        count = int(match[1])
        return cls.msats(count) if match[2].lower().startswith("m") else cls.sats(count)

    @classmethod
    def of(cls, given: object) -> Amount:
        """An amount as a program may say it: as text, or as one that was read. Raises MalformedAmount."""
        if isinstance(given, Amount):
            return given
        if not isinstance(given, str):
            raise MalformedAmount("say it as text", given=_shown(repr(given)))
        return cls.read(given)

    @classmethod
    def part_of_bitcoin(cls, part: Fraction) -> Self:
        """So much of one bitcoin, rounded up to whole satoshis. Raises MalformedAmount."""
        return cls.sats(math.ceil(part * _SATS_PER_BITCOIN))

    @property
    def whole(self) -> bool:
        """Whether it is of whole satoshis."""
        return self.msat % _MSATS_PER_SAT == 0

    def in_sats_exact(self) -> int:
        """Whole satoshis; raises MalformedAmount when there is a fraction of one."""
        sats, rest = divmod(self.msat, _MSATS_PER_SAT)
        if rest:
            raise MalformedAmount(given=f"{self}, where whole satoshis are needed")
        return sats

    def in_sats_ceil(self) -> int:
        """Satoshis, rounded up: what a payer must at least have."""
        return -(-self.msat // _MSATS_PER_SAT)

    def in_sats_floor(self) -> int:
        """Satoshis, rounded down: what a seller can at least count on."""
        return self.msat // _MSATS_PER_SAT

    def share(self, percent: int) -> Amount:
        """So many hundredths of this amount, rounded up to the millisatoshi."""
        return Amount(-(-self.msat * percent // 100))

    def less(self, other: Amount) -> Amount:
        """What remains after taking `other` away, and nothing when there is not enough."""
        return Amount(max(0, self.msat - other.msat))

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.msat + other.msat)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.msat - other.msat)

    def __mul__(self, times: int) -> Amount:
        return Amount(self.msat * times)

    def __bool__(self) -> bool:
        return self.msat > 0

    def __str__(self) -> str:
        sats, rest = divmod(self.msat, _MSATS_PER_SAT)
        return f"{self.msat} msat" if rest else f"{sats} sat"


NOTHING: Final = Amount(0)


def _shown(given: object) -> str:
    """As evidence: short, and never a number so long that Python refuses to print it."""
    if isinstance(given, int) and abs(given) > _MOST:
        return "a number beyond all bitcoin"
    return str(given)[:_MOST_SHOWN]
