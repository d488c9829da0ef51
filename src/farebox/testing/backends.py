"""Conformance suites for nodes and wallets: the same sentences for every backend.

Subclass a suite under a name that starts with `Test`, and give it a pytest fixture `world` that makes payments happen:

    class TestMyNode(ReceiverSuite):
        @pytest.fixture
        def world(self) -> MyWorld: ...

For an adapter and a fake of its API there is a world already: farebox.testing.faked_world.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, decode, sign
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capability,
    Conversation,
    Failed,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Receiver,
    Unresolved,
    Wallet,
)

T = TypeVar("T")

PRICE: Final = Amount.sats(21)
FEE_LIMIT: Final = Amount.sats(10)
TEN_MINUTES: Final = timedelta(minutes=10)
NOBODYS_HASH: Final = hashlib.sha256(b"nobody's").digest()
_NOBODYS_KEY: Final = hashlib.sha256(b"a node that nobody can reach").digest()


class World(Protocol):
    """What both suites need around a backend."""

    @property
    def short(self) -> timedelta:
        """How long an invoice may last that is to expire: a real node has to be waited for."""

    def ask(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""

    def pass_time(self, span: timedelta) -> None:
        """Let so much time go by for the node."""

    def out_of_reach(self) -> AbstractContextManager[None]:
        """While this lasts the backend can't be asked; for a wallet, nothing reaches it (connection refused)."""


class ReceiverWorld(World, Protocol):
    """A receiver, and somebody who pays it."""

    @property
    def receiver(self) -> Receiver:
        """The backend under test."""

    def pay(self, invoice: Invoice) -> None:
        """Somebody pays this invoice, or tries to."""


class WalletWorld(World, Protocol):
    """A wallet with at least 1,000 and at most 10,000,000 sat, and somebody whom it can pay."""

    @property
    def wallet(self) -> Wallet:
        """The backend under test."""

    def invoice(self, amount: Amount, *, expires_in: timedelta) -> Invoice:
        """A new invoice of somebody whom the wallet can pay."""

    def received(self, invoice: Invoice) -> Amount:
        """What somebody has received for it."""

    def set_fee(self, fee: Amount) -> None:
        """From now on a payment costs this much for routing."""

    def fail_next(self) -> None:
        """The next payment finds no route."""

    def lose_next_reply(self) -> None:
        """The next payment is made, and the wallet's reply to it is lost."""

    def hold_next(self) -> None:
        """The next payment stays in flight until it is released."""

    def release(self, invoice: Invoice) -> None:
        """The payment of this invoice, in flight until now, arrives."""


class ReceiverSuite:
    """What every Receiver keeps. Needs the fixture `world`, a ReceiverWorld."""

    def test_an_invoice_asks_for_exactly_the_amount(self, world: ReceiverWorld) -> None:
        assert _ask_for(world, PRICE).amount == PRICE

    def test_an_invoice_is_what_its_text_says(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE)
        assert decode(invoice.text) == invoice

    def test_an_invoice_is_for_the_network_of_the_node(self, world: ReceiverWorld) -> None:
        assert _ask_for(world, PRICE).network == world.receiver.network

    def test_an_invoice_carries_its_description(self, world: ReceiverWorld) -> None:
        made = world.receiver.create_invoice(PRICE, description="POST /api/dvm", expires_in=TEN_MINUTES)
        assert world.ask(made).description == "POST /api/dvm"

    def test_an_invoice_expires_when_it_was_asked_to(self, world: ReceiverWorld) -> None:
        assert _ask_for(world, PRICE).expires_in == TEN_MINUTES

    def test_a_description_without_end_is_cut_and_not_refused(self, world: ReceiverWorld) -> None:
        made = world.receiver.create_invoice(PRICE, description="häuser 🏠" * 500, expires_in=TEN_MINUTES)
        assert (world.ask(made).description or "").startswith("häuser 🏠")

    def test_no_two_invoices_share_a_payment_hash(self, world: ReceiverWorld) -> None:
        assert len({_ask_for(world, PRICE).payment_hash for _ in range(5)}) == 5

    def test_an_unpaid_invoice_is_open(self, world: ReceiverWorld) -> None:
        assert InvoiceStatus(state=InvoiceState.OPEN) == _look_up(world, _ask_for(world, PRICE).payment_hash)

    def test_a_paid_invoice_is_paid_with_what_was_received(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE)
        world.pay(invoice)
        assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == _look_up(world, invoice.payment_hash)

    def test_an_invoice_that_is_paid_twice_counts_once(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE)
        world.pay(invoice)
        world.pay(invoice)
        assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == _look_up(world, invoice.payment_hash)

    def test_paying_one_invoice_leaves_the_others_open(self, world: ReceiverWorld) -> None:
        paid, other = _ask_for(world, PRICE), _ask_for(world, PRICE)
        world.pay(paid)
        assert InvoiceStatus(state=InvoiceState.OPEN) == _look_up(world, other.payment_hash)

    def test_a_hash_of_nobody_is_unknown(self, world: ReceiverWorld) -> None:
        assert InvoiceStatus(state=InvoiceState.UNKNOWN) == _look_up(world, NOBODYS_HASH)

    def test_an_expired_invoice_can_no_longer_be_paid(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE, world.short)
        world.pass_time(world.short)
        world.pay(invoice)
        assert InvoiceStatus(state=InvoiceState.CANCELLED) == _look_up(world, invoice.payment_hash)

    def test_a_paid_invoice_stays_paid_when_its_time_is_over(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE, world.short)
        world.pay(invoice)
        world.pass_time(world.short)
        assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == _look_up(world, invoice.payment_hash)

    def test_a_node_out_of_reach_makes_no_invoice_and_says_so(self, world: ReceiverWorld) -> None:
        with world.out_of_reach(), pytest.raises(NodeUnavailable):
            _ask_for(world, PRICE)

    def test_a_node_out_of_reach_does_not_say_that_an_invoice_is_unpaid(self, world: ReceiverWorld) -> None:
        invoice = _ask_for(world, PRICE)
        with world.out_of_reach(), pytest.raises(NodeUnavailable):
            _look_up(world, invoice.payment_hash)


class WalletSuite:
    """What every Wallet keeps. Needs the fixture `world`, a WalletWorld."""

    def test_a_payment_arrives_and_is_proven(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        assert invoice.payment_hash == _proof(_pay(world, invoice))
        assert world.received(invoice) == PRICE

    def test_a_payment_costs_its_amount_and_the_fee_that_is_told(self, world: WalletWorld) -> None:
        world.set_fee(Amount.sats(3))
        before = world.ask(world.wallet.balance())
        outcome = _pay(world, world.invoice(PRICE, expires_in=TEN_MINUTES))
        assert isinstance(outcome, Paid)
        assert outcome.fee == Amount.sats(3)
        assert before - PRICE - outcome.fee == world.ask(world.wallet.balance())

    def test_paying_twice_is_one_debit_and_the_same_proof(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        first = _pay(world, invoice)
        before = world.ask(world.wallet.balance())
        assert _proof(first) == _proof(_pay(world, invoice))
        assert before == world.ask(world.wallet.balance())
        assert world.received(invoice) == PRICE

    def test_a_payment_is_found_again_with_its_proof_and_fee(self, world: WalletWorld) -> None:
        world.set_fee(Amount.sats(2))
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        assert _pay(world, invoice) == _find(world, invoice)

    def test_a_payment_that_was_never_made_is_unknown_and_not_failed(self, world: WalletWorld) -> None:
        outcome = world.ask(world.wallet.lookup_payment(NOBODYS_HASH))
        assert isinstance(outcome, Unresolved)
        assert not outcome.known

    def test_an_expired_invoice_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=world.short)
        world.pass_time(world.short)
        _assert_fails_and_costs_nothing(world, invoice)

    def test_more_than_there_is_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        _assert_fails_and_costs_nothing(world, world.invoice(Amount.sats(10_000_001), expires_in=TEN_MINUTES))

    def test_a_payment_without_a_route_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        world.fail_next()
        _assert_fails_and_costs_nothing(world, world.invoice(PRICE, expires_in=TEN_MINUTES))

    def test_an_invoice_of_a_node_that_nobody_knows_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        network = world.invoice(PRICE, expires_in=TEN_MINUTES).network
        _assert_fails_and_costs_nothing(world, _nobodys_invoice(network))

    def test_an_invoice_for_another_network_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        network = world.invoice(PRICE, expires_in=TEN_MINUTES).network
        other = Network.SIGNET if network is not Network.SIGNET else Network.TESTNET
        _assert_fails_and_costs_nothing(world, _nobodys_invoice(other))

    def test_a_failed_payment_is_found_as_failed(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.fail_next()
        _pay(world, invoice)
        assert isinstance(_find(world, invoice), Failed)

    def test_a_failed_payment_may_be_tried_again(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.fail_next()
        _pay(world, invoice)
        assert invoice.payment_hash == _proof(_pay(world, invoice))

    def test_a_lost_reply_is_unresolved_and_the_payment_is_found_afterwards(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        before = world.ask(world.wallet.balance())
        world.lose_next_reply()
        assert isinstance(_pay(world, invoice), Unresolved)
        assert invoice.payment_hash == _proof(_find(world, invoice))
        assert before - PRICE == world.ask(world.wallet.balance())

    def test_a_payment_in_flight_is_unresolved_and_known_until_it_arrives(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.hold_next()
        assert isinstance(_pay(world, invoice), Unresolved)
        found = _find(world, invoice)
        assert isinstance(found, Unresolved)
        assert found.known
        assert world.received(invoice) == NOTHING
        world.release(invoice)
        assert invoice.payment_hash == _proof(_find(world, invoice))
        assert world.received(invoice) == PRICE

    def test_a_payment_in_flight_is_not_made_again(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.hold_next()
        _pay(world, invoice)
        before = world.ask(world.wallet.balance())
        assert isinstance(_pay(world, invoice), Unresolved)
        assert before == world.ask(world.wallet.balance())

    def test_a_fee_over_the_limit_is_refused_where_the_backend_has_limits(self, world: WalletWorld) -> None:
        world.set_fee(FEE_LIMIT + Amount.sats(1))
        outcome = _pay(world, world.invoice(PRICE, expires_in=TEN_MINUTES))
        assert (Capability.FEE_LIMIT in world.wallet.capabilities) == isinstance(outcome, Failed)

    def test_a_fee_at_the_limit_is_paid(self, world: WalletWorld) -> None:
        world.set_fee(FEE_LIMIT)
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        assert invoice.payment_hash == _proof(_pay(world, invoice))

    def test_a_wallet_that_nothing_reaches_has_certainly_not_paid(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        with world.out_of_reach():
            assert isinstance(_pay(world, invoice), Failed)
        assert world.received(invoice) == NOTHING

    def test_a_wallet_that_nothing_reaches_can_not_tell_what_became_of_a_payment(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        _pay(world, invoice)
        with world.out_of_reach():
            outcome = _find(world, invoice)
        assert isinstance(outcome, Unresolved)
        assert outcome.known

    def test_a_wallet_that_nothing_reaches_has_no_balance_to_tell(self, world: WalletWorld) -> None:
        with world.out_of_reach(), pytest.raises(WalletError):
            world.ask(world.wallet.balance())


def _ask_for(world: ReceiverWorld, amount: Amount, expires_in: timedelta = TEN_MINUTES) -> Invoice:
    return world.ask(world.receiver.create_invoice(amount, description="a test", expires_in=expires_in))


def _look_up(world: ReceiverWorld, payment_hash: bytes) -> InvoiceStatus:
    return world.ask(world.receiver.lookup_invoice(payment_hash))


def _pay(world: WalletWorld, invoice: Invoice) -> PayOutcome:
    return world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))


def _find(world: WalletWorld, invoice: Invoice) -> PayOutcome:
    return world.ask(world.wallet.lookup_payment(invoice.payment_hash))


def _proof(outcome: PayOutcome) -> bytes:
    """The payment hash that the preimage proves."""
    assert isinstance(outcome, Paid), outcome
    return hashlib.sha256(outcome.preimage.reveal()).digest()


def _assert_fails_and_costs_nothing(world: WalletWorld, invoice: Invoice) -> None:
    before = world.ask(world.wallet.balance())
    outcome = _pay(world, invoice)
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason
    assert before == world.ask(world.wallet.balance())


def _nobodys_invoice(network: Network) -> Invoice:
    return sign(
        secret_key=_NOBODYS_KEY,
        network=network,
        amount=PRICE,
        payment_hash=NOBODYS_HASH,
        payment_secret=NOBODYS_HASH,
        description="a test",
        created_at=datetime.now(UTC),
        expires_in=TEN_MINUTES,
    )
