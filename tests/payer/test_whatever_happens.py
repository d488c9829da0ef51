"""Whatever wallet, seller and power supply do, in whatever order: the rules of `payer.purchase` hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget
from farebox.core.errors import FareboxError, PurchaseError, WalletError
from farebox.core.exchange import Wire
from farebox.core.payment import DrawState
from farebox.core.ports import Failed, Paid, PayOutcome, Unresolved
from farebox.core.secret import Secret
from farebox.payer import (
    Answered,
    Bought,
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
)
from farebox.testing.purchases import World

T = TypeVar("T")
Fate = Literal["in flight", "settled", "failed"]

FORGED = Paid(preimage=Secret(bytes(32)), fee=NOTHING)


@dataclass
class Chance:
    """A world in which every reply is drawn; `fates` is what really became of each payment that was tried."""

    data: st.DataObject
    world: World = field(default_factory=World)
    fates: dict[bytes, Fate] = field(default_factory=dict)
    pays: int = 0

    def buy(self, payer: Payer, call: OutgoingCall) -> Bought | None:
        """One purchase to its end; None when it failed, or was killed on the way."""
        self.pays = 0
        story = payer.purchase(call)
        step = next(story)
        try:
            while self.data.draw(st.integers(0, 30), label="killed if 0"):
                try:
                    reply = self.reply(step, call)
                except WalletError as error:
                    step = story.throw(error)
                else:
                    step = story.send(reply)
        except StopIteration as end:
            bought: Bought = end.value
            return bought
        except PurchaseError:
            return None
        story.close()
        return None

    def reply(self, step: Step, call: OutgoingCall) -> Reply:
        """What anyone might reply."""
        match step:
            case Send(proof=proof):
                return self.answer(proof)
            case Deliver() if self.data.draw(st.integers(0, 3), label="cut if 0") == 0:
                return NoAnswer(reason="cut")
            case Pay(invoice=invoice):
                self.check_pay(invoice.payment_hash, call)
                self.fates[invoice.payment_hash] = self.draw("in flight", "settled", "failed")
                return self.outcome(invoice.payment_hash)
            case LookUp(payment_hash=payment_hash):
                if self.fates.get(payment_hash) == "in flight":
                    self.fates[payment_hash] = self.draw("in flight", "settled", "failed")
                return self.outcome(payment_hash)
            case _:
                return self.world.do(step)

    def check_pay(self, payment_hash: bytes, call: OutgoingCall) -> None:
        """Rules 1 to 3."""
        self.pays += 1
        assert self.pays == 1
        assert self.fates.get(payment_hash) in (None, "failed")  # what certainly failed may be tried again
        assert [payment_hash] == [row.payment_hash for row in self.world.purse.unfinished(call.digest)]
        assert DrawState.HELD is self.world.purse.rows[payment_hash].state

    def outcome(self, payment_hash: bytes) -> PayOutcome:
        """What a wallet may say: the truth, that it can't tell, or a lie that can be seen through."""
        fate = self.fates.get(payment_hash)
        truth: PayOutcome = Unresolved(reason="never heard of it", known=False)
        if fate == "settled":
            truth = self.world.mint.paid(payment_hash, fee=self.draw(NOTHING, Amount.msats(700)))
        elif fate is not None:
            truth = Failed(reason="no route") if fate == "failed" else Unresolved(reason="in flight")
        said = self.draw(truth, truth, truth, Unresolved(reason="timed out"), FORGED, WalletError("it is locked"))
        if isinstance(said, FareboxError):
            raise said
        return said

    def answer(self, proof: Wire | None) -> Answered | NoAnswer:
        """What a seller may answer."""
        world = self.world
        if world.invoice is None or self.draw(True, False):
            world.invoice = world.mint.invoice(Amount.sats(self.draw(21, 30)))
        asks = world.asks(world.invoice)
        if proof is None:
            return self.draw(asks, asks, asks, asks, world.says(200))
        come_again: list[Answered | NoAnswer] = [
            world.says(503),
            world.says(409, "call-in-progress"),
            NoAnswer(reason="cut"),
            asks,
        ]
        refusals = [world.says(401), world.says(410, "answer-gone"), world.says(500)]
        answers: list[Answered | NoAnswer] = [
            *come_again,
            *refusals,
            *(world.says(status) for status in (200, 200, 404)),
        ]
        return self.draw(*answers)

    def draw(self, *choices: T) -> T:
        """One of these."""
        return self.data.draw(st.sampled_from(choices))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_money_is_spent_at_most_once_per_call_within_the_budget_and_never_forgotten(data: st.DataObject) -> None:
    chance = Chance(data)
    world = chance.world
    world.limits = Limits(budget=Budget.read("70 sat/day"))
    first = world.new_payer()
    for _ in range(data.draw(st.integers(1, 5), label="purchases")):
        payer = chance.draw(first, world.new_payer())
        bought = chance.buy(payer, world.call(chance.draw(b"one", b"two")))

        if bought is not None and bought.payment_hash is not None:
            assert chance.fates[bought.payment_hash] == "settled"
            assert world.purse.rows[bought.payment_hash].served
        for payment_hash, row in world.purse.rows.items():
            if row.state is DrawState.RELEASED:
                assert chance.fates.get(payment_hash) in (None, "failed")
            if row.state is DrawState.CAPTURED:
                assert chance.fates[payment_hash] == "settled"
        assert world.purse.spent(world.limits.budget.windows[0]) <= Amount.sats(70)
        world.clock.pass_by(timedelta(minutes=chance.draw(0, 15, 25 * 60)))
