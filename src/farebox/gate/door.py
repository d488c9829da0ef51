"""The gate: the seller's front room. It asks for money, admits who paid, and charges when it answers.

Rules
1. One payment buys one answer. The claim is one conditional statement in the ledger; the gate never checks, then acts.
2. A new invoice is made only when we hold no unspent money for the proof that was shown.
3. Unknown is never unpaid: when node or ledger can't tell, the caller is told to ask again, and nothing is lost.
4. The charge and the decision to answer are one step, `Grant.capture`. A failed call releases; the third is credit.
5. A bare payment hash is not a secret. It is honoured only from the client that was challenged, and only if the node
   says that it was paid.
6. The gate is handed its ledger, receiver and dialects, and knows none of them by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Final, Protocol, TypeVar

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import (
    AnswerGone,
    CallInProgress,
    CallUndeliverable,
    CredentialRejected,
    MalformedCredential,
    NodeUnavailable,
    RequestMismatch,
    WalletError,
)
from farebox.core.exchange import Credential, Quote, Receipt, Wire
from farebox.core.payment import FreeCall, Hold, Payment, PaymentState
from farebox.core.ports import Clock, Conversation, Dialect, InvoiceState, Ledger, Receiver
from farebox.gate.grant import Grant, RunningCalls, UnsavedAnswers
from farebox.gate.memory import GivenAnswers, Pace, VerifiedProofs
from farebox.gate.terms import Challenged, Free, Replay, Terms, Visit

T = TypeVar("T")

_MOST_UNKNOWN_LOOK_UPS: Final = 20  # a second: anyone can show a hash that he made up, and each one asks the node
_MOST_DESCRIPTION: Final = 120  # characters; phoenixd takes 128


class Converse(Protocol):
    """Carries a conversation with the node to its end."""

    def __call__(self, conversation: Conversation[T], /) -> Awaitable[T]: ...


Decision = Free | Challenged | Replay | Grant


class Gate:
    """Sells calls: `await gate.admit(visit)` says Free, Challenged, Replay or hands out a Grant.

    Every error that `admit` raises is a CallerError or Unavailable, ready to be answered as a problem.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        receiver: Receiver,
        dialects: Sequence[Dialect],
        converse: Converse,
        clock: Clock,
        terms: Terms | None = None,
    ) -> None:
        self.ledger = ledger
        self.receiver = receiver
        self.dialects = tuple(dialects)
        self.terms = terms or Terms()
        self.proof_headers = frozenset().union(*(dialect.proof_headers for dialect in dialects))
        self.proof_fields = frozenset().union(*(dialect.proof_fields for dialect in dialects))
        self.converse = converse
        self._clock = clock
        self._running = RunningCalls(ledger, self.terms.lease)
        self._verified = VerifiedProofs()
        self._given = GivenAnswers()
        self._unsaved = UnsavedAnswers(ledger, self._given)
        self._unknown_look_ups = Pace(per_second=_MOST_UNKNOWN_LOOK_UPS)

    async def admit(self, visit: Visit) -> Decision:
        """Decide about one call (reliability: the answer table).

        Raises MalformedCredential, CredentialRejected, RequestMismatch, CallInProgress, CallUndeliverable, AnswerGone,
        NodeUnavailable, StoreUnavailable.
        """
        credential = self._read_credential(visit.wire)
        if credential is None:
            free_call = None
            if self.terms.free_calls and not visit.probing:
                free_call = await self.ledger.take_free_call(
                    visit.client, limit=self.terms.free_calls, window=self.terms.free_window
                )
                if free_call.granted:
                    return Free(free_call=free_call)
            return await self._challenge(visit, free_call)
        given = self._given.find(credential.payment_hash, visit.quote.digest)
        if given is not None and credential.preimage is not None:
            return given
        if credential.preimage is None:
            await self._check_client(credential, visit.client)
        return await self._claim(credential, visit)

    def recall(self, authorization: str, digest: bytes) -> Replay | None:
        """The answer that this process gave lately for exactly this proof and request, without asking the ledger."""
        credential = self._verified.find(authorization, self._clock())
        return None if credential is None else self._given.find(credential.payment_hash, digest)

    def now(self) -> datetime:
        """The gate's clock."""
        return self._clock()

    def is_proof(self, authorization: str) -> bool:
        """Whether an Authorization value is a proof of payment, which is nobody's business behind the gate."""
        if authorization in self._verified:
            return True
        wire = Wire(headers=(("authorization", authorization),))
        try:
            return any(dialect.read_credential(wire) is not None for dialect in self.dialects)
        except MalformedCredential:
            return True

    async def close(self) -> None:
        """Stop the heartbeat and close the ledger."""
        self._running.close()
        await self.ledger.close()

    # --- reading and checking the proof -------------------------------------------------------------------------------

    def _read_credential(self, wire: Wire) -> Credential | None:
        shown = wire.all("authorization")
        key = shown[0] if len(shown) == 1 and not wire.query and not wire.body else None
        if (
            key is not None
            and key in self._verified
            and not any(name in self.proof_headers for name, _ in wire.headers)
        ):
            kept = self._verified.find(key, self._clock())
            if kept is not None:
                return kept
        found: list[tuple[Dialect, Credential]] = []
        for dialect in self.dialects:
            credential = dialect.read_credential(wire)
            if credential is not None:
                found.append((dialect, credential))
        if not found:
            return None
        if len({credential.payment_hash for _, credential in found}) > 1:
            raise MalformedCredential("two different payments are shown; show one")
        # The same payment shown in two ways is one proof: judged by the one that proves more.
        dialect, credential = max(found, key=lambda pair: pair[1].preimage is not None)
        now = self._clock()
        valid_until = dialect.verify(credential, now=now)
        if key is not None and credential.preimage is not None:
            self._verified.keep(key, credential, valid_until)
        return credential

    async def _check_client(self, credential: Credential, client: str) -> None:
        payment = await self.ledger.find_payment(credential.payment_hash)
        if payment is not None and payment.client != client:
            raise CredentialRejected(
                "a bare payment hash is taken only from the address that was challenged; "
                "show `Authorization: L402 <macaroon>:<preimage>` instead"
            )

    # --- claiming -----------------------------------------------------------------------------------------------------

    async def _claim(self, credential: Credential, visit: Visit) -> Decision:
        quote, asked_node = visit.quote, False
        if (saved := await self._unsaved.save(credential.payment_hash, quote.digest)) is not None:
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
                return self._granted(outcome, credential)
            if outcome is None:
                return await self._unknown(credential, visit)
            match outcome.state:
                case PaymentState.OPEN | PaymentState.EXPIRED:
                    if asked_node or not await self._settled_at_node(outcome):
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
                    raise CallUndeliverable(
                        f"{outcome.received.less(outcome.captured)} are kept as credit; ask the seller",
                        payment_hash=outcome.payment_hash.hex(),
                    )
                case _:  # spent on another request, or refunded: this proof buys nothing any more
                    return await self._challenge(visit, None)

    def _granted(self, hold: Hold, credential: Credential) -> Grant:
        return Grant(
            hold,
            self._receipt(hold.payment_hash, hold.amount, credential),
            ledger=self.ledger,
            running=self._running,
            given=self._given,
            unsaved=self._unsaved,
            most_attempts=self.terms.most_attempts,
        )

    async def _settled_at_node(self, payment: Payment) -> bool:
        status = await self._ask(self.receiver.lookup_invoice(payment.payment_hash))
        if status.state is not InvoiceState.PAID or status.received < payment.price:
            return False
        await self.ledger.settle(payment.payment_hash, status.received)
        return True

    async def _unpaid(self, payment: Payment, visit: Visit) -> Decision:
        """A proof for an invoice that nobody paid: the same invoice again while it can be paid, else a new one."""
        if (
            payment.state is PaymentState.EXPIRED
            or payment.expires_at <= self._clock()
            or payment.digest != visit.quote.digest
        ):
            return await self._challenge(visit, None)
        quote = Quote(
            amount=payment.price,
            resource=payment.resource,
            digest=payment.digest,
            description=visit.quote.description,
        )
        return self._challenged(quote, decode(payment.invoice), None, retry_after=timedelta(seconds=1))

    async def _unknown(self, credential: Credential, visit: Visit) -> Decision:
        """A payment that is not in the ledger: never a new invoice if the node says that it was paid."""
        if not self._unknown_look_ups.allows(self._clock()):
            raise NodeUnavailable("too many unknown payments are being looked up")
        status = await self._ask(self.receiver.lookup_invoice(credential.payment_hash))
        if status.state in (InvoiceState.PAID, InvoiceState.HELD):
            raise NodeUnavailable("the node knows a payment that the ledger has not learnt of yet")
        return await self._challenge(visit, None)

    async def _replay(self, payment: Payment, credential: Credential) -> Replay:
        given = self._given.find(payment.payment_hash, payment.digest)
        if given is not None:
            return given
        answer = await self.ledger.find_answer(payment.payment_hash)
        if answer is None:
            raise AnswerGone(payment_hash=payment.payment_hash.hex())
        receipt = self._receipt(payment.payment_hash, payment.price, credential)
        return self._given.keep(payment.payment_hash, payment.digest, answer, receipt)

    # --- asking for money ---------------------------------------------------------------------------------------------

    async def _challenge(self, visit: Visit, free_call: FreeCall | None) -> Challenged:
        quote = visit.quote
        known = await self.ledger.reusable_payment(client=visit.client, digest=quote.digest, price=quote.amount)
        if known is not None:
            return self._challenged(quote, decode(known.invoice), free_call)
        invoice = await self._ask(
            self.receiver.create_invoice(
                quote.amount,
                description=(quote.description or quote.resource)[:_MOST_DESCRIPTION],
                expires_in=self.terms.invoice_expires_in,
            )
        )
        if invoice.amount != quote.amount or self.receiver.network not in (None, invoice.network):
            raise NodeUnavailable("the node made another invoice than it was asked for")
        await self.ledger.open_payment(
            Payment(
                payment_hash=invoice.payment_hash,
                state=PaymentState.OPEN,
                price=quote.amount,
                digest=quote.digest,
                resource=quote.resource,
                client=visit.client,
                invoice=invoice.text,
                created_at=invoice.created_at,
                expires_at=invoice.expires_at,
            )
        )
        return self._challenged(quote, invoice, free_call)

    def _challenged(
        self, quote: Quote, invoice: Invoice, free_call: FreeCall | None, retry_after: timedelta | None = None
    ) -> Challenged:
        valid_until = invoice.expires_at + self.terms.claim_within
        wire = Wire()
        for dialect in self.dialects:
            challenge = dialect.issue(quote, invoice, valid_until=valid_until)
            if challenge is not None:
                wire = wire | dialect.write_challenge(challenge)
        return Challenged(
            quote=quote,
            invoice=invoice,
            wire=wire,
            free_call=free_call,
            retry_after=retry_after,
        )

    # --- small print --------------------------------------------------------------------------------------------------

    async def _ask(self, conversation: Conversation[T]) -> T:
        try:
            async with asyncio.timeout(self.terms.mint_within.total_seconds()):
                return await self.converse(conversation)
        except TimeoutError:
            raise NodeUnavailable("it took too long to answer") from None
        except WalletError as error:
            # Ours to mend, not the caller's: it is told that it can't be served now, and the operator reads why.
            raise NodeUnavailable(error.detail) from error

    def _receipt(self, payment_hash: bytes, amount: Amount, credential: Credential) -> Wire:
        receipt = Receipt(
            payment_hash=payment_hash,
            amount=amount,
            at=self._clock(),
            challenge_id=dict(credential.parameters).get("id"),
        )
        first, *others = [dialect.write_receipt(receipt) for dialect in self.dialects]
        return reduce(or_, others, first)
