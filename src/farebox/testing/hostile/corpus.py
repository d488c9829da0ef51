"""All of them in one row."""

from __future__ import annotations

from typing import Final

from farebox.testing.hostile.after_paying import AFTER_PAYING
from farebox.testing.hostile.challenges import CHALLENGES
from farebox.testing.hostile.invoices import INVOICES
from farebox.testing.hostile.prices import PRICES
from farebox.testing.hostile.redirects import REDIRECTS
from farebox.testing.hostile.stage import Scenario

CORPUS: Final[tuple[Scenario, ...]] = (*PRICES, *INVOICES, *CHALLENGES, *REDIRECTS, *AFTER_PAYING)
