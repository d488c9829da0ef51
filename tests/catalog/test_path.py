"""Paths that can be read one way only."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farebox.catalog.path import MAX_PATH_BYTES, canonical, spelt
from farebox.core.errors import MalformedRequest

PIECES = [
    b"/",
    b"//",
    b".",
    b"..",
    b"a",
    b"%2e",
    b"%2F",
    b"%5c",
    b"\\",
    b";",
    b"%3B",
    b"%00",
    b"%25",
    b"%C3%BC",
    b"%ff",
    b"%",
]


@pytest.mark.parametrize(
    ("raw_path", "path"),
    [
        (b"/", "/"),
        (b"/api/dvm", "/api/dvm"),
        (b"/api/dvm/", "/api/dvm/"),
        (b"/.well-known/l402", "/.well-known/l402"),
        (b"/a..b/...", "/a..b/..."),
        (b"/a@b:c/(1)!$&'*+,=~", "/a@b:c/(1)!$&'*+,=~"),
        (b"/a%40b", "/a@b"),
        (b"/a%20b", "/a b"),
        (b"/%C3%BCber", "/über"),
        (b"/%c3%bcber", "/über"),
        (b"/100%25", "/100%"),
        (b"/what%3F", "/what?"),
    ],
)
def test_an_unambiguous_path_is_decoded(raw_path: bytes, path: str) -> None:
    assert path == canonical(raw_path)


@pytest.mark.parametrize(
    "raw_path",
    [
        b"",
        b"*",
        b"api/dvm",
        b"http://host/api",
        b"//api/dvm",
        b"/api//dvm",
        b"/api/dvm//",
        b"/.",
        b"/..",
        b"/./api",
        b"/api/../dvm",
        b"/api/dvm/.",
        b"/api/dvm/..",
        b"/api/%2e%2e/dvm",
        b"/api/.%2E/dvm",
        b"/api%2fdvm",
        b"/api%2Fdvm",
        b"/api%5Cdvm",
        b"/api%5cdvm",
        b"/api\\dvm",
        b"/api/dvm;x",
        b"/api/dvm;",
        b"/api/dvm%3bx",
        b"/%61pi/dvm",
        b"/api/dv%6D",
        b"/api/dvm%7E",
        b"/api/%252e%252e",
        b"/api%252fdvm",
        b"/api/dvm%",
        b"/api/dvm%2",
        b"/api/dvm%zz",
        b"/api/dvm%u002f",
        b"/api/dvm%00",
        b"/api/dvm\x00",
        b"/api/dvm\n",
        b"/api/dvm\x7f",
        b"/api/dvm%0d%0a",
        b"/api/dvm%7F",
        b"/api dvm",
        b"/api/dvm?x",
        b"/api/dvm#x",
        b'/api/"dvm"',
        b"/{id}",
        b"/a|b",
        "/über".encode(),
        b"/\xff",
        b"/%ff",
        b"/%C3",
        b"/%C0%AF",
        b"/api%25u002fdvm",
        b"/x/..%20/api/dvm",
        b"/x/%20.",
        b"/api/dvm/.%3fx",
        b"/api%ef%bc%8fdvm",
        b"/x/%ef%bc%8e%ef%bc%8e/api",
        b"/%ED%A0%80",
    ],
)
def test_a_path_that_servers_read_differently_is_refused(raw_path: bytes) -> None:
    with pytest.raises(MalformedRequest):
        canonical(raw_path)


def test_a_path_of_the_greatest_length_is_read_and_a_longer_one_refused() -> None:
    longest = b"/" + b"a" * (MAX_PATH_BYTES - 1)
    assert len(canonical(longest)) == MAX_PATH_BYTES
    with pytest.raises(MalformedRequest):
        canonical(longest + b"a")


def test_a_refusal_says_what_is_wrong_and_does_not_repeat_the_path() -> None:
    with pytest.raises(MalformedRequest, match="dot segment") as raised:
        canonical(b"/secret/../x")
    assert "secret" not in str(raised.value)


@given(st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join))
@example(b"/a/%25%32%65")
def test_what_is_accepted_stays_the_same_path_however_often_it_is_decoded_or_normalised(tail: bytes) -> None:
    try:
        path = canonical(b"/" + tail)
    except MalformedRequest:
        return
    assert path == unquote(path)
    assert not {"", ".", ".."} & set(path.rstrip("/").split("/")[1:-1])
    assert not set("\\;\0") & set(path)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_path_or_a_malformed_request(raw_path: bytes) -> None:
    try:
        path = canonical(raw_path)
    except MalformedRequest:
        return
    assert path == canonical(spelt(path))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4).map("/".join))
def test_a_path_as_clients_spell_it_is_read_back_or_refused(path: str) -> None:
    try:
        raw_path = quote("/" + path).encode()
    except UnicodeEncodeError:
        return
    try:
        read = canonical(raw_path)
    except MalformedRequest:
        return
    assert "/" + path == read
