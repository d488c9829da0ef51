"""The reconciler: what was paid is learnt, once, whatever goes down in between, and without spinning."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import NodeUnavailable, StoreUnavailable, WalletError
from farebox.core.payment import Payment, PaymentState
from farebox.core.ports import InvoiceState, Ledger
from farebox.core.settlement import Learnt, Settlement
from farebox.gate import Reconciler, StreamFound, StreamLost
from farebox.stores import open_ledger
from farebox.testing.ledger_stage import PRICE, TTL, invoice
from farebox.testing.market import StillClock
from farebox.testing.settling_node import SettlingNode, SilentNode, TellingNode
from farebox.testing.simulation.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

NOBODYS = Settlement(payment_hash=bytes(32), received=PRICE)


@dataclass
class Desk:
    """A ledger with open invoices, a node that is paid for them, and somebody who reconciles the two."""

    ledger: Ledger
    node: SilentNode
    clock: StillClock
    payments: list[Payment] = field(default_factory=list)

    def reconciler(self, *, others: Sequence[str] = ()) -> Reconciler:
        return Reconciler(ledger=self.ledger, receiver=self.node, converse=self.node.converse, others=others)

    async def open(self, count: int) -> Sequence[Payment]:
        fresh = [invoice(self.clock, f"payment {len(self.payments) + number}") for number in range(count)]
        for payment in fresh:
            await self.ledger.open_payment(payment)
        self.payments += fresh
        return fresh

    async def states(self) -> list[PaymentState]:
        rows = [await self.ledger.find_payment(payment.payment_hash) for payment in self.payments]
        return [row.state for row in rows if row is not None]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    clock = StillClock()
    desk = Desk(open_ledger("sqlite::memory:", clock), SettlingNode(clock), clock)
    yield desk
    assert (await desk.ledger.balance()).balanced
    assert [] == await desk.ledger.audit()
    await desk.ledger.close()


@pytest.fixture
def node(desk: Desk) -> SettlingNode:
    assert isinstance(desk.node, SettlingNode)
    return desk.node


# --- the stream -------------------------------------------------------------------------------------------------------


async def test_what_was_paid_is_learnt_and_is_read_no_second_time_even_by_another_process(
    desk: Desk, node: SettlingNode
) -> None:
    for payment in await desk.open(3):
        node.settle(payment.payment_hash, PRICE)
    assert Learnt(funded=3) == await desk.reconciler().catch_up()
    (late,) = await desk.open(1)
    node.settle(late.payment_hash, PRICE)
    assert Learnt(funded=1) == await desk.reconciler().catch_up()
    assert [PaymentState.FUNDED] * 4 == await desk.states()


async def test_everything_that_is_there_is_read_a_page_at_a_time(desk: Desk, node: SettlingNode) -> None:
    node.page = 3
    for payment in await desk.open(10):
        node.settle(payment.payment_hash, PRICE)
    assert Learnt(funded=10) == await desk.reconciler().catch_up()
    assert (4, "10") == (node.reads, await desk.ledger.find_cursor(node.name))


async def test_what_is_told_twice_and_out_of_order_counts_once(desk: Desk, node: SettlingNode) -> None:
    payments = await desk.open(40)
    told = [*payments, *payments, *payments]
    random.Random(40).shuffle(told)
    node.again, node.page = 7, 5
    for payment in told:
        node.settle(payment.payment_hash, PRICE)
    learnt = await desk.reconciler().catch_up()
    assert (40, 0) == (learnt.funded, learnt.strays)
    assert PRICE * 40 == (await desk.ledger.balance()).received


async def test_a_quiet_stream_writes_nothing(desk: Desk, node: SettlingNode) -> None:
    (payment,) = await desk.open(1)
    node.again = 5
    node.settle(payment.payment_hash, PRICE)
    reconciler = desk.reconciler()
    await reconciler.catch_up()
    ledger: Any = desk.ledger
    ledger.settle_from_stream = None  # would be called
    assert [Learnt()] * 3 == [await reconciler.catch_up() for _ in range(3)]


async def test_money_for_nobody_is_kept_in_mind_once(desk: Desk, node: SettlingNode) -> None:
    node.told += [NOBODYS, NOBODYS]
    assert Learnt(strays=1, known=1) == await desk.reconciler().catch_up()
    assert Learnt() == await desk.reconciler().catch_up()
    assert [PRICE] == [stray.received for stray in await desk.ledger.strays(10)]


async def test_the_first_reading_begins_before_the_oldest_unpaid_invoice(desk: Desk, node: SettlingNode) -> None:
    began = desk.clock()
    await desk.open(1)
    desk.clock.pass_by(timedelta(days=3))
    await desk.open(1)
    await desk.reconciler().catch_up()
    (at,) = node.asked_at
    assert began - timedelta(hours=2) < at < began


async def test_a_ledger_without_invoices_begins_with_now(desk: Desk, node: SettlingNode) -> None:
    await desk.reconciler().catch_up()
    (at,) = node.asked_at
    assert desk.clock() - timedelta(hours=2) < at <= desk.clock()


async def test_a_ledger_that_goes_back_in_time_learns_everything_again(desk: Desk, node: SettlingNode) -> None:
    known = await desk.open(5)
    for payment in known:
        node.settle(payment.payment_hash, PRICE)
    reconciler = desk.reconciler()
    await reconciler.catch_up()
    restored = open_ledger("sqlite::memory:", desk.clock)  # of before the payments, and without the last invoice
    for payment in known[:4]:
        await restored.open_payment(payment)
    again = Reconciler(ledger=restored, receiver=node, converse=node.converse)
    assert Learnt(funded=4, strays=1) == await again.catch_up()
    await restored.close()


async def test_a_ledger_that_fails_half_way_loses_nothing(desk: Desk, node: SettlingNode) -> None:
    node.page = 1000
    for payment in await desk.open(450):
        node.settle(payment.payment_hash, PRICE)
    ledger: Any = desk.ledger
    keep, calls = ledger.settle_from_stream, 0

    async def fail_the_second_time(*args: Any, **kwargs: Any) -> Learnt:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("the disk is full")
        return await keep(*args, **kwargs)  # type: ignore[no-any-return]

    ledger.settle_from_stream = fail_the_second_time
    reconciler = desk.reconciler()
    with pytest.raises(StoreUnavailable):
        await reconciler.catch_up()
    assert await desk.ledger.find_cursor(node.name) is None
    learnt = await reconciler.catch_up()
    assert 450 == (await desk.states()).count(PaymentState.FUNDED)
    assert 250 == learnt.funded


async def test_two_at_once_learn_everything_and_take_no_cursor_back(desk: Desk, node: SettlingNode) -> None:
    node.page = 3
    for payment in await desk.open(30):
        node.settle(payment.payment_hash, PRICE)
    one, other = desk.reconciler(), desk.reconciler()
    learnt = await asyncio.gather(one.catch_up(), other.catch_up())
    assert 30 == sum(each.funded for each in learnt)
    assert "30" == await desk.ledger.find_cursor(node.name)
    (late,) = await desk.open(1)
    node.settle(late.payment_hash, PRICE)
    await one.catch_up()
    await other.catch_up()
    assert ("31", [PaymentState.FUNDED] * 31) == (await desk.ledger.find_cursor(node.name), await desk.states())


# --- the net ----------------------------------------------------------------------------------------------------------


async def test_what_the_stream_has_missed_is_found_when_its_invoice_has_ended_by_one_look_up(
    desk: Desk, node: SettlingNode
) -> None:
    payments = await desk.open(12)
    node.receive(payments[7].payment_hash, PRICE)
    node.receive(payments[8].payment_hash, PRICE, InvoiceState.HELD)
    reconciler = desk.reconciler()
    assert Learnt() == await reconciler.look_up_due()
    desk.clock.pass_by(TTL + timedelta(seconds=6))
    learnt = [await reconciler.look_up_due() for _ in range(6)]
    assert (1, 12, 12) == (sum(each.funded for each in learnt), len(node.asked), len(set(node.asked)))
    assert (1, 11) == ((states := await desk.states()).count(PaymentState.FUNDED), states.count(PaymentState.OPEN))


async def test_a_node_that_tells_nothing_is_asked_about_each_open_invoice_again_and_again(desk: Desk) -> None:
    desk.node = node = SilentNode(desk.clock)
    payments = await desk.open(7)
    reconciler = desk.reconciler()
    for _ in range(6):
        await reconciler.look_up_due()
    assert [2] * 7 == [node.asked.count(payment.payment_hash) for payment in payments]
    node.receive(payments[3].payment_hash, PRICE)
    learnt = [await reconciler.look_up_due() for _ in range(3)]
    assert 1 == sum(each.funded for each in learnt)
    assert Learnt() == await reconciler.catch_up()


# --- several nodes ----------------------------------------------------------------------------------------------------


async def of_nodes(desk: Desk) -> tuple[Payment, Payment, Payment, Payment]:
    """Invoices of a first node, of a second one, of one that is gone, and of one that nobody remembers."""
    fresh = [
        replace(invoice(desk.clock, f"of {name}"), receiver=name)
        for name in ("the first", "the second", "one gone", "")
    ]
    for payment in fresh:
        await desk.ledger.open_payment(payment)
    desk.payments += fresh
    first, second, gone, unknown = fresh
    return first, second, gone, unknown


async def test_each_node_is_asked_about_its_own_invoices_and_those_of_no_other_one(desk: Desk) -> None:
    first, second, gone, unknown = await of_nodes(desk)
    desk.node = SilentNode(desk.clock, name="the second")
    await desk.reconciler(others=["the first"]).look_up_due()
    assert {second.payment_hash, gone.payment_hash, unknown.payment_hash} == set(desk.node.asked)
    desk.node = SilentNode(desk.clock, name="the first")
    await desk.reconciler(others=["the second"]).look_up_due()
    assert {first.payment_hash, gone.payment_hash, unknown.payment_hash} == set(desk.node.asked)


async def test_what_was_paid_at_a_node_that_got_a_new_name_is_learnt_there(desk: Desk) -> None:
    _, _, gone, _ = await of_nodes(desk)
    for name, others in (("the first", ["the second"]), ("the second", ["the first"])):
        desk.node = SilentNode(desk.clock, name=name)
        if name == "the second":
            desk.node.receive(gone.payment_hash, PRICE)
        await desk.reconciler(others=others).look_up_due()
    assert [PaymentState.OPEN, PaymentState.OPEN, PaymentState.FUNDED, PaymentState.OPEN] == await desk.states()


async def test_a_node_that_is_new_is_read_from_its_own_oldest_invoice_on(desk: Desk, node: SettlingNode) -> None:
    node.name = "the second"
    await desk.ledger.open_payment(replace(invoice(desk.clock, "an older one"), receiver="the first"))
    desk.clock.pass_by(timedelta(days=3))
    began = desk.clock()
    await desk.ledger.open_payment(replace(invoice(desk.clock, "its own"), receiver="the second"))
    desk.clock.pass_by(timedelta(days=3))
    await desk.reconciler(others=["the first"]).catch_up()
    (at,) = node.asked_at
    assert began - timedelta(hours=2) < at < began


async def test_each_node_has_a_cursor_of_its_own(desk: Desk, node: SettlingNode) -> None:
    first, second, _, _ = await of_nodes(desk)
    node.name = "the first"
    node.settle(first.payment_hash, PRICE)
    await desk.reconciler(others=["the second"]).catch_up()
    desk.node = other = SettlingNode(desk.clock, name="the second")
    other.settle(second.payment_hash, PRICE)
    other.told *= 3
    await desk.reconciler(others=["the first"]).catch_up()
    assert ["1", "3"] == [await desk.ledger.find_cursor(name) for name in ("the first", "the second")]
    assert [PaymentState.FUNDED] * 2 == (await desk.states())[:2]


# --- for ever ---------------------------------------------------------------------------------------------------------


class FlatLedger:
    """Remembers in a list, without a thread, so that time may be virtual."""

    def __init__(self) -> None:
        self.learnt: list[tuple[float, int]] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    async def find_cursor(self, receiver: str) -> str:
        return "0"

    async def due_payments(self, **_: object) -> list[Payment]:
        return []

    async def settle_from_stream(self, settled: Sequence[Settlement], **_: object) -> Learnt:
        self.learnt.append((asyncio.get_running_loop().time(), len(settled)))
        return Learnt(funded=len(settled))


def followed(node: SilentNode, ledger: Any, told: list[Any], script: Any) -> None:
    """Let a reconciler run beside a script, in virtual time."""

    async def story() -> None:
        reconciler = Reconciler(ledger=ledger, receiver=node, converse=node.converse, told=told.append)
        work = [asyncio.create_task(reconciler.follow()), asyncio.create_task(reconciler.cast_net())]
        await script()
        for task in work:
            task.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*work, return_exceptions=True)
        )

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())


def test_a_settlement_is_learnt_within_half_a_second_and_an_idle_node_is_not_asked_without_end() -> None:
    node, ledger, told = SettlingNode(StillClock()), FlatLedger(), list[Any]()

    async def script() -> None:
        await asyncio.sleep(600)
        node.told.append(NOBODYS)
        await asyncio.sleep(0.5)

    followed(node, ledger, told, script)
    assert [(pytest.approx(600, abs=0.5), 1)] == ledger.learnt
    assert node.reads <= 601 * 4 + 1
    assert [Learnt(funded=1)] == told


def test_while_the_node_is_away_it_is_asked_less_and_what_was_missed_is_read_within_five_seconds() -> None:
    node, ledger, told = SettlingNode(StillClock()), FlatLedger(), list[Any]()

    async def script() -> None:
        await asyncio.sleep(1)
        node.away, before = True, node.reads
        await asyncio.sleep(600)
        assert node.reads - before < 320
        node.told += [NOBODYS] * 3
        node.away = False
        await asyncio.sleep(5)

    followed(node, ledger, told, script)
    ((at, _),) = ledger.learnt
    assert 601 <= at <= 603.5
    assert [StreamLost, Learnt, StreamFound] == [type(each) for each in told]


def test_a_ledger_that_is_away_is_told_and_waited_for_too() -> None:
    node, ledger, told = SettlingNode(StillClock()), FlatLedger(), list[Any]()
    node.told.append(NOBODYS)
    keep = ledger.settle_from_stream

    async def away(*_: object, **__: object) -> Learnt:
        raise StoreUnavailable("away")

    async def script() -> None:
        ledger.settle_from_stream = away  # type: ignore[method-assign]
        await asyncio.sleep(60)
        ledger.settle_from_stream = keep  # type: ignore[method-assign]
        await asyncio.sleep(5)

    followed(node, ledger, told, script)
    assert [1] == [count for _, count in ledger.learnt]
    assert StreamFound(node=node.name) == told[-1]


def test_a_node_that_does_not_answer_is_no_longer_waited_for_after_a_while() -> None:
    node, ledger, told, asked = SettlingNode(StillClock()), FlatLedger(), list[Any](), 0

    async def never(_: object) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.Future[None]()

    async def script() -> None:
        await asyncio.sleep(300)

    node.converse = never  # type: ignore[method-assign]
    followed(node, ledger, told, script)
    assert 4 == asked
    assert [StreamLost] == [type(each) for each in told]


async def test_a_wallet_error_is_a_node_that_can_not_be_asked(desk: Desk) -> None:
    async def refuse(_: object) -> Any:
        raise WalletError("the password is wrong")

    reconciler = Reconciler(ledger=desk.ledger, receiver=desk.node, converse=refuse)
    with pytest.raises(NodeUnavailable):
        await reconciler.catch_up()


async def test_late_money_and_more_than_was_asked_for_is_learnt_as_it_is(desk: Desk, node: SettlingNode) -> None:
    late, generous, stingy = await desk.open(3)
    desk.clock.pass_by(TTL * 3)
    assert 3 == await desk.ledger.expire_payments(grace=TTL)
    node.settle(late.payment_hash, PRICE)
    node.settle(generous.payment_hash, PRICE * 3)
    node.settle(stingy.payment_hash, Amount.sats(1))
    assert Learnt(funded=2, strays=1) == await desk.reconciler().catch_up()
    assert [PaymentState.FUNDED, PaymentState.FUNDED, PaymentState.EXPIRED] == await desk.states()
    assert PRICE * 4 == (await desk.ledger.balance()).held


# --- a node that tells, and has no cursor -----------------------------------------------------------------------------


async def test_what_a_node_without_a_cursor_tells_is_settled_and_strays_are_kept_in_mind(desk: Desk) -> None:
    desk.node = node = TellingNode(desk.clock)
    (payment,) = await desk.open(1)
    node.tells += [[Settlement(payment_hash=payment.payment_hash, received=PRICE), NOBODYS], [NOBODYS]]
    reconciler = desk.reconciler()
    assert Learnt(funded=1, strays=1) == await reconciler.hear()
    assert Learnt(known=1) == await reconciler.hear()
    assert Learnt() == await reconciler.hear()
    assert [PaymentState.FUNDED] == await desk.states()
    assert await desk.ledger.find_cursor(node.name) is None


async def test_what_it_did_not_tell_is_found_by_the_net_as_if_it_told_nothing(desk: Desk) -> None:
    desk.node = node = TellingNode(desk.clock)
    payments = await desk.open(7)
    node.receive(payments[3].payment_hash, PRICE)
    reconciler = desk.reconciler()
    assert 1 == sum([(await reconciler.look_up_due()).funded for _ in range(2)])


def test_what_it_tells_is_learnt_within_half_a_second_and_it_is_never_asked_without_a_pause() -> None:
    node, ledger, told = TellingNode(StillClock()), FlatLedger(), list[Any]()

    async def script() -> None:
        await asyncio.sleep(10)
        node.tells.append([NOBODYS])
        await asyncio.sleep(0.5)
        node.away = True
        await asyncio.sleep(10)
        node.away = False
        await asyncio.sleep(5)

    followed(node, ledger, told, script)
    assert [(pytest.approx(10, abs=0.5), 1)] == ledger.learnt
    assert [Learnt, StreamLost, StreamFound] == [type(each) for each in told]
    assert node.heard <= 26 * 4
