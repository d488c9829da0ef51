"""RFC 8785 as far as it is used here, strict JSON, strict base64url."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.errors import MalformedValue
from farebox.core.exchange import Json
from farebox.dialects.canonical_json import (
    read_base64url,
    read_members,
    read_object,
    write_base64url,
    write_canonical,
    write_members,
)

values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(members=st.dictionaries(st.text(), values, max_size=5))
def test_members_are_read_as_they_were_written(members: dict[str, Json]) -> None:
    assert members == read_members(write_members(members))
    assert members == read_object(write_canonical(members).encode())


@settings(deadline=None)
@given(members=st.dictionaries(st.text(), values, max_size=5))
def test_the_order_of_members_makes_no_difference(members: dict[str, Json]) -> None:
    assert write_canonical(members) == write_canonical(dict(reversed(members.items())))


def test_members_are_sorted_by_utf_16_units_as_in_the_rfc() -> None:
    # RFC 8785, section 3.2.3: the emoji (a surrogate pair) comes before U+FB33, though its code point is larger.
    members: dict[str, Json] = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    assert list(read_object(write_canonical(members)).values()) == [2, 4, 6, 7, 1, 5, 3]


def test_only_what_has_to_be_escaped_is() -> None:
    assert write_canonical('\0\b\t\n\f\r\x1f"\\/\x7f€\u2028') == '"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/\x7f€\u2028"'


@pytest.mark.parametrize("value", [1.5, 2**53, -(2**53), "\ud800", {"\ud800": 1}])
def test_what_readers_could_read_differently_is_not_written(value: Json) -> None:
    with pytest.raises(MalformedValue):
        write_canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "null",
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":2}}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":1}x',
        "\ufeff{}",
        "[" * 100_000,
        '{"a":' * 10_000,
        '{"a":' + "9" * 5000 + "}",
    ],
)
def test_what_is_not_one_plain_object_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue):
        read_object(text)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(MalformedValue):
        read_object(b'{"a":"\xff"}')


@settings(deadline=None)
@given(data=st.binary(max_size=50))
def test_base64url_is_read_padded_or_not(data: bytes) -> None:
    text = write_base64url(data)
    assert "=" not in text
    assert data == read_base64url(text) == read_base64url(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    "text", ["A", "AB", "AAB", "AA=", "AA===", "AAA==", "AAAA=", "A A", "AA\n", "+A", "/w", "AA=A", "é", "\ud800"]
)
def test_base64url_with_slack_or_foreign_characters_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue):
        read_base64url(text)


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_is_the_only_spelling_of_its_bytes_or_refused(text: str) -> None:
    try:
        bare = write_base64url(read_base64url(text))
    except MalformedValue:
        bare = text.rstrip("=")
    assert text.rstrip("=") == bare
