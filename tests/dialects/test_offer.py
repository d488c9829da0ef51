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


def test_the_first_place_that_tells_a_price_counts_and_the_exact_one_before_the_rounded() -> None:
    assert read_price({}, {"price_sats": 2, "price_msat": 1500}, {"amount_sats": 9}) == Amount.msats(1500)


@pytest.mark.parametrize("body", [{}, {"protocols": None}, {"protocols": [1]}, {"protocols": {"l402": "x"}}])
def test_a_protocol_that_is_not_there_has_no_members(body: dict[str, Json]) -> None:
    assert read_protocol(body, "l402") == {}


def test_an_invoice_is_read_and_a_broken_one_is_a_broken_challenge() -> None:
    assert read_invoice(sample_invoice().text.upper()) == sample_invoice()
    with pytest.raises(MalformedChallenge, match="invoice"):
        read_invoice(sample_invoice().text[:-1])
