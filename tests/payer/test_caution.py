"""What keeps a sound invoice from being paid: who asks, over which line, how much more than before, and a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from farebox.core.allowance import Allowance, priced_as, priced_for
from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.budget import Budget
from farebox.core.errors import (
    ApprovalDenied,
    ApprovalNeeded,
    HostRefused,
    OriginInsecure,
    OverBudget,
    PayeeChanged,
    PaymentUnresolved,
    PriceJumped,
    TooManyInFlight,
)
from farebox.core.payment import DrawState
from farebox.core.ports import Unresolved
from farebox.payer import AskApproval, Bought, Limits, Offer, OutgoingCall, Wait
from farebox.payer.spending import allowance_here, spending
from farebox.stores.parked import MOST_PARKED
from farebox.testing.purchases import World

IN_FLIGHT = Unresolved(reason="in flight")


@pytest.fixture
def world() -> World:
    return World()


def limits(world: World, **more: object) -> Limits:
    return replace(world.limits, **more)  # type: ignore[arg-type] # as each is named


def buy(world: World, allowance: Allowance | None = None, body: bytes = b"1", **more: object) -> Bought:
    payer = world.new_payer(limits(world, **more))
    return world.drive(payer.purchase(world.call(body), allowance or Allowance()))


# --- who is paid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"deny": ("shop.example",)},
        {"deny": ("*.example",)},
        {"allow": ("other.example",)},
        {"allow": ("*.shop.example",)},
        {"allow": ("*",), "deny": ("SHOP.example",)},
    ],
)
def test_a_host_that_is_not_among_those_that_may_be_paid_is_not(world: World, more: dict[str, object]) -> None:
    with pytest.raises(HostRefused):
        buy(world, **more)
    assert [] == world.wallet.payments


@pytest.mark.parametrize("allow", [("shop.example",), ("*.example",), ("a.example", "SHOP.EXAMPLE")])
def test_a_host_that_is_among_them_is(world: World, allow: tuple[str, ...]) -> None:
    assert buy(world, allow=allow).paid


def test_an_allowance_only_ever_narrows_the_hosts(world: World) -> None:
    with pytest.raises(HostRefused):
        buy(world, Allowance(hosts=(("shop.example",), ("other.example",))))
    with pytest.raises(HostRefused):
        buy(world, Allowance(hosts=(("shop.example",),)), deny=("shop.example",))
    assert buy(world, Allowance(hosts=(("*.example",), ("shop.example",)))).paid


def test_what_costs_nothing_may_be_had_from_anybody(world: World) -> None:
    world.answers = [world.says(200)]
    assert buy(world, deny=("*",)).free


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://shop.example:80", True),
        ("http://10.0.0.7:8402", True),
        ("http://127.0.0.1.shop.example:80", True),
        ("http://127.0.0.1:8402", False),
        ("http://[::1]:8402", False),
        ("http://localhost:8402", False),
        ("http://abcdefghijklmnop.onion:80", False),
        ("https://shop.example:443", False),
    ],
)
def test_real_money_is_not_paid_over_a_line_that_others_can_change(world: World, origin: str, refused: bool) -> None:
    call = OutgoingCall(origin=origin, url=origin, digest=b"1")
    world.wallet.network = None
    world.answers = [world.asks(world.mint.invoice(network=Network.MAINNET), origin=origin)]
    world.answers.append(world.says(200, origin=origin))
    if refused:
        with pytest.raises(OriginInsecure):
            world.drive(world.payer.purchase(call))
        assert [] == world.wallet.payments
    else:
        assert world.drive(world.payer.purchase(call)).paid


def test_a_host_that_is_named_may_be_paid_over_plain_http(world: World) -> None:
    call = OutgoingCall(origin="http://10.0.0.7:8402", url="", digest=b"1")
    world.answers = [world.asks(world.mint.invoice(network=Network.MAINNET), origin=call.origin)]
    world.answers.append(world.says(200, origin=call.origin))
    payer = world.new_payer(limits(world, plain_http=("10.0.0.*",)))
    assert world.drive(payer.purchase(call)).paid


# --- how much ---------------------------------------------------------------------------------------------------------


def test_the_lower_of_two_limits_for_one_call_holds(world: World) -> None:
    with pytest.raises(OverBudget):
        buy(world, Allowance(most=Amount.sats(20)), most=Amount.sats(50))
    with pytest.raises(OverBudget):
        buy(world, Allowance(most=Amount.sats(50)), most=Amount.sats(20))
    assert buy(world, Allowance(most=Amount.sats(21)), most=Amount.sats(21)).paid


def test_the_windows_of_an_allowance_count_what_is_spent_under_their_label_and_the_budget_counts_on(
    world: World,
) -> None:
    research = Allowance(windows=Budget.read("30 sat/day tagged research").windows, labels=frozenset({"tag:research"}))
    assert buy(world, body=b"0").paid  # untagged
    assert buy(world, research, body=b"1").paid
    with pytest.raises(OverBudget) as refused:
        buy(world, research, body=b"2")
    assert "30 sat/day tagged research" == refused.value.evidence["window"]
    assert buy(world, body=b"3").paid


def test_a_price_far_above_the_last_one_is_not_paid_until_it_is_agreed_to(world: World) -> None:
    buy(world)
    world.price = Amount.sats(211)
    with pytest.raises(PriceJumped) as jumped:
        buy(world, body=b"2")
    assert (211_000, 21_000) == (jumped.value.evidence["asked_msat"], jumped.value.evidence["last_msat"])
    with pytest.raises(PriceJumped):  # that it was seen does not make it a usual price
        buy(world, body=b"2")
    with pytest.raises(PriceJumped):
        buy(world, Allowance(accepts=Amount.sats(210)), body=b"2")
    assert Amount.sats(211) == buy(world, Allowance(accepts=Amount.sats(211)), body=b"2").paid
    assert Amount.sats(211) == buy(world, body=b"3").paid


def test_what_one_sub_purse_has_seen_alarms_no_other(world: World) -> None:
    """Or whoever asks for a small thing could keep another from a large one."""
    mine, other = (Allowance(labels=frozenset((f"purse:{name}",))) for name in ("mine", "other"))
    world.drive(world.payer.ask(world.call(), other))
    world.invoice, world.price = None, Amount.sats(300)

    assert Amount.sats(300) == buy(world, mine).paid
    assert {"POST /api purse:mine", "POST /api purse:other"} == {resource for _, resource in world.purse.prices}


def test_a_long_path_is_remembered_at_a_bounded_length_and_told_apart() -> None:
    one, other = (priced_as(f"GET /{'x' * 60_000}{end}", ()) for end in "ab")

    assert one != other
    assert max(len(one), len(other)) < 300


@pytest.mark.parametrize("path", ["/a purse:other", "/ purse:", "/" + "x" * 190 + " purse:other"])
def test_a_path_is_not_taken_for_a_sub_purses(path: str) -> None:
    assert ["", "purse:sub"] == [priced_for(priced_as(f"GET {path}", labels)) for labels in ((), ("purse:sub",))]


def test_a_price_that_is_asked_about_counts_as_seen(world: World) -> None:
    offer = world.drive(world.payer.ask(world.call()))
    assert offer is not None
    assert (None, None) == (offer.last_price, offer.objection)
    world.invoice, world.price = None, Amount.sats(300)
    with pytest.raises(PriceJumped):
        buy(world)


def test_prices_of_other_resources_and_origins_are_their_own(world: World) -> None:
    buy(world)
    call = OutgoingCall(origin="https://shop.example:443", url="", method="POST", path="/images", digest=b"x")
    world.price = Amount.sats(400)
    assert Amount.sats(400) == world.drive(world.payer.purchase(call)).paid


def test_another_payee_is_not_paid_where_the_first_one_is_pinned(world: World) -> None:
    buy(world)
    (row,) = world.purse.rows.values()
    world.purse.payees[row.origin] = bytes(33)
    assert buy(world, body=b"2").paid  # by default a node may change
    with pytest.raises(PayeeChanged) as changed:
        buy(world, body=b"3", pin_payee=True)
    assert row.payee.hex() == changed.value.evidence["payee"]
    assert buy(world, Allowance(payee=row.payee), body=b"3", pin_payee=True).paid
    assert buy(world, body=b"4", pin_payee=True).paid


# --- asking first -----------------------------------------------------------------------------------------------------


def objection_of(offer: Offer | None) -> type[Exception]:
    assert offer is not None
    return type(offer.objection)


def test_who_asks_first_hears_the_price_and_what_would_keep_it_from_being_paid(world: World) -> None:
    over = world.new_payer(limits(world, budget=Budget.read("20 sat/day")))
    assert OverBudget is objection_of(world.drive(over.ask(world.call())))
    parked = world.new_payer(limits(world, approval_above=Amount.sats(20)))
    assert ApprovalNeeded is objection_of(world.drive(parked.ask(world.call())))
    assert [] == world.purse.parked
    assert {} == world.purse.rows
    world.drive(world.payer.ask(world.call()))
    world.invoice, world.price = None, Amount.sats(300)
    offer = world.drive(world.payer.ask(world.call()))
    assert PriceJumped is objection_of(offer)
    assert offer is not None
    assert Amount.sats(21) == offer.last_price


# --- a person's word --------------------------------------------------------------------------------------------------


def test_a_call_above_the_limit_is_parked_and_paid_once_when_somebody_has_approved_it(world: World) -> None:
    above = {"approval_above": Amount.sats(20)}
    with pytest.raises(ApprovalNeeded) as parked:
        buy(world, **above)
    number = parked.value.evidence["approval"]
    assert 1 == number
    assert [] == world.wallet.payments

    world.purse.decide(1, approved=True)

    assert buy(world, **above).paid
    with pytest.raises(ApprovalNeeded):  # one word, one payment
        buy(world, **above)


def test_a_call_that_was_refused_is_not_paid(world: World) -> None:
    with pytest.raises(ApprovalNeeded):
        buy(world, approval_above=Amount.sats(20))
    world.purse.decide(1, approved=False)
    with pytest.raises(ApprovalDenied):
        buy(world, approval_above=Amount.sats(20))
    assert [] == world.wallet.payments


def test_what_costs_no_more_than_the_limit_is_nobodys_business(world: World) -> None:
    assert buy(world, approval_above=Amount.sats(21)).paid


def test_whoever_decides_is_asked_once_and_may_say_yes_at_once(world: World) -> None:
    world.on_parked = lambda number: world.purse.decide(number, approved=True)
    assert buy(world, approval_above=Amount.sats(20)).paid
    assert 1 == len(world.told(AskApproval))
    assert [] == world.told(Wait)


def test_a_call_beside_which_too_many_wait_for_a_word_is_refused_at_once(world: World) -> None:
    for number in range(MOST_PARKED):
        with pytest.raises(ApprovalNeeded):
            buy(world, body=b"%d more" % number, approval_above=Amount.sats(20))
    waits = len(world.told(Wait))
    with pytest.raises(ApprovalNeeded, match=f"{MOST_PARKED} calls wait") as refusal:
        buy(world, approval_above=Amount.sats(20), approval_patience=timedelta(hours=1))
    assert (False, waits) == (refusal.value.money_moved, len(world.told(Wait)))


def test_a_call_waits_for_the_word_as_long_as_it_may(world: World) -> None:
    with pytest.raises(ApprovalNeeded):
        buy(world, approval_above=Amount.sats(20), approval_patience=timedelta(seconds=30))
    assert timedelta(seconds=29) <= sum((wait.span for wait in world.told(Wait)), timedelta(0)) <= timedelta(seconds=30)
    assert 1 == len(world.told(AskApproval))


def test_a_call_never_waits_longer_than_its_invoice_is_good(world: World) -> None:
    world.invoice = world.mint.invoice(expires_in=timedelta(minutes=2))
    with pytest.raises(ApprovalNeeded):
        buy(world, approval_above=Amount.sats(20), approval_patience=timedelta(hours=1))
    assert world.clock() < world.invoice.expires_at


# --- money that is on its way -----------------------------------------------------------------------------------------


def hang(world: World, body: bytes) -> None:
    """A call whose payment hangs."""
    world.invoice = None
    world.wallet.on_pay = [IN_FLIGHT]
    world.wallet.on_look_up = [IN_FLIGHT] * 200
    with pytest.raises(PaymentUnresolved):
        buy(world, body=body)


def test_at_most_two_payments_to_one_host_are_on_their_way_and_other_hosts_go_on(world: World) -> None:
    hang(world, b"1")
    hang(world, b"2")
    world.invoice = None
    with pytest.raises(TooManyInFlight):
        buy(world, body=b"3")
    assert 2 == len(world.wallet.payments)

    other = world.call(b"4", origin="https://other.example:443")
    world.answers = [world.asks(origin=other.origin), world.says(200, origin=other.origin)]
    assert world.drive(world.payer.purchase(other)).paid


def test_a_call_waits_its_turn_while_others_to_the_same_host_are_paying(world: World) -> None:
    hang(world, b"1")
    hang(world, b"2")
    world.invoice = None
    world.wallet.on_look_up = [IN_FLIGHT, IN_FLIGHT]  # and then one has arrived
    assert buy(world, body=b"3").paid
    assert [DrawState.CAPTURED] * 3 == [row.state for row in world.purse.rows.values()]


def test_what_is_held_by_nobody_is_looked_up_before_a_call_is_refused_for_want_of_it(world: World) -> None:
    world.limits = limits(world, budget=Budget.read("40 sat/day"))
    hang(world, b"1")
    world.wallet.on_look_up = []
    world.wallet.payments.clear()  # the wallet has never heard of it
    world.wait(hours=1)

    world.invoice = None
    assert buy(world, body=b"2").paid
    assert [DrawState.RELEASED, DrawState.CAPTURED] == [row.state for row in world.purse.rows.values()]


def test_a_text_alone_is_one_tag(world: World) -> None:
    with spending(tags="research"):
        assert world.drive(world.new_payer().purchase(world.call(b"1"), allowance_here())).paid
    (bought,) = world.purse.history(9)
    assert {"tag:research", "host:shop.example"} == bought.labels
