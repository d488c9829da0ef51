from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.secret import Secret
from farebox.lightning.reply import count, hash_of, msats, preimage_of, read_object, sats, text

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"', b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_nothing(body: bytes) -> None:
    assert read_object(body) is None


def test_an_object_is_read_as_its_members() -> None:
    assert {"a": 1} == read_object(b'{"a": 1}')


@pytest.mark.parametrize("value", [True, False, -1, 1.0, "1", None, [1], {}])
def test_what_is_no_count_is_nothing(value: object) -> None:
    assert count({"a": value}, "a") is None


def test_amounts_are_read_in_their_unit() -> None:
    assert sats({"a": 21}, "a") == Amount.sats(21)
    assert msats({"a": 21}, "a") == Amount.msats(21)


def test_more_than_there_is_is_nothing() -> None:
    assert sats({"a": 10**30}, "a") is None


@pytest.mark.parametrize("value", ["", 7, None, ["a"]])
def test_what_is_no_text_is_nothing(value: object) -> None:
    assert text({"a": value}, "a") is None


@pytest.mark.parametrize("value", ["05" * 31, "05" * 33, "0x" + "05" * 31, "zz" * 32, 5, None])
def test_what_is_no_hash_is_nothing(value: object) -> None:
    assert hash_of({"a": value}, "a") is None


def test_only_the_preimage_of_the_hash_is_a_preimage() -> None:
    assert preimage_of({"a": PREIMAGE.hex()}, "a", PAYMENT_HASH) == Secret(PREIMAGE)
    assert preimage_of({"a": PAYMENT_HASH.hex()}, "a", PAYMENT_HASH) is None
    assert preimage_of({"a": "00" * 32}, "a", PAYMENT_HASH) is None


@given(value=ANYTHING)
def test_no_member_whatever_it_is_makes_reading_fail(value: object) -> None:
    told = {"a": value}
    for read in (text, count, sats, msats, hash_of):
        read(told, "a")
        assert read(told, "b") is None
    assert preimage_of(told, "a", PAYMENT_HASH) is None
