"""The payer: the buyer's front room. One purchase, told once, without I/O (house, The buyer).

Rules
1. What is unfinished comes first: a proof that was paid for is shown before anything is paid, and a payment of which
   nobody can tell is looked up. The same call never has two payments on the way.
2. The intent is in the purse, and its price held in the budget, before the wallet hears of it.
3. At most one payment in one purchase. Whatever the seller answers to a proof, nothing is paid on top.
4. Unknown is never failed. An amount is released only when the wallet says that it did not pay, or when it has never
   heard of the payment and the invoice has run out. A purchase that is interrupted while paying stays held.
5. A proof is shown again, a bounded number of times, to a seller that asks to come again or whose answer got lost.
6. Served is what was answered to the last byte, other than by a refusal of the proof or a failure of the server.
7. A seller who took money twice and did not serve is not paid a third time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

from farebox.core.errors import (
    BodyNotReplayable,
    InvoiceRefused,
    MalformedValue,
    OriginChanged,
    OverBudget,
    PaidAsCredit,
    PaidNotServed,
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    StoreUnavailable,
    WalletError,
)
from farebox.core.exchange import Receipt, Wire
from farebox.core.payment import DrawState
from farebox.core.ports import KEPT, Clock, Dialect, Failed, Paid, PayOutcome, Purchase, Unresolved
from farebox.payer.offer import CLOCK_SKEW, Limits, Offer, choose_offer, write_proof
from farebox.payer.steps import (
    Answered,
    Bought,
    Capture,
    LookUp,
    MarkServed,
    NoAnswer,
    OutgoingCall,
    Pay,
    Release,
    Story,
    Wait,
    consult,
    deliver,
    hold,
    recall,
    send,
)
from farebox.payer.verdict import ComeAgain, Refused, judge

_PAYMENT_REQUIRED: Final = 402
_PAUSES: Final = tuple(timedelta(milliseconds=count) for count in (200, 400, 800, 1600))
_FIRST_PAUSE: Final = timedelta(milliseconds=500)
_LONGEST_PAUSE: Final = timedelta(seconds=8)
_MOST_SHOWINGS: Final = 40
_MOST_COSTLY: Final = 1  # a seller gives up after few failed calls; those of one purchase must not be all of them
_MOST_LOSSES: Final = 3
_MOST_STUCK: Final = 2
_STUCK_AFTER: Final = timedelta(minutes=10)  # until then it may be a purchase that another process is still making
_INSIST_FOR: Final = timedelta(hours=24)  # after that a refused proof no longer keeps the call from being paid anew


class Payer:
    """Buys answers: drive `purchase(call)` to its end, and it returns what the answer cost.

    dialects: the ones to pay in, the safest proof first. clock: the time, in UTC.
    patience: how long one purchase goes on showing its proof to a seller that says to come again.
    """

    def __init__(
        self,
        *,
        dialects: Sequence[Dialect],
        limits: Limits,
        clock: Clock,
        patience: timedelta = timedelta(minutes=2),
    ) -> None:
        self._dialects = tuple(dialects)
        self._limits = limits
        self._clock = clock
        self._patience = patience
        self._live: list[bytes] = []  # payments that purchases of this process are busy with
        self._stuck: set[bytes] = set()  # payments of this process that have come to nothing so far

    # --- the story --------------------------------------------------------------------------------------------------

    def purchase(self, call: OutgoingCall) -> Story[Bought]:
        """Get the call answered, and pay for it at most once.

        Raises a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when the purse
        can't be written; and whatever the driver throws in.
        """
        while (earlier := (yield from self._find_paid(call))) is not None:
            with self._busy_with(earlier):
                shown = yield from self._show(call, earlier, replayed=True)
                if isinstance(shown, Bought):
                    return shown
                if self._clock() < (earlier.held_at or self._clock()) + _INSIST_FOR:
                    raise _not_served(shown)
                yield MarkServed(payment_hash=earlier.payment_hash)
        answer = yield from self._knock()
        if answer.status != _PAYMENT_REQUIRED:
            return Bought()
        offer = self._audit(call, answer)
        yield from self._shun_bad_seller(call)
        intent = _intent(call, offer)
        with self._busy_with(intent):
            purchase, replayed = yield from self._pay_once(call, offer, intent)
            shown = yield from self._show(call, purchase, replayed=replayed)
            if isinstance(shown, Bought):
                return shown
            raise _not_served(shown)

    def ask(self, call: OutgoingCall) -> Story[Offer | None]:
        """Send the call without a proof and pay nothing: the audited offer, or None when it was answered as it is."""
        answer = yield from self._knock()
        return self._audit(call, answer) if answer.status == _PAYMENT_REQUIRED else None

    def resume(self) -> Story[tuple[Purchase, ...]]:
        """Look up every payment that is held and capture or release it; returns them as they now stand.

        A payment that turns out to be paid stays unserved until its call is made again.
        """
        resumed = []
        for purchase in (yield from recall(None)):
            if purchase.state is DrawState.HELD and purchase.payment_hash not in self._live:
                resumed.append((yield from self._look_up(purchase)))
        return tuple(resumed)

    # --- before paying ----------------------------------------------------------------------------------------------

    def _find_paid(self, call: OutgoingCall) -> Story[Purchase | None]:
        if call.digest is None:
            return None
        return (yield from self._resolve(call.digest, lambda purchase: purchase.payment_hash not in self._live))

    def _resolve(self, digest: bytes, concerns: Callable[[Purchase], bool]) -> Story[Purchase | None]:
        """The oldest purchase of a request that is paid for certain, after a little patience with those that may be.

        Raises PaymentUnresolved when there are only such.
        """
        pauses = iter(_PAUSES)
        while True:
            unresolved: Purchase | None = None
            for purchase in filter(concerns, (yield from recall(digest))):
                found = (yield from self._look_up(purchase)) if purchase.state is DrawState.HELD else purchase
                if found.state is DrawState.CAPTURED:
                    return found
                if found.state is DrawState.HELD:
                    unresolved = found
            if unresolved is None:
                return None
            if (pause := next(pauses, None)) is None:
                with self._busy_with(unresolved):
                    raise PaymentUnresolved(unresolved.reason)
            yield Wait(span=pause)

    def _knock(self) -> Story[Answered]:
        heard = yield from send()
        if isinstance(heard, NoAnswer):
            raise TypeError("a driver reports a call without a proof as lost by throwing its own error")
        return heard

    def _audit(self, call: OutgoingCall, answer: Answered) -> Offer:
        """What to pay for, if it may be paid at all. Raises what keeps it from being paid."""
        try:
            if answer.origin != call.origin:
                raise OriginChanged(f"{answer.origin} asks", asked_by=answer.origin)
            if call.digest is None:
                raise BodyNotReplayable
            offer = choose_offer(answer.wire, dialects=self._dialects, limits=self._limits, now=self._clock())
            most = self._limits.most
            if most is not None and offer.amount > most:
                told = f"it costs {offer.amount}, and the most for one call is {most}"
                raise OverBudget(told, asked_msat=offer.amount.msat, limit_msat=most.msat)
        except PurchaseError as error:
            raise error.with_evidence(origin=call.origin) from None
        return offer

    def _shun_bad_seller(self, call: OutgoingCall) -> Story[None]:
        """Raise InvoiceRefused when this seller has enough money of ours for which nothing came."""
        now = self._clock()
        stuck = [
            purchase
            for purchase in (yield from recall(None))
            if purchase.origin == call.origin
            and purchase.reason != KEPT
            and (
                purchase.payment_hash in self._stuck
                or (
                    purchase.payment_hash not in self._live
                    and purchase.held_at is not None
                    and _STUCK_AFTER < now - purchase.held_at < _INSIST_FOR
                )
            )
        ]
        if len(stuck) >= _MOST_STUCK:
            raise InvoiceRefused(
                f"{len(stuck)} earlier purchases at this origin are paid or held, and were not served",
                origin=call.origin,
                unserved=len(stuck),
            )

    # --- paying -----------------------------------------------------------------------------------------------------

    def _pay_once(self, call: OutgoingCall, offer: Offer, intent: Purchase) -> Story[tuple[Purchase, bool]]:
        """The purchase, paid, and whether somebody else had paid it.

        A seller gives one caller the same invoice for the same request, so another purchase may be busy with it.
        """
        for _ in range(2):
            known = yield from hold(intent, self._limits.budget.windows)
            if known is None:
                return (yield from self._pay(offer, intent)), False
            if known.request_digest != call.digest:
                raise InvoiceRefused("this invoice was offered for another request before")
            if known.state is DrawState.CAPTURED:
                return known, True
            paid = yield from self._resolve(known.request_digest, lambda it: it.payment_hash == intent.payment_hash)
            if paid is not None:
                return paid, True
        raise PaymentUnresolved("another purchase is busy with this invoice")

    def _pay(self, offer: Offer, intent: Purchase) -> Story[Purchase]:
        outcome: PayOutcome
        try:
            outcome = yield from consult(Pay(invoice=offer.invoice, fee_limit=offer.fee_limit))
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

    def _look_up(self, purchase: Purchase) -> Story[Purchase]:
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
        return (yield from self._record(purchase, outcome))

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
                yield Release(payment_hash=purchase.payment_hash, reason=reason)
                return replace(purchase, state=DrawState.RELEASED, reason=reason)
            case Unresolved(reason=reason):
                return replace(purchase, reason=reason)

    # --- after paying -----------------------------------------------------------------------------------------------

    def _show(self, call: OutgoingCall, purchase: Purchase, *, replayed: bool) -> Story[Bought | Refused]:
        """Show the proof until the answer is here whole, the seller refuses it, or patience ends."""
        dialect = next((known for known in self._dialects if known.name == purchase.challenge.dialect), None)
        if dialect is None or purchase.preimage is None:
            return Refused(reason=f"the proof can't be shown: {purchase.challenge.dialect} is not spoken here")
        proof = write_proof(dialect, purchase.challenge, purchase.preimage)
        until, pause, losses, costs = self._clock() + self._patience, _FIRST_PAUSE, 0, 0
        reason, after = "", timedelta(0)
        for _ in range(_MOST_SHOWINGS):
            wait = pause
            match (yield from self._show_once(purchase, proof)):
                case Answered(wire=wire):
                    return _bought(purchase, _read_receipt(dialect, wire, purchase), replayed=replayed)
                case Refused() as refused:
                    if refused.spent or refused.credit:
                        yield MarkServed(payment_hash=purchase.payment_hash)
                    return refused
                case NoAnswer(reason=reason):
                    losses += 1
                case ComeAgain(reason=reason, after=after, costly=costly):
                    wait = max(wait, after)
                    costs += costly
            if losses > _MOST_LOSSES or costs > _MOST_COSTLY or self._clock() + wait > until:
                break
            yield Wait(span=wait)
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise PaidNotServed(reason, retry_after_s=after // timedelta(seconds=1) or None)

    def _show_once(self, purchase: Purchase, proof: Wire) -> Story[Answered | NoAnswer | ComeAgain | Refused]:
        heard = yield from send(proof)
        if isinstance(heard, NoAnswer):
            return heard
        verdict = judge(heard, purchase.payment_hash, dialects=self._dialects, now=self._clock())
        if verdict is not None:
            return verdict
        kept = heard.status >= 400 and "true" in heard.wire.all("payment-kept")
        lost = yield from deliver(purchase.payment_hash, kept=kept)
        return lost or heard

    @contextmanager
    def _busy_with(self, purchase: Purchase) -> Iterator[None]:
        """Others of this process leave this payment alone meanwhile, and an error says which payment it is about."""
        self._live.append(purchase.payment_hash)
        try:
            yield
        except PurchaseError as error:
            if error.money_moved is not False:
                self._stuck.add(purchase.payment_hash)
            error.with_evidence(
                origin=purchase.origin,
                amount_msat=purchase.amount.msat,
                payment_hash=purchase.payment_hash.hex(),
            )
            raise
        finally:
            self._live.remove(purchase.payment_hash)


def _not_served(refused: Refused) -> PaidNotServed:
    return (PaidAsCredit if refused.credit else PaidNotServed)(refused.reason, status=refused.status)


def _intent(call: OutgoingCall, offer: Offer) -> Purchase:
    return Purchase(
        payment_hash=offer.invoice.payment_hash,
        request_digest=call.digest or b"",
        origin=call.origin,
        url=call.url,
        amount=offer.amount,
        fee_limit=offer.fee_limit,
        challenge=offer.challenge,
        invoice_expires_at=offer.invoice.expires_at,
    )


def _read_receipt(dialect: Dialect, wire: Wire, purchase: Purchase) -> Receipt | None:
    """The receipt, if it is one for this payment: the answer is worth having without it."""
    try:
        receipt = dialect.read_receipt(wire)
    except MalformedValue:
        return None
    return receipt if receipt is not None and receipt.payment_hash == purchase.payment_hash else None


def _bought(purchase: Purchase, receipt: Receipt | None, *, replayed: bool) -> Bought:
    return Bought(
        paid=purchase.amount,
        fee=purchase.fee,
        payment_hash=purchase.payment_hash,
        receipt=receipt,
        dialect=purchase.challenge.dialect,
        replayed=replayed,
    )
