"""Escrow: money that the node holds for a call until the call has succeeded (pay on success).

Rules
1. The preimage is ours, made from a master key and a seed, and told to nobody before the money is: whoever shows it has
   paid. The ledger keeps the seed alone, so that it has nothing to be shown.
2. A call that is paid so runs once. Its answer is kept before the money is taken, and given after.
3. What is not answered goes back: a call that failed, one whose process died, one that nobody came for.
4. Each move is one conditional statement; only what won it asks the node to settle or to cancel, and either may be done
   again. The row goes when the node has said where the money is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from farebox.core.amount import Amount
from farebox.core.payment import Answer, Payment


class EscrowState(StrEnum):
    """Where an escrow stands."""

    WAITING = "waiting"  # for the money, and then for the call
    RUNNING = "running"  # the money is held, and the call runs
    READY = "ready"  # the answer is kept; the money is to be taken
    RETURNING = "returning"  # the money is to be given back
    ENDED = "ended"  # the node has said where the money is; no row has this state, for it is gone


class EscrowMove(StrEnum):
    """What can happen to an escrow."""

    BEGIN = "begin"
    KEEP = "keep the answer"
    GIVE_BACK = "give back"
    SETTLE = "settle"
    CANCEL = "cancel"


ESCROW_MOVES: Final[Mapping[tuple[EscrowState, EscrowMove], EscrowState]] = MappingProxyType(
    {
        (EscrowState.WAITING, EscrowMove.BEGIN): EscrowState.RUNNING,
        (EscrowState.WAITING, EscrowMove.GIVE_BACK): EscrowState.RETURNING,
        (EscrowState.RUNNING, EscrowMove.KEEP): EscrowState.READY,
        (EscrowState.RUNNING, EscrowMove.GIVE_BACK): EscrowState.RETURNING,
        (EscrowState.READY, EscrowMove.SETTLE): EscrowState.ENDED,
        (EscrowState.RETURNING, EscrowMove.CANCEL): EscrowState.ENDED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """An escrow as it stands, and its payment. seed: what the preimage is made from, with the shop's keys."""

    payment: Payment
    state: EscrowState
    seed: bytes = b""


class EscrowLedger(Protocol):
    """The part of core.ports.Ledger that is about escrows; one is made by `open_payment` with a seed."""

    async def begin_escrow(self, payment_hash: bytes, *, digest: bytes, lease: timedelta) -> Escrow | None:
        """WAITING to RUNNING, once, for this request; None when it was not so. The node must hold the money."""

    async def find_escrow(self, payment_hash: bytes) -> EscrowState | None:
        """Where an escrow stands; None when there is none, or it has ended."""

    async def renew_escrow(self, payment_hash: bytes, *, lease: timedelta) -> bool:
        """Extend the lease of a running call; False when it is no longer its own."""

    async def keep_escrowed(self, payment_hash: bytes, answer: Answer, *, lease: timedelta) -> bool:
        """RUNNING to READY with the answer; from now on nothing but taking the money is left to do.

        False, with nothing done, when its lease ran out and the money is on its way back.
        """

    async def return_escrow(self, payment_hash: bytes, *, lease: timedelta) -> bool:
        """RUNNING to RETURNING, and its payment to EXPIRED: the call failed. False when it was not running."""

    async def take_due_escrows(self, *, lease: timedelta, most: int) -> Sequence[Escrow]:
        """Those whose lease ran out, the oldest first, for the caller to end while the new lease lasts.

        What was WAITING or RUNNING is RETURNING by it, and its payment EXPIRED.
        """

    async def end_escrow(self, payment_hash: bytes, received: Amount | None) -> bool:
        """The node has said where the money is: `received` is ours, or None for gone back; False when it had ended.

        A READY one whose money is ours is settled, charged and answered in one step; one that goes back is EXPIRED.
        """
