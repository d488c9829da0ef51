"""Prices in fiat, and what they are in bitcoin."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount, MalformedPrice, RateUnavailable
from farebox.core.exchange import Unpriced
from farebox.core.fiat import Conversion, Fiat, Rate, read_decimal

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WRITTEN = st.tuples(st.integers(0, 10**15 - 1), st.integers(0, 10**12 - 1)).filter(any)


def rate(per_btc: str, currency: str = "USD") -> Rate:
    return Rate(currency=currency, per_btc=Decimal(per_btc), seen_at=AT, source="a place")


def in_sats(price: str, per_btc: str) -> Amount:
    fiat = Fiat.read(price)
    return Conversion(price=fiat, rate=rate(per_btc, fiat.currency)).amount


@pytest.mark.parametrize(
    ("number", "currency", "text"),
    [
        ("0.005", "USD", "0.005 USD"),
        ("0.005", "USD", "0.005USD"),
        ("0.005", "USD", "$0.005"),
        ("0.005", "USD", "0.5 US cent"),
        ("0.005", "USD", " 0.5 USD cents "),
        ("2", "EUR", "2 EUR"),
        ("0.03", "EUR", "3 EUR cent"),
        ("1", "KRW", "1.000 KRW"),
        ("100", "JPY", "100 JPY"),
    ],
)
def test_a_price_in_fiat_is_read_exactly(number: str, currency: str, text: str) -> None:
    read = Fiat.read(text)
    assert (Decimal(number), currency) == (read.amount, read.currency)
    assert f"{number} {currency}" == str(read)
    assert read == Fiat.read(str(read))


@pytest.mark.parametrize(
    "text",
    [
        *("", "2", "USD", "$", "$-1", "-1 USD", "+1 USD", "1e3 USD", "1,5 EUR", "1_000 USD", ".5 USD", "5. USD"),
        *("NaN USD", "Infinity USD", "0x1 USD", "٢ USD", "2 usd", "2 UDS", "2 XAU", "2 BTC", "2 XTS", "€2", "US$2"),
        *("0 USD", "0.000 EUR", "$0", "1 cent", "1 GBP cent", "1 usd cent", "$1 cent", "$1 USD", "2 EUR EUR"),
        *("1.5 sat", "1.5 msat", "0.0000000000001 USD", "1" * 16 + " USD"),
        pytest.param("9" * 5000 + " USD", id="a long number"),
    ],
)
def test_what_is_no_price_in_fiat_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(MalformedPrice) as refused:
        Fiat.read(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250
    assert "`0.5 US cent`" in str(refused.value)


def test_a_currency_in_small_letters_is_answered_with_one_that_can_be_read() -> None:
    with pytest.raises(MalformedPrice, match=r"such as `0\.5 US cent`"):
        Fiat.read("0.5 us cents")
    assert "0.005 USD" == str(Fiat.read("0.5 US cent"))


@pytest.mark.parametrize(
    ("sats", "price", "per_btc"),
    [
        (8, "0.5 US cent", "64000"),  # 7.8125
        (500, "$0.32", "64000"),
        (501, "$0.320000000001", "64000"),
        (1, "0.000000000001 USD", "999999999999999"),
        (100_000_000, "2 EUR", "2"),
        (3125, "2 EUR", "64000"),
        (1, "1 IRR", "4200000000"),
    ],
)
def test_fiat_is_rounded_up_to_whole_satoshis_and_is_never_nothing(sats: int, price: str, per_btc: str) -> None:
    assert Amount.sats(sats) == in_sats(price, per_btc)


@given(price=WRITTEN, per_btc=WRITTEN)
def test_a_conversion_is_the_least_number_of_satoshis_that_is_worth_the_price(
    price: tuple[int, int], per_btc: tuple[int, int]
) -> None:
    written = ["%d.%012d" % each for each in (price, per_btc)]  # noqa: UP031 - reads better than three braces
    exact = Fraction(written[0]) / Fraction(written[1]) * 10**8
    try:
        sats = in_sats(f"{written[0]} USD", written[1]).in_sats_exact()
    except MalformedAmount:
        assert exact > 21 * 10**14
    else:
        assert sats - 1 < exact <= sats


@given(cents=WRITTEN)
def test_a_cent_is_a_hundredth_to_the_last_digit(cents: tuple[int, int]) -> None:
    written = "%d.%012d" % cents  # noqa: UP031 - the same
    assert Fraction(written) / 100 == Fraction(Fiat.read(f"{written} US cent").amount)


def test_a_rate_of_nothing_is_no_rate() -> None:
    with pytest.raises(MalformedPrice):
        rate("0")


@pytest.mark.parametrize(
    ("differs", "one", "other"),
    [(False, "100", "125"), (True, "100", "125.000000000001"), (False, "125", "100"), (True, "126", "100")],
)
def test_rates_differ_by_hundredths_of_the_smaller(differs: bool, one: str, other: str) -> None:
    assert differs is rate(one).differs(rate(other), percent=25)


@pytest.mark.parametrize("text", ["1e5", "NaN", "-1", "64,000", "", " 1", "0x1", "1.", "1" * 16, "0.1234567890123"])
def test_a_number_that_is_not_plainly_written_is_none(text: str) -> None:
    assert read_decimal(text) is None


def test_a_quote_without_a_price_tells_why_to_whoever_asks_for_it() -> None:
    quote = Unpriced(RateUnavailable("no rate"), resource="GET /x", digest=bytes(32))
    assert ("GET /x", bytes(32), "") == (quote.resource, quote.digest, quote.description)
    assert "no rate" in repr(quote)
    with pytest.raises(RateUnavailable, match="no rate"):
        _ = quote.amount
