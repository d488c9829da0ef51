"""Settling: what becomes of the money, from the hold in the purse to what the wallet says for certain.

Rules
1. The intent is in the purse, and its price held in the budget, before the wallet hears of it.
2. Unknown is never failed. An amount is released only when the wallet says that it did not pay, or when it has never
   heard of the payment and the invoice has run out. A purchase that is interrupted while paying stays held.
3. A request that is made again never has two payments on the way, nor has one invoice; what is asked for twice at once
   is two requests. A payment that never reached the wallet, because whoever began it was killed, is made by whoever
   makes its call again: it is the same invoice, to a wallet that pays none twice. From then on one that failed stays
   held until its invoice has run out: the other may be paying it.
4. Money that is held for payments of which nobody has asked since is looked up before a call is refused for want of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

from farebox.core.allowance import account_of
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import (
    ApprovalNeeded,
    InvoiceRefused,
    OverBudget,
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    StoreUnavailable,
    TooManyInFlight,
    WalletError,
)
from farebox.core.payment import DrawState
from farebox.core.ports import Clock, Failed, Paid, PayOutcome, Unresolved
from farebox.core.purse import Purchase
from farebox.payer.asking import consult, hold, recall, release, take_over
from farebox.payer.offer import CLOCK_SKEW, Offer
from farebox.payer.steps import (
    AskApproval,
    Capture,
    Hold,
    LookUp,
    Pay,
    Recall,
    Release,
    Story,
    TakeOver,
    Wait,
)

_PAUSES: Final = tuple(timedelta(milliseconds=count) for count in (200, 400, 800, 1600))
_ABANDONED_AFTER: Final = timedelta(seconds=5)  # between the hold and the call of the wallet nothing is waited for
_IN_TURN_FOR: Final = timedelta(seconds=60)  # so long a call waits for payments to the same host that are on their way
_IN_TURN_PAUSE: Final = timedelta(milliseconds=250)
_WORD_PAUSE: Final = timedelta(seconds=1)  # between two looks whether somebody has approved
_INVOICE_MARGIN: Final = timedelta(seconds=30)


class Settling:
    """The payments of one process.

    patience: how long a parked call waits for a person's word. takes_over: whether a payment may be made that another
    process began, and of which the wallet has never heard.
    """

    def __init__(self, *, clock: Clock, patience: timedelta, takes_over: bool) -> None:
        self._takes_over = takes_over
        self._clock = clock
        self._patience = patience
        self._live: list[bytes] = []  # payments that purchases of this process are busy with
        self._knows_strays = False  # whether what earlier processes left was looked up

    def resume(self) -> Story[tuple[Purchase, ...]]:
        """Look up every payment that is held and capture or release it; returns them as they now stand.

        A payment that turns out to be paid stays unserved until its call is made again.
        """
        self._knows_strays = True
        resumed = []
        for purchase in (yield from recall(Recall(request_digest=None))):
            if purchase.state is DrawState.HELD and purchase.payment_hash not in self._live:
                found, _ = yield from self._look_up(purchase)
                resumed.append(found)
        return tuple(resumed)

    def find_paid(self, digest: bytes) -> Story[Purchase | None]:
        """The oldest purchase of a request that nobody here is busy with and that is paid for certain."""
        return (yield from self._resolve(digest, lambda purchase: purchase.payment_hash not in self._live))

    def _resolve(self, digest: bytes, concerns: Callable[[Purchase], bool]) -> Story[Purchase | None]:
        """The oldest purchase of a request that is paid for certain, after a little patience with those that may be.

        One of which the wallet has never heard is paid here, when whoever began it has had the time to.
        Raises PaymentUnresolved when there are only such of which nobody can tell.
        """
        pauses = iter(_PAUSES)
        while True:
            unresolved: Purchase | None = None
            unheard = False
            for purchase in filter(concerns, (yield from recall(Recall(request_digest=digest)))):
                found = purchase
                if purchase.state is DrawState.HELD:
                    found, unheard = yield from self._look_up(purchase)
                if found.state is DrawState.CAPTURED:
                    return found
                if found.state is DrawState.HELD:
                    unresolved = found
            if unresolved is None:
                return None
            if unheard and (yield from self._take_over(unresolved)):
                with self.busy_with(unresolved):
                    return (yield from self._pay(decode(unresolved.challenge.invoice), unresolved))
            pause = next(pauses, None)
            if pause is None and unheard and self._takes_over:
                pause = self._until_abandoned(unresolved)
            if pause is None:
                with self.busy_with(unresolved):
                    raise PaymentUnresolved(unresolved.reason)
            yield Wait(span=pause)

    def _until_abandoned(self, purchase: Purchase) -> timedelta | None:
        """How long it may still be that whoever began a payment is about to make it; None for no longer."""
        left = (purchase.held_at or self._clock()) + _ABANDONED_AFTER - self._clock()
        return left if timedelta(0) < left <= _ABANDONED_AFTER else None

    def _take_over(self, purchase: Purchase) -> Story[bool]:
        """Whether a payment that some process began, and of which the wallet has never heard, is for this one to make.

        It is the same invoice, which no node pays twice; and of all processes one at a time may have a try.
        """
        if not self._takes_over or self._live.count(purchase.payment_hash) > 1:
            return False  # or another purchase of this process is about to pay it
        now = self._clock()
        if now >= purchase.invoice_expires_at - _INVOICE_MARGIN or now - (purchase.held_at or now) < _ABANDONED_AFTER:
            return False
        return (yield from take_over(TakeOver(payment_hash=purchase.payment_hash, held_for=_ABANDONED_AFTER)))

    def pay_once(self, offer: Offer, step: Hold) -> Story[tuple[Purchase, bool]]:
        """The purchase, paid, and whether somebody else had paid it.

        A seller gives one caller the same invoice for the same request, so another purchase may be busy with it.
        """
        intent = step.purchase
        for _ in range(2):
            known = yield from self._hold(step)
            if known is None:
                return (yield from self._pay(offer.invoice, intent)), False
            if account_of(known.labels) != account_of(intent.labels):
                raise TooManyInFlight("a call like this is being paid from another purse, with the same invoice")
            if known.request_digest != intent.request_digest:
                raise InvoiceRefused("this invoice was offered for another request before")
            if known.state is DrawState.CAPTURED:
                return known, True
            paid = yield from self._resolve(known.request_digest, lambda it: it.payment_hash == intent.payment_hash)
            if paid is not None:
                return paid, True
        raise PaymentUnresolved("another purchase is busy with this invoice")

    def _hold(self, step: Hold) -> Story[Purchase | None]:
        """Hold it; where there is no room, look first whether others still need what they hold, and wait in turn."""
        if not self._knows_strays:
            yield from self.resume()
        looked, asked = False, False
        until = self._clock() + _IN_TURN_FOR
        approved_until = min(self._clock() + self._patience, step.purchase.invoice_expires_at - _INVOICE_MARGIN)
        while True:
            try:
                return (yield from hold(step))
            except (OverBudget, TooManyInFlight) as error:
                if not looked:
                    looked = True
                    if any(found.state is not DrawState.HELD for found in (yield from self.resume())):
                        continue
                if isinstance(error, OverBudget) or self._clock() + _IN_TURN_PAUSE > until:
                    raise
                yield Wait(span=_IN_TURN_PAUSE)
            except ApprovalNeeded as error:
                number = error.evidence.get("approval")
                if number is None:  # too many are asked about already
                    raise
                if not asked:
                    asked = True
                    yield AskApproval(number=int(number))
                    continue
                if self._clock() + _WORD_PAUSE > approved_until:
                    raise
                yield Wait(span=_WORD_PAUSE)

    def _pay(self, invoice: Invoice, intent: Purchase) -> Story[Purchase]:
        outcome: PayOutcome
        try:
            outcome = yield from consult(Pay(invoice=invoice, fee_limit=intent.fee_limit))
        except WalletError as error:
            outcome = Unresolved(reason=str(error))
        purchase = yield from self._record(intent, outcome)
        match purchase.state:
            case DrawState.CAPTURED:
                return purchase
            case DrawState.RELEASED:
                raise PaymentFailed(purchase.reason)
            case DrawState.HELD:
                raise PaymentUnresolved(purchase.reason)

    def _look_up(self, purchase: Purchase) -> Story[tuple[Purchase, bool]]:
        """The purchase as it now stands, and whether the wallet has never heard of it."""
        outcome: PayOutcome
        try:
            outcome = yield from consult(LookUp(payment_hash=purchase.payment_hash))
        except WalletError as error:
            outcome = Unresolved(reason=str(error))
        ran_out = self._clock() > purchase.invoice_expires_at + CLOCK_SKEW
        if isinstance(outcome, Unresolved) and not outcome.known and ran_out:
            outcome = Failed(reason="the payment never reached the wallet, and the invoice has run out")
        if isinstance(outcome, Failed) and purchase.attempt and not ran_out:
            # It may be the earlier attempt that failed, while another process is making this one.
            outcome = Unresolved(reason=outcome.reason)
        unheard = isinstance(outcome, Unresolved) and not outcome.known
        return (yield from self._record(purchase, outcome)), unheard

    def _record(self, purchase: Purchase, outcome: PayOutcome) -> Story[Purchase]:
        """Write an outcome into the purse; the purchase as it then stands, HELD when nobody can tell."""
        match outcome:
            case Paid(preimage=preimage, fee=fee) if sha256(preimage.reveal()).digest() == purchase.payment_hash:
                with suppress(StoreUnavailable):  # the proof is in hand; what stays held is looked up another time
                    yield Capture(payment_hash=purchase.payment_hash, preimage=preimage, fee=fee)
                return replace(purchase, state=DrawState.CAPTURED, preimage=preimage, fee=fee)
            case Paid():
                return replace(purchase, reason="what the wallet gives as proof does not fit the payment hash")
            case Failed(reason=reason):
                if (yield from release(Release(payment_hash=purchase.payment_hash, reason=reason))):
                    return replace(purchase, state=DrawState.RELEASED, reason=reason)
                return replace(purchase, reason=reason)  # another process may be making it just now
            case Unresolved(reason=reason):
                return replace(purchase, reason=reason)

    @contextmanager
    def busy_with(self, purchase: Purchase) -> Iterator[None]:
        """Others of this process leave this payment alone meanwhile, and an error says which payment it is about."""
        self._live.append(purchase.payment_hash)
        try:
            yield
        except PurchaseError as error:
            error.with_evidence(
                origin=purchase.origin,
                amount_msat=purchase.amount.msat,
                payment_hash=purchase.payment_hash.hex(),
            )
            raise
        finally:
            self._live.remove(purchase.payment_hash)
