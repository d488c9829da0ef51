"""The one place that knows the signature library."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.signature import (
    COMPACT_BYTES,
    RECOVERABLE_BYTES,
    public_key,
    recover_public_key,
    sign_recoverable,
    verify_compact,
)

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRET_KEYS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
HASHES = st.binary(min_size=32, max_size=32)
ONE = (1).to_bytes(32, "big")
MESSAGE_HASH = hashlib.sha256(b"Satoshi Nakamoto").digest()


def high_s(signature: bytes) -> bytes:
    """The other signature that fits the same key and hash."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([signature[64] ^ 1])


def test_the_public_key_of_one_is_the_generator() -> None:
    assert public_key(ONE).hex() == "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


def test_a_signature_is_the_one_that_rfc_6979_determines() -> None:
    signature = sign_recoverable(ONE, MESSAGE_HASH)
    assert signature[:32].hex() == "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
    assert signature[32:64].hex() == "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"


@given(SECRET_KEYS, HASHES)
@settings(deadline=None)
def test_a_signature_recovers_to_its_key_and_verifies_against_it(secret_key: bytes, message_hash: bytes) -> None:
    signature = sign_recoverable(secret_key, message_hash)
    assert len(signature) == RECOVERABLE_BYTES
    assert public_key(secret_key) == recover_public_key(signature, message_hash)
    assert verify_compact(public_key(secret_key), signature[:COMPACT_BYTES], message_hash)


@given(SECRET_KEYS, HASHES)
@settings(deadline=None)
def test_a_high_s_recovers_and_does_not_verify(secret_key: bytes, message_hash: bytes) -> None:
    signature = high_s(sign_recoverable(secret_key, message_hash))
    assert public_key(secret_key) == recover_public_key(signature, message_hash)
    assert not verify_compact(public_key(secret_key), signature[:COMPACT_BYTES], message_hash)


@given(st.binary(max_size=70), st.binary(max_size=40))
@settings(deadline=None)
def test_recovering_from_anything_gives_a_key_or_nothing(signature: bytes, message_hash: bytes) -> None:
    found = recover_public_key(signature, message_hash)
    assert found is None or len(found) == 33


@given(st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=40))
@settings(deadline=None)
def test_verifying_anything_else_says_no(key: bytes, signature: bytes, message_hash: bytes) -> None:
    assert not verify_compact(key, signature, message_hash)


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(bytes(65), id="zero"),
        pytest.param(ORDER.to_bytes(32, "big") + ONE + b"\0", id="an r that is the order"),
        pytest.param(ONE + ORDER.to_bytes(32, "big") + b"\0", id="an s that is the order"),
        pytest.param(sign_recoverable(ONE, MESSAGE_HASH)[:64] + b"\4", id="a recovery id of four"),
        pytest.param(sign_recoverable(ONE, MESSAGE_HASH)[:64] + b"\2", id="an r that no point of that id has"),
        pytest.param(sign_recoverable(ONE, MESSAGE_HASH)[:64], id="no recovery id"),
    ],
)
def test_a_signature_that_no_key_can_have_made_recovers_to_nothing(signature: bytes) -> None:
    assert recover_public_key(signature, MESSAGE_HASH) is None


def test_another_key_or_another_hash_does_not_verify() -> None:
    signature = sign_recoverable(ONE, MESSAGE_HASH)[:COMPACT_BYTES]
    assert not verify_compact(public_key(b"\2" * 32), signature, MESSAGE_HASH)
    assert not verify_compact(public_key(ONE), signature, bytes(32))


@pytest.mark.parametrize("r_or_s", [bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_an_r_or_s_off_the_curve_does_not_verify(r_or_s: bytes) -> None:
    assert not verify_compact(public_key(ONE), r_or_s + ONE, MESSAGE_HASH)
    assert not verify_compact(public_key(ONE), ONE + r_or_s, MESSAGE_HASH)


@pytest.mark.parametrize("secret_key", [bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 33])
def test_a_secret_that_is_no_number_of_the_curve_is_refused_without_showing_it(secret_key: bytes) -> None:
    with pytest.raises(ValueError, match="must be greater than 0 and less than") as raised:
        sign_recoverable(secret_key, MESSAGE_HASH)
    assert secret_key.hex() not in str(raised.value)
    with pytest.raises(ValueError, match="must be greater than 0 and less than"):
        public_key(secret_key)


def test_a_hash_of_another_length_is_not_signed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign_recoverable(ONE, b"short")


def test_the_same_numbers_in_more_bytes_do_not_verify() -> None:
    signature = sign_recoverable(ONE, MESSAGE_HASH)
    assert not verify_compact(public_key(ONE), signature[:32] + b"\0" + signature[32:64], MESSAGE_HASH)
