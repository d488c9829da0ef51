from __future__ import annotations

from datetime import timedelta
from typing import Any

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.ports import Failed, InvoiceState, Paid, PayOutcome, Unresolved
from farebox.lightning.sandbox import Sandbox, Trouble

PRICE = Amount.sats(21)
MINUTE = timedelta(minutes=1)


def issue(sandbox: Sandbox) -> Invoice:
    return sandbox.seller.issue(PRICE, description="a test", expires_in=MINUTE)


def pay(sandbox: Sandbox, invoice: Invoice) -> PayOutcome:
    return sandbox.buyer.pay(invoice, fee_limit=None)


def test_trouble_for_one_hash_leaves_other_payments_alone(sandbox: Sandbox) -> None:
    spared, struck = issue(sandbox), issue(sandbox)
    sandbox.script(struck.payment_hash, Trouble.FAIL)
    assert isinstance(pay(sandbox, spared), Paid)
    assert isinstance(pay(sandbox, struck), Failed)


def test_trouble_comes_once(sandbox: Sandbox) -> None:
    sandbox.script(None, Trouble.FAIL)
    assert isinstance(pay(sandbox, issue(sandbox)), Failed)
    assert isinstance(pay(sandbox, issue(sandbox)), Paid)


def test_a_late_payment_arrives_after_the_invoice_has_expired(sandbox: Sandbox, clock: Any) -> None:
    invoice = issue(sandbox)
    sandbox.script(invoice.payment_hash, Trouble.PAY_LATE)
    clock.forward(2 * MINUTE)
    assert sandbox.seller.invoice_status(invoice.payment_hash).state is InvoiceState.CANCELLED
    assert isinstance(pay(sandbox, invoice), Paid)
    assert sandbox.seller.invoice_status(invoice.payment_hash).received == PRICE


def test_a_payment_in_flight_may_arrive_after_the_invoice_has_expired(sandbox: Sandbox, clock: Any) -> None:
    invoice = issue(sandbox)
    sandbox.script(invoice.payment_hash, Trouble.STAY_IN_FLIGHT)
    pay(sandbox, invoice)
    clock.forward(2 * MINUTE)
    assert sandbox.seller.invoice_status(invoice.payment_hash).state is InvoiceState.HELD
    assert sandbox.release(invoice.payment_hash)
    assert sandbox.seller.invoice_status(invoice.payment_hash).received == PRICE


def test_a_payment_in_flight_may_fail_in_the_end(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(invoice.payment_hash, Trouble.STAY_IN_FLIGHT)
    pay(sandbox, invoice)
    assert sandbox.seller.cancel(invoice.payment_hash)
    assert isinstance(pay(sandbox, invoice), Failed)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000)


def test_a_payment_that_is_made_twice_is_received_twice_and_costs_twice(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(invoice.payment_hash, Trouble.PAY_TWICE)
    assert isinstance(pay(sandbox, invoice), Paid)
    assert sandbox.seller.invoice_status(invoice.payment_hash).received == PRICE * 2
    assert sandbox.buyer.funds() == Amount.sats(1_000_000) - PRICE * 2


def test_the_reply_of_a_payment_that_failed_may_be_lost_too(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(invoice.payment_hash, Trouble.FAIL | Trouble.LOSE_REPLY)
    assert isinstance(pay(sandbox, invoice), Unresolved)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000)


def test_nothing_is_released_that_is_not_in_flight(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    assert not sandbox.release(invoice.payment_hash)
    pay(sandbox, invoice)
    assert not sandbox.release(invoice.payment_hash)
    assert sandbox.seller.funds() == PRICE


def test_a_seller_out_of_reach_is_paid_all_the_same(sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    with sandbox.seller.out_of_reach():
        assert isinstance(pay(sandbox, invoice), Paid)
    assert sandbox.seller.invoice_status(invoice.payment_hash).received == PRICE
