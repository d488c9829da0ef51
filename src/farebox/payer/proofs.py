"""Proofs that may serve more than one call, kept for the next call of the same resource.

Rules
1. Kept by origin, resource and sub-purse, in memory; the purse keeps them for other processes and for later.
2. One that is refused, or answered with an old answer, is dropped, and its resource counts as sold call by call from
   then on, so that nothing is tried in vain a second time.
3. Only where nobody between can read it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from farebox.core.exchange import Wire
from farebox.payer.steps import Answered, OutgoingCall

_MOST_KEPT: Final = 1024
_REFUSALS: Final = frozenset((401, 402, 409, 410))

T = TypeVar("T")

Place = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof on the wire, whose it is, and until when it may be good."""

    wire: Wire
    payment_hash: bytes
    dialect: str
    until: datetime


class Proofs:
    """The proofs that this process keeps."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, Proof] = OrderedDict()
        self._single: OrderedDict[Place, None] = OrderedDict()

    def find(self, call: OutgoingCall, account: str, now: datetime) -> Proof | None:
        """The one for this call, if there is one that is still good."""
        if not self._kept:
            return None
        proof = self._kept.get((call.origin, call.resource, account))
        return proof if proof is not None and now < proof.until else None

    def keep(self, call: OutgoingCall, account: str, proof: Proof) -> None:
        """Keep it for the next call from the same purse."""
        if not self.is_single(call):
            _put(self._kept, (call.origin, call.resource, account), proof)

    def drop(self, call: OutgoingCall) -> None:
        """It was refused."""
        for place in [place for place in self._kept if place[:2] == (call.origin, call.resource)]:
            del self._kept[place]
        _put(self._single, (call.origin, call.resource, ""), None)

    def is_single(self, call: OutgoingCall) -> bool:
        """Whether proofs are known to be good for one call only here."""
        return (call.origin, call.resource, "") in self._single


def serves(answer: Answered) -> bool:
    """Whether this is the answer to a call that was made with a kept proof: fresh, and not a refusal of the proof."""
    return answer.status not in _REFUSALS and "true" not in answer.wire.all("payment-replayed")


def _put(kept: OrderedDict[Place, T], place: Place, what: T) -> None:
    kept[place] = what
    kept.move_to_end(place)
    if len(kept) > _MOST_KEPT:
        kept.popitem(last=False)
