from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.conversation import HttpReply
from farebox.core.errors import NodeUnavailable
from farebox.core.secret import Secret
from farebox.lightning.reply import (
    count,
    fault_of,
    hash_of,
    member,
    msats,
    need,
    network_of,
    objects,
    one_line,
    preimage_of,
    read_object,
    read_reply,
    sats,
    text,
    whole,
)

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


def test_a_reply_is_read_only_if_its_status_is_good() -> None:
    assert {"a": 1} == read_reply(HttpReply(status=200, body=b'{"a":1}'))
    assert {"a": 1} == read_reply(HttpReply(status=201, body=b'{"a":1}'), 200, 201)
    assert read_reply(HttpReply(status=201, body=b'{"a":1}')) is None
    assert read_reply(HttpReply(status=200, body=b'{"a":1}'), 404) is None


def test_a_reply_that_is_needed_and_can_not_be_read_is_a_node_that_is_unavailable() -> None:
    assert {"a": 1} == need(HttpReply(status=200, body=b'{"a":1}'), "no")
    with pytest.raises(NodeUnavailable, match="no"):
        need(HttpReply(status=500), "no")


def test_members_are_followed_as_far_as_they_lead() -> None:
    told = {"a": {"b": {"c": 1}}, "list": [1]}
    assert {"c": 1} == member(told, "a", "b")
    assert told == member(told)
    for names in (("a", "x"), ("x", "a"), ("a", "b", "c"), ("list",)):
        assert {} == member(told, *names)


@pytest.mark.parametrize("value", [None, {}, "[]", [1], [{}, None], 7])
def test_what_is_no_list_of_objects_is_nothing(value: object) -> None:
    assert objects({"a": value}, "a") is None


def test_a_list_of_objects_is_read_whole() -> None:
    assert [] == objects({"a": []}, "a")
    assert [{"b": 1}, {}] == objects({"a": [{"b": 1}, {}]}, "a")


@pytest.mark.parametrize(("value", "number"), [(-21, -21), (21, 21), (True, 0), ("21", 0), (None, 0), (2.0, 0)])
def test_a_whole_number_may_have_a_sign(value: object, number: int) -> None:
    assert number == whole({"a": value}, "a")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("mainnet", Network.MAINNET),
        ("testnet4", Network.TESTNET),
        ("signet", Network.SIGNET),
        ("regtest", Network.REGTEST),
        ("moon", None),
        (None, None),
    ],
)
def test_a_chain_is_known_by_its_name(name: object, network: Network | None) -> None:
    assert network is network_of({"a": name}, "a")


def test_words_are_shown_in_one_line_and_not_without_end() -> None:
    assert one_line(" balance is\n\ud800 too  low ") == "balance is ? too low"
    assert one_line("a" * 1000) == "a" * 200


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (HttpReply(status=0), "Acme did not answer"),
        (HttpReply(status=0, reason="ReadTimeout"), "Acme did not answer (it takes too long)"),
        (HttpReply(status=200, body=b"secret"), "Acme answered with something that can't be read"),
        (HttpReply(status=204), "Acme answered with something that can't be read"),
        (HttpReply(status=500, body=b"secret"), "Acme answered 500"),
    ],
)
def test_a_fault_is_told_without_the_words_of_the_backend(reply: HttpReply, fault: str) -> None:
    assert fault == fault_of(reply, "Acme")
