"""Nostr Wallet Connect, for real: Electrum's wallet service on a node with a channel, through a relay of others'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from urllib.parse import quote

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, decode
from farebox.core.conversation import Call, RelayCall
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import Capability, Failed, Paid, Receiver, Wallet
from farebox.lightning.nwc import NostrWalletConnect
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.real_electrum import FEE_TO_BUYER, RealElectrum
from farebox.testing.regtest import free_ports
from farebox.testing.regtest_world import RegtestWorld

pytestmark = pytest.mark.lightning


class ElectrumWorld(RegtestWorld):
    """Electrum is paid by the buyer, and pays the seller, both through the hub."""

    apart = timedelta(0)

    def __init__(self, electrum: RealElectrum) -> None:
        super().__init__(electrum.regtest)
        self.electrum = electrum
        electrum.ask("reset_liquidity_hints")  # it remembers for an hour who could not pass something on
        self.receiver: Receiver = NostrWalletConnect.from_url(electrum.narrow)
        self.wallet: Wallet = NostrWalletConnect.from_url(electrum.uri, pay_within=timedelta(seconds=3))

    def is_payment(self, call: Call) -> bool:
        """Nothing else that is asked must not be done later."""
        tags = json.loads(call.event)["tags"] if isinstance(call, RelayCall) and call.event else []
        return any(tag[0] == "expiration" for tag in tags)

    def without_route(self) -> AbstractContextManager[None]:
        return self.electrum.cut_off()

    def has_proof(self, invoice: Invoice) -> bool:
        return isinstance(self.ask(self.wallet.lookup_payment(invoice.payment_hash)), Paid)

    def set_fee(self, fee: Amount) -> None:
        pytest.skip("Electrum believes in a changed fee only when the last change is a minute old")

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        """While this lasts nobody listens where the relay is looked for."""
        receiver, wallet = self.receiver, self.wallet
        uri = self.electrum.uri
        relay = uri.partition("relay=")[2].partition("&")[0]
        nowhere = uri.replace(relay, quote(f"ws://127.0.0.1:{free_ports(1)[0]}"))
        self.receiver = self.wallet = NostrWalletConnect.from_url(nowhere)
        yield
        self.receiver, self.wallet = receiver, wallet


@pytest.fixture
def world(electrum: RealElectrum) -> Iterator[ElectrumWorld]:
    world = ElectrumWorld(electrum)
    yield world
    world.close()


class TestReceiver(ReceiverSuite):
    pass


class TestWallet(WalletSuite):
    def test_a_payment_costs_its_amount_and_the_fee_that_is_told(self, world: ElectrumWorld) -> None:  # type: ignore[override]
        """The fee is what the hub asks for on the way to the buyer; Electrum tells it when it is asked again."""
        before = world.ask(world.wallet.balance())
        invoice = decode(world.regtest.buyer.invoice(PRICE))
        outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        assert isinstance(outcome, Paid)
        assert FEE_TO_BUYER == outcome.fee
        assert before - PRICE - FEE_TO_BUYER == world.ask(world.wallet.balance())
        assert outcome == world.ask(world.wallet.lookup_payment(invoice.payment_hash))


def test_a_connection_that_may_not_pay_is_told_apart_and_does_not_pay(world: ElectrumWorld) -> None:
    narrow, wide = (NostrWalletConnect.from_url(uri) for uri in (world.electrum.narrow, world.electrum.uri))
    assert (False, True) == (world.ask(narrow.spends()), world.ask(wide.spends()))
    invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
    assert isinstance(world.ask(narrow.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Failed)
    assert NOTHING == world.received(invoice)


def test_electrum_says_which_network_it_is_on(world: ElectrumWorld) -> None:
    wallet = NostrWalletConnect.from_url(world.electrum.uri)
    world.ask(wallet.balance())
    assert Network.REGTEST is wallet.network


def test_a_fraction_of_a_satoshi_is_refused_as_electrum_would_leave_it_out(world: ElectrumWorld) -> None:
    for _ in range(2):  # the first is noticed, and then it is known
        with pytest.raises((NodeUnavailable, WalletError)):
            world.ask(world.receiver.create_invoice(Amount.msats(1_500), description="a test", expires_in=TEN_MINUTES))
    assert Capability.MSAT not in world.receiver.capabilities
