"""LNbits, for real, on its FakeWallet: the suites, as far as that is able, and what only a real LNbits does."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import NodeUnavailable
from farebox.core.ports import (
    Conversation,
    Failed,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Receiver,
    Unresolved,
    Wallet,
)
from farebox.http.converse import converse
from farebox.lightning.lightning_address import LightningAddress
from farebox.lightning.lnbits import LNbits
from farebox.testing.backends import (
    FEE_LIMIT,
    NOBODYS_HASH,
    PRICE,
    TEN_MINUTES,
    ReceiverSuite,
    WalletSuite,
    WalletWorld,
)
from farebox.testing.real_lnbits import RealLNbits
from farebox.testing.regtest import free_ports, kept_programs
from farebox.testing.settlement_streams import StreamSuite

pytestmark = pytest.mark.lightning

T = TypeVar("T")

CACHE = kept_programs(os.environ).parent / "lnbits"


class RealWorld:
    """The seller's wallet, with its invoice key, and the buyer's, with its admin key."""

    short = timedelta(seconds=2)
    wait = timedelta(0)
    many = 30  # which takes some seconds

    def __init__(self, lnbits: RealLNbits, client: httpx.Client, seller: dict[str, str] | None = None) -> None:
        self.lnbits = lnbits
        self.began = datetime.now(UTC)
        self.receiver: Receiver = LNbits.from_url(lnbits.wallet_url((seller or lnbits.seller)["inkey"]))
        self.wallet: Wallet = LNbits.from_url(lnbits.wallet_url(lnbits.buyer["adminkey"]))
        self._client = client
        self._loses = False

    def ask(self, conversation: Conversation[T]) -> T:
        return converse(self._losing(conversation), self._client)

    def _losing(self, conversation: Conversation[T]) -> Conversation[T]:
        try:
            call = next(conversation)
            while True:
                reply = yield call
                call = conversation.send(self._lost(call, reply))
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    def _lost(self, call: HttpCall, reply: HttpReply) -> HttpReply:
        if not self._loses or call.method != "POST":
            return reply
        self._loses = False
        return HttpReply(status=0, sent=True, reason="ReadError")

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        receiver, wallet = self.receiver, self.wallet
        nowhere = f"lnbits+http://127.0.0.1:{free_ports(1)[0]}?key=k"
        self.receiver, self.wallet = LNbits.from_url(nowhere), LNbits.from_url(nowhere)
        yield
        self.receiver, self.wallet = receiver, wallet

    def pass_time(self, span: timedelta) -> None:
        time.sleep(span.total_seconds() + 1)

    def pay(self, invoice: Invoice) -> None:
        self.ask(self.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))

    def invoice(self, amount: Amount, *, expires_in: timedelta) -> Invoice:
        return self.ask(self.receiver.create_invoice(amount, description="a test", expires_in=expires_in))

    def received(self, invoice: Invoice) -> Amount:
        return self.ask(self.receiver.lookup_invoice(invoice.payment_hash)).received

    def set_fee(self, fee: Amount) -> None:
        """FakeWallet takes none."""

    def lose_next_reply(self) -> None:
        self._loses = True

    def fail_next(self) -> None:
        pytest.skip("FakeWallet fails only what it can't pay ever")

    def hold_next(self) -> None:
        pytest.skip("FakeWallet pays at once")

    def release(self, invoice: Invoice) -> None:
        """Nothing is ever held."""


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLNbits]:
    with RealLNbits(CACHE, tmp_path_factory.mktemp("lnbits")) as started:
        yield started


@pytest.fixture
def world(lnbits: RealLNbits) -> Iterator[RealWorld]:
    with httpx.Client(trust_env=False) as client:
        yield RealWorld(lnbits, client)


class TestReceiver(ReceiverSuite):
    def test_an_expired_invoice_can_no_longer_be_paid(self, world: RealWorld) -> None:  # type: ignore[override]
        """FakeWallet pays expired invoices, so nobody tries to; that it has expired is told."""
        invoice = world.invoice(PRICE, expires_in=world.short)
        world.pass_time(world.short)
        assert InvoiceStatus(state=InvoiceState.CANCELLED) == world.ask(
            world.receiver.lookup_invoice(invoice.payment_hash)
        )


class TestStream(StreamSuite):
    @pytest.fixture
    def world(self, lnbits: RealLNbits) -> Iterator[RealWorld]:
        with httpx.Client(trust_env=False) as client:
            world = RealWorld(lnbits, client, seller=lnbits.new_wallet("of one test"))
            world.short = timedelta(seconds=12)  # the last ten are read again
            yield world

    def test_pages_are_read_until_there_are_no_more(self, world: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("farebox.lightning.lnbits._PAGE", 3)
        invoices = [world.invoice(PRICE, expires_in=TEN_MINUTES) for _ in range(9)]
        for each in invoices:
            world.pay(each)
        told = world.ask(_seller(world).settlements("0", wait=world.wait)).settled
        assert {each.payment_hash for each in invoices} == {each.payment_hash for each in told}


class TestWallet(WalletSuite):
    def test_a_payment_costs_its_amount_and_the_fee_that_is_told(self, world: WalletWorld) -> None:
        """FakeWallet takes no fee."""
        before = world.ask(world.wallet.balance())
        outcome = _pay(world, world.invoice(PRICE, expires_in=TEN_MINUTES))
        assert isinstance(outcome, Paid)
        assert outcome.fee == NOTHING
        assert before - PRICE == world.ask(world.wallet.balance())

    def test_an_expired_invoice_fails_and_costs_nothing(self, world: WalletWorld) -> None:
        """FakeWallet pays it: what was paid is told as paid, with its proof."""
        invoice = world.invoice(PRICE, expires_in=world.short)
        world.pass_time(world.short)
        assert isinstance(_pay(world, invoice), Paid)

    def test_a_failed_payment_is_found_as_failed(self, world: WalletWorld) -> None:
        """FakeWallet fails what it has not made."""
        invoice = _foreign(b"found as failed")
        assert isinstance(_pay(world, invoice), Failed)
        assert isinstance(world.ask(world.wallet.lookup_payment(invoice.payment_hash)), Failed)

    def test_a_failed_payment_may_be_tried_again(self, world: WalletWorld) -> None:
        """LNbits never tries one again, and it stays failed."""
        invoice = _foreign(b"tried again")
        before = world.ask(world.wallet.balance())
        assert isinstance(_pay(world, invoice), Failed)
        assert isinstance(_pay(world, invoice), Failed)
        assert before == world.ask(world.wallet.balance())


def test_the_keys_are_told_apart_without_moving_anything(world: RealWorld) -> None:
    before = world.ask(world.wallet.balance())
    for key, spends in (("inkey", False), ("adminkey", True)):
        wallet = LNbits.from_url(world.lnbits.wallet_url(world.lnbits.buyer[key]))
        assert spends is world.ask(wallet.spends())
    assert world.ask(LNbits.from_url(world.lnbits.wallet_url("nobodys")).spends()) is False
    assert before == world.ask(world.wallet.balance())


def test_the_invoice_key_does_not_pay(world: RealWorld) -> None:
    wallet = LNbits.from_url(world.lnbits.wallet_url(world.lnbits.buyer["inkey"]))
    outcome = world.ask(wallet.pay_invoice(world.invoice(PRICE, expires_in=TEN_MINUTES), fee_limit=NOTHING))
    assert isinstance(outcome, Failed)
    assert "admin key" in outcome.reason


def test_a_key_of_nobody_learns_nothing_and_is_told_so(world: RealWorld) -> None:
    invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
    world.pay(invoice)
    nobody = LNbits.from_url(world.lnbits.wallet_url("nobodys"))
    with pytest.raises(NodeUnavailable, match="key"):
        world.ask(nobody.lookup_invoice(invoice.payment_hash))
    with pytest.raises(NodeUnavailable, match="key"):
        world.ask(nobody.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))
    outcome = world.ask(nobody.pay_invoice(invoice, fee_limit=NOTHING))
    assert isinstance(outcome, Failed)
    assert "key" in outcome.reason


def test_invoices_are_for_mainnet_and_the_network_is_learnt_from_them(world: RealWorld) -> None:
    world.invoice(PRICE, expires_in=TEN_MINUTES)
    assert world.receiver.network is Network.MAINNET


def test_a_wallet_that_pays_its_own_invoice_has_both_the_invoice_and_the_payment(world: RealWorld) -> None:
    own = LNbits.from_url(world.lnbits.wallet_url(world.lnbits.seller["adminkey"]))
    before = world.ask(own.balance())
    invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
    outcome = world.ask(own.pay_invoice(invoice, fee_limit=NOTHING))
    assert isinstance(outcome, Paid)
    assert outcome == world.ask(own.lookup_payment(invoice.payment_hash))
    assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == world.ask(own.lookup_invoice(invoice.payment_hash))
    assert before == world.ask(own.balance())


def test_what_the_buyer_paid_is_no_invoice_of_the_buyers(world: RealWorld) -> None:
    invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
    world.pay(invoice)
    buyer = LNbits.from_url(world.lnbits.wallet_url(world.lnbits.buyer["inkey"]))
    assert InvoiceStatus(state=InvoiceState.UNKNOWN) == world.ask(buyer.lookup_invoice(invoice.payment_hash))
    paid = world.ask(_seller(world).lookup_payment(invoice.payment_hash))
    assert isinstance(paid, Unresolved)
    assert not paid.known


def test_an_address_of_lnbits_own_can_not_be_looked_up_and_is_refused(world: RealWorld) -> None:
    name = world.lnbits.name_wallet(world.lnbits.seller, "shop")
    with pytest.raises(NodeUnavailable, match="LUD-21"):
        world.ask(
            LightningAddress.open_receiver(name).create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES)
        )
    with pytest.raises(NodeUnavailable, match="not found"):
        world.ask(
            LightningAddress.open_receiver(name.replace("shop", "nobody")).create_invoice(
                PRICE, description="a test", expires_in=TEN_MINUTES
            )
        )


def _seller(world: RealWorld) -> LNbits:
    assert isinstance(world.receiver, LNbits)
    return world.receiver


def _pay(world: WalletWorld, invoice: Invoice) -> PayOutcome:
    return world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))


def _foreign(seed: bytes) -> Invoice:
    """An invoice of a node that nobody knows."""
    return sign(
        secret_key=NOBODYS_HASH,
        network=Network.MAINNET,
        amount=PRICE,
        payment_hash=hashlib.sha256(seed).digest(),
        payment_secret=NOBODYS_HASH,
        description="a test",
        created_at=datetime.now(UTC),
        expires_in=TEN_MINUTES,
    )
