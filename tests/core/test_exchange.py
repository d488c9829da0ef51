"""The nouns that travel, and merging what several dialects say in one message."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.exchange import Challenge, Credential, Wire
from farebox.core.secret import Secret

NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.dictionaries(NAMES, st.none() | st.integers() | st.text(max_size=3))
OBJECTS = st.recursive(  # under a capital letter there is always an object, so that no two messages disagree on that
    LEAVES,
    lambda inner: st.builds(dict.__or__, LEAVES, st.dictionaries(st.sampled_from(["A", "B"]), inner)),
    max_leaves=5,
)
PAIRS = st.lists(st.tuples(NAMES, st.text(max_size=3)), max_size=3).map(tuple)
WIRES = st.builds(Wire, headers=PAIRS, query=PAIRS, body=OBJECTS)


def test_merging_keeps_every_header_and_query_pair_in_its_order() -> None:
    one = Wire(headers=(("www-authenticate", "L402"),), query=(("q", "1"),))
    two = Wire(headers=(("www-authenticate", "Payment"),), query=(("q", "2"),))
    merged = one | two
    assert merged.headers == (("www-authenticate", "L402"), ("www-authenticate", "Payment"))
    assert merged.query == (("q", "1"), ("q", "2"))


def test_merging_joins_json_objects_member_by_member_however_deep() -> None:
    one = Wire(body={"protocols": {"L402": {"token": "t"}}, "status": "payment_required"})
    two = Wire(body={"protocols": {"L402": {"invoice": "i"}, "Payment": {}}, "invoice": "i"})
    assert (one | two).body == {
        "protocols": {"L402": {"token": "t", "invoice": "i"}, "Payment": {}},
        "status": "payment_required",
        "invoice": "i",
    }


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ({"x": 1}, "2"), ("1", {"x": 2}), ([1], [2])])
def test_where_both_say_something_else_the_later_one_is_kept(first: object, second: object) -> None:
    one, two = Wire(body={"a": first}), Wire(body={"a": second})  # type: ignore[dict-item]  # all of them are JSON
    assert (one | two).body == {"a": second}


def test_merging_changes_neither_of_the_two() -> None:
    one, two = Wire(body={"a": {"x": 1}}), Wire(body={"a": {"y": 2}})
    merged = one | two
    assert merged.body == {"a": {"x": 1, "y": 2}}
    assert (one.body, two.body) == ({"a": {"x": 1}}, {"a": {"y": 2}})


@given(WIRES)
@settings(deadline=None)
def test_merging_with_an_empty_message_changes_nothing(wire: Wire) -> None:
    assert wire == wire | Wire() == Wire() | wire


@given(WIRES, WIRES, WIRES)
@settings(deadline=None)
def test_it_does_not_matter_which_two_of_three_are_merged_first(one: Wire, two: Wire, three: Wire) -> None:
    assert (one | two) | three == one | (two | three)


def test_every_line_of_a_header_is_told_in_order_under_its_lower_case_name() -> None:
    wire = Wire(headers=(("a", "1"), ("b", "2"), ("a", "3")))
    assert wire.all("a") == ("1", "3")
    assert wire.all("A") == wire.all("c") == ()


def test_an_empty_message_has_nothing_in_it() -> None:
    assert (Wire().headers, Wire().query, dict(Wire().body)) == ((), (), {})


def test_a_credential_does_not_print_its_preimage() -> None:
    shown = repr(Credential(dialect="L402", payment_hash=bytes(32), preimage=Secret(b"the preimage")))
    assert "the preimage" not in shown
    assert "•••" in shown


def test_what_travels_can_not_be_changed_on_the_way() -> None:
    challenge = Challenge(dialect="L402", invoice="lnbcrt…", payment_hash=bytes(32))
    with pytest.raises(FrozenInstanceError):
        challenge.invoice = "another"  # type: ignore[misc]  # that it is refused is what is tested
