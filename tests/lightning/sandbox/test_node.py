from __future__ import annotations

import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import Failed, InvoiceState, InvoiceStatus, Paid, PayOutcome, Unresolved
from farebox.core.secret import Secret
from farebox.http.converse import converse
from farebox.lightning.sandbox import Sandbox, Trouble
from farebox.testing.backends import PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.hold_invoices import HoldSuite
from farebox.testing.sandbox_world import SandboxWorld
from farebox.testing.settlement_streams import StreamSuite


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> SandboxWorld:
        return SandboxWorld(sandbox, clock.forward)


class TestSeller(_Conformance, ReceiverSuite):
    pass


class TestHolding(_Conformance, HoldSuite):
    pass


class TestStream(_Conformance, StreamSuite):
    pass


class TestBuyer(_Conformance, WalletSuite):
    pass


PREIMAGE = Secret(b"\x07" * 32)
HOLD_HASH = hashlib.sha256(PREIMAGE.reveal()).digest()


def issue(sandbox: Sandbox, amount: Amount = PRICE) -> Invoice:
    return sandbox.seller.issue(amount, description="a test", expires_in=TEN_MINUTES)


def issue_hold(sandbox: Sandbox) -> Invoice:
    return sandbox.seller.issue_held(PRICE, payment_hash=HOLD_HASH, description="a test", expires_in=TEN_MINUTES)


def pay(sandbox: Sandbox, invoice: Invoice) -> PayOutcome:
    return sandbox.buyer.pay(invoice, fee_limit=None)


def test_invoices_are_for_regtest_and_signed_by_the_node(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    assert invoice.text.startswith("lnbcrt210n1")
    assert invoice.payee == sandbox.seller.public_key


def test_millisatoshis_are_paid_exactly(sandbox: Sandbox) -> None:
    pay(sandbox, issue(sandbox, Amount.msats(1_234)))
    assert sandbox.seller.funds() == Amount.msats(1_234)


def test_a_payment_works_in_the_other_direction_too(sandbox: Sandbox) -> None:
    pay(sandbox, issue(sandbox))
    invoice = sandbox.buyer.issue(Amount.sats(20), description="a refund", expires_in=TEN_MINUTES)
    assert isinstance(sandbox.seller.pay(invoice, fee_limit=None), Paid)
    assert sandbox.seller.funds() == Amount.sats(1)


def test_a_node_does_not_pay_itself(sandbox: Sandbox) -> None:
    invoice = sandbox.buyer.issue(PRICE, description="a test", expires_in=TEN_MINUTES)
    assert isinstance(pay(sandbox, invoice), Failed)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000)


def test_a_payment_is_known_to_its_payer_only(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    pay(sandbox, invoice)
    outcome = converse(sandbox.seller.lookup_payment(invoice.payment_hash))
    assert isinstance(outcome, Unresolved)
    assert not outcome.known


def test_an_invoice_is_known_to_its_payee_only(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    pay(sandbox, invoice)
    assert sandbox.buyer.invoice_status(invoice.payment_hash) == InvoiceStatus(state=InvoiceState.UNKNOWN)


def test_an_invoice_that_only_borrows_the_payment_hash_is_refused(sandbox: Sandbox) -> None:
    foreign = Sandbox.open(None)
    try:
        stolen = foreign.seller.issue_held(
            PRICE, payment_hash=issue(sandbox).payment_hash, description="a test", expires_in=TEN_MINUTES
        )
    finally:
        foreign.close()
    assert isinstance(pay(sandbox, stolen), Failed)


# --- hold invoices ----------------------------------------------------------------------------------------------------


def test_a_hold_invoice_is_held_when_it_is_paid(sandbox: Sandbox) -> None:
    assert isinstance(pay(sandbox, issue_hold(sandbox)), Unresolved)
    assert sandbox.seller.invoice_status(HOLD_HASH) == InvoiceStatus(state=InvoiceState.HELD)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000) - PRICE
    assert sandbox.seller.funds() == NOTHING


def test_a_held_payment_is_paid_when_the_preimage_is_shown(sandbox: Sandbox) -> None:
    invoice = issue_hold(sandbox)
    pay(sandbox, invoice)
    assert sandbox.seller.settle(PREIMAGE)
    assert sandbox.seller.invoice_status(HOLD_HASH) == InvoiceStatus(state=InvoiceState.PAID, received=PRICE)
    assert pay(sandbox, invoice) == Paid(preimage=PREIMAGE, fee=NOTHING)


def test_a_held_payment_goes_back_when_it_is_cancelled(sandbox: Sandbox) -> None:
    invoice = issue_hold(sandbox)
    pay(sandbox, invoice)
    assert sandbox.seller.cancel(HOLD_HASH)
    assert sandbox.seller.invoice_status(HOLD_HASH) == InvoiceStatus(state=InvoiceState.CANCELLED)
    assert isinstance(pay(sandbox, invoice), Failed)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000)


def test_nothing_is_settled_that_is_not_held(sandbox: Sandbox) -> None:
    issue_hold(sandbox)
    assert not sandbox.seller.settle(PREIMAGE)


def test_a_hold_invoice_is_not_released_without_its_preimage(sandbox: Sandbox) -> None:
    pay(sandbox, issue_hold(sandbox))
    assert not sandbox.release(HOLD_HASH)


def test_a_cancelled_invoice_can_not_be_paid(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    assert sandbox.seller.cancel(invoice.payment_hash)
    assert isinstance(pay(sandbox, invoice), Failed)
    assert sandbox.seller.invoice_status(invoice.payment_hash) == InvoiceStatus(state=InvoiceState.CANCELLED)


def test_a_paid_invoice_can_not_be_cancelled(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    pay(sandbox, invoice)
    assert not sandbox.seller.cancel(invoice.payment_hash)
    assert sandbox.seller.invoice_status(invoice.payment_hash).state is InvoiceState.PAID


# --- what the book remembers ------------------------------------------------------------------------------------------


def test_an_invoice_can_be_paid_after_a_restart_although_nothing_was_written(tmp_path: Path) -> None:
    before = Sandbox.open(tmp_path / "sandbox.db")
    invoice = issue(before)
    before.close()
    after = Sandbox.open(tmp_path / "sandbox.db")
    try:
        assert after.seller.invoice_status(invoice.payment_hash) == InvoiceStatus(state=InvoiceState.UNKNOWN)
        assert isinstance(pay(after, invoice), Paid)
        assert after.seller.invoice_status(invoice.payment_hash).received == PRICE
    finally:
        after.close()


def test_a_restart_forgets_no_payment_no_hold_and_no_cancelling(tmp_path: Path) -> None:
    before = Sandbox.open(tmp_path / "sandbox.db")
    paid, cancelled, in_flight, held = issue(before), issue(before), issue(before), issue_hold(before)
    first = pay(before, paid)
    before.seller.cancel(cancelled.payment_hash)
    before.script(in_flight.payment_hash, Trouble.STAY_IN_FLIGHT)
    pay(before, in_flight)
    before.close()
    after = Sandbox.open(tmp_path / "sandbox.db")
    try:
        assert pay(after, paid) == first
        assert isinstance(pay(after, cancelled), Failed)
        assert after.seller.invoice_status(in_flight.payment_hash).state is InvoiceState.HELD
        assert after.release(in_flight.payment_hash)
        assert isinstance(pay(after, in_flight), Paid)
        assert after.seller.invoice_status(held.payment_hash).state is InvoiceState.OPEN
        assert isinstance(pay(after, held), Unresolved)
        assert after.seller.settle(PREIMAGE)
        assert after.seller.funds() == PRICE * 3
    finally:
        after.close()


def test_two_sandboxes_of_one_file_are_one_world(tmp_path: Path) -> None:
    one, two = Sandbox.open(tmp_path / "sandbox.db"), Sandbox.open(tmp_path / "sandbox.db")
    try:
        invoice = issue(one)
        assert isinstance(pay(two, invoice), Paid)
        assert one.seller.invoice_status(invoice.payment_hash).received == PRICE
        assert one.buyer.funds() == two.buyer.funds()
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("on_disk", [True, False])
def test_sixteen_threads_that_pay_one_invoice_pay_it_once(tmp_path: Path, on_disk: bool) -> None:
    sandbox = Sandbox.open(tmp_path / "sandbox.db" if on_disk else None)
    try:
        invoice = issue(sandbox)
        with ThreadPoolExecutor(16) as threads:
            outcomes = list(threads.map(lambda _: pay(sandbox, invoice), range(32)))
        assert all(outcome == outcomes[0] and isinstance(outcome, Paid) for outcome in outcomes)
        assert sandbox.seller.funds() == PRICE
        assert sandbox.buyer.funds() == Amount.sats(1_000_000) - PRICE
    finally:
        sandbox.close()


def test_a_closed_book_is_unresolved_to_pay_and_unavailable_to_ask(tmp_path: Path) -> None:
    sandbox = Sandbox.open(tmp_path / "sandbox.db")
    invoice = issue(sandbox)
    sandbox.close()
    assert isinstance(pay(sandbox, invoice), Unresolved)
    assert isinstance(converse(sandbox.buyer.lookup_payment(invoice.payment_hash)), Unresolved)
    with pytest.raises(NodeUnavailable):
        converse(sandbox.seller.lookup_invoice(invoice.payment_hash))
    with pytest.raises(WalletError):
        converse(sandbox.buyer.balance())


def test_no_preimage_is_in_the_file_before_it_is_paid(tmp_path: Path) -> None:
    sandbox = Sandbox.open(tmp_path / "sandbox.db")
    try:
        sandbox.script(None, Trouble.STAY_IN_FLIGHT)
        pay(sandbox, issue(sandbox))
        with sqlite3.connect(tmp_path / "sandbox.db") as book:
            assert book.execute("SELECT preimage FROM transfer").fetchall() == [(None,)]
        book.close()
    finally:
        sandbox.close()
