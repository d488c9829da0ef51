from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from farebox.nostr import Event, read_event, sign_event
from farebox.nostr.keys import public_key, sign_schnorr, verify_schnorr

SECRET = bytes(31) + b"\x03"
# BIP-340's public key of the secret 3
PUBLIC = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ODD = 'a\x00\x1f\x7f\u2028\n\t"\\/\b\f\r\u0085é🏠'


@pytest.fixture
def event() -> Event:
    return sign_event(SECRET, kind=1, content="hello", tags=[["e", "one"], ["e", "two", "hint"], ["p"]], created_at=NOW)


def test_a_public_key_is_the_one_of_bip_340() -> None:
    assert PUBLIC == public_key(SECRET).hex()


# BIP-340's test vectors 0, 4 and 6
@pytest.mark.parametrize(
    ("key", "message", "signature", "good"),
    [
        (
            PUBLIC,
            "00" * 32,
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
            "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
            True,
        ),
        (
            "d69c3509bb99e412e68b0fe8544e72837dfa30746d8be2aa65975f29d22dc7b9",
            "4df3c3f68fcc83b27e9d42c90431a72499f17875c81a599b566c9889b9696703",
            "00000000000000000000003b78ce563f89a0ed9414f5aa28ad0d96d6795f9c63"
            "76afb1548af603b3eb45c9f8207dee1060cb71c04e80f593060b07d28308d7f4",
            True,
        ),
        (
            "dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659",
            "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
            "fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a1460297556"
            "3cc27944640ac607cd107ae10923d9ef7a73c643e166be5ebeafa34b1ac553e2",
            False,
        ),
    ],
)
def test_a_signature_is_checked_as_bip_340_says(key: str, message: str, signature: str, good: bool) -> None:
    assert good is verify_schnorr(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"\x01" * 33])
def test_what_is_no_key_signs_nothing_and_verifies_nothing(key: bytes) -> None:
    assert not verify_schnorr(key, bytes(64), bytes(32))
    with pytest.raises(ValueError, match=r".+"):
        sign_schnorr(key, bytes(32))


# What another implementation (nostr-sdk 0.45.1) makes of both
OTHERS = [
    "9bc5eae4c17a356b82dc9f91a15f03b6d2244b489a35a546708052e317f4dcd8",
    "5ea10c73b2770705a7c608ff507cb798375a85587a12f2ff1092400dcd5711c8",
]


def test_the_id_is_the_one_that_others_compute() -> None:
    written = [
        sign_event(SECRET, kind=kind, content=content, tags=tags, created_at=NOW).id
        for kind, content, tags in ((1, "hello", []), (23194, ODD, [["x", ODD], ["p"]]))
    ]
    assert OTHERS == written


def test_what_is_written_is_read(event: Event) -> None:
    assert event == read_event(event.write())
    assert event == read_event(event.write().encode())
    assert event == read_event(event.as_json())
    odd = sign_event(SECRET, kind=65_535, content=ODD, tags=[[], [ODD]], created_at=NOW)
    assert odd == read_event(odd.write())


def test_tags_are_found_by_their_name(event: Event) -> None:
    assert ("one", "two") == event.tagged("e")
    assert () == event.tagged("p")
    assert PUBLIC == event.author


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content", "hullo"),
        ("kind", 2),
        ("created_at", 5),
        ("tags", []),
        ("pubkey", "11" * 32),
        ("id", "11" * 32),
        ("sig", "11" * 64),
    ],
)
def test_what_was_changed_is_no_event(event: Event, name: str, value: Any) -> None:
    assert read_event({**event.as_json(), name: value}) is None


@pytest.mark.parametrize("name", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
@pytest.mark.parametrize(
    "value", [None, True, -1, 10**40, 1.5, "", "zz" * 32, "zz" * 64, [], {}, [1], [["e", 1]], ["e"], "\ud800"]
)
def test_what_is_malformed_is_no_event(event: Event, name: str, value: Any) -> None:
    if (name, value) in (("tags", []), ("content", "")):
        value = [["other"]] if name == "tags" else "other"
    assert read_event({**event.as_json(), name: value}) is None
    left_out = {key: each for key, each in event.as_json().items() if key != name}
    assert read_event(left_out) is None


def test_one_key_or_id_has_one_spelling(event: Event) -> None:
    for name in ("id", "pubkey", "sig"):
        assert read_event({**event.as_json(), name: str(event.as_json()[name]).upper()}) is None


@pytest.mark.parametrize("told", ["", "[]", "null", b"\xff", "[" * 100_000, "{", '{"id":1}', b"\x00"])
def test_what_is_no_json_object_is_no_event(told: Any) -> None:
    assert read_event(told) is None


def test_an_event_of_a_later_signature_by_somebody_else_is_none(event: Event) -> None:
    other = sign_schnorr(b"\x05" * 32, bytes.fromhex(event.id)).hex()
    assert read_event(json.dumps(replace(event, signature=other).as_json())) is None


def test_what_can_not_be_written_is_not_signed() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        sign_event(SECRET, kind=1, content="\ud800", created_at=NOW)
