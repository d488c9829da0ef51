"""Price: what one call of something costs."""

from __future__ import annotations

from dataclasses import dataclass

from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount
from farebox.core.exchange import Quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A fixed price per call.

    Raises MalformedAmount for nothing: an invoice can't be for nothing, and what is free has no price at all.
    """

    amount: Amount

    def __post_init__(self) -> None:
        if not self.amount:
            raise MalformedAmount("A price is more than nothing.")

    @classmethod
    def read(cls, given: str | Amount | Price) -> Price:
        """The price written as `21 sat`, as an Amount, or as itself. Raises MalformedAmount."""
        match given:
            case Price():
                return given
            case Amount():
                return cls(amount=given)
            case str():
                return cls(amount=Amount.read(given))

    def quote(self, *, resource: str, digest: bytes, description: str = "") -> Quote:
        """The price of one particular call, which its digest tells from every other."""
        return Quote(amount=self.amount, resource=resource, digest=digest, description=description)

    def __str__(self) -> str:
        return str(self.amount)
