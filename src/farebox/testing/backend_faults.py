"""The conformance suites for what comes back over a broken or a lying line: the same sentences for every backend.

They need a fixture `world` that is a FakedWorld. Each reply of a conversation is spoilt in turn, after the fake did
what it was asked; so they find the place where something unclear is taken for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Final

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.conversation import HttpReply
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import Failed, InvoiceState, InvoiceStatus, Paid, Unresolved
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES
from farebox.testing.faked_world import Change, FakedWorld

SPOILT: Final = MappingProxyType(
    {
        "lost": HttpReply(status=0, sent=True, reason="ReadTimeout"),
        "500": HttpReply(status=500),
        "502 of a proxy": HttpReply(status=502, body=b"<html>Bad Gateway</html>"),
        "elsewhere": HttpReply(status=302),
        "nothing": HttpReply(status=200),
        "a page": HttpReply(status=200, body=b"<html>Welcome</html>"),
        "no members": HttpReply(status=200, body=b"{}"),
        "null": HttpReply(status=200, body=b"null"),
        "no UTF-8": HttpReply(status=200, body=b'{"status": "\xff"}'),
        "without end": HttpReply(status=200, body=b'{"a":' * 100_000),
    }
)
_INVOICE: Final = re.compile(rb"lnbcrt[0-9a-z]{100,}")
_spoilt = pytest.mark.parametrize("reply", SPOILT.values(), ids=SPOILT)


class ReceiverFaultSuite:
    """What every Receiver over HTTP keeps, whatever comes back."""

    @_spoilt
    def test_a_paid_invoice_is_never_called_anything_else(self, world: FakedWorld, reply: HttpReply) -> None:
        invoice = _ask_for(world)
        world.pay(invoice)
        for change in _each_replaced_by(reply):
            assert _state(world, invoice, change) in (None, InvoiceState.PAID)

    @_spoilt
    def test_an_open_invoice_is_never_called_paid_or_over(self, world: FakedWorld, reply: HttpReply) -> None:
        invoice = _ask_for(world)
        for change in _each_replaced_by(reply):
            assert _state(world, invoice, change) in (None, InvoiceState.OPEN)

    @_spoilt
    def test_an_invoice_is_made_or_the_node_is_unavailable(self, world: FakedWorld, reply: HttpReply) -> None:
        for change in _each_replaced_by(reply):
            try:
                with world.changed(change):
                    assert PRICE == _ask_for(world).amount
            except NodeUnavailable:
                continue

    def test_an_invoice_for_another_amount_is_not_passed_on(self, world: FakedWorld) -> None:
        other = world.sandbox.seller.issue(PRICE + Amount.msats(1), description="a test", expires_in=TEN_MINUTES)
        with world.changed(_with_invoice(other)), pytest.raises(NodeUnavailable):
            _ask_for(world)

    def test_the_answer_about_another_invoice_is_none(self, world: FakedWorld) -> None:
        asked, other = _ask_for(world), _ask_for(world)
        world.pay(other)
        new, old = asked.payment_hash.hex().encode(), other.payment_hash.hex().encode()
        assert _state(world, other, lambda _, reply: _replaced(reply, old, new)) is None


class WalletFaultSuite:
    """What every Wallet over HTTP keeps, whatever comes back."""

    @_spoilt
    def test_a_payment_that_arrived_is_never_called_failed(self, world: FakedWorld, reply: HttpReply) -> None:
        for change in _each_replaced_by(reply):
            invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
            with world.changed(change):
                outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
            if world.received(invoice):
                assert not isinstance(outcome, Failed)
            else:
                assert not isinstance(outcome, Paid)

    @_spoilt
    def test_a_payment_in_flight_is_never_called_failed_or_unheard_of(
        self, world: FakedWorld, reply: HttpReply
    ) -> None:
        for change in _each_replaced_by(reply):
            invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
            world.hold_next()
            world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
            with world.changed(change):
                try:
                    outcome = world.ask(world.wallet.lookup_payment(invoice.payment_hash))
                except WalletError:
                    continue
            assert isinstance(outcome, Unresolved)
            assert outcome.known

    def test_zeros_are_no_proof(self, world: FakedWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        preimage = world.sandbox.seller.preimage_of(invoice)
        assert preimage is not None
        shown = preimage.reveal().hex().encode()
        with world.changed(lambda _, reply: _replaced(reply, shown, b"0" * len(shown))):
            assert isinstance(world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Unresolved)
            assert isinstance(world.ask(world.wallet.lookup_payment(invoice.payment_hash)), Unresolved)


def _ask_for(world: FakedWorld) -> Invoice:
    return world.ask(world.receiver.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES))


def _state(world: FakedWorld, invoice: Invoice, change: Change) -> InvoiceState | None:
    """What is said of an invoice; None when the node is called unavailable, which says nothing."""
    try:
        with world.changed(change):
            status = world.ask(world.receiver.lookup_invoice(invoice.payment_hash))
    except NodeUnavailable:
        return None
    if status.state is InvoiceState.PAID:
        assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == status
    return status.state


@dataclass
class _Spoilt:
    """Another reply in the place of one of them."""

    at: int
    reply: HttpReply
    reached: bool = False

    def __call__(self, number: int, reply: HttpReply) -> HttpReply:
        if number != self.at:
            return reply
        self.reached = True
        return self.reply


def _each_replaced_by(reply: HttpReply) -> Iterator[Change]:
    """A change for each reply of a conversation, until there are no more."""
    for at in count():
        spoilt = _Spoilt(at, reply)
        yield spoilt
        if not spoilt.reached:
            return


def _with_invoice(invoice: Invoice) -> Change:
    text = invoice.text.encode()
    return lambda _, reply: HttpReply(status=reply.status, body=_INVOICE.sub(text, reply.body))


def _replaced(reply: HttpReply, old: bytes, new: bytes) -> HttpReply:
    return HttpReply(status=reply.status, body=reply.body.replace(old, new), sent=reply.sent, reason=reply.reason)
