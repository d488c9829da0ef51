from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget
from farebox.core.errors import (
    BodyNotReplayable,
    ChallengeUnreadable,
    FareboxError,
    InvoiceRefused,
    OriginChanged,
    OverBudget,
    PaidAsCredit,
    PaidNotServed,
    PaymentFailed,
    PaymentUnresolved,
    SellerShunned,
    StoreUnavailable,
    WalletError,
)
from farebox.core.payment import DrawState
from farebox.core.ports import KEPT, Failed, Paid, Purchase, Unresolved
from farebox.core.secret import Secret
from farebox.payer import (
    Bought,
    Capture,
    Deliver,
    Hold,
    Limits,
    LookUp,
    NoAnswer,
    OutgoingCall,
    Pay,
    Payer,
    Recall,
    RecallSeen,
    Release,
    Reply,
    Send,
    Story,
    Wait,
)
from farebox.testing.purchases import World

T = TypeVar("T")

IN_FLIGHT = Unresolved(reason="in flight")


@pytest.fixture
def world() -> World:
    return World()


def buy(world: World, call: OutgoingCall | None = None, payer: Payer | None = None) -> Bought:
    return world.drive((payer or world.payer).purchase(call or world.call()))


def continued(story: Story[T], reply: Reply | FareboxError) -> Story[T]:
    """The rest of a story, as a story."""
    try:
        step = story.throw(reply) if isinstance(reply, FareboxError) else story.send(reply)
        while True:
            step = story.send((yield step))
    except StopIteration as end:
        result: T = end.value
        return result


def only_row(world: World) -> Purchase:
    (row,) = world.purse.rows.values()
    return row


# --- a purchase -------------------------------------------------------------------------------------------------------


def test_an_answer_without_a_price_is_free(world: World) -> None:
    world.answers = [world.says(200)]

    assert buy(world) == Bought()
    assert Bought().free
    assert world.purse.rows == {}


@pytest.mark.parametrize("status", [200, 401, 403, 407, 500])
def test_only_a_402_is_paid_whatever_else_asks_for_money(world: World, status: int) -> None:
    world.answers = [replace(world.asks(), status=status)]

    assert buy(world).free
    assert world.wallet.payments == []


def test_a_402_is_paid_and_the_proof_shown(world: World) -> None:
    bought = buy(world)

    assert [only_row(world).payment_hash] == world.wallet.payments
    assert Bought(paid=Amount.sats(21), payment_hash=world.wallet.payments[0], dialect="Plain") == bought
    assert not bought.free
    assert [send.proof is not None for send in world.told(Send)] == [False, True]
    assert only_row(world).served


def test_the_intent_is_held_before_the_wallet_hears_of_it_and_captured_before_the_proof_is_shown(world: World) -> None:
    buy(world)

    kinds = [type(step) for step in world.steps]
    assert [Recall, Send, RecallSeen, Recall, Hold, Pay, Capture, Send, Deliver] == kinds


def test_what_routing_cost_is_told_and_kept(world: World) -> None:
    world.answers = [world.asks(invoice := world.mint.invoice(Amount.sats(400)))]
    world.wallet.on_pay = [world.mint.paid(invoice.payment_hash, fee=Amount.msats(1_500))]

    assert Amount.msats(1_500) == buy(world).fee
    assert Amount.msats(401_500) == only_row(world).counted


@pytest.mark.parametrize(("price", "limit"), [(21, Amount.sats(1)), (150, Amount.msats(1_500))])
def test_the_wallet_is_told_to_pay_at_most_one_sat_or_one_per_cent_for_routing(
    world: World, price: int, limit: Amount
) -> None:
    world.price = Amount.sats(price)

    buy(world)

    assert [limit] == world.wallet.fee_limits
    assert limit == only_row(world).fee_limit


def test_the_receipt_of_this_payment_is_handed_on_and_that_of_another_is_not(world: World) -> None:
    world.answers = [world.asks(invoice := world.mint.invoice()), world.says(200, x_receipt=invoice.payment_hash.hex())]
    receipt = buy(world).receipt
    assert receipt is not None
    assert invoice.payment_hash == receipt.payment_hash

    world.answers = [world.asks(), world.says(200, x_receipt=invoice.payment_hash.hex())]
    assert buy(world).receipt is None


def test_a_receipt_that_cannot_be_read_does_not_spoil_the_answer(world: World) -> None:
    world.answers = [world.asks(), world.says(200, x_receipt="nonsense")]

    bought = buy(world)

    assert bought.receipt is None
    assert only_row(world).served


@pytest.mark.parametrize("status", [200, 204, 303, 400, 404, 409, 422])
def test_what_the_seller_answers_to_a_proof_is_what_was_bought(world: World, status: int) -> None:
    world.answers = [world.asks(), world.says(status)]

    assert Amount.sats(21) == buy(world).paid
    assert only_row(world).served


# --- refused before paying --------------------------------------------------------------------------------------------


def test_a_402_that_asks_for_nothing_readable_is_refused(world: World) -> None:
    world.answers = [world.says(402)]

    with pytest.raises(ChallengeUnreadable) as refusal:
        buy(world)

    assert world.call().origin == refusal.value.evidence["origin"]


def test_an_invoice_that_fails_the_audit_is_refused_with_nothing_held(world: World) -> None:
    world.answers = [world.asks(world.mint.invoice(expires_in=timedelta(0)))]

    with pytest.raises(InvoiceRefused):
        buy(world)

    assert world.purse.rows == {}


def test_a_price_above_the_most_for_one_call_is_refused_with_nothing_held(world: World) -> None:
    payer = world.new_payer(replace(world.limits, most=Amount.msats(20_999)))

    with pytest.raises(OverBudget) as refusal:
        buy(world, payer=payer)

    assert refusal.value.money_moved is False
    assert world.purse.rows == {}


def test_a_price_of_exactly_the_most_for_one_call_is_paid(world: World) -> None:
    payer = world.new_payer(replace(world.limits, most=Amount.sats(21)))

    assert Amount.sats(21) == buy(world, payer=payer).paid


def test_a_price_that_the_budget_has_no_room_for_is_refused_before_paying(world: World) -> None:
    payer = world.new_payer(Limits(budget=Budget.read("21 sat/day")))

    with pytest.raises(OverBudget) as refusal:
        buy(world, payer=payer)  # 21 sat and 1 sat for routing

    assert world.wallet.payments == []
    assert refusal.value.evidence["amount_msat"] == 21_000
    assert world.invoice is not None
    assert world.invoice.payment_hash.hex() == refusal.value.evidence["payment_hash"]


def test_what_is_held_by_an_unresolved_payment_is_not_there_for_another(world: World) -> None:
    payer = world.new_payer(Limits(budget=Budget.read("40 sat/day")))
    world.wallet.on_pay = [IN_FLIGHT]
    with pytest.raises(PaymentUnresolved):
        buy(world, payer=payer)

    world.invoice = None
    with pytest.raises(OverBudget):
        buy(world, world.call(b"another prompt"), payer)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example:443", "http://shop.example:80", "https://shop.example:8443", "http://shop.example:443"],
)
def test_another_origin_than_the_one_that_was_called_is_not_paid(world: World, origin: str) -> None:
    world.answers = [world.asks(origin=origin)]

    with pytest.raises(OriginChanged) as refusal:
        buy(world)

    assert origin == refusal.value.evidence["asked_by"]
    assert world.purse.rows == {}


def test_a_body_that_can_be_read_only_once_is_sent_and_refused_when_it_has_a_price(world: World) -> None:
    world.answers = [world.says(200)]
    assert buy(world, world.call(None)).free

    with pytest.raises(BodyNotReplayable):
        buy(world, world.call(None))
    assert world.purse.rows == {}


def test_a_purse_that_cannot_be_written_keeps_the_wallet_shut(world: World) -> None:
    world.purse.full = True

    with pytest.raises(StoreUnavailable):
        buy(world)

    assert world.wallet.payments == []


# --- paying -----------------------------------------------------------------------------------------------------------


def test_a_failed_payment_is_released_and_not_tried_again(world: World) -> None:
    world.wallet.on_pay = [Failed(reason="no route")]

    with pytest.raises(PaymentFailed, match="no route") as failure:
        buy(world)

    assert DrawState.RELEASED is only_row(world).state
    assert only_row(world).counted == NOTHING
    assert len(world.told(Pay)) == 1
    assert failure.value.money_moved is False


def test_a_payment_of_which_nobody_can_tell_stays_held(world: World) -> None:
    world.wallet.on_pay = [IN_FLIGHT]

    with pytest.raises(PaymentUnresolved) as failure:
        buy(world)

    assert DrawState.HELD is only_row(world).state
    assert failure.value.money_moved is None
    assert {name: failure.value.evidence[name] for name in ("origin", "amount_msat")} == {
        "origin": "https://shop.example:443",
        "amount_msat": 21_000,
    }
    assert only_row(world).payment_hash.hex() == failure.value.evidence["payment_hash"]


@pytest.mark.parametrize("preimage", [bytes(32), b"\x01" * 32])
def test_a_proof_that_does_not_fit_the_hash_is_no_proof(world: World, preimage: bytes) -> None:
    world.wallet.on_pay = [Paid(preimage=Secret(preimage), fee=NOTHING)]

    with pytest.raises(PaymentUnresolved):
        buy(world)

    assert DrawState.HELD is only_row(world).state
    assert world.told(Capture) + world.told(Release) == []


def test_a_wallet_that_breaks_while_paying_leaves_the_amount_held(world: World) -> None:
    world.wallet.on_pay = [WalletError("the password is wrong")]

    with pytest.raises(PaymentUnresolved, match="the password is wrong"):
        buy(world)

    assert DrawState.HELD is only_row(world).state


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), MemoryError(), None])
def test_a_purchase_that_is_interrupted_while_paying_stays_held(
    world: World, interruption: BaseException | None
) -> None:
    story = world.payer.purchase(world.call())
    step = world.until(story, Pay)

    if interruption is None:
        story.close()
    else:
        with pytest.raises(type(interruption)):
            story.throw(interruption)

    assert DrawState.HELD is only_row(world).state
    world.wallet.on_look_up = [world.mint.paid(step.invoice.payment_hash)]
    assert buy(world).replayed  # the same payer knows that nobody is busy with it any more


def test_a_disk_that_fills_up_while_paying_does_not_cost_the_answer(world: World) -> None:
    story = world.payer.purchase(world.call())
    world.until(story, Capture)

    bought = world.drive(continued(story, StoreUnavailable("the disk is full")))

    assert Amount.sats(21) == bought.paid
    assert DrawState.HELD is only_row(world).state  # a later look-up writes down what it came to


# --- what is unfinished comes first -----------------------------------------------------------------------------------


def test_a_paid_call_whose_answer_never_came_is_shown_its_proof_first_and_nothing_is_paid(world: World) -> None:
    world.answers = [world.asks(), world.says(500)]
    with pytest.raises(PaidNotServed):
        buy(world)
    world.steps.clear()

    bought = buy(world, payer=world.new_payer())

    assert [Recall, Send, Deliver] == [type(step) for step in world.steps]
    assert bought.replayed
    assert Amount.sats(21) == bought.paid
    assert len(world.wallet.payments) == 1


def test_another_call_does_not_see_that_proof(world: World) -> None:
    world.answers = [world.asks(), world.says(500)]
    with pytest.raises(PaidNotServed):
        buy(world)

    assert not buy(world, world.call(b"another prompt")).replayed
    assert len(world.wallet.payments) == 2


def test_a_held_payment_that_turns_out_to_be_paid_is_shown(world: World) -> None:
    world.wallet.on_pay = [IN_FLIGHT]
    with pytest.raises(PaymentUnresolved):
        buy(world)

    bought = buy(world)

    assert bought.replayed
    assert len(world.wallet.payments) == 1
    assert only_row(world).served


def test_a_held_payment_that_turns_out_to_have_failed_is_released_and_the_call_bought_anew(world: World) -> None:
    world.wallet.on_pay = [IN_FLIGHT]
    with pytest.raises(PaymentUnresolved):
        buy(world)
    world.wallet.on_look_up = [Failed(reason="gave up")]
    world.invoice = None

    assert not buy(world).replayed
    assert [row.state for row in world.purse.rows.values()] == [DrawState.RELEASED, DrawState.CAPTURED]


def test_a_held_payment_that_is_still_in_flight_bars_the_call_after_a_little_patience(world: World) -> None:
    world.wallet.on_pay = [IN_FLIGHT]
    with pytest.raises(PaymentUnresolved):
        buy(world)
    world.wait(days=3)  # however long: it may still settle
    world.wallet.on_look_up = [IN_FLIGHT] * 9
    world.steps.clear()

    with pytest.raises(PaymentUnresolved):
        buy(world)

    assert world.told(Send) == []
    assert len(world.told(LookUp)) == 5
    assert timedelta(seconds=3) == sum((wait.span for wait in world.told(Wait)), timedelta(0))


def test_a_held_payment_that_the_wallet_never_heard_of_bars_the_call_while_the_invoice_can_be_paid(
    world: World,
) -> None:
    story = world.payer.purchase(world.call())
    world.until(story, Pay)
    story.close()
    world.wait(minutes=19)  # ten minutes of the invoice, and ten for clocks that differ

    with pytest.raises(PaymentUnresolved):
        buy(world)

    world.wait(minutes=2)
    assert not buy(world).replayed
    assert [row.state for row in world.purse.rows.values()] == [DrawState.RELEASED, DrawState.CAPTURED]


def test_a_payment_that_never_reached_the_wallet_is_made_when_its_call_is_made_again(world: World) -> None:
    killed = world.payer.purchase(world.call())
    intent = world.until(killed, Pay).invoice
    killed.close()
    world.wait(seconds=5)

    bought = buy(world, payer=world.new_payer())

    assert (True, intent.payment_hash) == (bought.replayed, bought.payment_hash)
    assert [intent.payment_hash] == world.wallet.payments
    assert [DrawState.CAPTURED] == [row.state for row in world.purse.rows.values()]


def test_a_payment_that_was_begun_just_now_is_left_to_whoever_began_it(world: World) -> None:
    first = world.new_payer().purchase(world.call())
    paying = world.until(first, Pay)
    second = world.new_payer().purchase(world.call())
    waiting = world.until(second, Wait)

    shown = world.until(first, Send, paying)
    assert shown.proof == world.until(second, Send, waiting).proof
    assert 1 == len(world.wallet.payments)


def test_of_two_processes_that_find_such_a_payment_one_makes_it(world: World) -> None:
    killed = world.payer.purchase(world.call())
    world.until(killed, Pay)
    killed.close()
    world.wait(seconds=5)
    first, second = (world.new_payer().purchase(world.call()) for _ in range(2))
    paying = world.until(first, Pay)
    waiting = world.until(second, Wait)

    shown = world.until(first, Send, paying)
    assert shown.proof == world.until(second, Send, waiting).proof

    assert 1 == len(world.wallet.payments)


def test_a_payment_that_was_taken_over_and_failed_stays_held_until_nobody_can_pay_its_invoice(world: World) -> None:
    killed = world.payer.purchase(world.call())
    world.until(killed, Pay)
    killed.close()
    world.wait(seconds=5)
    world.wallet.on_pay = [Failed(reason="no route")]

    with pytest.raises(PaymentUnresolved):
        buy(world, payer=world.new_payer())

    assert [DrawState.HELD] == [row.state for row in world.purse.rows.values()]
    world.wallet.on_look_up = [Failed(reason="no route")]
    world.wait(minutes=21)
    world.drive(world.new_payer().resume())
    assert [DrawState.RELEASED] == [row.state for row in world.purse.rows.values()]


def test_a_payment_that_never_reached_a_wallet_that_may_pay_twice_is_not_made_again(world: World) -> None:
    killed = world.payer.purchase(world.call())
    world.until(killed, Pay)
    killed.close()
    world.wait(seconds=5)

    with pytest.raises(PaymentUnresolved):
        buy(world, payer=world.new_payer(replace(world.limits, pays_once=False)))
    assert [] == world.wallet.payments


def test_who_began_a_payment_that_was_taken_over_does_not_free_it(world: World) -> None:
    first = world.new_payer().purchase(world.call())
    world.until(first, Pay)
    world.wait(seconds=5)
    second = world.new_payer().purchase(world.call())
    paying = world.until(second, Pay)

    with pytest.raises(PaymentUnresolved):
        world.drive(continued(first, Failed(reason="the wallet was not reached")))

    assert DrawState.HELD is only_row(world).state
    assert world.drive(continued(second, world.do(paying))).replayed
    assert Amount.sats(21) == only_row(world).counted


def test_where_a_redirect_led_elsewhere_nothing_is_paid_and_no_proof_shown(world: World) -> None:
    buy(world)
    world.steps.clear()
    call = OutgoingCall(origin="https://shop.example:443", url="", method="POST", path="/api", digest=b"x", strays=True)
    world.answers = [world.asks(origin="https://evil.example:443")]

    with pytest.raises(OriginChanged):
        world.drive(world.payer.purchase(call))
    assert [None] == [send.proof for send in world.told(Send)]


def test_a_wallet_that_cannot_be_asked_bars_the_call(world: World) -> None:
    world.wallet.on_pay = [IN_FLIGHT]
    with pytest.raises(PaymentUnresolved):
        buy(world)
    world.wallet.on_look_up = [WalletError("it is locked")] * 9

    with pytest.raises(PaymentUnresolved, match="it is locked"):
        buy(world)


def test_a_call_that_another_process_pays_meanwhile_shares_that_payment(world: World) -> None:
    other = world.new_payer().purchase(world.call())
    paying = world.until(other, Pay)
    mine = world.payer.purchase(world.call())
    waiting = world.until(mine, Wait)

    shown = world.until(other, Send, paying)  # the other one has paid
    shown_too = world.until(mine, Send, waiting)

    assert shown.proof is not None
    assert shown.proof == shown_too.proof
    assert len(world.wallet.payments) == 1


def test_a_purchase_of_this_process_that_is_under_way_is_left_alone(world: World) -> None:
    first = world.payer.purchase(world.call())
    world.until(first, Send, world.until(first, Capture))

    assert not buy(world).replayed
    assert len(world.wallet.payments) == 2


def test_two_calls_that_are_given_one_invoice_pay_it_once(world: World) -> None:
    first, second = world.payer.purchase(world.call()), world.payer.purchase(world.call())
    paying = world.until(first, Pay)
    waiting = world.until(second, Wait)

    assert not world.drive(continued(first, world.do(paying))).replayed
    assert world.drive(continued(second, world.do(waiting))).replayed
    assert len(world.wallet.payments) == 1


def test_a_call_that_is_given_an_invoice_of_another_one_that_never_ends_gives_up(world: World) -> None:
    first, second = world.payer.purchase(world.call()), world.payer.purchase(world.call())
    world.until(first, Pay)

    with pytest.raises(PaymentUnresolved):
        world.drive(second)

    assert world.wallet.payments == []


def test_an_invoice_that_was_paid_for_another_request_is_refused(world: World) -> None:
    invoice = world.mint.invoice()
    world.answers = [world.asks(invoice), world.says(200), world.asks(invoice)]
    buy(world)

    with pytest.raises(InvoiceRefused):
        buy(world, world.call(b"another prompt"))
    assert len(world.wallet.payments) == 1


def test_an_invoice_that_was_paid_for_this_request_is_shown_its_proof(world: World) -> None:
    invoice = world.mint.invoice()
    world.answers = [world.asks(invoice), world.says(200), world.asks(invoice), world.says(200)]
    buy(world)

    assert buy(world).replayed
    assert len(world.wallet.payments) == 1


def test_an_invoice_that_certainly_failed_is_paid_by_the_next_call(world: World) -> None:
    world.wallet.on_pay = [Failed(reason="no balance")]
    with pytest.raises(PaymentFailed, match="no balance"):
        buy(world)
    buy(world)

    assert len(world.wallet.payments) == 2
    assert len({*world.wallet.payments}) == 1
    assert DrawState.CAPTURED is only_row(world).state


def test_resuming_captures_what_was_paid_and_releases_what_failed(world: World) -> None:
    calls = [world.call(b"%d" % number, f"https://shop{number}.example:443") for number in (1, 2, 3)]
    for call in calls:
        world.answers = [world.asks(origin=call.origin)]
        world.wallet.on_pay = [IN_FLIGHT]
        world.wallet.on_look_up = [IN_FLIGHT] * 2
        with pytest.raises(PaymentUnresolved):
            buy(world, call, world.new_payer())
    world.wallet.on_look_up = [
        world.mint.paid(world.wallet.payments[0]),
        Failed(reason="gave up"),
        WalletError("it is locked"),
    ]

    resumed = world.drive(world.payer.resume())

    assert [purchase.state for purchase in resumed] == [DrawState.CAPTURED, DrawState.RELEASED, DrawState.HELD]
    assert [purchase.state for purchase in resumed] == [row.state for row in world.purse.rows.values()]
    world.answers = [world.says(200, origin=calls[0].origin)]
    assert buy(world, calls[0]).replayed


# --- after paying -----------------------------------------------------------------------------------------------------


COME_AGAIN: list[dict[str, Any]] = [
    {"status": 408},
    {"status": 409, "problem": "call-in-progress"},
    {"status": 409, "retry_after": "1"},
    {"status": 425},
    {"status": 429},
    {"status": 502},
    {"status": 503, "retry_after": "1"},
    {"status": 504},
    {"status": 402, "retry_after": "1"},
]


@pytest.mark.parametrize("answer", COME_AGAIN)
def test_a_seller_that_says_to_come_again_is_shown_the_same_proof(world: World, answer: dict[str, Any]) -> None:
    world.answers = [world.asks(), world.says(**answer), world.says(**answer)]

    bought = buy(world)

    first, *proven = world.told(Send)
    assert first.proof is None
    assert [proven[0].proof] * 3 == [send.proof for send in proven]
    assert not bought.replayed
    assert len(world.wallet.payments) == 1


def test_a_402_with_the_same_invoice_means_that_the_payment_has_not_been_seen_yet(world: World) -> None:
    asked = world.asks()
    world.answers = [asked, asked, asked]

    assert Amount.sats(21) == buy(world).paid
    assert len(world.wallet.payments) == 1


def test_a_402_with_another_invoice_after_paying_is_not_paid(world: World) -> None:
    world.answers = [world.asks(), world.asks()]

    with pytest.raises(PaidNotServed) as failure:
        buy(world)

    assert len(world.wallet.payments) == 1
    assert failure.value.money_moved is True
    assert failure.value.evidence["status"] == 402
    assert not only_row(world).served


REFUSALS: list[dict[str, Any]] = [
    {"status": 401},
    {"status": 402},
    {"status": 409, "problem": "request-mismatch"},
    {"status": 400, "problem": "malformed-credential"},
    {"status": 500},
    {"status": 501},
]


def test_a_call_that_the_seller_refuses_and_keeps_the_money_for_is_not_paid_again(world: World) -> None:
    world.answers = [world.asks(), world.says(404, payment_kept="true"), world.says(404, payment_kept="true")]
    first, again = buy(world), buy(world)

    assert len(world.wallet.payments) == 1
    assert (first.replayed, again.replayed) == (False, True)
    assert not only_row(world).served
    assert only_row(world).reason == KEPT


def test_an_old_failure_does_not_release_what_another_process_is_paying_now(world: World) -> None:
    world.wallet.on_pay = [Failed(reason="no balance"), IN_FLIGHT]
    with pytest.raises(PaymentFailed):
        buy(world)
    with pytest.raises(PaymentUnresolved):
        buy(world)
    world.wallet.on_look_up = [Failed(reason="no balance")]

    (resumed,) = world.drive(world.new_payer().resume())

    assert DrawState.HELD is resumed.state is only_row(world).state


def test_what_a_seller_keeps_for_refused_calls_is_not_held_against_it(world: World) -> None:
    for body in (b"1", b"2", b"3"):
        world.invoice = None
        world.answers = [world.asks(), world.says(404, payment_kept="true")]
        buy(world, world.call(body))
        world.clock.pass_by(timedelta(hours=1))

    assert len(world.wallet.payments) == 3


def test_what_the_seller_keeps_as_credit_is_told_and_over(world: World) -> None:
    world.answers = [world.asks(), world.says(409, "call-undeliverable")]

    with pytest.raises(PaidAsCredit) as failure:
        buy(world)

    assert failure.value.money_moved is True
    assert failure.value.evidence["payment_hash"] == only_row(world).payment_hash.hex()
    assert (False, True, "the call failed too often") == (
        only_row(world).served,
        only_row(world).lost,
        only_row(world).reason,
    )
    assert [] == list(world.purse.unfinished())


def test_a_seller_that_keeps_all_as_credit_is_paid_twice_and_no_oftener(world: World) -> None:
    for _ in range(2):
        world.invoice = None
        world.answers = [world.asks(), world.says(409, "call-undeliverable")]
        with pytest.raises(PaidAsCredit):
            buy(world)
    world.invoice = None
    world.answers = [world.asks()]

    with pytest.raises(SellerShunned):
        buy(world)

    assert 2 == len(world.wallet.payments)


def test_an_answer_that_can_not_be_gone_yet_is_owed(world: World) -> None:
    """It was paid for just now: the seller's word does not have the same call paid anew."""
    world.answers = [world.asks(), world.says(410, "answer-gone")]

    with pytest.raises(PaidNotServed) as failure:
        buy(world)

    assert not isinstance(failure.value, PaidAsCredit)
    assert [only_row(world)] == list(world.purse.unfinished())
    assert only_row(world).undelivered_at is not None


def test_a_seller_whose_service_failed_is_asked_once_more_and_no_oftener(world: World) -> None:
    world.answers = [world.asks(), *(world.says(502, "upstream-failed") for _ in range(9))]

    with pytest.raises(PaidNotServed):
        buy(world)

    assert len(world.answers) == 7


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_proof_that_is_refused_is_kept(world: World, answer: dict[str, Any]) -> None:
    world.answers = [world.asks(), world.says(**answer)]

    with pytest.raises(PaidNotServed):
        buy(world)

    assert DrawState.CAPTURED is only_row(world).state
    assert not only_row(world).served


def test_patience_with_a_seller_that_says_to_come_again_ends(world: World) -> None:
    world.answers = [world.asks(), *[world.says(503)] * 99]

    with pytest.raises(PaidNotServed):
        buy(world)

    waited = sum((wait.span for wait in world.told(Wait)), timedelta(0))
    assert timedelta(minutes=1) < waited <= timedelta(minutes=2)
    assert len(world.told(Send)) <= 41


def test_a_clock_that_stands_still_does_not_make_patience_endless(world: World) -> None:
    world.answers = [world.asks(), *[world.says(503)] * 99]
    world.clock_stands = True

    with pytest.raises(PaidNotServed):
        buy(world)

    assert len(world.told(Send)) == 41


def test_a_seller_is_given_the_time_that_it_asks_for(world: World) -> None:
    world.answers = [world.asks(), world.says(503, retry_after="7")]

    buy(world)

    assert [timedelta(seconds=7)] == [wait.span for wait in world.told(Wait)]


@pytest.mark.parametrize(("told", "seconds"), [("3600", 3600), ("99999999999999999999", 365 * 24 * 3600)])
def test_a_seller_that_asks_for_more_time_than_there_is_patience_is_not_waited_for(
    world: World, told: str, seconds: int
) -> None:
    world.answers = [world.asks(), world.says(503, retry_after=told)]

    with pytest.raises(PaidNotServed) as failure:
        buy(world)

    assert seconds == failure.value.evidence["retry_after_s"]
    assert world.told(Wait) == []


def test_an_answer_that_gets_lost_on_its_way_is_asked_for_again_with_the_same_proof(world: World) -> None:
    world.answers = [world.asks(), NoAnswer(reason="cut"), NoAnswer(reason="cut")]
    world.lost = 1

    assert Amount.sats(21) == buy(world).paid
    assert len(world.wallet.payments) == 1
    assert len(world.told(Send)) == 5
    assert only_row(world).served


def test_an_answer_that_gets_lost_four_times_is_left_for_another_day(world: World) -> None:
    world.answers = [world.asks(), *[NoAnswer(reason="ReadTimeout")] * 9]

    with pytest.raises(PaidNotServed, match="ReadTimeout"):
        buy(world)

    assert len(world.told(Send)) == 5
    assert not only_row(world).served


def test_an_answer_that_is_gone_ends_the_matter_and_the_next_call_is_bought_anew(world: World) -> None:
    world.answers = [world.asks(), world.says(500)]
    with pytest.raises(PaidNotServed):
        buy(world)
    world.answers = [world.says(410, "answer-gone")]
    with pytest.raises(PaidNotServed):
        buy(world)

    assert not buy(world).replayed
    assert len(world.wallet.payments) == 2


def test_a_proof_that_is_still_refused_a_day_later_gives_way_to_a_new_purchase(world: World) -> None:
    world.answers = [world.asks(), world.says(401)]
    with pytest.raises(PaidNotServed):
        buy(world)
    world.answers = [world.says(401)]
    world.wait(hours=23)
    with pytest.raises(PaidNotServed):
        buy(world)
    world.answers = [world.says(401)]
    world.wait(hours=1)

    assert not buy(world).replayed
    assert len(world.wallet.payments) == 2


def test_a_proof_in_a_dialect_that_is_no_longer_spoken_is_kept(world: World) -> None:
    world.answers = [world.asks(), world.says(500)]
    with pytest.raises(PaidNotServed):
        buy(world)
    payer = Payer(dialects=[], limits=world.limits, clock=world.clock)

    with pytest.raises(PaidNotServed, match="Plain"):
        buy(world, payer=payer)


def test_a_seller_that_took_money_twice_and_did_not_serve_is_not_paid_a_third_time(world: World) -> None:
    for body in (b"1", b"2"):
        world.answers = [world.asks(), world.says(500)]
        with pytest.raises(PaidNotServed):
            buy(world, world.call(body))

    with pytest.raises(SellerShunned) as refusal:
        buy(world, world.call(b"3"))

    assert refusal.value.evidence["unserved"] == 2
    assert len(world.wallet.payments) == 2
    assert buy(world, world.call(b"1")).replayed  # once it serves what it owes, it is paid again
    assert not buy(world, world.call(b"3")).replayed


def test_another_process_learns_of_a_bad_seller_from_the_purse(world: World) -> None:
    for body in (b"1", b"2"):
        world.answers = [world.asks(), world.says(500)]
        with pytest.raises(PaidNotServed):
            buy(world, world.call(body))

    with pytest.raises(SellerShunned):
        buy(world, world.call(b"3"), world.new_payer())
    other = world.call(b"4", origin="https://honest.example:443")
    world.answers = [world.asks(origin=other.origin)]
    assert Amount.sats(21) == buy(world, other).paid


# --- asking only ------------------------------------------------------------------------------------------------------


def test_asking_for_the_price_pays_nothing(world: World) -> None:
    offer = world.drive(world.payer.ask(world.call()))

    assert offer is not None
    assert (Amount.sats(21), Amount.sats(1)) == (offer.amount, offer.fee_limit)
    assert world.purse.rows == {}
    assert world.told(Pay) == []


def test_asking_for_the_price_of_what_is_free_finds_none(world: World) -> None:
    world.answers = [world.says(200)]

    assert world.drive(world.payer.ask(world.call())) is None


def test_asking_for_the_price_says_what_would_keep_it_from_being_paid(world: World) -> None:
    payer = world.new_payer(replace(world.limits, most=Amount.sats(20)))

    with pytest.raises(OverBudget):
        world.drive(payer.ask(world.call()))
