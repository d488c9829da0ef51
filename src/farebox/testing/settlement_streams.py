"""The conformance suites for backends that tell what was settled: from a cursor on, or to whoever listens."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import NodeUnavailable
from farebox.core.settlement import Settlement, SettlementNotices, Settlements, SettlementStream
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverWorld

_MOST_ROUNDS: Final = 5


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
            told = {each.payment_hash for each in read.settled}
            paused = bool(world.wait) and not told <= seen  # a real node may pause before the end
            cursor, more = read.cursor, read.more or paused
            seen |= told
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


class NoticeWorld(ReceiverWorld, Protocol):
    """A receiver that tells what was paid to whoever listens, and somebody who pays it."""

    @property
    def wait(self) -> timedelta:
        """How long the backend may wait for something to tell."""

    def pretend(self, payment_hash: bytes) -> None:
        """The backend tells that this was paid, whether or not it was."""


class NoticeSuite:
    """What every SettlementNotices keeps. Needs the fixture `world`, a NoticeWorld."""

    def test_a_wallet_that_nobody_paid_tells_nothing(self, world: NoticeWorld) -> None:
        _ask_for(world)
        assert () == _hear(world)

    def test_what_was_paid_is_told_once_with_what_was_received(self, world: NoticeWorld) -> None:
        paid, _ = _ask_for(world, Amount.sats(3)), _ask_for(world)
        assert () == _hear(world)
        world.pay(paid)
        world.pay(paid)
        assert (Settlement(payment_hash=paid.payment_hash, received=Amount.sats(3)),) == _hear(world)

    def test_many_payments_are_all_told_in_the_end(self, world: NoticeWorld) -> None:
        invoices = [_ask_for(world) for _ in range(12)]
        for invoice in invoices:
            world.pay(invoice)
        assert {each.payment_hash for each in invoices} == {each.payment_hash for each in _hear(world)}

    def test_what_is_told_and_was_not_paid_is_not_believed(self, world: NoticeWorld) -> None:
        unpaid, paid = _ask_for(world), _ask_for(world)
        world.pretend(unpaid.payment_hash)
        world.pretend(NOBODYS_HASH)
        world.pay(paid)
        assert [paid.payment_hash] == [each.payment_hash for each in _hear(world)]

    def test_a_wallet_out_of_reach_does_not_say_that_there_is_nothing(self, world: NoticeWorld) -> None:
        _hear(world)
        with world.out_of_reach(), pytest.raises(NodeUnavailable):
            _hear(world)


def _hear(world: NoticeWorld) -> tuple[Settlement, ...]:
    assert isinstance(world.receiver, SettlementNotices)
    told: tuple[Settlement, ...] = ()
    for _ in range(_MOST_ROUNDS):
        told += world.ask(world.receiver.notices(wait=world.wait))
    return told


def _stream(world: StreamWorld) -> SettlementStream:
    assert isinstance(world.receiver, SettlementStream)
    return world.receiver


def _begin(world: StreamWorld) -> str:
    return world.ask(_stream(world).cursor_at(world.began))


def _read(world: StreamWorld, cursor: str) -> Settlements:
    return world.ask(_stream(world).settlements(cursor, wait=world.wait))


def _ask_for(world: ReceiverWorld, amount: Amount = PRICE) -> Invoice:
    return world.ask(world.receiver.create_invoice(amount, description="a test", expires_in=TEN_MINUTES))
