"""Kept answers are read only by the shop that sold them, and only as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.errors import SealBroken
from farebox.core.payment import Answer
from farebox.core.secret import KEY_ID_BYTES, KeyRing
from farebox.stores.sealing import OVERHEAD_BYTES, Sealer
from farebox.testing.market import TurningKeys

HASH = bytes(range(32))
ANSWER = Answer(status=200, headers=(("content-type", "text/plain"), ("x", "ü")), body=b"what was sold")
RING = KeyRing.generate()
SEALER = Sealer(RING)
SEALED = SEALER.seal(ANSWER, payment_hash=HASH, epoch=2)
KEY_ID = range(1, 1 + KEY_ID_BYTES)


@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4),
    st.integers(100, 599),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63 - 1),
)
@settings(deadline=None)
def test_what_is_sealed_is_opened_as_it_was(
    body: bytes, headers: list[tuple[str, str]], status: int, payment_hash: bytes, epoch: int
) -> None:
    answer = Answer(status=status, headers=tuple(headers), body=body)
    sealed = SEALER.seal(answer, payment_hash=payment_hash, epoch=epoch)
    assert answer == SEALER.open(sealed, payment_hash=payment_hash, epoch=epoch, status=status)


def test_a_sealed_answer_shows_nothing_of_it() -> None:
    assert not any(part in SEALED for part in (b"what was sold", b"content-type", b"text/plain"))
    assert SEALED != SEALER.seal(ANSWER, payment_hash=HASH, epoch=2)
    empty = SEALER.seal(replace(ANSWER, headers=(), body=b""), payment_hash=HASH, epoch=2)
    assert len(empty) == OVERHEAD_BYTES + len("[]")


@pytest.mark.parametrize("at", range(len(SEALED)))
def test_no_bit_of_it_can_be_changed(at: int) -> None:
    for bit in range(8):
        changed = bytearray(SEALED)
        changed[at] ^= 1 << bit
        if at in KEY_ID:  # sealed under a key that is not there, as far as anyone can tell
            assert SEALER.open(bytes(changed), payment_hash=HASH, epoch=2, status=200) is None
        else:
            with pytest.raises(SealBroken):
                SEALER.open(bytes(changed), payment_hash=HASH, epoch=2, status=200)


@pytest.mark.parametrize(
    "cut",
    [b"", SEALED[:1], SEALED[: OVERHEAD_BYTES - 1], SEALED[:-1], SEALED + b"\0", b"{}" * 50],
    ids=["nothing", "a byte", "no body", "a byte less", "a byte more", "not sealed"],
)
def test_what_was_cut_off_or_added_to_is_refused(cut: bytes) -> None:
    with pytest.raises(SealBroken):
        SEALER.open(cut, payment_hash=HASH, epoch=2, status=200)


@pytest.mark.parametrize(
    ("payment_hash", "epoch", "status"), [(bytes(32), 2, 200), (HASH, 1, 200), (HASH, 2, 201), (HASH[:-1], 2, 200)]
)
def test_it_is_not_opened_for_another_payment_epoch_or_status(payment_hash: bytes, epoch: int, status: int) -> None:
    with pytest.raises(SealBroken):
        SEALER.open(SEALED, payment_hash=payment_hash, epoch=epoch, status=status)


def test_it_outlives_a_rotation_and_not_the_revocation_of_its_key() -> None:
    old, new = (bytes([n]) + RING.derive("test", bytes([n])).key.reveal() for n in (1, 2))  # type: ignore[union-attr]
    keys = TurningKeys(KeyRing([old]))
    sealer = Sealer(keys)
    sealed = sealer.seal(ANSWER, payment_hash=HASH, epoch=2)
    keys.now = KeyRing([old, new])
    assert ANSWER == sealer.open(sealed, payment_hash=HASH, epoch=2, status=200)
    assert keys.now.newest == sealer.seal(ANSWER, payment_hash=HASH, epoch=2)[1:5]
    keys.now = KeyRing([new])
    assert sealer.open(sealed, payment_hash=HASH, epoch=2, status=200) is None


def test_another_shop_opens_nothing() -> None:
    assert Sealer(KeyRing.generate()).open(SEALED, payment_hash=HASH, epoch=2, status=200) is None
