"""The payer: the buyer's front room. One purchase, told once, without I/O (house, The buyer).

Rules
1. What is unfinished comes first: a proof that was paid for is shown before anything is paid, and a payment of which
   nobody can tell is looked up. The same call never has two payments on the way.
2. The intent is in the purse, and its price held in the budget, before the wallet hears of it.
3. At most one payment in one purchase. Whatever the seller answers to a proof, nothing is paid on top.
4. What became of the money is told by farebox.payer.settling, and unknown is never failed.
5. A proof is shown again, a bounded number of times, to a seller that asks to come again or whose answer got lost.
6. Served is what was answered to the last byte, other than by a refusal of the proof or a failure of the server.
7. A seller who took money twice and did not serve is not paid a third time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

from farebox.core.allowance import UNNARROWED, Allowance, account_of, priced_as
from farebox.core.budget import HOST, Budget
from farebox.core.errors import (
    MalformedValue,
    NothingPaid,
    OriginChanged,
    PaidAsCredit,
    PaidNotServed,
    PaidRedirect,
    PurchaseError,
    StoreUnavailable,
)
from farebox.core.exchange import Receipt, Wire
from farebox.core.ports import Clock, Dialect
from farebox.core.purse import Purchase
from farebox.payer.asking import deliver, hold, recall, recall_seen, send, show
from farebox.payer.caution import check_change, check_price, check_seller, guards_for, is_private
from farebox.payer.offer import Limits, Offer, choose_offer, write_proof
from farebox.payer.proofs import Proof, Proofs, serves
from farebox.payer.settling import Settling
from farebox.payer.steps import (
    Answered,
    Bought,
    ChangePayee,
    Ending,
    ForgetProof,
    Hold,
    Mark,
    NoAnswer,
    NotePrice,
    OutgoingCall,
    RecallProofs,
    Story,
    Wait,
    undelivered,
)
from farebox.payer.verdict import ComeAgain, Refused, judge

_PAYMENT_REQUIRED: Final = 402
_FIRST_PAUSE: Final = timedelta(milliseconds=500)
_LONGEST_PAUSE: Final = timedelta(seconds=8)
_MOST_SHOWINGS: Final = 40
_MOST_COSTLY: Final = 1  # a seller gives up after few failed calls; those of one purchase must not be all of them
_MOST_LOSSES: Final = 3
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
        self._proofs = Proofs()
        self._settling = Settling(
            clock=lambda: self._clock(), patience=limits.approval_patience, takes_over=limits.pays_once
        )

    # --- the story --------------------------------------------------------------------------------------------------

    def purchase(self, call: OutgoingCall, allowance: Allowance = UNNARROWED) -> Story[Bought]:
        """Get the call answered, and pay for it at most once.

        Raises a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when the purse
        can't be written; and whatever the driver throws in.
        """
        if call.strays:
            return (yield from self._follow(call, allowance))
        heard: Answered | None = None
        account = allowance.account
        if (proof := self._proofs.find(call, account, self._clock())) is not None and (
            not allowance.hosts or allowance.admits(call.host)
        ):
            heard = yield from send(proof.wire)
            if serves(heard):
                return Bought(payment_hash=proof.payment_hash, dialect=proof.dialect, reused=True)
            yield from self._drop(call, proof)
        while (earlier := (yield from self._find_paid(call, account))) is not None:
            with self._settling.busy_with(earlier):
                shown = yield from self._show(call, earlier, account, replayed=True)
                if isinstance(shown, Bought):
                    return shown
                if self._clock() < (earlier.held_at or self._clock()) + _INSIST_FOR:
                    raise _not_served(shown)
                yield _lost(earlier, shown.reason)
        if heard is None or heard.status != _PAYMENT_REQUIRED:
            heard = yield from send()
        if heard.status != _PAYMENT_REQUIRED:
            return Bought()
        offer = self._audit(call, heard, allowance)
        if (reused := (yield from self._try_proofs(call, offer, account))) is not None:
            return reused
        yield from self._compare(call, offer, allowance)
        intent = self._intent(call, offer, allowance)
        with self._settling.busy_with(intent):
            purchase, replayed = yield from self._settling.pay_once(offer, self._hold_step(call, intent, allowance))
            shown = yield from self._show(call, purchase, account, replayed=replayed)
            if isinstance(shown, Bought):
                return shown
            raise _not_served(shown)

    def _follow(self, call: OutgoingCall, allowance: Allowance) -> Story[Bought]:
        """Where a redirect led to another origin: nothing is paid there, and no proof is shown."""
        answer = yield from send()
        if answer.status == _PAYMENT_REQUIRED:
            self._audit(call, answer, allowance)
            raise OriginChanged(f"{answer.origin} asks", asked_by=answer.origin)
        return Bought()

    def ask(self, call: OutgoingCall, allowance: Allowance = UNNARROWED) -> Story[Offer | None]:
        """Send the call without a proof and pay nothing: the audited offer, or None when it was answered as it is.

        Its `objection` is what would keep it from being paid now. The price is remembered as the last one seen.
        """
        answer = yield from send()
        if answer.status != _PAYMENT_REQUIRED:
            return None
        offer = self._audit(call, answer, allowance)
        resource = priced_as(call.resource, allowance.labels)
        seen = yield from recall_seen(call.origin, resource)
        offer = replace(offer, last_price=seen.price)
        try:
            check_change(offer, seen, self._limits, allowance)
            step = self._hold_step(call, self._intent(call, offer, allowance), allowance)
            yield from hold(replace(step, weigh=True))
        except NothingPaid as objection:
            return replace(offer, objection=objection.with_evidence(origin=call.origin))
        payee = offer.invoice.payee
        yield NotePrice(origin=call.origin, resource=resource, price=offer.amount, payee=payee)
        return offer

    def resume(self) -> Story[tuple[Purchase, ...]]:
        """Look up every payment that is held and capture or release it; returns them as they now stand.

        A payment that turns out to be paid stays unserved until its call is made again.
        """
        return (yield from self._settling.resume())

    # --- proofs that are kept ---------------------------------------------------------------------------------------

    def _try_proofs(self, call: OutgoingCall, offer: Offer, account: str) -> Story[Bought | None]:
        """Whether a proof of another process, or of an earlier one, serves this call."""
        if offer.dialect.reusable_until(offer.challenge, now=self._clock()) is None or self._proofs.is_single(call):
            return None
        for purchase in (yield from recall(RecallProofs(origin=call.origin, resource=call.resource))):
            if (proof := self._proof_of(purchase)) is None or purchase.amount != offer.amount:
                continue
            if account_of(purchase.labels) != account:
                continue
            heard = yield from send(proof.wire)
            if serves(heard):
                self._proofs.keep(call, account, proof)
                return Bought(payment_hash=proof.payment_hash, dialect=proof.dialect, reused=True)
            yield from self._drop(call, proof)
            break
        return None

    def _proof_of(self, purchase: Purchase) -> Proof | None:
        dialect = self._dialect_of(purchase)
        if dialect is None or purchase.preimage is None or purchase.reusable_until is None:
            return None
        wire = write_proof(dialect, purchase.challenge, purchase.preimage)
        until = purchase.reusable_until
        return Proof(wire=wire, payment_hash=purchase.payment_hash, dialect=dialect.name, until=until)

    def _drop(self, call: OutgoingCall, proof: Proof) -> Story[None]:
        self._proofs.drop(call)
        with suppress(StoreUnavailable):  # at worst it is tried once more
            yield ForgetProof(payment_hash=proof.payment_hash)

    def _dialect_of(self, purchase: Purchase) -> Dialect | None:
        return next((known for known in self._dialects if known.name == purchase.challenge.dialect), None)

    # --- before paying ----------------------------------------------------------------------------------------------

    def _find_paid(self, call: OutgoingCall, account: str) -> Story[Purchase | None]:
        if call.digest is None:
            return None
        return (yield from self._settling.find_paid(digest_within(call.digest, account)))

    def _audit(self, call: OutgoingCall, answer: Answered, allowance: Allowance) -> Offer:
        """What to pay for, if it may be paid at all. Raises what keeps it from being paid."""
        try:
            check_seller(call, answer, self._limits, allowance)
            offer = choose_offer(
                answer.wire,
                dialects=self._dialects,
                limits=self._limits,
                now=self._clock(),
                keeps_proofs=call.keeps_proofs,
            )
            check_price(call, offer, self._limits, allowance)
        except PurchaseError as error:
            raise error.with_evidence(origin=call.origin) from None
        return offer

    def _compare(self, call: OutgoingCall, offer: Offer, allowance: Allowance) -> Story[None]:
        """Whether it is much like what was asked before."""
        seen = yield from recall_seen(call.origin, priced_as(call.resource, allowance.labels))
        try:
            check_change(offer, seen, self._limits, allowance)
        except PurchaseError as error:
            raise error.with_evidence(origin=call.origin) from None
        if seen.payee is not None and allowance.payee == offer.invoice.payee != seen.payee:
            yield ChangePayee(origin=call.origin, payee=offer.invoice.payee)

    # --- after paying -----------------------------------------------------------------------------------------------

    def _show(self, call: OutgoingCall, purchase: Purchase, account: str, *, replayed: bool) -> Story[Bought | Refused]:
        """Show the proof until the answer is here whole, the seller refuses it, or patience ends."""
        dialect = self._dialect_of(purchase)
        if dialect is None or purchase.preimage is None:
            return Refused(reason=f"the proof can't be shown: {purchase.challenge.dialect} is not spoken here")
        proof = write_proof(dialect, purchase.challenge, purchase.preimage)
        until, pause, losses, costs = self._clock() + self._patience, _FIRST_PAUSE, 0, 0
        reason, after = "", timedelta(0)
        location: str | None = None
        for _ in range(_MOST_SHOWINGS):
            wait = pause
            match (yield from self._show_once(purchase, proof)):
                case Answered(wire=wire):
                    if (kept := self._proof_of(purchase)) is not None:
                        self._proofs.keep(call, account, kept)
                    return _bought(purchase, _read_receipt(dialect, wire, purchase), replayed=replayed)
                case Refused() as refused:
                    if refused.spent and not replayed:  # which can't be: it was paid for just now
                        refused = replace(refused, spent=False)
                    if refused.is_final:
                        yield _lost(purchase, refused.reason)
                    else:
                        yield from _mark_undelivered(purchase)
                    return refused
                case NoAnswer(reason=reason, location=location):
                    losses += 1
                case ComeAgain(reason=reason, after=after, costly=costly):
                    location = None
                    wait = max(wait, after)
                    costs += costly
            if losses > _MOST_LOSSES or costs > _MOST_COSTLY or self._clock() + wait > until:
                break
            yield Wait(span=wait)
            pause = min(pause * 2, _LONGEST_PAUSE)
        yield from _mark_undelivered(purchase)
        if location is not None:
            return Refused(reason=f"{location}: {reason}", location=location)
        raise PaidNotServed(reason, retry_after_s=after // timedelta(seconds=1) or None)

    def _show_once(self, purchase: Purchase, proof: Wire) -> Story[Answered | NoAnswer | ComeAgain | Refused]:
        heard = yield from show(proof, purchase.payment_hash)
        if isinstance(heard, NoAnswer):
            return heard
        verdict = judge(heard, purchase.payment_hash, dialects=self._dialects, now=self._clock())
        if verdict is not None:
            return verdict
        kept = heard.status >= 400 and "true" in heard.wire.all("payment-kept")
        lost = yield from deliver(purchase.payment_hash, kept=kept)
        return lost or heard

    def _hold_step(self, call: OutgoingCall, intent: Purchase, allowance: Allowance) -> Hold:
        windows = self._limits.budget.among(intent.labels) + Budget(allowance.windows).among(intent.labels)
        return Hold(purchase=intent, limits=windows, guards=guards_for(call, self._limits))

    def _intent(self, call: OutgoingCall, offer: Offer, allowance: Allowance) -> Purchase:
        reusable = offer.dialect.reusable_until(offer.challenge, now=self._clock()) if is_private(call) else None
        return Purchase(
            payment_hash=offer.invoice.payment_hash,
            request_digest=digest_within(call.digest or b"", allowance.account),
            origin=call.origin,
            url=call.url,
            amount=offer.amount,
            fee_limit=offer.fee_limit,
            challenge=offer.challenge,
            invoice_expires_at=offer.invoice.expires_at,
            resource=call.resource,
            payee=offer.invoice.payee,
            labels=allowance.labels | {HOST + call.host},
            reusable_until=reusable,
        )


def digest_within(digest: bytes, account: str) -> bytes:
    """What tells the same call made again from the same purse: what one pays for is not another's to have."""
    return digest if not account else sha256(digest + account.encode()).digest()


def _not_served(refused: Refused) -> PaidNotServed:
    if refused.location is not None:
        return PaidRedirect(refused.reason, status=refused.status, location=refused.location)
    return (PaidAsCredit if refused.is_final else PaidNotServed)(refused.reason, status=refused.status)


def _lost(purchase: Purchase, reason: str) -> Mark:
    return Mark(payment_hash=purchase.payment_hash, ending=Ending.LOST, reason=reason)


def _mark_undelivered(purchase: Purchase) -> Story[None]:
    with suppress(StoreUnavailable):  # what is told of it matters more than what is remembered
        yield undelivered(purchase.payment_hash)


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
