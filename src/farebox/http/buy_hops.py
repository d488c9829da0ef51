"""Redirects, for a library that shows us each hop by itself: who was named by the caller, and which proof goes along.

Rules
1. Only the origin that the caller named is paid, whatever a redirect led to.
2. A proof that was answered with a redirect goes along within the origin, and is lost for good outside of it.
3. One call is paid once: a hop that goes with a proof is never bought.
4. A redirect that was paid for is served, where it is followed, when what it leads to is: one that leads to what costs
   is shown its proof again by the same call, and not paid again. One that leads to nothing is held against its seller.
"""

from __future__ import annotations

from dataclasses import dataclass

from farebox.core.errors import PaidRedirect
from farebox.core.exchange import Wire
from farebox.payer import Bought, Deliver, OutgoingCall


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
    """How a request came about. origin: the one that the caller named. shown: the proof that goes along.

    owed: what to tell the purse when what a paid redirect leads to has come. call: the caller's, as its first request
    tells it: by that it is known when it is made again, with whichever library.
    """

    origin: str
    call: OutgoingCall | None = None
    shown: Shown | None = None
    owed: Deliver | None = None

    def at(self, origin: str) -> Shown | None:
        """The proof for a hop to this origin."""
        if origin != self.origin:
            self.shown = None
        return self.shown

    def strays(self, origin: str) -> bool:
        """Whether nothing is paid for a hop to this origin: it is another one, or what led there was paid for."""
        return origin != self.origin or self.owed is not None
