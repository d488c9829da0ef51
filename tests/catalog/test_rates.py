"""Which rate is in force: one that was seen lately, by the one in the middle, and not far from the last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from farebox.catalog.rates import RatesInForce, middle
from farebox.core.fiat import Rate

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def seen(per_btc: str, minutes: int = 0, currency: str = "USD", source: str = "a") -> Rate:
    return Rate(currency=currency, per_btc=Decimal(per_btc), seen_at=AT + minutes * MINUTE, source=source)


@pytest.mark.parametrize(
    ("expected", "told"),
    [("5", ["5"]), ("4", ["5", "4"]), ("5", ["9", "5", "1"]), ("5", ["1", "999999", "5"]), ("2", ["1", "2", "3", "4"])],
)
def test_the_middle_one_is_believed_and_of_two_the_lower(expected: str, told: list[str]) -> None:
    assert Decimal(expected) == middle([seen(each) for each in told]).per_btc


def test_a_rate_is_in_force_for_as_long_as_it_is_fresh() -> None:
    rates = RatesInForce(stale_after=10 * MINUTE)
    assert rates.find("USD", AT) is None
    assert rates.take(seen("64000"))
    assert seen("64000") == rates.find("USD", AT + 10 * MINUTE)
    assert rates.find("USD", AT + 10 * MINUTE + timedelta(microseconds=1)) is None
    assert rates.find("EUR", AT) is None


def test_a_rate_that_claims_to_be_seen_in_the_future_is_not_in_force() -> None:
    rates = RatesInForce(stale_after=10 * MINUTE)
    assert rates.take(seen("64000", minutes=11))
    assert rates.find("USD", AT) is None


@pytest.mark.parametrize("jumped", ["80000.01", "51199.99", "1", "999999999999999"])
def test_a_jump_is_not_believed_and_the_last_rate_stays_until_it_is_stale(jumped: str) -> None:
    rates = RatesInForce(stale_after=10 * MINUTE, most_jump_percent=25)
    assert rates.take(seen("64000"))
    assert not rates.take(seen(jumped, minutes=1))
    assert seen("64000") == rates.find("USD", AT + 10 * MINUTE)
    assert rates.find("USD", AT + 11 * MINUTE) is None


def test_a_jump_is_believed_when_all_that_is_seen_for_as_long_as_a_rate_lasts_agrees_with_it() -> None:
    rates = RatesInForce(stale_after=10 * MINUTE, most_jump_percent=25)
    assert rates.take(seen("64000"))
    assert [False] * 10 == [rates.take(seen("90000", minutes=minute)) for minute in range(1, 11)]
    assert rates.take(seen("91000", minutes=11))
    assert seen("91000", minutes=11) == rates.find("USD", AT + 11 * MINUTE)


def test_a_jump_that_jumps_again_or_goes_back_begins_anew() -> None:
    rates = RatesInForce(stale_after=10 * MINUTE, most_jump_percent=25)
    assert rates.take(seen("64000"))
    assert not rates.take(seen("90000", minutes=1))
    assert not rates.take(seen("640", minutes=2))
    assert not rates.take(seen("90000", minutes=12))
    assert rates.take(seen("65000", minutes=13))
    assert not rates.take(seen("90000", minutes=22))
    assert seen("65000", minutes=13) == rates.find("USD", AT + 22 * MINUTE)


def test_the_rate_of_one_currency_says_nothing_of_another() -> None:
    rates = RatesInForce()
    assert rates.take(seen("64000"))
    assert rates.take(seen("9000000", currency="JPY"))
