"""Macaroons, with pymacaroons as the oracle."""

from base64 import b64decode
from hashlib import sha256

import pymacaroons
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymacaroons.serializers import BinarySerializer

from farebox.core.errors import MalformedMacaroon
from farebox.core.macaroon import MOST_BYTES, MOST_CAVEATS, Macaroon

ROOT_KEY = bytes(32)
IDENTIFIER = b"\0\0" + sha256(bytes(range(32))).digest() + b"\xaa" * 32
CAVEATS = (b"services=myapi:0", b"myapi_capabilities=")
WRITTEN = b64decode(
    "AgEEbHNhdAJCAABjDc0pZsQzZpESVEi7sltP9BKknHMtssirwbhYG9cQ3aqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqAAIQ"
    "c2VydmljZXM9bXlhcGk6MAACE215YXBpX2NhcGFiaWxpdGllcz0AAAYgQo8q5ER8YrBxLgGTQx6XwB6zckxj2eEO9I4JN6uFLxA="
)

texts = st.text(min_size=1, max_size=200)
keys = st.binary(min_size=1, max_size=100)
identifiers = st.binary(min_size=1, max_size=300)
locations = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
caveat_lists = st.lists(texts, max_size=6)


def sample() -> Macaroon:
    return Macaroon.mint(ROOT_KEY, IDENTIFIER, location=b"lsat", caveats=CAVEATS)


def oracle(root_key: bytes, identifier: bytes, location: str, caveats: list[str]) -> pymacaroons.Macaroon:
    macaroon = pymacaroons.Macaroon(location=location, identifier=identifier, key=root_key, version=2)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return macaroon


def test_the_known_vector_comes_out_to_the_byte() -> None:
    assert sample().signature.hex() == "428f2ae4447c62b0712e0193431e97c01eb3724c63d9e10ef48e0937ab852f10"
    assert sample().write() == WRITTEN
    assert len(WRITTEN) == 152


@settings(deadline=None)
@given(root_key=keys, identifier=identifiers, location=locations, caveats=caveat_lists)
def test_what_is_minted_here_is_what_pymacaroons_mints(
    root_key: bytes, identifier: bytes, location: str, caveats: list[str]
) -> None:
    ours = Macaroon.mint(
        root_key, identifier, location=location.encode(), caveats=[caveat.encode() for caveat in caveats]
    )
    theirs = oracle(root_key, identifier, location, caveats)
    assert BinarySerializer().serialize_raw(theirs) == ours.write()


@settings(deadline=None)
@given(root_key=keys, identifier=identifiers, location=locations, caveats=caveat_lists)
def test_what_pymacaroons_minted_is_read_and_verified_here(
    root_key: bytes, identifier: bytes, location: str, caveats: list[str]
) -> None:
    theirs = oracle(root_key, identifier, location, caveats)
    ours = Macaroon.read(BinarySerializer().serialize_raw(theirs))
    assert ours.verify(root_key)
    assert (identifier, tuple(caveat.encode() for caveat in caveats)) == (ours.identifier, ours.caveats)
    assert ours == Macaroon.read_base64(BinarySerializer().serialize(theirs))


@settings(deadline=None)
@given(root_key=keys, identifier=identifiers, caveats=caveat_lists, more=caveat_lists)
def test_what_is_attenuated_here_is_verified_by_pymacaroons(
    root_key: bytes, identifier: bytes, caveats: list[str], more: list[str]
) -> None:
    ours = Macaroon.mint(root_key, identifier, location=b"lsat", caveats=[caveat.encode() for caveat in caveats])
    narrowed = ours.attenuate(*(caveat.encode() for caveat in more))
    theirs = BinarySerializer().deserialize_raw(narrowed.write())
    verifier = pymacaroons.Verifier()
    for caveat in caveats + more:
        verifier.satisfy_exact(caveat)
    assert verifier.verify(theirs, root_key)


def test_an_attenuated_macaroon_verifies_and_the_first_one_is_unchanged() -> None:
    narrowed = sample().attenuate(b"preimage=00")
    assert (*CAVEATS, b"preimage=00") == narrowed.caveats
    assert narrowed.verify(ROOT_KEY)
    assert Macaroon.read(WRITTEN) == sample()


def test_caveats_can_be_neither_stripped_nor_swapped_nor_added_without_the_key() -> None:
    macaroon = sample().attenuate(b"preimage=00")
    for caveats in (
        macaroon.caveats[:-1],
        macaroon.caveats[1:],
        (),
        macaroon.caveats[::-1],
        (*macaroon.caveats, b"a=b"),
        (macaroon.caveats[0] + macaroon.caveats[1], macaroon.caveats[2]),
    ):
        forged = Macaroon(
            location=macaroon.location, identifier=macaroon.identifier, caveats=caveats, signature=macaroon.signature
        )
        assert not forged.verify(ROOT_KEY)


def test_another_root_key_verifies_nothing() -> None:
    assert not sample().verify(b"\1" * 32)


def test_no_flipped_bit_leaves_a_macaroon_that_verifies_and_is_where_it_was() -> None:
    accepted = 0
    for position in range(8 * len(WRITTEN)):
        flipped = bytearray(WRITTEN)
        flipped[position // 8] ^= 1 << position % 8
        try:
            macaroon = Macaroon.read(bytes(flipped))
        except MalformedMacaroon:
            continue
        accepted += macaroon.location == b"lsat" and macaroon.verify(ROOT_KEY)
    assert accepted == 0


def test_no_prefix_and_no_longer_form_is_a_macaroon() -> None:
    for length in range(len(WRITTEN)):
        with pytest.raises(MalformedMacaroon):
            Macaroon.read(WRITTEN[:length])
    with pytest.raises(MalformedMacaroon):
        Macaroon.read(WRITTEN + b"\0")


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("version 1", b"\x02\x01\x04", b"\x01\x01\x04"),
        ("a length in more octets than it needs", b"\x01\x04lsat", b"\x01\x84\x00lsat"),
        ("a length of three octets", b"\x01\x04lsat", b"\x01\x84\x80\x00lsat"),
        ("a length of three octets that is needed", b"\x01\x04lsat", b"\x01\x80\x80\x01lsat"),
        ("an empty location", b"\x01\x04lsat", b"\x01\x00"),
        ("no location", b"\x01\x04lsat", b""),
        ("two locations", b"\x01\x04lsat", b"\x01\x04lsat\x01\x04lsat"),
        ("an empty caveat", b"\x02\x10services=myapi:0", b"\x02\x00"),
        ("a caveat with a location", b"\x02\x10services=myapi:0", b"\x01\x01x\x02\x10services=myapi:0"),
        ("a third-party caveat", b"\x02\x10services=myapi:0", b"\x02\x10services=myapi:0\x04\x01v"),
        ("a short signature", b"\x06\x20\x42", b"\x06\x1f"),
        ("an unknown field", b"\x06\x20", b"\x07\x20"),
    ],
)
def test_another_spelling_of_a_macaroon_is_refused(what: str, old: bytes, new: bytes) -> None:
    assert WRITTEN.count(old) == 1, what
    with pytest.raises(MalformedMacaroon):
        Macaroon.read(WRITTEN.replace(old, new))


@settings(deadline=None)
@given(data=st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: WRITTEN[:80] + tail))
def test_any_bytes_are_refused_or_read_as_their_one_spelling(data: bytes) -> None:
    try:
        written = Macaroon.read(data).write()
    except MalformedMacaroon:
        written = data
    assert data == written


@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_is_refused_as_base64_and_as_hex(text: str) -> None:
    for read in (Macaroon.read_base64, Macaroon.read_hex):
        with pytest.raises(MalformedMacaroon):
            read(text)


def test_base64_is_read_padded_or_not_in_both_alphabets_but_without_slack() -> None:
    odd = sample().attenuate(b"\xff\xfe\xfb")
    text = odd.write_base64()
    assert text.endswith("=")
    assert {"+", "/"} & set(text)
    for same in (text, text.rstrip("="), text.replace("+", "-").replace("/", "_")):
        assert odd == Macaroon.read_base64(same)
    last = text.rstrip("=")[-1]
    slack = text.rstrip("=")[:-1] + chr(ord(last) + 1)
    for other in (slack, text + "=", text + "====", text[:9] + "\n" + text[9:], " " + text, text[:9] + "=" + text[9:]):
        with pytest.raises(MalformedMacaroon):
            Macaroon.read_base64(other)


def test_hex_is_read_in_either_case() -> None:
    assert sample() == Macaroon.read_hex(WRITTEN.hex()) == Macaroon.read_hex(WRITTEN.hex().upper())


def test_more_caveats_or_bytes_than_allowed_are_neither_made_nor_read() -> None:
    full = sample().attenuate(*[b"a=b"] * (MOST_CAVEATS - len(CAVEATS)))
    assert full == Macaroon.read(full.write())
    for caveats in ((b"a=b",), (b"x" * MOST_BYTES,)):
        with pytest.raises(MalformedMacaroon):
            full.attenuate(*caveats)
    with pytest.raises(MalformedMacaroon):
        sample().attenuate(b"x" * 3000, b"y" * 3000)
    with pytest.raises(MalformedMacaroon):
        Macaroon.read(bytes(MOST_BYTES + 1))
    theirs = oracle(ROOT_KEY, IDENTIFIER, "lsat", ["a=b"] * (MOST_CAVEATS + 1))
    with pytest.raises(MalformedMacaroon):
        Macaroon.read(BinarySerializer().serialize_raw(theirs))


def test_an_empty_identifier_is_not_minted() -> None:
    with pytest.raises(MalformedMacaroon):
        Macaroon.mint(ROOT_KEY, b"", location=b"lsat")


def test_the_signature_does_not_print() -> None:
    assert "signature" not in repr(sample())
