"""The gate: the seller's front room. It asks for money, admits who paid, and charges when it answers.

Rules
1. One payment buys one answer. The claim is one conditional statement in the ledger; the gate never checks, then acts.
2. A new invoice is made only when we hold no unspent money for the proof that was shown.
3. Unknown is never unpaid: when node or ledger can't tell, the caller is told to ask again, and nothing is lost.
4. The charge and the decision to answer are one step, `Grant.capture`. A failed call releases; the third is credit.
5. A bare payment hash is not a secret. It is honoured only from the client that was challenged, and only if the node
   says that it was paid.
6. The gate is handed its ledger, receivers and dialects, and knows none of them by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import (
    AnswerGone,
    CallInProgress,
    CredentialRejected,
    MalformedCredential,
    NodeUnavailable,
    RequestMismatch,
)
from farebox.core.exchange import Credential, Quote, Receipt, Wire
from farebox.core.payment import FreeCall, Hold, Payment, PaymentState
from farebox.core.ports import Clock, Dialect, InvoiceState, Ledger, Receiver
from farebox.core.secret import Keys
from farebox.gate.admission import Admission, Pace
from farebox.gate.asking import Converse
from farebox.gate.escrow import Escrows
from farebox.gate.events import AnswerReplayed, CallChallenged, Event, FreeCallAsked, Observer, Step, watched
from farebox.gate.grant import Grant, HeldCall, UnsavedAnswers
from farebox.gate.invoices import Invoices
from farebox.gate.lost import lost_payment, sealed_terms, undeliverable
from farebox.gate.memory import GivenAnswers, RunOut, SpentProofs
from farebox.gate.nodes import Nodes
from farebox.gate.proofs import Proofs
from farebox.gate.running import RunningCalls
from farebox.gate.terms import Challenged, Free, Replay, Terms, Visit
from farebox.gate.writing import write_challenge, write_receipt

_MOST_UNKNOWN_LOOK_UPS: Final = 20  # a second: anyone can show a hash that he made up, and each one asks the node
_HELD: Final = "the node holds this payment, and has not got it yet"

Decision = Free | Challenged | Replay | HeldCall


class Gate:
    """Sells calls: `await gate.admit(visit)` says Free, Challenged, Replay or hands out a HeldCall.

    receiver: the node that is paid, or several, the preferred one first. keys: what the dialects verify with, if that
    can change while the gate is open, and what is held is settled with. Raises ConfigError for receivers that do not go
    together.
    Every error that `admit` raises is a CallerError or Unavailable, ready to be answered as a problem.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        receiver: Receiver | Sequence[Receiver],
        dialects: Sequence[Dialect],
        converse: Converse,
        clock: Clock,
        terms: Terms | None = None,
        observer: Observer | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.ledger = ledger
        self.receivers = tuple(receiver) if isinstance(receiver, Sequence) else (receiver,)
        self.dialects = tuple(dialects)
        self.terms = terms or Terms()
        self._proofs = Proofs(dialects, clock, keys)
        self.proof_headers = self._proofs.headers
        self.proof_fields = self._proofs.fields
        self.converse = converse
        self._clock = clock
        self._observer = observer
        self._running = RunningCalls(ledger, self.terms.lease)
        self._given = GivenAnswers()
        self._unsaved = UnsavedAnswers(ledger, self._given, observer)
        self._spent = SpentProofs()
        self._run_out = RunOut()
        self._admission = Admission(self.terms.limits)
        self._nodes = Nodes(self.receivers, converse, self.terms, observer)
        self.escrows = Escrows(
            ledger=ledger,
            nodes=self._nodes,
            lease=self.terms.lease,
            receipt=self._receipt,
            keys=keys,
            observer=observer,
        )
        self._invoices = Invoices(
            ledger=ledger,
            nodes=self._nodes,
            terms=self.terms,
            admission=self._admission,
            keys=keys,
            trust=self.escrows.trust,
        )
        self._unknown_look_ups = Pace(per_second=_MOST_UNKNOWN_LOOK_UPS, at_once=_MOST_UNKNOWN_LOOK_UPS)

    async def admit(self, visit: Visit) -> Decision:
        """Decide about one call (reliability: the answer table).

        Raises MalformedCredential, CredentialRejected, RequestMismatch, CallInProgress, CallUndeliverable, AnswerGone,
        NodeUnavailable, StoreUnavailable; without a good proof also TooManyUnpaidCalls and GateOverloaded.
        """
        with watched(self._observer, Step.ADMIT, visit.quote.resource):
            try:
                return await self._decide(visit)
            except (CredentialRejected, MalformedCredential):
                self._admission.reject(visit.client, _now_s())
                raise

    async def _decide(self, visit: Visit) -> Decision:
        credential = self._proofs.read(visit.wire)
        if credential is None:
            self._admission.enter(visit.client, _now_s())
            free_call = await self._free_call(visit)
            if free_call is not None and free_call.granted:
                return Free(free_call=free_call)
            return await self._challenge(visit, free_call)
        given = self._given.find(credential.payment_hash, visit.quote.digest)
        if given is not None and credential.preimage is not None:
            self.tell(given.replayed)
            return given
        if credential.preimage is None:
            payment = await self._check_client(credential, visit.client)
            if payment is None:
                self._admission.reject(visit.client, _now_s())
                return await self._unknown(credential, visit)
            # Whether it was paid has to be asked before the claim, so that who never pays costs no write.
            if payment.state in (PaymentState.OPEN, PaymentState.EXPIRED):
                self._admission.poll(visit.client, payment.payment_hash, _now_s())
                match await self._asked_node(payment):
                    case InvoiceState.PAID:
                        pass
                    case InvoiceState.HELD:
                        return await self._held(payment, credential, visit)
                    case _:
                        return await self._unpaid(payment, visit)
        return await self._claim(credential, visit)

    def recall(self, authorization: str, digest: bytes) -> Replay | None:
        """The answer that this process gave lately for exactly this proof and request, without asking the ledger."""
        credential = self._proofs.recall(authorization)
        given = None if credential is None else self._given.find(credential.payment_hash, digest)
        if given is not None and self._observer is not None:
            self._observer(given.replayed)
        return given

    def tell(self, event: Event) -> None:
        """Tell whoever watches; a face tells what it refused by itself."""
        if self._observer is not None:
            self._observer(event)

    def now(self) -> datetime:
        """The gate's clock."""
        return self._clock()

    def is_proof(self, authorization: str) -> bool:
        """Whether an Authorization value is a proof of payment, which is nobody's business behind the gate."""
        return self._proofs.shown_by(authorization)

    async def save_answers(self) -> None:
        """Charge and keep answers that the ledger could not be given when they were there, before somebody asks.

        Who asks may ask another process, which does not have them. Raises StoreUnavailable when it still can't say.
        """
        await self._unsaved.save_all()

    async def close(self) -> None:
        """Stop the heartbeat and close the ledger."""
        self._running.close()
        self.escrows.close()
        await self._invoices.close()
        await self._nodes.close()
        await self.ledger.close()

    async def _check_client(self, credential: Credential, client: str) -> Payment | None:
        payment = await self.ledger.find_payment(credential.payment_hash)
        if payment is not None and payment.client != client:
            raise CredentialRejected(
                "a bare payment hash is taken only from the address that was challenged; "
                "show `Authorization: L402 <macaroon>:<preimage>` instead"
            )
        return payment

    # --- claiming -----------------------------------------------------------------------------------------------------

    async def _claim(self, credential: Credential, visit: Visit) -> Decision:
        quote, asked_node = visit.quote, False
        if self._spent.bought_another(credential.payment_hash, quote.digest):
            return await self._challenge_anew(visit)
        if (saved := await self._unsaved.save(credential.payment_hash, quote.digest, quote.resource)) is not None:
            self.tell(saved.replayed)
            return saved
        deadline = asyncio.get_running_loop().time() + self.terms.patience.total_seconds()
        while True:
            outcome = await self.ledger.hold(
                credential.payment_hash,
                digest=quote.digest,
                proven=credential.preimage is not None,
                lease=self.terms.lease,
                most_attempts=self.terms.most_attempts,
                rerun=visit.rerun,
            )
            if isinstance(outcome, Hold):
                return self._granted(outcome, credential, quote.resource)
            if outcome is None:
                return await self._unknown(credential, visit)
            match outcome.state:
                case PaymentState.OPEN | PaymentState.EXPIRED:
                    state = InvoiceState.OPEN if asked_node else await self._asked_node(outcome)
                    if state is InvoiceState.HELD:
                        raise NodeUnavailable(_HELD)
                    if state is not InvoiceState.PAID:
                        return await self._unpaid(outcome, visit)
                    asked_node = True
                case PaymentState.FUNDED if outcome.digest != quote.digest:
                    raise RequestMismatch(resource=outcome.resource)
                case PaymentState.FUNDED:
                    if not await self._running.wait(credential.payment_hash, deadline):
                        raise CallInProgress()
                case PaymentState.SPENT if outcome.digest == quote.digest:
                    return await self._replay(outcome, credential)
                case PaymentState.CREDIT:
                    raise undeliverable(outcome)
                case state:  # spent on another request, or refunded: this proof buys nothing any more
                    if state is PaymentState.SPENT:
                        self._spent.keep(outcome.payment_hash, outcome.digest)
                    return await self._challenge_anew(visit)

    def _granted(self, hold: Hold, credential: Credential, resource: str) -> Grant:
        return Grant(
            hold,
            self._receipt(hold.payment_hash, hold.amount, credential),
            ledger=self.ledger,
            running=self._running,
            given=self._given,
            unsaved=self._unsaved,
            most_attempts=self.terms.most_attempts,
            resource=resource,
            observer=self._observer,
        )

    async def _asked_node(self, payment: Payment) -> InvoiceState:
        """Where an invoice stands at the node; what was paid with less than its price is as good as unpaid."""
        _, status = await self._nodes.look_up(payment.payment_hash, receiver=payment.receiver, proven=False)
        if status.state is InvoiceState.PAID:
            if status.received < payment.price:
                return InvoiceState.OPEN
            await self.ledger.settle(payment.payment_hash, status.received)
        return status.state

    async def _held(self, payment: Payment, credential: Credential, visit: Visit) -> Decision:
        """The node holds the money until the call has succeeded: run it now, or wait for whoever does."""
        if payment.digest == visit.quote.digest:
            receipt = self._receipt(payment.payment_hash, payment.price, credential)
            granted = await self.escrows.join(payment, receipt, patience=self.terms.patience)
            if granted is not None:
                return granted
        found = await self.ledger.find_payment(payment.payment_hash)
        if found is not None and found.received:
            return await self._claim(credential, visit)
        if not self._still_asks(payment, visit):
            raise NodeUnavailable(_HELD)
        return await self._unpaid(payment, visit)

    async def _unpaid(self, payment: Payment, visit: Visit) -> Decision:
        """A proof for an invoice that nobody paid: the same invoice again while it can be paid, else a new one."""
        if not self._still_asks(payment, visit):
            return await self._challenge_anew(visit)
        quote = Quote(
            amount=payment.price,
            resource=payment.resource,
            digest=payment.digest,
            description=visit.quote.description,
        )
        self.tell(CallChallenged(resource=quote.resource, amount=quote.amount, reused=True))
        held = await self._invoices.is_held(visit, payment.payment_hash)
        return self._challenged(quote, decode(payment.invoice), None, timedelta(seconds=1), held=held)

    async def _unknown(self, credential: Credential, visit: Visit) -> Decision:
        """A payment that is not in the ledger: never a new invoice if the node says that it was paid.

        One that a restored backup has lost is made again from what stands under the seal of its proof.
        """
        sealed = sealed_terms(credential, self.dialects)
        if sealed is None and not self._unknown_look_ups.take(_now_s()):
            raise NodeUnavailable("too many unknown payments are being looked up")
        receiver, status = await self._nodes.look_up(credential.payment_hash, receiver="", proven=sealed is not None)
        if sealed is not None and status.state is InvoiceState.PAID and status.received >= sealed.price:
            lost = lost_payment(
                credential,
                sealed,
                visit,
                receiver=receiver,
                now=self.ledger.now(),
                claim_within=self.terms.claim_within,
            )
            await self.ledger.restore_payment(lost, status.received)
            return await self._claim(credential, visit)
        if status.state in (InvoiceState.PAID, InvoiceState.HELD):
            raise NodeUnavailable("the node knows a payment that the ledger has not learnt of yet")
        return await self._challenge_anew(visit)

    def _still_asks(self, payment: Payment, visit: Visit) -> bool:
        """Whether an unpaid invoice can still be paid, and for this request."""
        return (
            payment.state is not PaymentState.EXPIRED
            and payment.expires_at > self._clock()
            and payment.digest == visit.quote.digest
        )

    async def _replay(self, payment: Payment, credential: Credential) -> Replay:
        given = self._given.find(payment.payment_hash, payment.digest)
        if given is not None:
            self.tell(given.replayed)
            return given
        answer = await self.ledger.find_answer(payment.payment_hash)
        if answer is None:
            raise AnswerGone(payment_hash=payment.payment_hash.hex())
        receipt = self._receipt(payment.payment_hash, payment.price, credential)
        self.tell(AnswerReplayed(resource=payment.resource, remembered=False))
        return self._given.keep(payment.payment_hash, payment.digest, answer, receipt, payment.resource)

    # --- asking for money ---------------------------------------------------------------------------------------------

    async def _free_call(self, visit: Visit) -> FreeCall | None:
        """What the free tier says to this caller; nothing where the call can't be free."""
        terms = self.terms
        if not terms.free_calls or visit.probing or visit.quote.amount > terms.free_up_to:
            return None
        call = self._run_out.find(visit.client, self.ledger.now())
        if call is None:
            self._admission.look(visit.client, _now_s())
            call = await self.ledger.take_free_call(
                visit.client,
                limit=terms.free_calls,
                window=terms.free_window,
                subnet_limit=terms.free_limit_of_subnet,
                ceiling=terms.free_calls_of_all,
            )
            if not call.granted:
                self._run_out.keep(visit.client, call)
        self.tell(FreeCallAsked(resource=visit.quote.resource, granted=call.granted))
        return call

    async def _challenge_anew(self, visit: Visit) -> Challenged:
        """Ask a caller for money whose proof is worth nothing here, as if it had shown none."""
        self._admission.enter(visit.client, _now_s())
        return await self._challenge(visit, None)

    async def _challenge(self, visit: Visit, free_call: FreeCall | None) -> Challenged:
        quote = visit.quote
        invoice, reused = await self._invoices.owed_for(visit)
        self.tell(CallChallenged(resource=quote.resource, amount=quote.amount, reused=reused))
        held = await self._invoices.is_held(visit, invoice.payment_hash)
        return self._challenged(quote, invoice, free_call, held=held)

    def _challenged(
        self,
        quote: Quote,
        invoice: Invoice,
        free_call: FreeCall | None,
        retry_after: timedelta | None = None,
        *,
        held: bool,
    ) -> Challenged:
        wire = write_challenge(self.dialects, quote, invoice, valid_until=invoice.expires_at + self.terms.claim_within)
        return Challenged(
            quote=quote, invoice=invoice, wire=wire, free_call=free_call, retry_after=retry_after, held=held
        )

    # --- small print --------------------------------------------------------------------------------------------------

    def _receipt(self, payment_hash: bytes, amount: Amount, credential: Credential | None = None) -> Wire:
        challenge_id = None if credential is None else dict(credential.parameters).get("id")
        return write_receipt(
            self.dialects,
            Receipt(payment_hash=payment_hash, amount=amount, at=self._clock(), challenge_id=challenge_id),
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
