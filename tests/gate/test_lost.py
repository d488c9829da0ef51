"""After a restored backup: who shows a sealed proof for money that the node has is served, and pays no second time."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import CallUndeliverable, CredentialRejected, NodeUnavailable, RequestMismatch
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, PaymentState
from farebox.core.ports import InvoiceState, InvoiceStatus
from farebox.core.secret import Secret
from farebox.dialects import L402, PaymentAuth
from farebox.gate import Challenged, Grant, Replay, Visit
from farebox.http.selling import Gate, open_gate
from farebox.payer.offer import write_proof
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
QUOTE = Quote(amount=PRICE, resource="GET /x", digest=bytes(32))
OTHER = Quote(amount=PRICE, resource="GET /y", digest=bytes([1]) * 32)
ANSWER = Answer(status=200, headers=(), body=b"the answer")
CLIENT = "192.0.2.7/32"


@dataclass
class Restored:
    """A market whose gate lost its ledger after a payment. wires: the proofs of that payment, by dialect."""

    market: Market
    gate: Gate
    payment_hash: bytes
    wires: dict[str, Wire] = field(default_factory=dict)

    async def show(self, dialect: str, quote: Quote = QUOTE, client: str = "198.51.100.9/32") -> Any:
        return await self.gate.admit(Visit(quote=quote, wire=self.wires[dialect], client=client))

    def node_says(self, monkeypatch: pytest.MonkeyPatch, status: InvoiceStatus) -> None:
        def told(*_: object) -> Any:
            return status
            yield

        monkeypatch.setattr(type(self.market.sandbox.seller), "lookup_invoice", told)


@pytest.fixture
async def restored() -> AsyncIterator[Restored]:
    market = Market.open()
    asked = await market.gate.admit(Visit(quote=QUOTE, wire=Wire(), client=CLIENT))
    assert isinstance(asked, Challenged)
    preimage = market.pay(asked.invoice.text)
    gate = open_gate(receiver=market.sandbox.seller, keys=market.keys, terms=market.gate.terms, clock=market.clock)
    restored = Restored(market, gate, asked.invoice.payment_hash)
    for dialect in (L402(), PaymentAuth()):
        (challenge,) = dialect.read_challenges(asked.wire)
        restored.wires[dialect.name] = write_proof(dialect, challenge, Secret(preimage))
    restored.wires["payment_hash"] = Wire(headers=(("x-payment-hash", asked.invoice.payment_hash.hex()),))
    yield restored
    assert (await gate.ledger.balance()).balanced
    assert [] == await gate.ledger.audit()
    await gate.close()
    await market.close()


@pytest.mark.parametrize("dialect", ["L402", "Payment"])
async def test_a_sealed_proof_of_a_lost_payment_is_served_once_and_then_replayed(
    restored: Restored, dialect: str
) -> None:
    grant = await restored.show(dialect)
    assert isinstance(grant, Grant)
    await grant.capture(ANSWER)
    for shown in ("L402", "Payment"):
        again = await restored.show(shown)
        assert isinstance(again, Replay)
        assert ANSWER == again.answer
    (payment,) = await restored.gate.ledger.recent_payments(10)
    assert (PaymentState.SPENT, PRICE, "GET /x") == (payment.state, payment.price, payment.resource)


async def test_a_lost_payment_is_good_for_the_request_that_it_was_made_for_only(restored: Restored) -> None:
    with pytest.raises(RequestMismatch):
        await restored.show("L402", OTHER)
    assert isinstance(await restored.show("L402"), Grant)


async def test_the_price_under_the_seal_counts_and_not_what_the_call_costs_today(restored: Restored) -> None:
    dearer = Quote(amount=PRICE * 9, resource=QUOTE.resource, digest=QUOTE.digest)
    grant = await restored.show("Payment", dearer)
    assert isinstance(grant, Grant)
    assert PRICE == grant.hold.amount


@pytest.mark.parametrize("state", [InvoiceState.OPEN, InvoiceState.CANCELLED, InvoiceState.UNKNOWN])
async def test_what_the_node_does_not_call_paid_is_not_served(
    restored: Restored, monkeypatch: pytest.MonkeyPatch, state: InvoiceState
) -> None:
    restored.node_says(monkeypatch, InvoiceStatus(state=state, received=PRICE))
    assert isinstance(await restored.show("L402", client=CLIENT), Challenged)
    assert await restored.gate.ledger.find_payment(restored.payment_hash) is None


@pytest.mark.parametrize(
    "status",
    [
        InvoiceStatus(state=InvoiceState.HELD, received=PRICE),
        InvoiceStatus(state=InvoiceState.PAID, received=PRICE - Amount.msats(1)),
    ],
    ids=["held", "underpaid"],
)
async def test_money_that_is_there_and_not_enough_is_no_reason_to_ask_for_more(
    restored: Restored, monkeypatch: pytest.MonkeyPatch, status: InvoiceStatus
) -> None:
    restored.node_says(monkeypatch, status)
    with pytest.raises(NodeUnavailable):
        await restored.show("L402")
    assert [] == await restored.gate.ledger.recent_payments(1)


async def test_a_bare_hash_proves_nothing_of_what_was_lost(restored: Restored) -> None:
    with pytest.raises(NodeUnavailable):
        await restored.show("payment_hash", client=CLIENT)
    assert [] == await restored.gate.ledger.recent_payments(1)


async def test_a_lost_payment_whose_claim_window_is_over_is_not_made_again(restored: Restored) -> None:
    restored.market.clock.pass_by(timedelta(days=31))
    with pytest.raises(CredentialRejected):
        await restored.show("L402")
    assert [] == await restored.gate.ledger.recent_payments(1)


async def test_sealed_proofs_are_looked_up_however_many_made_up_hashes_are(restored: Restored) -> None:
    refused = 0
    for number in range(40):
        made_up = Wire(headers=(("x-payment-hash", bytes([number] * 32).hex()),))
        try:
            await restored.gate.admit(Visit(quote=QUOTE, wire=made_up, client=CLIENT))
        except NodeUnavailable:
            refused += 1
    assert refused
    assert isinstance(await restored.show("L402"), Grant)


async def test_what_could_not_be_delivered_says_how_it_is_claimed(restored: Restored) -> None:
    grant = await restored.show("L402")
    await grant.give_up()
    with pytest.raises(CallUndeliverable) as told:
        await restored.show("L402")
    assert "invoice of at most 20 sat" in str(told.value.detail)
    expected = {"payment_hash": restored.payment_hash.hex(), "amount_msat": 21_000, "invoice_at_most_msat": 20_000}
    assert expected == told.value.evidence
