"""Sale: what a handler is told about the call that it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from farebox.core.amount import Amount

SALE: Final = "farebox.sale"  # its key in the ASGI scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """A call that may run: paid for, or free.

    price: what it costs; nothing is charged for it until it is answered. payment_hash: hex, None for a free call.
    """

    price: Amount
    resource: str
    payment_hash: str | None

    @property
    def free(self) -> bool:
        """Whether it is one of the caller's free calls."""
        return self.payment_hash is None
