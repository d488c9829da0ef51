"""However a host is spelt it is one seller: for what may be paid, what is counted, and what is remembered of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farebox.core.allowance import Allowance
from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.budget import Budget
from farebox.core.errors import (
    HostRefused,
    OriginChanged,
    OriginInsecure,
    OverBudget,
    PaidNotServed,
    PayeeChanged,
    PaymentUnresolved,
    PriceJumped,
    SellerShunned,
    TooManyInFlight,
)
from farebox.core.ports import Unresolved
from farebox.payer import Bought, OutgoingCall
from farebox.testing.purchases import World

NAME = ("https://shop.bücher.example:443", "https://shop.xn--bcher-kva.example:443")
SPELLINGS = {
    "https://SHOP.Bücher.example:443": NAME,
    "https://shop.bücher.example.:443": NAME,
    **dict.fromkeys(
        (
            "https://192.514:443",
            "https://0xc0.0.2.2:443",
            "https://3221225986:443",
            "https://030000001002:443",
            "https://[::ffff:192.0.2.2]:443",
            "https://[::FFFF:C000:0202]:443",
        ),
        ("https://192.0.2.2:443", "https://192.0.2.2:443"),
    ),
    **dict.fromkeys(
        ("https://[2001:db8::2%257]:443", "https://[2001:DB8::2%7]:443"),
        ("https://[2001:db8::2]:443", "https://[2001:db8::2]:443"),
    ),
}
ANY = pytest.mark.parametrize(("spelling", "plain"), [(each, plain) for each, (plain, _) in SPELLINGS.items()])


@pytest.fixture
def world() -> World:
    return World()


def buy(world: World, origin: str, allowance: Allowance | None = None, body: bytes = b"1", **more: object) -> Bought:
    """Buy from a seller who asks and serves."""
    payer = world.new_payer(replace(world.limits, **more))  # type: ignore[arg-type] # as each is named
    world.answers = [world.asks(origin=origin), world.says(200, origin=origin)]
    return world.drive(payer.purchase(world.call(body, origin), allowance or Allowance()))


def host_of(origin: str) -> str:
    return origin.removeprefix("https://").removesuffix(":443")


@pytest.mark.parametrize(("spelling", "origin"), [(each, origin) for each, (_, origin) in SPELLINGS.items()])
def test_a_call_has_its_origin_in_one_spelling(spelling: str, origin: str) -> None:
    call = OutgoingCall(origin=spelling, url=spelling, digest=b"1")
    assert (origin, host_of(origin), spelling, spelling) == (call.origin, call.host, call.named, call.url)


@ANY
def test_a_list_is_neither_escaped_nor_widened_by_a_spelling(world: World, spelling: str, plain: str) -> None:
    for origin, listed in ((spelling, plain), (plain, spelling)):
        with pytest.raises(HostRefused):
            buy(world, origin, deny=(host_of(listed),))
        with pytest.raises(HostRefused):
            buy(world, origin, Allowance(hosts=(("other.example",),)))
        assert buy(world, origin, allow=(host_of(listed),), body=origin.encode()).paid


@ANY
def test_a_window_of_a_host_counts_every_spelling(world: World, spelling: str, plain: str) -> None:
    for limit in ("30 sat/day per host", f"30 sat/day on {host_of(plain)}", f"30 sat/day on {host_of(spelling)}"):
        purchases = World()
        assert buy(purchases, plain, budget=Budget.read(limit)).paid
        with pytest.raises(OverBudget):
            buy(purchases, spelling, budget=Budget.read(limit), body=b"2")


@ANY
def test_what_is_on_its_way_to_one_spelling_is_on_its_way_to_each(world: World, spelling: str, plain: str) -> None:
    world.wallet.on_look_up = [Unresolved(reason="in flight")] * 500
    for body, origin in ((b"1", plain), (b"2", spelling)):
        world.wallet.on_pay = [Unresolved(reason="in flight")]
        with pytest.raises(PaymentUnresolved):
            buy(world, origin, body=body)
    with pytest.raises(TooManyInFlight):
        buy(world, spelling, body=b"3")


def shun(world: World, origin: str, body: bytes, allowance: Allowance | None = None) -> None:
    """Pay once, and not be served."""
    world.answers = [world.asks(origin=origin), world.says(500, origin=origin)]
    with pytest.raises(PaidNotServed):
        world.drive(world.payer.purchase(world.call(body, origin), allowance or Allowance()))


@ANY
def test_who_is_shunned_is_shunned_in_every_spelling(world: World, spelling: str, plain: str) -> None:
    for body, origin in ((b"1", plain), (b"2", spelling)):
        shun(world, origin, body)
    with pytest.raises(SellerShunned):
        buy(world, spelling, body=b"3")


@ANY
def test_prices_and_payees_are_remembered_for_every_spelling(world: World, spelling: str, plain: str) -> None:
    buy(world, plain)
    (row,) = world.purse.rows.values()
    world.price = Amount.sats(211)
    with pytest.raises(PriceJumped):
        buy(world, spelling, body=b"2")
    world.price = Amount.sats(21)
    world.purse.payees[row.origin] = bytes(33)
    with pytest.raises(PayeeChanged):
        buy(world, spelling, body=b"2", pin_payee=True)


@pytest.mark.parametrize(
    "asking", ["https://shop.example.:443", "https://SHOP.example:443", "https://shop.example:444"]
)
def test_a_redirect_to_another_spelling_is_one_to_somebody_else(world: World, asking: str) -> None:
    world.answers = [world.asks(origin=asking)]
    with pytest.raises(OriginChanged):
        world.drive(world.payer.purchase(world.call(origin="https://shop.example:443")))
    assert [] == world.wallet.payments


# --- this machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "private"),
    [
        ("http://127.1:8402", True),
        ("http://0x7f.1:8402", True),
        ("http://2130706433:8402", True),
        ("http://[::ffff:127.0.0.1]:8402", True),
        ("http://LOCALHOST.:8402", True),
        ("http://[::1%251]:8402", True),
        ("HTTP://shop.example:80", False),
        ("http://127.0.0.1.evil.example:80", False),
        ("http://0x7f.1.evil.example:80", False),
        ("http://127.0.0.1.:8402", False),
        ("http://localhost.evil.example:80", False),
        ("http://[::ffff:192.0.2.2]:80", False),
        ("http://[::127.0.0.1]:80", False),
        ("http://[fe80::1%25lo]:80", False),
        ("http://167772167:80", False),
    ],
)
def test_real_money_is_paid_over_plain_http_to_this_machine_however_it_is_spelt_and_to_no_other(
    world: World, origin: str, private: bool
) -> None:
    world.wallet.network = None
    invoice = world.mint.invoice(network=Network.MAINNET)
    world.answers = [world.asks(invoice, origin=origin), world.says(200, origin=origin)]
    purchase = world.payer.purchase(world.call(origin=origin))
    if private:
        assert world.drive(purchase).paid
    else:
        with pytest.raises(OriginInsecure):
            world.drive(purchase)
        assert [] == world.wallet.payments


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:{}", "http://127.1:{}", "http://localhost:{}", "https://[::1]:{}"]
)
def test_each_port_of_this_machine_is_a_seller_by_itself(world: World, origin: str) -> None:
    one, other = (origin.format(port) for port in (8402, 9000))
    for body in (b"1", b"2"):
        shun(world, one, body)
    with pytest.raises(SellerShunned):
        buy(world, one, body=b"3")
    assert buy(world, other, body=b"3").paid


@pytest.mark.parametrize("origin", ["https://shop.example:{}", "http://10.0.0.7:{}", "https://192.0.2.2:{}"])
def test_no_other_host_escapes_by_another_port(world: World, origin: str) -> None:
    for body, port in ((b"1", 8402), (b"2", 9000)):
        shun(world, origin.format(port), body)
    with pytest.raises(SellerShunned):
        buy(world, origin.format(443), body=b"3")


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_who_holds_a_token_has_a_seller_shunned_by_nobody_else(world: World) -> None:
    other = Allowance(labels=frozenset({"purse:other"}))
    sub, child = (Allowance(labels=frozenset({"purse:sub", *more})) for more in ((), ("purse:sub/a",)))
    for body in (b"1", b"2"):
        shun(world, "https://shop.example:443", body, child)
    for allowance in (sub, child):
        with pytest.raises(SellerShunned):
            buy(world, "https://shop.example:443", allowance, body=b"3")
    for allowance in (other, Allowance()):
        assert buy(world, "https://shop.example:443", allowance, body=b"3").paid
