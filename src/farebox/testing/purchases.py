"""A world for one buyer: a clock, a mint, a wallet and a purse, and a seller who answers as the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.budget import Budget
from farebox.core.errors import FareboxError
from farebox.core.exchange import Challenge, Wire
from farebox.core.ports import Conversation
from farebox.payer import (
    Answered,
    AskApproval,
    Deliver,
    Limits,
    LookUp,
    NoAnswer,
    OutgoingCall,
    Pay,
    Payer,
    Reply,
    Send,
    Step,
    Story,
    Wait,
    remember,
)
from farebox.testing.buyers import Mint, PlainDialect, ScriptedWallet
from farebox.testing.kept_purse import KeptPurse
from farebox.testing.market import StillClock

T = TypeVar("T")
S = TypeVar("S")
Seller = Callable[[Wire | None], Answered | NoAnswer]

SHOP = "https://shop.example:443"


def end_of(conversation: Conversation[T]) -> T:
    """The outcome of a conversation that asks nobody."""
    try:
        next(conversation)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("this conversation is a long one")


@dataclass
class World:
    """Drives a payer's stories without any I/O, and remembers every step.

    answers: what the seller still has to say, instead of `serve`. lost: deliveries that still get lost.
    on_parked: what whoever approves does when a call is parked.
    """

    clock: StillClock = field(default_factory=StillClock)
    dialect: PlainDialect = field(default_factory=PlainDialect)
    answers: list[Answered | NoAnswer | Seller] = field(default_factory=list)
    lost: int = 0
    clock_stands: bool = False
    on_parked: Callable[[int], object] = lambda _: None
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mint = Mint(self.clock)
        self.wallet = ScriptedWallet(self.mint)
        self.purse = KeptPurse(self.clock)
        self.limits = Limits(budget=Budget.read("500 sat/day"), pays_once=True)
        self.payer = self.new_payer()
        self.price = Amount.sats(21)
        self.invoice: Invoice | None = None  # the seller's, until it is paid

    def new_payer(self, limits: Limits | None = None) -> Payer:
        """Another process of the same buyer, or the same one with other limits."""
        return Payer(dialects=[self.dialect], limits=limits or self.limits, clock=self.clock)

    def call(self, body: bytes | None = b"a prompt", origin: str = SHOP) -> OutgoingCall:
        """A call; the same body is the same call."""
        return OutgoingCall(origin=origin, url=f"{origin}/api", method="POST", path="/api", digest=body)

    # --- the seller -------------------------------------------------------------------------------------------------

    def asks(
        self, invoice: Invoice | None = None, *, origin: str = SHOP, headers: dict[str, str] | None = None
    ) -> Answered:
        """A 402 for an invoice."""
        invoice = invoice or self.mint.invoice(self.price)
        challenge = Challenge(
            dialect="Plain", invoice=invoice.text, payment_hash=invoice.payment_hash, amount=invoice.amount
        )
        wire = self.dialect.write_challenge(challenge) | Wire(headers=tuple((headers or {}).items()))
        return Answered(status=402, origin=origin, wire=wire)

    def says(self, status: int, problem: str | None = None, *, origin: str = SHOP, **headers: str) -> Answered:
        """Any other answer."""
        told = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        body = {} if problem is None else {"type": f"urn:farebox:problem:{problem}"}
        return Answered(status=status, origin=origin, wire=Wire(headers=told, body=body))

    def serve(self, proof: Wire | None) -> Answered:
        """An honest seller: one invoice for everybody until it is paid or runs out."""
        credential = None if proof is None else self.dialect.read_credential(proof)
        if credential is None:
            last = self.invoice
            if last is None or last.payment_hash in self.wallet.settled or self.clock() >= last.expires_at:
                self.invoice = self.mint.invoice(self.price)
            return self.asks(self.invoice)
        assert credential.payment_hash in self.wallet.settled
        return self.says(200)

    # --- the driver -------------------------------------------------------------------------------------------------

    def drive(self, story: Story[T]) -> T:
        """Do every step of a story."""
        try:
            step = next(story)
            while True:
                self.steps.append(step)
                try:
                    reply = self.do(step)
                except FareboxError as error:
                    step = story.throw(error)
                else:
                    step = story.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def do(self, step: Step) -> Reply:
        """The reply to one step."""
        match step:
            case Send(proof=proof):
                answer = self.answers.pop(0) if self.answers else self.serve
                return answer if isinstance(answer, Answered | NoAnswer) else answer(proof)
            case Deliver():
                if self.lost:
                    self.lost -= 1
                    return NoAnswer(reason="cut")
                return remember(self.purse, step.outcome)
            case Pay(invoice=invoice, fee_limit=fee_limit):
                return end_of(self.wallet.pay_invoice(invoice, fee_limit=fee_limit))
            case LookUp(payment_hash=payment_hash):
                return end_of(self.wallet.lookup_payment(payment_hash))
            case AskApproval(number=number):
                self.on_parked(number)
                return None
            case Wait(span=span):
                self.clock.pass_by(timedelta(0) if self.clock_stands else span)
                return None
            case _:
                return remember(self.purse, step)

    def until(self, story: Story[T], kind: type[S], waiting: Step | None = None) -> S:
        """Drive a story up to a step of this kind, which is not done; `waiting` is one that is still to be done."""
        step = next(story) if waiting is None else story.send(self.do(waiting))
        while not isinstance(step, kind):
            step = story.send(self.do(step))
        return step

    def told(self, kind: type[S]) -> list[S]:
        """The steps of this kind, in their order."""
        return [step for step in self.steps if isinstance(step, kind)]

    def wait(self, **span: float) -> None:
        """Let time pass."""
        self.clock.pass_by(timedelta(**span))
