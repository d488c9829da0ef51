"""Price: what one call of something costs."""

from __future__ import annotations

from dataclasses import dataclass

from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount, MalformedPrice
from farebox.core.exchange import Quote
from farebox.core.fiat import Conversion, Fiat, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A fixed price per call, in bitcoin or in fiat.

    Raises MalformedAmount for nothing: an invoice can't be for nothing, and what is free has no price at all.
    """

    amount: Amount | Fiat

    def __post_init__(self) -> None:
        if not self.amount:
            raise MalformedAmount("A price is more than nothing.")

    @classmethod
    def read(cls, given: str | Amount | Fiat | Price) -> Price:
        """The price written as `21 sat`, `500 msat` or `0.5 US cent`, as an Amount, as Fiat, or as itself.

        Raises MalformedAmount.
        """
        match given:
            case Price():
                return given
            case Amount() | Fiat():
                return cls(amount=given)
            case str():
                return cls(amount=_read(given))

    def quote(self, *, resource: str, digest: bytes, description: str = "", rate: Rate | None = None) -> Quote:
        """The price of one particular call, which its digest tells from every other.

        rate: for a price in fiat, of its currency. Raises MalformedAmount for more than all bitcoin.
        """
        amount = self.amount
        if isinstance(amount, Fiat):
            if rate is None or rate.currency != amount.currency:
                raise MalformedPrice(f"What {amount} are in bitcoin takes a rate.")
            amount = Conversion(price=amount, rate=rate).amount
        return Quote(amount=amount, resource=resource, digest=digest, description=description)

    def __str__(self) -> str:
        return str(self.amount)


def _read(text: str) -> Amount | Fiat:
    try:
        return Amount.read(text)
    except MalformedAmount:
        return Fiat.read(text)
