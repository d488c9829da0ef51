"""LNbits, for real, on a real lnd: its invoices are paid, and it pays, over channels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from farebox.core.bolt11 import Invoice, Network
from farebox.core.conversation import Call, HttpCall
from farebox.core.ports import Failed, Paid, Receiver, Wallet
from farebox.lightning.lnbits import LNbits
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.real_lnbits import RealLNbits
from farebox.testing.regtest import Refused, Regtest, free_ports, kept_programs
from farebox.testing.regtest_world import RegtestWorld

pytestmark = pytest.mark.lightning

CACHE = kept_programs(os.environ).parent / "lnbits"


class LNbitsWorld(RegtestWorld):
    """Two wallets of an LNbits on the buyer's lnd: one is paid by the seller, and the other pays the seller."""

    apart = timedelta(0)

    def __init__(self, regtest: Regtest, lnbits: RealLNbits) -> None:
        super().__init__(regtest)
        self.receiver: Receiver = LNbits.from_url(lnbits.wallet_url(lnbits.seller["inkey"]))
        self.wallet: Wallet = LNbits.from_url(lnbits.wallet_url(lnbits.buyer["adminkey"]))

    def pay(self, invoice: Invoice) -> None:
        with suppress(Refused):
            self.regtest.seller.pays(invoice.text)

    def is_payment(self, call: Call) -> bool:
        return isinstance(call, HttpCall) and call.method == "POST" and b"bolt11" in call.body

    def has_proof(self, invoice: Invoice) -> bool:
        return isinstance(self.ask(self.wallet.lookup_payment(invoice.payment_hash)), Paid)

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        receiver, wallet = self.receiver, self.wallet
        self.receiver = self.wallet = LNbits.from_url(f"lnbits+http://127.0.0.1:{free_ports(1)[0]}?key=k")
        yield
        self.receiver, self.wallet = receiver, wallet


@pytest.fixture(scope="module")
def lnbits(regtest: Regtest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLNbits]:
    with RealLNbits(CACHE, tmp_path_factory.mktemp("lnbits"), lnd=regtest.buyer) as started:
        yield started


@pytest.fixture
def world(regtest: Regtest, lnbits: RealLNbits) -> Iterator[LNbitsWorld]:
    world = LNbitsWorld(regtest, lnbits)
    yield world
    world.close()


class TestReceiver(ReceiverSuite):
    pass


class TestWallet(WalletSuite):
    def test_a_failed_payment_may_be_tried_again(self, world: LNbitsWorld) -> None:  # type: ignore[override]
        """LNbits never tries one again, and it stays failed."""
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.fail_next()
        for _ in range(2):
            assert isinstance(world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Failed)


def test_invoices_are_for_the_network_of_the_lnd(world: LNbitsWorld) -> None:
    world.ask(world.receiver.create_invoice(PRICE, description="a test", expires_in=timedelta(minutes=1)))
    assert Network.REGTEST is world.receiver.network
