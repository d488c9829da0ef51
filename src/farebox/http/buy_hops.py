"""Redirects, for a library that shows us each hop by itself: who was named by the caller, and which proof goes along.

Rules
1. Only the origin that the caller named is paid, whatever a redirect led to.
2. A proof that was answered with a redirect goes along within the origin, and is lost for good outside of it.
3. One call is paid once: a hop that goes with a proof is never bought.
"""

from __future__ import annotations

from dataclasses import dataclass

from farebox.core.errors import PaidRedirect
from farebox.core.exchange import Wire
from farebox.payer import Bought


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A proof that was shown, and what it had cost."""

    proof: Wire
    bought: Bought

    def refused(self, location: str) -> PaidRedirect:
        """What to raise when the hop asks for money all the same."""
        told = self.bought.payment_hash
        return PaidRedirect(
            f"{location} costs by itself",
            location=location,
            amount_msat=self.bought.paid.msat,
            payment_hash=told.hex() if told else None,
        )


@dataclass(slots=True, kw_only=True)
class Trail:
    """How a request came about. origin: the one that the caller named. shown: the proof that goes along."""

    origin: str
    shown: Shown | None = None

    def at(self, origin: str) -> Shown | None:
        """The proof for a hop to this origin."""
        if origin != self.origin:
            self.shown = None
        return self.shown
