"""Grant: a payment that is held while its call runs, and the calls that run in this process.

Rules
1. The charge and the decision to answer are one step, `capture`; what is not captured is released.
2. A running call renews its lease, so that nobody takes its payment; a lease that ran out is another's to take.
3. Whoever shows the same proof meanwhile waits for the running call and gets its answer, or its failure.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from farebox.core.errors import CallInProgress, StoreUnavailable, UpstreamFailed
from farebox.core.exchange import Wire
from farebox.core.payment import Answer, Hold, Payment
from farebox.core.ports import Ledger
from farebox.gate.memory import GivenAnswers
from farebox.gate.terms import Replay

_MOST_UNSAVED: Final = 256


@dataclass(slots=True)
class _Running:
    hold: Hold
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False


class RunningCalls:
    """The calls of this process that hold a payment."""

    def __init__(self, ledger: Ledger, lease: timedelta) -> None:
        self._ledger = ledger
        self._lease = lease
        self._calls: dict[bytes, _Running] = {}
        self._heartbeat: asyncio.Task[None] | None = None

    def begin(self, hold: Hold) -> None:
        """A call begins."""
        self._calls[hold.payment_hash] = _Running(hold)
        if self._heartbeat is None or self._heartbeat.done():
            self._heartbeat = asyncio.get_running_loop().create_task(self._keep_leases())

    def end(self, hold: Hold, *, failed: bool) -> None:
        """A call ended; whoever waits for it is told."""
        running = self._calls.get(hold.payment_hash)
        if running is not None and running.hold.epoch == hold.epoch:
            del self._calls[hold.payment_hash]
            running.failed = failed
            running.ended.set()

    async def wait(self, payment_hash: bytes, deadline: float) -> bool:
        """Wait until the call that holds this payment ended, here or in another process; False when out of patience.

        deadline: in the event loop's time. Raises UpstreamFailed when it ended by failing.
        """
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        running = self._calls.get(payment_hash)
        if running is None:  # another process runs it; the ledger is asked again a little later
            await asyncio.sleep(min(left, 0.2))
            return True
        try:
            async with asyncio.timeout(left):
                await running.ended.wait()
        except TimeoutError:
            return False
        if running.failed:
            raise UpstreamFailed("the call that was running for this payment failed")
        return True

    def close(self) -> None:
        """Renew no more."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    async def _keep_leases(self) -> None:
        """Renew the lease of every call that has been running for a third of it."""
        while True:
            old = set(self._calls)
            await asyncio.sleep(self._lease.total_seconds() / 3)
            for payment_hash in old & set(self._calls):
                # A ledger that can't be reached just now is met again at the capture, which fails closed.
                with suppress(StoreUnavailable):
                    await self._ledger.renew(self._calls[payment_hash].hold, lease=self._lease)


class UnsavedAnswers:
    """Answers of this process that the ledger could not be given when they were there; tried again when asked for."""

    def __init__(self, ledger: Ledger, given: GivenAnswers) -> None:
        self._ledger = ledger
        self._given = given
        self._kept: OrderedDict[bytes, tuple[Hold, Answer, Wire]] = OrderedDict()

    def keep(self, hold: Hold, answer: Answer, receipt: Wire) -> None:
        """Remember one, and forget the oldest when there are too many."""
        self._kept[hold.payment_hash] = hold, answer, receipt
        if len(self._kept) > _MOST_UNSAVED:
            self._kept.popitem(last=False)

    async def save(self, payment_hash: bytes, digest: bytes) -> Replay | None:
        """Charge and keep the answer after all. None when there is none, or its hold was taken over meanwhile.

        Raises StoreUnavailable when the ledger still can't say.
        """
        kept = self._kept.get(payment_hash)
        if kept is None or kept[0].digest != digest:
            return None
        hold, answer, receipt = kept
        captured = await self._ledger.capture(hold, answer)
        self._kept.pop(payment_hash, None)
        return self._given.keep(payment_hash, digest, answer, receipt) if captured else None


class Grant:
    """A payment that is held for one call: capture it with the answer, or release it.

    As an async context manager it releases when it is left without having been captured.
    """

    __slots__ = ("_given", "_ledger", "_most_attempts", "_running", "_settled", "_unsaved", "hold", "receipt")

    def __init__(
        self,
        hold: Hold,
        receipt: Wire,
        *,
        ledger: Ledger,
        running: RunningCalls,
        given: GivenAnswers,
        unsaved: UnsavedAnswers,
        most_attempts: int,
    ) -> None:
        self.hold = hold
        self.receipt = receipt
        self._ledger = ledger
        self._running = running
        self._given = given
        self._unsaved = unsaved
        self._most_attempts = most_attempts
        self._settled = False
        running.begin(hold)

    async def capture(self, answer: Answer | None) -> Wire:
        """Charge, and keep the answer, in one step; returns the parts of the answer that hold the receipt.

        `None` for an answer too large to be kept. Raises CallInProgress, and nothing was charged, when the hold was
        lost to a later one; StoreUnavailable when the ledger can't say: then the answer is kept in mind, and charged
        when it is asked for again.
        """
        captured = False
        try:
            captured = await self._ledger.capture(self.hold, answer)
        except StoreUnavailable:
            if answer is not None:
                self._unsaved.keep(self.hold, answer, self.receipt)
            raise
        finally:
            if captured and answer is not None:
                self._given.keep(self.hold.payment_hash, self.hold.digest, answer, self.receipt)
            self._end(failed=not captured)
        if not captured:
            raise CallInProgress("the lease of this call ran out before it was done")
        return self.receipt

    async def release(self, *, ran: bool = True) -> Payment:
        """The call failed and may be made again with the same proof. Returns the payment as it then stands.

        ran: False when it certainly did not run, so that it does not count as an attempt.
        """
        try:
            return await self._ledger.release(self.hold, most_attempts=self._most_attempts, ran=ran)
        finally:
            self._end(failed=True)

    async def give_up(self) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: its price becomes credit."""
        try:
            return await self._ledger.give_up(self.hold)
        finally:
            self._end(failed=True)

    def _end(self, *, failed: bool) -> None:
        self._settled = True
        self._running.end(self.hold, failed=failed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            await self.release()
