"""Budget: what a buyer allows itself to spend.

Rules
1. A budget is any number of windows; a purchase must fit in every one of them.
2. A window is an amount per rolling span of time, or per call.
3. Fees count. What is held or unresolved counts as spent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.errors import MalformedBudget

_SPANS: Final = MappingProxyType(
    {
        "call": None,
        "min": timedelta(minutes=1),
        "minute": timedelta(minutes=1),
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(weeks=1),
    }
)
_PER: Final = re.compile(r"/|\bper\b", re.IGNORECASE)
_MOST_SHOWN: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A limit per rolling span; `span` None means per call."""

    limit: Amount
    span: timedelta | None

    @classmethod
    def read(cls, text: str) -> Window:
        """Read `500 sat/day`, `50 sat/call`, `20 sat per minute`. Raises MalformedBudget."""
        try:
            limit, span = _PER.split(text)
            return cls(limit=Amount.read(limit), span=_SPANS[span.strip().lower()])
        except (ValueError, KeyError):  # not two parts, no amount, no such span
            raise MalformedBudget(given=text[:_MOST_SHOWN]) from None

    def __str__(self) -> str:
        for name, span in _SPANS.items():
            if span == self.span:
                return f"{self.limit}/{name}"
        return f"{self.limit} in {self.span}"


@dataclass(frozen=True, slots=True)
class Budget:
    """Every window that a purchase must fit in."""

    windows: tuple[Window, ...] = ()

    @classmethod
    def read(cls, text: str) -> Budget:
        """Read windows with commas between them: `500 sat/day, 50 sat/call`. Raises MalformedBudget."""
        return cls(tuple(Window.read(part) for part in text.split(",")))

    def __str__(self) -> str:
        return ", ".join(map(str, self.windows)) or "no limit"
