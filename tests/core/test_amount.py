"""Amounts of bitcoin."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import MalformedAmount

ALL_BITCOIN_MSAT = 21 * 10**17
MSATS = st.integers(0, ALL_BITCOIN_MSAT)
AMOUNTS = MSATS.map(Amount.msats)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Amount.sats(21), "21 sat"),
        (Amount.sats(21), "21sat"),
        (Amount.sats(21), "21 sats"),
        (Amount.sats(21), "  21 SAT "),
        (Amount.sats(21), "21000 msat"),
        (Amount.msats(500), "500 msat"),
        (Amount.msats(500), "500msats"),
        (Amount.sats(1_000_000), "1_000_000 sat"),
        (Amount.sats(0), "0 sat"),
    ],
)
def test_an_amount_is_read_with_its_unit(amount: Amount, text: str) -> None:
    assert amount == Amount.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "21",
        "sat",
        "-1 sat",
        "+1 sat",
        "1.5 sat",
        "1e3 sat",
        "1,000 sat",
        "1_00 sat",
        "1__000 sat",
        "0x10 sat",
        "21 btc",
        "21 sat sat",
        "21 s at",
        "٢١ sat",  # digits that are not ASCII
        "21 ſat",
        "2100000000000001 sat",
        pytest.param("9" * 5000 + " sat", id="a long number"),
        pytest.param("1" + "_000" * 5000 + " sat", id="a long number in groups"),
    ],
)
def test_what_is_not_a_whole_number_with_a_unit_is_refused(text: str) -> None:
    with pytest.raises(MalformedAmount) as raised:
        Amount.read(text)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "count",
    [
        -1,
        ALL_BITCOIN_MSAT + 1,
        pytest.param(10**5000, id="a long number"),
        21.0,
        0.1,
        True,
        "21",
        None,
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_not_a_whole_number_of_millisatoshis_is_refused(count: object) -> None:
    with pytest.raises(MalformedAmount) as raised:
        Amount(count)  # type: ignore[arg-type]  # what comes from JSON is not what the signature says
    assert len(str(raised.value)) < 200


@given(st.text())
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        amount = Amount.read(text)
    except MalformedAmount:
        return
    assert amount == Amount.read(str(amount))


@given(AMOUNTS)
@settings(deadline=None)
def test_what_an_amount_prints_reads_back_as_itself(amount: Amount) -> None:
    assert amount == Amount.read(str(amount))


@given(AMOUNTS)
@settings(deadline=None)
def test_the_two_roundings_to_satoshis_enclose_the_amount_by_less_than_one(amount: Amount) -> None:
    floor, ceil = Amount.sats(amount.in_sats_floor()), Amount.sats(min(amount.in_sats_ceil(), ALL_BITCOIN_MSAT // 1000))
    assert floor <= amount <= ceil
    assert ceil.msat - floor.msat in (0, 1000)


@given(st.integers(0, ALL_BITCOIN_MSAT // 1000))
@settings(deadline=None)
def test_whole_satoshis_come_back_exactly(sats: int) -> None:
    amount = Amount.sats(sats)
    assert (sats, sats, sats) == (amount.in_sats_exact(), amount.in_sats_floor(), amount.in_sats_ceil())


def test_a_fraction_of_a_satoshi_has_no_exact_satoshis() -> None:
    with pytest.raises(MalformedAmount, match="1500 msat, where whole satoshis are needed"):
        Amount.msats(1500).in_sats_exact()


@given(MSATS, MSATS)
@settings(deadline=None)
def test_amounts_add_up_and_order_like_their_millisatoshis(one: int, two: int) -> None:
    one, two = one // 2, two // 2
    assert Amount.msats(one + two) == Amount.msats(one) + Amount.msats(two)
    assert (one < two) == (Amount.msats(one) < Amount.msats(two))
    assert Amount.msats(max(0, one - two)) == Amount.msats(one).less(Amount.msats(two))


def test_taking_away_more_than_there_is_is_refused() -> None:
    assert Amount.sats(1) == Amount.sats(3) - Amount.sats(2)
    with pytest.raises(MalformedAmount):
        Amount.sats(2) - Amount.sats(3)


def test_an_amount_times_a_number_is_that_many_of_it() -> None:
    assert Amount.sats(63) == Amount.sats(21) * 3
    with pytest.raises(MalformedAmount):
        Amount.sats(21) * -1


@pytest.mark.parametrize(
    ("msat", "percent", "share"), [(1000, 1, 10), (1001, 1, 11), (1, 1, 1), (0, 50, 0), (1000, 100, 1000), (7, 0, 0)]
)
def test_a_share_is_rounded_up_to_the_millisatoshi(msat: int, percent: int, share: int) -> None:
    assert Amount.msats(share) == Amount.msats(msat).share(percent)


def test_only_nothing_is_false() -> None:
    assert not NOTHING
    assert Amount.sats(0) == NOTHING
    assert Amount.msats(1)


def test_an_amount_prints_in_satoshis_when_they_are_whole() -> None:
    assert (str(Amount.sats(21)), str(Amount.msats(21_001)), str(NOTHING)) == ("21 sat", "21001 msat", "0 sat")


@given(AMOUNTS)
@settings(deadline=None)
def test_an_amount_survives_pickling_and_json(amount: Amount) -> None:
    assert amount == pickle.loads(pickle.dumps(amount))
    assert amount == Amount.msats(json.loads(json.dumps({"amount_msat": amount.msat}))["amount_msat"])
