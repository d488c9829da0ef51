"""Keeping house: what one process does for a ledger beside serving, however many serve from it.

Rules
1. It learns what was paid, ends what is held for calls, lets unpaid invoices run out, gives up what nobody comes for,
   and forgets old answers.
2. Everything is done a little at a time, and again until nothing is left, so that no call waits for it.
3. Nothing that goes wrong here ends it; it is told, and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Never

import structlog

from farebox.core.errors import StoreUnavailable
from farebox.core.ports import Ledger
from farebox.core.settlement import Learnt
from farebox.gate import Gate, Reconciler, StreamFound, StreamLost

SWEEP_EVERY: Final = timedelta(minutes=1)
GRACE: Final = timedelta(minutes=10)  # for a payment that was under way when its invoice ended
KEEP_UNPAID: Final = timedelta(days=1)
MOST_AT_ONCE: Final = 500

log = structlog.get_logger("farebox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did: payments that expired, that were given up; answers and unpaid invoices that were forgotten."""

    expired: int
    given_up: int
    forgotten: int


async def keep_house(gate: Gate) -> Never:
    """Keep house for this gate's ledger, for ever."""
    names = [receiver.name for receiver in gate.receivers]
    async with asyncio.TaskGroup() as tasks:
        for receiver in gate.receivers:
            reconciler = Reconciler(
                ledger=gate.ledger,
                receiver=receiver,
                converse=gate.converse,
                others=[name for name in names if name != receiver.name],
                told=_tell,
            )
            tasks.create_task(_never_ending(reconciler.follow))
            tasks.create_task(_never_ending(reconciler.cast_net))
        tasks.create_task(_never_ending(gate.escrows.end_all))
        tasks.create_task(_never_ending(lambda: _sweep_on(gate)))
    raise AssertionError("housekeeping has no end")


async def sweep(ledger: Ledger, *, claim_within: timedelta) -> Swept:
    """Expire what ran out and give up what nobody claimed (reliability: 3.1, rows 3 and 10); forget what is old.

    What is still paid for an invoice that was forgotten is a stray, until its payer shows a sealed proof.
    claim_within: the claim window, from the settlement and from the end of the invoice. Raises StoreUnavailable.
    """
    return Swept(
        expired=await _all(lambda: ledger.expire_payments(grace=GRACE, most=MOST_AT_ONCE)),
        given_up=await _all(lambda: ledger.give_up_unclaimed(unclaimed_for=claim_within, most=MOST_AT_ONCE)),
        forgotten=await _all(lambda: ledger.forget_answers(most=MOST_AT_ONCE))
        + await _all(lambda: ledger.forget_unpaid(ended_for=KEEP_UNPAID, most=MOST_AT_ONCE)),
    )


async def _all(some: Callable[[], Awaitable[int]]) -> int:
    total = count = await some()
    while count >= MOST_AT_ONCE:
        total += (count := await some())
    return total


async def _sweep_on(gate: Gate) -> Never:
    while True:
        await asyncio.sleep(SWEEP_EVERY.total_seconds())
        try:
            swept = await sweep(gate.ledger, claim_within=gate.terms.claim_within)
        except StoreUnavailable as error:
            log.warning("not-swept", reason=error.detail)
        else:
            if swept.given_up:
                log.info("given-up-unclaimed", payments=swept.given_up)


async def _never_ending(work: Callable[[], Awaitable[Never]]) -> Never:
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end what learns of money; it is told
            log.error("housekeeping-failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_EVERY.total_seconds())


def _tell(event: Learnt | StreamLost | StreamFound) -> None:
    match event:
        case Learnt(funded=funded, strays=strays):
            if strays:
                mend = "the node took it for invoices that are none of this ledger's; see `farebox refund --list`"
                log.warning("money-of-no-payment", settlements=strays, mend=mend)
            if funded:
                log.debug("settled", payments=funded)
        case StreamLost(node=node, reason=reason):
            log.warning("settlements-not-read", node=node, reason=reason)
        case StreamFound(node=node):
            log.info("settlements-read-again", node=node)
