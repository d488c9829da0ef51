"""The conformance suite for backends that tell what was settled."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import NodeUnavailable
from farebox.core.settlement import Settlement, Settlements, SettlementStream
from farebox.testing.backends import PRICE, TEN_MINUTES, ReceiverWorld


class StreamWorld(ReceiverWorld, Protocol):
    """A receiver that tells by itself what was settled, and somebody who pays it."""

    @property
    def began(self) -> datetime:
        """Nobody has paid since, before the test began."""

    @property
    def wait(self) -> timedelta:
        """How long the backend may wait for something to tell."""

    @property
    def many(self) -> int:
        """More settlements than the backend tells at once, or as many as there is time for."""


class StreamSuite:
    """What every SettlementStream keeps. Needs the fixture `world`, a StreamWorld."""

    def test_a_node_that_nobody_paid_tells_nothing(self, world: StreamWorld) -> None:
        _ask_for(world)
        assert () == _read(world, _begin(world)).settled

    def test_what_was_paid_is_told_with_what_was_received(self, world: StreamWorld) -> None:
        paid, other = _ask_for(world, Amount.sats(3)), _ask_for(world)
        begin = _begin(world)
        world.pay(paid)
        assert (Settlement(payment_hash=paid.payment_hash, received=Amount.sats(3)),) == _read(world, begin).settled
        assert other.payment_hash not in {each.payment_hash for each in _read(world, begin).settled}

    def test_reading_on_from_a_cursor_misses_nothing(self, world: StreamWorld) -> None:
        cursor, seen = _begin(world), set[bytes]()
        invoices = [_ask_for(world) for _ in range(12)]
        for invoice in invoices:
            world.pay(invoice)
            read = _read(world, cursor)
            cursor = read.cursor
            seen |= {each.payment_hash for each in read.settled}
        assert {invoice.payment_hash for invoice in invoices} == seen

    def test_an_old_cursor_tells_everything_again(self, world: StreamWorld) -> None:
        old = _begin(world)
        world.pay(_ask_for(world))
        middle = _read(world, old).cursor
        world.pay(_ask_for(world))
        _read(world, middle)
        assert 2 == len(_read(world, old).settled)

    def test_more_than_is_told_at_once_is_told_in_the_end(self, world: StreamWorld) -> None:
        cursor, seen = _begin(world), set[bytes]()
        invoices = [_ask_for(world) for _ in range(world.many)]
        for invoice in invoices:
            world.pay(invoice)
        more = True
        while more:
            read = _read(world, cursor)
            cursor, more = read.cursor, read.more
            seen |= {each.payment_hash for each in read.settled}
        assert {invoice.payment_hash for invoice in invoices} == seen

    def test_a_cursor_at_an_instant_leaves_out_what_was_long_before(self, world: StreamWorld) -> None:
        early, late = _ask_for(world), None
        world.pay(early)
        world.pass_time(world.short)
        late = _ask_for(world)
        cursor = world.ask(_stream(world).cursor_at(late.created_at))
        world.pay(late)
        assert [late.payment_hash] == [each.payment_hash for each in _read(world, cursor).settled]

    def test_an_invoice_that_is_paid_twice_is_told_once(self, world: StreamWorld) -> None:
        begin, invoice = _begin(world), _ask_for(world)
        world.pay(invoice)
        world.pay(invoice)
        assert 1 == len(_read(world, begin).settled)

    def test_a_node_out_of_reach_does_not_say_that_there_is_nothing(self, world: StreamWorld) -> None:
        begin = _begin(world)
        with world.out_of_reach(), pytest.raises(NodeUnavailable):
            _read(world, begin)


def _stream(world: StreamWorld) -> SettlementStream:
    assert isinstance(world.receiver, SettlementStream)
    return world.receiver


def _begin(world: StreamWorld) -> str:
    return world.ask(_stream(world).cursor_at(world.began))


def _read(world: StreamWorld, cursor: str) -> Settlements:
    return world.ask(_stream(world).settlements(cursor, wait=world.wait))


def _ask_for(world: StreamWorld, amount: Amount = PRICE) -> Invoice:
    return world.ask(world.receiver.create_invoice(amount, description="a test", expires_in=TEN_MINUTES))
