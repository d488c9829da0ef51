"""The conformance suite for backends that hold what they are paid, until it is settled or given back."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Protocol

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import NodeUnavailable
from farebox.core.ports import HoldReceiver, InvoiceState, InvoiceStatus
from farebox.core.secret import Secret
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverWorld

PAID = InvoiceStatus(state=InvoiceState.PAID, received=PRICE)
HELD = InvoiceStatus(state=InvoiceState.HELD)
CANCELLED = InvoiceStatus(state=InvoiceState.CANCELLED)


class HoldWorld(ReceiverWorld, Protocol):
    """A receiver that holds, and somebody who pays it."""

    def pay_into_hold(self, invoice: Invoice) -> None:
        """Somebody pays; returns when it is held, or was refused."""

    def payers_funds(self) -> Amount:
        """What the one who pays has, once nothing of it is on its way."""


@dataclass
class _Hold:
    """An invoice, what settles it, and what its payer had before."""

    invoice: Invoice
    preimage: Secret[bytes]
    before: Amount


class HoldSuite:
    """What every HoldReceiver keeps. Needs the fixture `world`, a HoldWorld."""

    def test_a_hold_invoice_is_for_the_hash_and_the_amount_that_were_asked_for(self, world: HoldWorld) -> None:
        hold = _ask_for(world)
        assert PRICE == hold.invoice.amount
        assert hashlib.sha256(hold.preimage.reveal()).digest() == hold.invoice.payment_hash
        assert InvoiceStatus(state=InvoiceState.OPEN) == _look_up(world, hold)

    def test_what_is_held_is_not_received(self, world: HoldWorld) -> None:
        hold = _held(world)
        assert HELD == _look_up(world, hold)
        _cancel(world, hold)

    def test_what_is_settled_is_received_and_its_payer_has_paid_the_price(self, world: HoldWorld) -> None:
        hold = _held(world)
        assert PAID == _settle(world, hold)
        assert hold.before - PRICE == world.payers_funds()

    def test_what_is_cancelled_goes_back_to_the_millisatoshi(self, world: HoldWorld) -> None:
        hold = _held(world)
        assert CANCELLED == _cancel(world, hold)
        assert hold.before == world.payers_funds()

    def test_what_is_settled_twice_is_received_once(self, world: HoldWorld) -> None:
        hold = _held(world)
        assert [PAID, PAID] == [_settle(world, hold), _settle(world, hold)]
        assert hold.before - PRICE == world.payers_funds()

    def test_what_is_cancelled_twice_goes_back_once(self, world: HoldWorld) -> None:
        hold = _held(world)
        assert [CANCELLED, CANCELLED] == [_cancel(world, hold), _cancel(world, hold)]
        assert hold.before == world.payers_funds()

    def test_what_was_cancelled_can_not_be_settled(self, world: HoldWorld) -> None:
        hold = _held(world)
        _cancel(world, hold)
        assert CANCELLED == _settle(world, hold)
        assert hold.before == world.payers_funds()

    def test_what_was_settled_can_not_be_cancelled(self, world: HoldWorld) -> None:
        hold = _held(world)
        _settle(world, hold)
        assert PAID == _cancel(world, hold)
        assert hold.before - PRICE == world.payers_funds()

    def test_what_was_cancelled_before_anybody_paid_can_not_be_paid(self, world: HoldWorld) -> None:
        hold = _ask_for(world)
        assert CANCELLED == _cancel(world, hold)
        world.pay_into_hold(hold.invoice)
        assert CANCELLED == _look_up(world, hold)
        assert hold.before == world.payers_funds()

    def test_what_nobody_paid_can_not_be_settled(self, world: HoldWorld) -> None:
        hold = _ask_for(world)
        assert InvoiceStatus(state=InvoiceState.OPEN) == _settle(world, hold)
        assert hold.before == world.payers_funds()
        _cancel(world, hold)

    def test_a_preimage_of_nobody_settles_nothing(self, world: HoldWorld) -> None:
        hold = _held(world)
        stranger = Secret(secrets.token_bytes(32))
        assert InvoiceState.UNKNOWN is world.ask(_receiver(world).settle_invoice(stranger)).state
        assert InvoiceState.UNKNOWN is world.ask(_receiver(world).cancel_invoice(NOBODYS_HASH)).state
        assert HELD == _look_up(world, hold)
        _cancel(world, hold)
        assert hold.before == world.payers_funds()

    def test_a_node_out_of_reach_neither_settles_nor_cancels_and_says_so(self, world: HoldWorld) -> None:
        hold = _held(world)
        with world.out_of_reach():
            for asked in (_settle, _cancel):
                with pytest.raises(NodeUnavailable):
                    asked(world, hold)
        assert HELD == _look_up(world, hold)
        assert PAID == _settle(world, hold)


def _receiver(world: HoldWorld) -> HoldReceiver:
    assert isinstance(world.receiver, HoldReceiver)
    return world.receiver


def _ask_for(world: HoldWorld) -> _Hold:
    preimage, before = secrets.token_bytes(32), world.payers_funds()
    payment_hash = hashlib.sha256(preimage).digest()
    asked = _receiver(world).create_hold_invoice(
        PRICE, payment_hash=payment_hash, description="a test", expires_in=TEN_MINUTES
    )
    return _Hold(world.ask(asked), Secret(preimage), before)


def _held(world: HoldWorld) -> _Hold:
    hold = _ask_for(world)
    world.pay_into_hold(hold.invoice)
    return hold


def _look_up(world: HoldWorld, hold: _Hold) -> InvoiceStatus:
    return world.ask(world.receiver.lookup_invoice(hold.invoice.payment_hash))


def _settle(world: HoldWorld, hold: _Hold) -> InvoiceStatus:
    return world.ask(_receiver(world).settle_invoice(hold.preimage))


def _cancel(world: HoldWorld, hold: _Hold) -> InvoiceStatus:
    return world.ask(_receiver(world).cancel_invoice(hold.invoice.payment_hash))
