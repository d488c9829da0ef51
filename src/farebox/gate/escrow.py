"""Escrows: pay on success. The node holds the money, the call runs, and then it is taken or given back.

Rules
1. A call runs when the node has said that it holds the money, and once: whoever begins it has won it in the ledger.
2. The answer is kept before the money is taken, and given after: whoever dies in between leaves both to be found.
3. A call that fails, or is refused, or of which nobody knows what became, gives the money back. Nothing is credit here.
4. The node is asked again until it says where the money is. Settling and cancelling twice change nothing.
5. A call has ten minutes. A node gives what it holds for hours back by itself, so nothing is ever near that.
6. Nothing of an answer leaves before the money is there. Whoever is refused again and again has the service run for
   nothing, so he pays first for a while, as ever; that a call fails is the seller's own affair, and counts for nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Never

import structlog

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import CallInProgress, NodeUnavailable, PaymentReturned, Unavailable, UpstreamFailed
from farebox.core.escrow import Escrow, EscrowState
from farebox.core.exchange import Wire
from farebox.core.payment import Answer, Hold, Payment
from farebox.core.ports import InvoiceState, InvoiceStatus, Ledger
from farebox.core.secret import KEY_ID_BYTES, Keys, Secret
from farebox.gate.admission import Paces
from farebox.gate.events import CallCaptured, CallReleased, Observer, Step, watched
from farebox.gate.grant import HeldCall
from farebox.gate.nodes import Nodes
from farebox.gate.running import RunningCalls

log = structlog.get_logger("farebox")

PACE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(seconds=2)
_ENDED_WITHIN: Final = timedelta(seconds=10)  # by whoever has begun to end it; then it is anybody's
_TRIED_AGAIN: Final = timedelta(seconds=4)  # less than the 5 s within which a node that is back is used
_UNKNOWN_FOR: Final = timedelta(days=1)  # after the end of its invoice, what no node knows is held by none
_MOST_TAKEN: Final = 64
_MOST_AT_ONCE: Final = 16
_REFUSALS: Final = 10  # at once, and in each span that
_DISTRUST_S: Final = 600.0  # lasts
_MOST_CLIENTS: Final = 8192
_MOST_HELD: Final = timedelta(minutes=10)
_PURPOSE: Final = "escrow preimage"
_SEED_BYTES: Final = 16
_TOO_LATE: Final = "the lease of this call ran out before it was done"
_EPOCH: Final = 1  # there is one call, and no other claim while there is an escrow


def new_seed(keys: Keys) -> bytes:
    """What a new preimage is made from; nothing to anybody without the keys."""
    return keys.ring().newest + secrets.token_bytes(_SEED_BYTES)


def preimage_of(seed: bytes, keys: Keys) -> Secret[bytes] | None:
    """The preimage (32 bytes) that was made from a seed; None when its key was revoked."""
    key_id = seed[:KEY_ID_BYTES]
    derived = keys.ring(key_id).derive(_PURPOSE, seed[KEY_ID_BYTES:], key_id)
    return None if derived is None else derived.key


class Escrows:
    """The calls of a gate that are paid on success. receipt: writes that of a payment hash and an amount.

    keys: what preimages are made with; without any nothing is held.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        nodes: Nodes,
        lease: timedelta,
        receipt: Callable[[bytes, Amount], Wire],
        keys: Keys | None,
        observer: Observer | None,
    ) -> None:
        self._ledger = ledger
        self._nodes = nodes
        self._lease = lease
        self._receipt = receipt
        self._keys = keys
        self._observer = observer
        self._running = RunningCalls(_Leases(ledger), lease)
        self._refusals = Paces(per_second=_REFUSALS / _DISTRUST_S, at_once=_REFUSALS)
        self._distrusted: OrderedDict[str, float] = OrderedDict()

    def trust(self, client: str) -> bool:
        """Whether this client may pay on success; one that was refused too often pays first, for ten minutes."""
        until_s = self._distrusted.get(client)
        return until_s is None or _now_s() >= until_s

    def refused(self, client: str) -> None:
        """A call of this client had run, and was refused for a fault of its own."""
        if not self._refusals.take(client, _now_s()):
            self._distrusted[client] = _now_s() + _DISTRUST_S
            self._distrusted.move_to_end(client)
            if len(self._distrusted) > _MOST_CLIENTS:
                self._distrusted.popitem(last=False)

    async def take(self, payment_hash: bytes) -> EscrowGrant | None:
        """The call to run now that the node holds the money for it; None as long as nobody has paid.

        Raises CallInProgress where there is nothing more to wait for: somebody else runs it, or it can't be paid any
        more; NodeUnavailable, StoreUnavailable.
        """
        payment = await self._ledger.find_payment(payment_hash)
        granted = None
        if payment is not None:
            _, status = await self._nodes.look_up(payment_hash, receiver=payment.receiver, proven=False)
            if status.state is InvoiceState.OPEN:
                return None
            if status.state is InvoiceState.HELD:
                granted = await self._begin(payment, self._receipt(payment_hash, payment.price))
        if granted is None:
            raise CallInProgress("it is being run, or is over")
        return granted

    async def join(self, payment: Payment, receipt: Wire, *, patience: timedelta) -> EscrowGrant | None:
        """The call to run for what the node holds; None when there is none, or another one has run to its end.

        Raises CallInProgress when that takes longer; PaymentReturned when it failed; StoreUnavailable.
        """
        payment_hash = payment.payment_hash
        deadline = asyncio.get_running_loop().time() + patience.total_seconds()
        while (granted := await self._begin(payment, receipt)) is None:
            match await self._ledger.find_escrow(payment_hash):
                case None:
                    return None
                case EscrowState.RETURNING:
                    raise PaymentReturned("the call that it was held for failed")
            try:
                if not await self._running.wait(payment_hash, deadline):
                    raise CallInProgress()
            except UpstreamFailed as error:
                raise PaymentReturned(error.detail) from None
        return granted

    async def finish(self, escrow: Escrow) -> bool:
        """Take the money or give it back, as the escrow says; whether it is ours. Raises NodeUnavailable."""
        payment_hash = escrow.payment.payment_hash
        status = await self._tell(escrow)
        match status.state:
            case InvoiceState.PAID:
                await self._ledger.end_escrow(payment_hash, status.received)
                return True
            case InvoiceState.CANCELLED:
                await self._ledger.end_escrow(payment_hash, None)
                return False
            case InvoiceState.UNKNOWN if self._ledger.now() > escrow.payment.expires_at + _UNKNOWN_FOR:
                log.critical("escrow-of-no-node", payment_hash=payment_hash.hex(), state=escrow.state.value)
                await self._ledger.end_escrow(payment_hash, None)
                return False
            case InvoiceState.UNKNOWN:
                raise NodeUnavailable("no node knows what it should hold")
            case InvoiceState.HELD | InvoiceState.OPEN:
                raise NodeUnavailable("it has not done yet what it was told to do with what it holds")

    async def end_due(self) -> int:
        """End what somebody began and did not end, or nobody came for; how many. Raises StoreUnavailable."""
        due = await self._ledger.take_due_escrows(lease=_TRIED_AGAIN, most=_MOST_TAKEN)
        turn, reasons = asyncio.Semaphore(_MOST_AT_ONCE), list[str]()

        async def end(escrow: Escrow) -> None:
            async with turn:
                try:
                    await self.finish(escrow)
                except NodeUnavailable as error:
                    reasons.append(error.detail or error.title)

        await asyncio.gather(*[end(escrow) for escrow in due])
        if reasons:
            log.warning("escrows-not-ended", escrows=len(reasons), reason=reasons[0])
        return len(due)

    async def end_all(self) -> Never:
        """End what is due, for ever."""
        pause = PACE
        while True:
            try:
                pause = PACE if await self.end_due() < _MOST_TAKEN else timedelta(0)
            except Unavailable as error:
                log.warning("escrows-not-ended", reason=error.detail)
                pause = LONGEST_PAUSE
            await asyncio.sleep(pause.total_seconds())

    def close(self) -> None:
        """Renew no more leases."""
        self._running.close()

    async def _begin(self, payment: Payment, receipt: Wire) -> EscrowGrant | None:
        """None where the call is not waiting to be run, or not any more."""
        escrow = await self._ledger.begin_escrow(payment.payment_hash, digest=payment.digest, lease=self._lease)
        if escrow is None:
            return None
        hold = Hold(
            payment_hash=payment.payment_hash,
            digest=payment.digest,
            epoch=_EPOCH,
            attempt=_EPOCH,
            amount=payment.price,
            lease_until=self._ledger.now() + self._lease,
        )
        return EscrowGrant(
            self, escrow, hold, receipt, ledger=self._ledger, running=self._running, observer=self._observer
        )

    async def _tell(self, escrow: Escrow) -> InvoiceStatus:
        """Tell the node what to do with what it holds; where the invoice then stands."""
        payment_hash = escrow.payment.payment_hash
        nodes = self._nodes.holders(escrow.payment.receiver)
        for node in nodes:
            found = None if len(nodes) == 1 else await node.asking.look_up(payment_hash, proven=True)
            if found is not None and found.state is InvoiceState.UNKNOWN:
                continue
            holder, preimage = node.holder, None
            if holder is None:
                raise NodeUnavailable(f"{node.name} does not say any more that it can hold what it is paid")
            if escrow.state is EscrowState.READY:
                preimage = self._preimage_of(escrow)
            if preimage is not None:
                status = await node.asking.move(holder.settle_invoice(preimage))
                if status.state is not InvoiceState.OPEN:
                    return status
            # Given back; or it has gone back meanwhile, and nobody is to pay again.
            return await node.asking.move(holder.cancel_invoice(payment_hash))
        return InvoiceStatus(state=InvoiceState.UNKNOWN)

    def _preimage_of(self, escrow: Escrow) -> Secret[bytes] | None:
        found = None if self._keys is None else preimage_of(escrow.seed, self._keys)
        if found is None:
            payment_hash = escrow.payment.payment_hash.hex()
            log.critical("escrow-lost", payment_hash=payment_hash, reason="the key of its preimage was revoked")
        return found


class EscrowGrant(HeldCall):
    """A call whose payment the node holds: `capture` takes the money, `release` and `give_up` give it back."""

    is_paid = False
    __slots__ = ("_escrow", "_escrows")

    def __init__(
        self,
        escrows: Escrows,
        escrow: Escrow,
        hold: Hold,
        receipt: Wire,
        *,
        ledger: Ledger,
        running: RunningCalls,
        observer: Observer | None,
    ) -> None:
        super().__init__(
            hold, receipt, ledger=ledger, running=running, resource=escrow.payment.resource, observer=observer
        )
        self._escrows = escrows
        self._escrow = escrow

    async def capture(self, answer: Answer | None) -> Wire:
        """Keep the answer, take the money, charge; returns the parts of the answer that hold the receipt.

        Raises PaymentReturned, and the money goes back, for an answer too large to be kept, and when it has gone back
        before; CallInProgress when the call took too long; StoreUnavailable and NodeUnavailable when it can't be told
        where the money is: then that is found out by whoever sees to it next.
        """
        if answer is None:
            await self.release(refused=True)
            raise PaymentReturned("its answer is larger than what can be kept until it is paid")
        captured = False
        try:
            with watched(self._observer, Step.CAPTURE, self.resource):
                captured = self._running.ending(self.hold) and await self._keep_and_settle(answer)
        finally:
            self._end(failed=not captured)
        if not captured:
            raise CallInProgress(_TOO_LATE)
        if self._observer is not None:
            self._observer(CallCaptured(resource=self.resource, amount=self.hold.amount))
        return self.receipt

    async def release(self, *, ran: bool = True, refused: bool = False) -> Payment:
        """The call failed: the money goes back. Returns the payment as it then stands."""
        del ran  # it has one attempt
        if refused:
            self._escrows.refused(self._escrow.payment.client)
        self._running.ending(self.hold)
        payment_hash = self.hold.payment_hash
        try:
            if await self._ledger.return_escrow(payment_hash, lease=_ENDED_WITHIN):
                returning = Escrow(payment=self._escrow.payment, state=EscrowState.RETURNING)
                await self._escrows.finish(returning)
        except NodeUnavailable as error:  # it is told again
            log.warning("escrow-not-ended", state=EscrowState.RETURNING.value, reason=error.detail)
        finally:
            self._end(failed=True)
        if self._observer is not None:
            self._observer(CallReleased(resource=self.resource, owed=NOTHING))
        return await self._ledger.find_payment(payment_hash) or self._escrow.payment

    async def give_up(self) -> Payment:
        """Nobody knows whether the call ran: the money goes back all the same."""
        return await self.release()

    async def _keep_and_settle(self, answer: Answer) -> bool:
        if not await self._ledger.keep_escrowed(self.hold.payment_hash, answer, lease=_ENDED_WITHIN):
            raise CallInProgress(_TOO_LATE)
        ready = Escrow(payment=self._escrow.payment, state=EscrowState.READY, seed=self._escrow.seed)
        if not await self._escrows.finish(ready):
            raise PaymentReturned("what was held for it has gone back before it was done")
        return True


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class _Leases:
    """What the heartbeat needs of a ledger, for escrows: a call has its lease for ten minutes at most."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        """Extend the lease; False when it is no longer the call's, or it has had it for long enough."""
        if self._ledger.now() > hold.lease_until + _MOST_HELD:
            return False
        return await self._ledger.renew_escrow(hold.payment_hash, lease=lease)

    async def changed(self, payment_hash: bytes, *, within: timedelta) -> None:
        """As the ledger does."""
        await self._ledger.changed(payment_hash, within=within)
