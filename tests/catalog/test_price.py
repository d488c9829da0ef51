"""What one call costs."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from farebox.catalog.price import Price
from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount, MalformedPrice
from farebox.core.fiat import Fiat, Rate

RATE = Rate(currency="USD", per_btc=Decimal(64000), seen_at=datetime(2026, 1, 2, tzinfo=UTC), source="x")


@pytest.mark.parametrize("given", ["21 sat", Amount.sats(21), Price(amount=Amount.sats(21))])
def test_a_price_is_read_from_text_from_an_amount_and_from_itself(given: str | Amount | Price) -> None:
    assert Price(amount=Amount.sats(21)) == Price.read(given)


@pytest.mark.parametrize("given", ["21", "", "1.5 sat", "-1 sat", "0 sat", Amount(0)])
def test_a_price_without_a_unit_with_a_fraction_or_of_nothing_is_refused(given: str | Amount) -> None:
    with pytest.raises(MalformedAmount):
        Price.read(given)


def test_a_quote_is_the_price_of_one_call() -> None:
    quote = Price.read("500 msat").quote(resource="POST /x", digest=b"d" * 32, description="x")
    assert (Amount.msats(500), "POST /x", b"d" * 32, "x") == (
        quote.amount,
        quote.resource,
        quote.digest,
        quote.description,
    )


@pytest.mark.parametrize("given", ["0.5 US cent", "$0.005", Fiat.read("0.005 USD"), Price(amount=Fiat.read("$0.005"))])
def test_a_price_in_fiat_is_read_and_quoted_at_a_rate(given: str | Fiat | Price) -> None:
    price = Price.read(given)
    assert "0.005 USD" == str(price)
    assert Amount.sats(8) == price.quote(resource="POST /x", digest=bytes(32), rate=RATE).amount


@pytest.mark.parametrize(("price", "rate"), [("$2", None), ("2 EUR", RATE)])
def test_a_price_in_fiat_is_not_quoted_without_a_rate_of_its_currency(price: str, rate: Rate | None) -> None:
    with pytest.raises(MalformedPrice):
        Price.read(price).quote(resource="POST /x", digest=bytes(32), rate=rate)


def test_a_price_prints_as_it_is_written() -> None:
    assert str(Price.read("21sat")) == "21 sat"
