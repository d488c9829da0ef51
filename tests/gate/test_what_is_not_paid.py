"""Money that is too little, not here, not ours or too late: nobody is served for nothing, and nothing paid is lost.

Targets A10 and A11 of the reliability table, at a small number here and at their own in the full tier.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import CredentialRejected, NodeUnavailable
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, PaymentState
from farebox.core.ports import InvoiceState
from farebox.core.secret import KeyRing
from farebox.gate import Challenged, Grant, Reconciler, Terms, Visit
from farebox.gate.terms import UNLIMITED
from farebox.http.selling import Gate, open_gate
from farebox.testing.market import StillClock
from farebox.testing.settling_node import SettlingNode

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
CLIENT = "192.0.2.7/32"
ANSWER = Answer(status=200, headers=(), body=b"the answer")
TERMS = Terms(free_calls=0, limits=UNLIMITED)
NOT_PAID = ("underpaid", "in part", "held", "cancelled", "unpaid", "another node's invoice", "another shop's payment")


@dataclass
class Sold:
    """An invoice that was asked for, and every way to show a proof for it."""

    quote: Quote
    asked: Challenged

    @property
    def payment_hash(self) -> bytes:
        return self.asked.invoice.payment_hash

    def proofs(self, preimage: bytes) -> list[Wire]:
        token = self.asked.wire.body["macaroon"]
        return [
            Wire(headers=(("x-payment-hash", self.payment_hash.hex()),)),
            Wire(headers=(("authorization", f"L402 {token}:{preimage.hex()}"),)),
        ]


@dataclass
class Street:
    """Two shops at one node, and a node of somebody else's."""

    node: SettlingNode
    shop: Gate
    other_shop: Gate
    other_node: SettlingNode
    clock: StillClock

    async def ask(self, gate: Gate, number: int) -> Sold:
        quote = Quote(amount=PRICE, resource="GET /x", digest=number.to_bytes(32))
        asked = await gate.admit(Visit(quote=quote, wire=Wire(), client=CLIENT))
        assert isinstance(asked, Challenged)
        return Sold(quote, asked)

    async def show(self, sold: Sold, wire: Wire) -> str:
        """What comes of showing a proof: `served`, or why not."""
        try:
            decision = await self.shop.admit(Visit(quote=sold.quote, wire=wire, client=CLIENT))
        except (CredentialRejected, NodeUnavailable) as error:
            return error.type
        match decision:
            case Challenged():
                return "asked to pay"
            case Grant():
                await decision.capture(ANSWER)
        return "served"

    async def learn(self, gate: Gate) -> None:
        await Reconciler(ledger=gate.ledger, receiver=self.node, converse=self.node.converse).catch_up()


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    clock = StillClock()
    node, elsewhere = SettlingNode(clock), SettlingNode(clock, name="another node")
    async with opened(node, clock) as shop, opened(node, clock) as other_shop:
        yield Street(node, shop, other_shop, elsewhere, clock)


@asynccontextmanager
async def opened(node: SettlingNode, clock: StillClock) -> AsyncIterator[Gate]:
    gate = open_gate(receiver=node, keys=KeyRing.generate(), terms=TERMS, clock=clock)
    yield gate
    assert (await gate.ledger.balance()).balanced
    assert [] == await gate.ledger.audit()
    await gate.close()


async def tried(street: Street, kind: str, number: int, chance: random.Random) -> list[str]:
    """Pay for a call in a way that does not count, show whatever there is to show, and say what came of each."""
    sold = await street.ask(street.shop, number)
    made_up = chance.randbytes(32)
    proofs = sold.proofs(made_up)
    match kind:
        case "underpaid":
            street.node.settle(sold.payment_hash, Amount.msats(chance.randrange(1, PRICE.msat)))
            await street.learn(street.shop)
            proofs += sold.proofs(street.node.preimages[sold.payment_hash])  # its payer has it
        case "in part":
            street.node.receive(sold.payment_hash, PRICE, InvoiceState.OPEN)
        case "held":
            street.node.receive(sold.payment_hash, PRICE, InvoiceState.HELD)
        case "cancelled":
            street.node.receive(sold.payment_hash, PRICE, InvoiceState.CANCELLED)
        case "another node's invoice":
            [invoice] = _made(street.other_node)
            preimage = street.other_node.preimages[invoice]
            street.other_node.receive(invoice, PRICE)
            proofs = [*sold.proofs(preimage), *replace_hash(sold, invoice)]
        case "another shop's payment":
            theirs = await street.ask(street.other_shop, number)
            street.node.settle(theirs.payment_hash, PRICE)
            await street.learn(street.shop)
            preimage = street.node.preimages[theirs.payment_hash]
            proofs = [*theirs.proofs(preimage), *sold.proofs(preimage)]
            sold = replace(theirs, quote=sold.quote)
    return [await street.show(sold, proof) for proof in proofs]


def _made(node: SettlingNode) -> list[bytes]:
    before = set(node.preimages)
    for _ in node.create_invoice(PRICE, description="", expires_in=timedelta(minutes=10)):
        raise AssertionError("it has no network")
    return [*(set(node.preimages) - before)]


def replace_hash(sold: Sold, payment_hash: bytes) -> list[Wire]:
    """The proof of one invoice shown with the hash of another."""
    return [Wire(headers=(("x-payment-hash", payment_hash.hex()),))]


@pytest.mark.parametrize("count", [140, pytest.param(5_000, marks=pytest.mark.full)])
async def test_nobody_is_served_for_money_that_is_not_all_there_and_ours(
    street: Street, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, outcomes, shown = random.Random(seed), Counter[str](), 0
    for number in range(count):
        kind = NOT_PAID[number % len(NOT_PAID)]
        for outcome in await tried(street, kind, number, chance):
            outcomes[outcome] += 1
            shown += 1
    tell(f"A10: {count} payments that do not count, {shown} proofs: {dict(outcomes)} (seed {seed})")
    assert 0 == outcomes["served"], f"seed {seed}"
    assert shown > 2 * count
    assert Amount(0) == (await street.shop.ledger.balance()).received


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.full)])
async def test_whoever_pays_more_is_served_and_the_rest_is_in_the_books(
    street: Street, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, paid = random.Random(seed), Amount(0)
    for number in range(count):
        sold, amount = await street.ask(street.shop, number), PRICE + Amount.msats(chance.randrange(1, PRICE.msat))
        street.node.settle(sold.payment_hash, amount)
        paid += amount
        if told_first := chance.random() < 0.5:
            await street.learn(street.shop)
        by_hash, by_preimage = sold.proofs(street.node.preimages[sold.payment_hash])
        assert "served" == await street.show(sold, by_preimage if told_first or chance.random() < 0.5 else by_hash)
    await street.learn(street.shop)
    books = await street.shop.ledger.balance()
    tell(f"A10: {count} overpaid, all served; {books.credit} surplus as credit (seed {seed})")
    assert (PRICE * count, paid - PRICE * count) == (books.earned, books.credit), f"seed {seed}"


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.full)])
async def test_money_that_comes_after_its_invoice_ended_is_used_or_owed(
    street: Street, seed: int, tell: Callable[[str], object], count: int
) -> None:
    chance, tally = random.Random(seed), Counter[str]()
    late = [await street.ask(street.shop, number) for number in range(count)]
    street.clock.pass_by(timedelta(minutes=30))
    expired = 0
    while now := await street.shop.ledger.expire_payments(grace=timedelta(minutes=10), most=40):
        expired += now
    assert count == expired
    for sold in late:
        street.node.settle(sold.payment_hash, PRICE)
    claim = {"by the stream": street.learn, "by its payer": nothing}
    for sold in late:
        learnt = chance.choice([*claim])
        await claim[learnt](street.shop)
        preimage = street.node.preimages[sold.payment_hash]
        fails = chance.random() < 0.3
        outcome = await use(street, sold, chance.choice(sold.proofs(preimage)), fails=fails)
        tally[f"{outcome}, learnt {learnt}"] += 1
    books = await street.shop.ledger.balance()
    states = Counter(payment.state for payment in await street.shop.ledger.recent_payments(count))
    tell(f"A11: {count} late settlements: {dict(tally)}; {books.earned} earned, {books.credit} owed (seed {seed})")
    assert count == states[PaymentState.SPENT] + states[PaymentState.CREDIT], f"seed {seed}: {states}"
    assert PRICE * count == books.received == books.earned + books.credit, f"seed {seed}"


async def nothing(_: Gate) -> None:
    """Nobody tells the shop."""


async def use(street: Street, sold: Sold, proof: Wire, *, fails: bool) -> str:
    """Claim a call that runs, or one that fails until it is given up."""
    for _ in range(TERMS.most_attempts):
        grant = await street.shop.admit(Visit(quote=sold.quote, wire=proof, client=CLIENT, rerun=True))
        assert isinstance(grant, Grant), grant
        if not fails:
            await grant.capture(ANSWER)
            return "used"
        await grant.release()
    return "owed"
