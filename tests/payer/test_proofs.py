"""Proofs that are good for more than one call, and what becomes of those that are not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from farebox.core.allowance import Allowance
from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import HostRefused, PaidNotServed, TooManyInFlight
from farebox.core.exchange import Wire
from farebox.payer.steps import Answered, OutgoingCall, Pay, RecallProofs, Send
from farebox.testing.buyers import PlainDialect
from farebox.testing.purchases import World


@pytest.fixture
def world() -> World:
    return World(dialect=PlainDialect(reusable_for=timedelta(days=1)))


def proofs_sent(world: World) -> list[bool]:
    return [send.proof is not None for send in world.told(Send)]


def accepts(world: World, *, replayed: bool = False) -> None:
    """The seller answers the next call, whatever it shows."""
    told = {"payment_replayed": "true"} if replayed else {}
    world.answers.append(world.says(200, **told))


def buy_once(world: World, body: bytes = b"first") -> bytes:
    bought = world.drive(world.payer.purchase(world.call(body)))
    assert bought.payment_hash is not None
    world.steps.clear()
    return bought.payment_hash


def test_a_proof_that_is_still_good_serves_the_next_call_at_once_and_nothing_is_paid(world: World) -> None:
    payment_hash = buy_once(world)
    accepts(world)

    bought = world.drive(world.payer.purchase(world.call(b"second")))

    assert (NOTHING, payment_hash, True, False) == (bought.paid, bought.payment_hash, bought.reused, bought.replayed)
    assert [True] == proofs_sent(world)
    assert 1 == len(world.steps)  # neither the purse nor the wallet is asked
    assert 1 == len(world.wallet.payments)


def test_a_proof_that_is_spent_costs_no_round_trip_where_the_seller_asks_anew(world: World) -> None:
    buy_once(world)
    world.answers = [world.asks()]

    bought = world.drive(world.payer.purchase(world.call(b"second")))

    assert Amount.sats(21) == bought.paid
    assert [True, True] == proofs_sent(world)
    assert 2 == len(world.wallet.payments)


@pytest.mark.parametrize("status", [401, 409, 410])
def test_a_proof_that_is_refused_is_dropped_and_the_call_made_without_it(world: World, status: int) -> None:
    buy_once(world)
    world.answers = [world.says(status)]

    bought = world.drive(world.payer.purchase(world.call(b"second")))

    assert Amount.sats(21) == bought.paid
    assert [True, False, True] == proofs_sent(world)
    assert next(row.reusable_until for row in world.purse.rows.values()) is None


def test_an_old_answer_is_not_taken_for_one_to_this_call(world: World) -> None:
    buy_once(world)
    accepts(world, replayed=True)

    assert Amount.sats(21) == world.drive(world.payer.purchase(world.call(b"first"))).paid


def test_where_a_proof_was_refused_none_is_tried_again(world: World) -> None:
    buy_once(world)
    world.answers = [world.says(401)]
    world.drive(world.payer.purchase(world.call(b"second")))
    world.steps.clear()

    world.drive(world.payer.purchase(world.call(b"third")))

    assert [False, True] == proofs_sent(world)
    assert [] == world.told(RecallProofs)


def test_a_proof_is_kept_for_its_own_origin_method_and_path(world: World) -> None:
    buy_once(world)
    for other in (
        OutgoingCall(origin="https://shop.example:444", url="", method="POST", path="/api", digest=b"1"),
        OutgoingCall(origin="https://shop.example:443", url="", method="GET", path="/api", digest=b"2"),
        OutgoingCall(origin="https://shop.example:443", url="", method="POST", path="/api/", digest=b"3"),
    ):
        world.steps.clear()
        world.answers = [world.says(200, origin=other.origin)]
        world.drive(world.payer.purchase(other))
        assert [False] == proofs_sent(world)


def test_a_proof_is_no_longer_sent_when_its_time_is_over(world: World) -> None:
    buy_once(world)
    world.wait(days=1)

    world.drive(world.payer.purchase(world.call(b"second")))

    assert [False, True] == proofs_sent(world)


def test_another_process_finds_the_proof_in_the_purse_when_it_is_asked_for_the_same_price(world: World) -> None:
    payment_hash = buy_once(world)
    other = world.new_payer()
    world.answers = [world.asks(), world.says(200)]

    bought = world.drive(other.purchase(world.call(b"second")))

    assert (True, payment_hash) == (bought.reused, bought.payment_hash)
    assert [False, True] == proofs_sent(world)
    accepts(world)
    assert world.drive(other.purchase(world.call(b"third"))).reused


def test_a_proof_for_another_price_is_not_tried(world: World) -> None:
    buy_once(world)
    other = world.new_payer()
    world.answers = [world.asks(world.mint.invoice(Amount.sats(22)))]

    assert Amount.sats(22) == world.drive(other.purchase(world.call(b"second"))).paid
    assert [False, True] == proofs_sent(world)


def test_a_proof_that_went_over_a_line_that_others_read_is_not_kept(world: World) -> None:
    call = OutgoingCall(origin="http://shop.example:80", url="", method="POST", path="/api", digest=b"1")
    world.answers = [world.asks(origin=call.origin), world.says(200, origin=call.origin)]
    world.drive(world.payer.purchase(call))

    (row,) = world.purse.rows.values()
    assert row.reusable_until is None
    world.steps.clear()
    world.answers = [world.says(200, origin=call.origin)]
    world.drive(world.payer.purchase(call))
    assert [False] == proofs_sent(world)


def test_where_every_proof_is_good_once_none_is_kept(world: World) -> None:
    world = World()
    buy_once(world)

    world.drive(world.payer.purchase(world.call(b"second")))

    assert [False, True] == proofs_sent(world)
    assert [] == world.told(RecallProofs)


def test_what_is_answered_to_a_kept_proof_is_the_answer_even_when_the_server_failed(world: World) -> None:
    buy_once(world)
    world.answers = [Answered(status=500, origin="https://shop.example:443", wire=Wire())]

    assert world.drive(world.payer.purchase(world.call(b"second"))).reused
    assert 1 == len(world.wallet.payments)


# --- sub-purses -------------------------------------------------------------------------------------------------------

ALICE, BOB = (Allowance(labels=frozenset({f"purse:{name}", f"purse:{name}/0123"})) for name in ("alice", "bob"))


def test_what_one_sub_purse_has_paid_for_serves_no_other(world: World) -> None:
    world.drive(world.payer.purchase(world.call(b"first"), ALICE))
    world.steps.clear()

    assert world.drive(world.payer.purchase(world.call(b"second"), BOB)).paid
    assert [False, True] == proofs_sent(world)
    assert world.drive(world.payer.purchase(world.call(b"third"), ALICE)).reused
    assert world.drive(world.new_payer().purchase(world.call(b"fourth"), ALICE)).reused
    assert world.drive(world.payer.purchase(world.call(b"fifth"))).paid  # the purse itself


def test_an_answer_that_one_sub_purse_is_owed_is_not_given_to_another() -> None:
    world = World()
    world.answers = [world.asks(), *[world.says(503)] * 40]
    with pytest.raises(PaidNotServed):
        world.drive(world.payer.purchase(world.call(), ALICE))
    world.answers.clear()

    assert not world.drive(world.payer.purchase(world.call(), BOB)).replayed
    assert world.drive(world.payer.purchase(world.call(), ALICE)).replayed


def test_an_invoice_that_another_sub_purse_is_paying_is_left_to_it() -> None:
    world = World()
    first = world.payer.purchase(world.call(), ALICE)
    world.until(first, Pay)

    with pytest.raises(TooManyInFlight):
        world.drive(world.payer.purchase(world.call(), BOB))
    assert [] == world.wallet.payments


def test_a_proof_is_not_used_where_the_caller_may_not_pay(world: World) -> None:
    world.drive(world.payer.purchase(world.call(b"first"), ALICE))
    world.steps.clear()
    elsewhere = ALICE.narrowed(Allowance(hosts=(("other.example",),)))

    with pytest.raises(HostRefused):
        world.drive(world.payer.purchase(world.call(b"second"), elsewhere))
    assert [False] == proofs_sent(world)
