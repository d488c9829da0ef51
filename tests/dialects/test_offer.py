"""What a 402 tells beside its challenges."""

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import MalformedChallenge
from farebox.core.exchange import Json
from farebox.dialects.offer import read_invoice, read_price, read_protocol, write_price
from farebox.testing.dialects import sample_invoice


@pytest.mark.parametrize("amount", [Amount.sats(21), Amount.msats(1), Amount.msats(0)])
def test_a_price_is_read_as_it_was_written(amount: Amount) -> None:
    assert read_price(write_price(amount)) == amount


def test_no_price_writes_and_reads_nothing() -> None:
    assert write_price(None) == {}
    assert read_price({}, {"amount": 5}) is None


@pytest.mark.parametrize(
    ("place", "price"),
    [
        ({"price_sats": 5}, Amount.sats(5)),
        ({"amount_sats": "5"}, Amount.sats(5)),
        ({"amount_sats": 21.0}, Amount.sats(21)),
        ({"price_sats": 0.5}, Amount.msats(500)),
        ({"price_msat": "1500", "price_sats": 2}, Amount.msats(1500)),
        ({"price_msat": 1500, "price_sats": 1}, Amount.msats(1500)),
        ({"price_sats": None}, None),
    ],
)
def test_a_price_is_read_in_every_spelling_that_says_one_amount(place: dict[str, Json], price: Amount | None) -> None:
    assert read_price({}, place, {"amount": "prose"}) == price


@pytest.mark.parametrize(
    "value", ["five", "5 sat", "", " 5", "0x5", 0.0001, True, -1, "-1", 10**30, float("nan"), [5], {}]
)
def test_a_price_that_can_t_be_read_is_never_taken_for_none(value: Json) -> None:
    with pytest.raises(MalformedChallenge, match="price"):
        read_price({"amount_sats": value})


def test_two_prices_that_differ_by_more_than_rounding_are_refused() -> None:
    for places in (
        ({"price_sats": 1, "price_msat": 21_000},),
        ({"price_sats": 1}, {"amount_sats": 21}),
        ({"amount_sats": 3, "price_msat": 1500},),
        ({"amount_msat": 1500}, {"price_msat": 1501}),
    ):
        with pytest.raises(MalformedChallenge, match="in another"):
            read_price(*places)


@pytest.mark.parametrize("body", [{}, {"protocols": None}, {"protocols": [1]}, {"protocols": {"l402": "x"}}])
def test_a_protocol_that_is_not_there_has_no_members(body: dict[str, Json]) -> None:
    assert read_protocol(body, "l402") == {}


def test_an_invoice_is_read_and_a_broken_one_is_a_broken_challenge() -> None:
    assert read_invoice(sample_invoice().text.upper()) == sample_invoice()
    with pytest.raises(MalformedChallenge, match="invoice"):
        read_invoice(sample_invoice().text[:-1])
