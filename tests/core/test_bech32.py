"""The spelling under BOLT11, against the examples of BIP 173."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.bech32 import (
    bytes_to_digits,
    digits_to_bytes,
    digits_to_number,
    number_to_digits,
    read_bech32,
    write_bech32,
)
from farebox.core.errors import MalformedValue

PREFIXES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789?-"), min_size=1, max_size=20)
DIGITS = st.lists(st.sampled_from(b"0123456789abcdefghijklmnopqrstuv"), max_size=200).map(bytes)


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("a", "A12UEL5L"),
        ("a", "a12uel5l"),
        (
            "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio",
            "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
        ),
        ("abcdef", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"),
        ("1", "11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j"),
        ("split", "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w"),
        ("?", "?1ezyfcl"),
    ],
)
def test_the_good_examples_of_bip_173_are_read_and_written_again(prefix: str, text: str) -> None:
    found, digits = read_bech32(text)
    assert prefix == found
    assert text.lower() == write_bech32(found, digits)


def test_the_digits_are_the_symbols_in_their_order() -> None:
    assert read_bech32("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw") == (
        "abcdef",
        b"0123456789abcdefghijklmnopqrstuv",
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("pzry9x0s0muk", id="no separator"),
        pytest.param("1pzry9x0s0muk", id="nothing before the separator"),
        pytest.param("x1b4n0q5v", id="a character that is not a symbol"),
        pytest.param("li1dgmt3", id="a checksum that is too short"),
        pytest.param("A1G7SGD8", id="a checksum over the upper-case prefix"),
        pytest.param("10a06t8", id="an empty prefix"),
        pytest.param("1qzzfhee", id="an empty prefix and no data"),
        pytest.param("a12UEL5L", id="mixed case"),
        pytest.param("a12uel5m", id="a wrong checksum"),
        pytest.param("å12uel5l", id="a letter beyond ASCII"),
        pytest.param("K12uel5l", id="a letter that becomes ASCII in lower case"),
        pytest.param("", id="nothing"),
        pytest.param("1", id="the separator alone"),
        pytest.param("a1", id="nothing after the separator"),
    ],
)
def test_what_is_not_bech32_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue):
        read_bech32(text)


@given(PREFIXES, DIGITS)
@settings(deadline=None)
def test_what_is_written_is_read_again(prefix: str, digits: bytes) -> None:
    assert (prefix, digits) == read_bech32(write_bech32(prefix, digits))


@given(PREFIXES, DIGITS, st.data())
@settings(deadline=None)
def test_one_changed_symbol_is_noticed(prefix: str, digits: bytes, data: st.DataObject) -> None:
    text = write_bech32(prefix, digits)
    at = data.draw(st.integers(len(prefix) + 1, len(text) - 1))
    symbol = data.draw(st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l").filter(lambda symbol: symbol != text[at]))
    with pytest.raises(MalformedValue):
        read_bech32(text[:at] + symbol + text[at + 1 :])


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_bytes_come_back_from_their_digits(octets: bytes) -> None:
    assert octets == digits_to_bytes(bytes_to_digits(octets))


@given(st.integers(0, 1 << 200))
@settings(deadline=None)
def test_a_number_comes_back_from_its_digits_and_has_none_to_spare(number: int) -> None:
    digits = number_to_digits(number)
    assert number == digits_to_number(digits)
    assert digits == b"0" or not digits.startswith(b"0")


@pytest.mark.parametrize("digits", [b"0", b"000", b"01", b"vv"])
def test_padding_that_is_a_whole_digit_or_not_zero_is_refused(digits: bytes) -> None:
    with pytest.raises(MalformedValue):
        digits_to_bytes(digits)
