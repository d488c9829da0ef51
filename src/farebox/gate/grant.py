"""Grant: a payment that is held while its call runs.

Rules
1. The charge and the decision to answer are one step, `capture`; what is not captured is released.
2. A call that lost its hold to another one captures nothing: there is one answer to a payment, and it is the other's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from datetime import timedelta
from time import perf_counter
from types import TracebackType
from typing import ClassVar, Final, Self

from farebox.core.amount import NOTHING
from farebox.core.errors import CallInProgress, StoreUnavailable
from farebox.core.exchange import Wire
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.core.ports import Ledger
from farebox.gate.events import CallCaptured, CallReleased, HoldEnded, HoldTaken, Observer, Step, watched
from farebox.gate.memory import GivenAnswers
from farebox.gate.running import RunningCalls
from farebox.gate.terms import Replay

_MOST_UNSAVED: Final = 256
_MOST_UNSAVED_BYTES: Final = 64 * 2**20


class UnsavedAnswers:
    """Answers of this process that the ledger could not be given when they were there.

    They are tried again when they are asked for, and with `save_all`: who asks may ask another process.
    """

    def __init__(self, ledger: Ledger, given: GivenAnswers, observer: Observer | None = None) -> None:
        self._ledger = ledger
        self._given = given
        self._observer = observer
        self._kept: OrderedDict[bytes, tuple[Hold, Answer, Wire, str]] = OrderedDict()

    def keep(self, hold: Hold, answer: Answer, receipt: Wire, resource: str = "") -> None:
        """Remember one, and forget the oldest when there are too many or too much of them."""
        self._kept[hold.payment_hash] = hold, answer, receipt, resource
        size = sum(len(each.body) for _, each, *_ in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MOST_UNSAVED or size > _MOST_UNSAVED_BYTES):
            _, (_, oldest, *_) = self._kept.popitem(last=False)
            size -= len(oldest.body)

    async def save_all(self) -> None:
        """Charge and keep whatever is still there. Raises StoreUnavailable when the ledger still can't say."""
        for payment_hash, (hold, _, _, resource) in tuple(self._kept.items()):
            await self.save(payment_hash, hold.digest, resource)

    async def save(self, payment_hash: bytes, digest: bytes, resource: str) -> Replay | None:
        """Charge and keep the answer after all. None when there is none, or its hold was taken over meanwhile.

        Raises StoreUnavailable when the ledger still can't say.
        """
        kept = self._kept.get(payment_hash)
        if kept is None or kept[0].digest != digest:
            return None
        hold, answer, receipt, _ = kept
        captured = await self._ledger.capture(hold, answer)
        first = self._kept.pop(payment_hash, None) is not None  # of those who try just now
        if captured and first and self._observer is not None:
            self._observer(CallCaptured(resource=resource, amount=hold.amount))
        return self._given.keep(payment_hash, digest, answer, receipt, resource) if captured else None


class HeldCall(ABC):
    """A call whose payment is held while it runs: capture it with the answer, or release it.

    is_paid: whether the money is the seller's already; before it is, nothing of an answer may leave.
    As an async context manager it releases when it is left without having been captured.
    """

    is_paid: ClassVar[bool] = True
    __slots__ = ("_began_s", "_ledger", "_observer", "_running", "_settled", "hold", "receipt", "resource")

    def __init__(
        self,
        hold: Hold,
        receipt: Wire,
        *,
        ledger: Ledger,
        running: RunningCalls,
        resource: str = "",
        observer: Observer | None = None,
    ) -> None:
        self.hold = hold
        self.receipt = receipt
        self.resource = resource
        self._ledger = ledger
        self._running = running
        self._settled = False
        self._observer = observer
        self._began_s = perf_counter() if observer is not None else 0.0
        running.begin(hold)
        if observer is not None:
            observer(HoldTaken(resource=resource, amount=hold.amount, first=hold.epoch == 1))

    @abstractmethod
    async def capture(self, answer: Answer | None) -> Wire:
        """Charge, and keep the answer; returns the parts of the answer that hold the receipt.

        `None` for an answer too large to be kept. Raises CallerError or Unavailable where it can't be given.
        """

    @abstractmethod
    async def release(self, *, ran: bool = True, refused: bool = False) -> Payment:
        """The call failed. Returns the payment as it then stands.

        ran: False when it certainly did not run. refused: it was the caller's own fault.
        """

    @abstractmethod
    async def give_up(self) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice. Returns the payment as it then stands."""

    async def find_other_answer(self) -> Answer | None:
        """What the call that took over this payment has answered; None as long as there is nothing.

        Raises StoreUnavailable.
        """
        return await self._ledger.find_answer(self.hold.payment_hash)

    def _end(self, *, failed: bool) -> None:
        if self._observer is not None and not self._settled:
            self._observer(HoldEnded(resource=self.resource, took=timedelta(seconds=perf_counter() - self._began_s)))
        self._settled = True
        self._running.end(self.hold, failed=failed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            await self.release()


class Grant(HeldCall):
    """A payment that is held for one call."""

    __slots__ = ("_given", "_most_attempts", "_unsaved")

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
        resource: str = "",
        observer: Observer | None = None,
    ) -> None:
        super().__init__(hold, receipt, ledger=ledger, running=running, resource=resource, observer=observer)
        self._given = given
        self._unsaved = unsaved
        self._most_attempts = most_attempts

    async def capture(self, answer: Answer | None) -> Wire:
        """Charge, and keep the answer, in one step; returns the parts of the answer that hold the receipt.

        `None` for an answer too large to be kept. Raises CallInProgress, and nothing was charged, when the hold was
        lost to a later one; StoreUnavailable when the ledger can't say: then the answer is kept in mind, and charged
        when it is asked for again.
        """
        captured = False
        try:
            if self._running.ending(self.hold):
                with watched(self._observer, Step.CAPTURE, self.resource):
                    captured = await self._ledger.capture(self.hold, answer)
        except StoreUnavailable:
            if answer is not None:
                self._unsaved.keep(self.hold, answer, self.receipt, self.resource)
            raise
        finally:
            if captured and answer is not None:
                self._given.keep(self.hold.payment_hash, self.hold.digest, answer, self.receipt, self.resource)
            self._end(failed=not captured)
        if not captured:
            raise CallInProgress("the lease of this call ran out before it was done")
        if self._observer is not None:
            self._observer(CallCaptured(resource=self.resource, amount=self.hold.amount))
        return self.receipt

    async def release(self, *, ran: bool = True, refused: bool = False) -> Payment:
        """The call failed and may be made again with the same proof. Returns the payment as it then stands.

        ran: False when it certainly did not run, so that it does not count as an attempt. refused: all the same here.
        """
        del refused
        self._running.ending(self.hold)
        try:
            return self._released(await self._ledger.release(self.hold, most_attempts=self._most_attempts, ran=ran))
        finally:
            self._end(failed=True)

    async def give_up(self) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: its price becomes credit."""
        self._running.ending(self.hold)
        try:
            return self._released(await self._ledger.give_up(self.hold))
        finally:
            self._end(failed=True)

    def _released(self, payment: Payment) -> Payment:
        if self._observer is not None:
            owed = payment.received.less(payment.captured) if payment.state is PaymentState.CREDIT else NOTHING
            self._observer(CallReleased(resource=self.resource, owed=owed))
        return payment
