"""Settlements: what a node tells is kept once, with how far it was read; what fits nothing is a stray."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import Hold, Payment, PaymentState
from farebox.core.settlement import Learnt, Settlement
from farebox.stores import moves
from farebox.stores.engine import Operation, in_ms
from farebox.stores.ledger import SqlLedger
from farebox.stores.moves import Claim
from farebox.stores.settlements import learn_one
from farebox.testing.ledger_stage import (
    ANSWER,
    DAY,
    LEASE,
    MOST,
    NO_GRACE,
    OTHER_DIGEST,
    PRICE,
    TTL,
    LedgerStage,
    hold,
    invoice,
    must_hold,
    row,
    told,
)
from farebox.testing.market import StillClock

T = TypeVar("T")

NODE = "a node"
WINDOW = timedelta(days=30)
NOBODYS = sha256(b"an invoice of nobody's").digest()


def paid(payment: Payment, received: Amount = PRICE) -> Settlement:
    """What the node tells of an invoice."""
    return Settlement(payment_hash=payment.payment_hash, received=received)


async def learn(
    ledger: SqlLedger, *settled: Settlement, read_from: str = "", cursor: str = "", receiver: str = NODE
) -> Learnt:
    """Have the ledger keep what was read."""
    return await ledger.settle_from_stream(settled, receiver=receiver, read_from=read_from, cursor=cursor)


def claim_of(payment: Payment) -> Claim:
    """Somebody shows a proof."""
    return Claim(
        payment_hash=payment.payment_hash,
        name=b"a name",
        digest=payment.digest,
        proven=True,
        lease=LEASE,
        most_attempts=MOST,
        rerun=True,
    )


async def stray_amounts(ledger: SqlLedger) -> Sequence[Amount]:
    """What the strays are worth."""
    return [stray.received for stray in await ledger.strays(10)]


class LedgerSettlements(LedgerStage):
    """The stream, the strays, and what nobody comes for."""

    @told
    async def test_what_the_node_tells_funds_its_payment_and_moves_the_cursor(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """Both or neither, for it is one transaction."""
        assert await ledger.find_cursor(NODE) is None
        assert Learnt(funded=1) == await learn(ledger, paid(payment), cursor="7")
        assert ("7", PaymentState.FUNDED) == (await ledger.find_cursor(NODE), (await row(ledger, payment)).state)

    @told
    async def test_what_is_told_again_or_in_another_order_changes_nothing(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """A stream may begin again anywhere."""
        payments = [invoice(clock, name) for name in ("one", "two", "three")]
        for each in payments:
            await ledger.open_payment(each)
        assert Learnt(funded=2) == await learn(ledger, paid(payments[2]), paid(payments[0]))
        clock.pass_by(LEASE)
        before = await row(ledger, payments[0])
        assert Learnt(funded=1, known=3) == await learn(ledger, *map(paid, payments), paid(payments[1]))
        assert before == await row(ledger, payments[0])

    @told
    async def test_each_receiver_has_a_cursor_of_its_own(self, ledger: SqlLedger) -> None:
        """Another node's numbers say nothing here."""
        await learn(ledger, cursor="7")
        await learn(ledger, cursor="40", receiver="another node")
        assert ["7", "40"] == [await ledger.find_cursor(node) for node in (NODE, "another node")]

    @told
    async def test_a_cursor_is_moved_only_from_where_it_was_read(self, ledger: SqlLedger, payment: Payment) -> None:
        """Of two who read at the same time the second does not take it back; what it tells counts all the same."""
        await learn(ledger, cursor="7")
        await learn(ledger, read_from="7", cursor="9")
        assert Learnt(funded=1, moved=False) == await learn(ledger, paid(payment), read_from="7", cursor="8")
        assert "9" == await ledger.find_cursor(NODE)

    @told
    async def test_late_money_funds_an_expired_payment(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Late money counts."""
        clock.pass_by(TTL + DAY)
        await ledger.expire_payments(grace=NO_GRACE)
        assert Learnt(funded=1) == await learn(ledger, paid(payment))
        assert isinstance(await hold(ledger, payment, proven=False), Hold)

    @told
    async def test_a_hash_of_nobody_is_kept_in_mind_once(self, ledger: SqlLedger, clock: StillClock) -> None:
        """It moves nothing; the books balance without it."""
        stranger = Settlement(payment_hash=NOBODYS, received=PRICE)
        assert Learnt(strays=1) == await learn(ledger, stranger)
        clock.pass_by(DAY)
        assert Learnt(known=1) == await learn(ledger, stranger)
        (stray,) = await ledger.strays(10)
        assert (NOBODYS, NODE, PRICE, clock() - DAY) == (
            stray.payment_hash,
            stray.receiver,
            stray.received,
            stray.seen_at,
        )
        assert NOTHING == (await ledger.balance()).received

    @told
    async def test_less_than_the_price_is_a_stray_and_funds_nothing_proven_or_not(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """Even a preimage does not outweigh what the node says."""
        little = PRICE - Amount.msats(1)
        assert Learnt(strays=1) == await learn(ledger, paid(payment, little))
        for proven in (False, True):
            stands = await hold(ledger, payment, proven=proven)
            assert isinstance(stands, Payment)
            assert PaymentState.OPEN is stands.state
        assert [little] == await stray_amounts(ledger)

    @told
    async def test_a_stray_stands_in_nobody_elses_way(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Neither when a claim is won by a proof, nor when a proof settles and the claim is lost."""
        other = invoice(clock, "another")
        await ledger.open_payment(other)
        await learn(ledger, Settlement(payment_hash=NOBODYS, received=PRICE))
        assert isinstance(await hold(ledger, payment), Hold)
        stands = await hold(ledger, other, digest=OTHER_DIGEST)
        assert isinstance(stands, Payment)
        assert PaymentState.FUNDED is stands.state

    @told
    async def test_the_rest_of_the_price_makes_a_payment_of_a_stray(self, ledger: SqlLedger, payment: Payment) -> None:
        """What has found its payment is no stray any more."""
        await learn(ledger, paid(payment, Amount.sats(1)))
        assert Learnt(funded=1) == await learn(ledger, paid(payment))
        assert [] == await stray_amounts(ledger)

    @told
    async def test_nothing_received_is_nothing_to_remember(self, ledger: SqlLedger, payment: Payment) -> None:
        """Neither money nor a stray."""
        nothing = Settlement(payment_hash=NOBODYS, received=NOTHING)
        assert Learnt(known=2) == await learn(ledger, paid(payment, NOTHING), nothing)
        assert [] == await stray_amounts(ledger)

    @told
    async def test_more_than_the_preimage_proved_is_added_to_the_credit_of_a_spent_tab(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """The proof came before the node told; the surplus is too little for another call."""
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        assert Learnt(known=1) == await learn(ledger, paid(payment, PRICE + Amount.sats(3)))
        assert (PRICE, Amount.sats(3)) == ((books := await ledger.balance()).earned, books.credit)
        await learn(ledger, paid(payment, PRICE + Amount.sats(3)))
        assert books == await ledger.balance()

    @told
    async def test_more_than_the_preimage_proved_is_added_to_a_running_tab(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """Paid twice, it buys two calls."""
        held = await must_hold(ledger, payment)
        assert Learnt(known=1) == await learn(ledger, paid(payment, PRICE * 2))
        await ledger.capture(held, ANSWER)
        assert PaymentState.FUNDED is (await row(ledger, payment)).state

    @told
    async def test_a_surplus_is_one_payments_alone(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Not another's, which looks just like it, and is not in its way."""
        others = [invoice(clock, name) for name in ("running", "owed")]
        for each in others:
            await ledger.open_payment(each)
        await must_hold(ledger, others[0])
        await ledger.give_up(await must_hold(ledger, others[1]))
        await must_hold(ledger, payment)
        assert Learnt(known=1) == await learn(ledger, paid(payment, PRICE + Amount.sats(1)))
        expected = [PRICE + Amount.sats(1), PRICE, PRICE]
        assert expected == [(await row(ledger, each)).received for each in (payment, *others)]

    @told
    async def test_what_comes_in_beyond_a_credit_is_a_stray(self, ledger: SqlLedger, payment: Payment) -> None:
        """What is owed was told already, and what is told more than once is not added up."""
        await ledger.give_up(await must_hold(ledger, payment))
        assert Learnt(strays=1) == await learn(ledger, paid(payment, PRICE + Amount.sats(1)))
        assert PRICE == (await ledger.balance()).credit

    @told
    async def test_what_comes_in_twice_beyond_a_tab_is_a_stray_the_second_time(
        self, ledger: SqlLedger, payment: Payment
    ) -> None:
        """It is not forgotten."""
        await ledger.settle(payment.payment_hash, PRICE)
        assert Learnt(strays=1) == await learn(ledger, paid(payment, PRICE + Amount.sats(1)))
        assert PRICE == (await ledger.balance()).held

    @told
    async def test_a_whole_price_beyond_a_spent_tab_is_a_stray(self, ledger: SqlLedger, payment: Payment) -> None:
        """What is spent stays spent; what came in beyond it is not forgotten."""
        await ledger.capture(await must_hold(ledger, payment), ANSWER)
        assert Learnt(strays=1) == await learn(ledger, paid(payment, PRICE * 2))
        assert [PRICE * 2] == await stray_amounts(ledger)
        assert PRICE == (await ledger.balance()).received

    @told
    async def test_a_lost_payment_is_made_again_once_and_can_be_claimed(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """As it was sealed, funded with what the node says; it is a stray no more."""
        lost = invoice(clock, "lost by a backup")
        await learn(ledger, paid(lost))
        assert [True, False] == [await ledger.restore_payment(lost, PRICE) for _ in range(2)]
        assert [] == await stray_amounts(ledger)
        assert await ledger.capture(await must_hold(ledger, lost), ANSWER)
        assert not await ledger.restore_payment(lost, PRICE)
        assert PaymentState.SPENT is (await row(ledger, lost)).state

    @told
    async def test_what_has_just_ended_is_found_in_its_order_and_a_few_at_a_time(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """From behind the last one; what is paid or still has time is not there."""
        payments = []
        for number in range(5):
            payments.append(invoice(clock, f"payment {number}"))
            await ledger.open_payment(payments[-1])
            clock.pass_by(timedelta(seconds=number % 2))
        await ledger.settle(payments[1].payment_hash, PRICE)
        until = payments[3].expires_at
        expected = sorted(
            (payments[0], payments[2], payments[3]), key=lambda each: (each.expires_at, each.payment_hash)
        )
        first = await ledger.due_payments(until=until, after=None, most=2)
        assert expected[:2] == list(first)
        assert expected[2:] == list(await ledger.due_payments(until=until, after=first[-1], most=2))

    @told
    async def test_the_oldest_unpaid_invoice_is_where_to_begin_reading(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Expired or not; without one there is nothing to look for."""
        began = clock()
        clock.pass_by(TTL + DAY)
        await ledger.open_payment(invoice(clock, "a younger one"))
        assert began == await ledger.oldest_unsettled()
        await ledger.expire_payments(grace=NO_GRACE)
        assert began == await ledger.oldest_unsettled()
        for each in (payment, invoice(clock, "a younger one")):
            await ledger.settle(each.payment_hash, PRICE)
        assert await ledger.oldest_unsettled() is None

    @told
    async def test_a_surplus_is_added_to_a_tab_as_it_was_read_or_not_at_all(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Of two who are told of a surplus at the same time, one adds it, whatever happens in between."""
        held, now_ms = await must_hold(ledger, payment), in_ms(clock())
        told = paid(payment, PRICE + Amount.sats(3))
        more = paid(payment, PRICE + Amount.sats(4))

        def after_its_move() -> Operation[Learnt]:
            one = learn_one(more, NODE, now_ms)
            rows = yield next(one)  # it does not settle
            rows = yield one.send(rows)  # as the row stands
            yield from learn_one(told, NODE, now_ms)
            yield from moves.release(held, MOST, ran=True, now_ms=now_ms)
            yield from moves.hold(claim_of(payment), now_ms)
            try:
                while True:
                    rows = yield one.send(rows)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]

        assert Learnt(strays=1) == await ledger.engine.write(lambda _: after_its_move(), about=b"two at once")
        assert PRICE + Amount.sats(3) == (await ledger.balance()).received
