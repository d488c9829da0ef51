"""Secrets that do not print themselves, and the key ring."""

from __future__ import annotations

import logging
import pickle
import secrets
import traceback
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.errors import ConfigError
from farebox.core.secret import KEY_BYTES, KEY_ID_BYTES, KeyRing, Secret

OLD = sha256(b"an old key").digest()
NEW = sha256(b"a new key").digest() + b"and more"
HIDDEN = "hunter2"


def secret(value: str | bytes) -> Secret[str] | Secret[bytes]:
    if isinstance(value, str):
        return Secret(value)
    return Secret(value)


@pytest.mark.parametrize(
    "shown",
    [
        str(Secret(HIDDEN)),
        repr(Secret(HIDDEN)),
        f"{Secret(HIDDEN)}",
        f"{Secret(HIDDEN)!r}",
        "%s" % Secret(HIDDEN),  # noqa: UP031 - what a log record does
        str([Secret(HIDDEN)]),
        str({"password": Secret(HIDDEN.encode())}),
    ],
)
def test_a_secret_prints_as_dots(shown: str) -> None:
    assert HIDDEN not in shown
    assert "•••" in shown


def test_a_secret_stays_hidden_in_a_log_and_in_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(Secret(HIDDEN))
    except ValueError:
        logging.getLogger("farebox.test").exception("it went wrong with %s", Secret(HIDDEN))
        told = traceback.format_exc()
    assert "•••" in told
    assert "•••" in caplog.text
    assert HIDDEN not in told + caplog.text


def test_a_secret_is_seen_by_revealing_it() -> None:
    assert Secret(HIDDEN).reveal() == HIDDEN


@given(st.text(st.characters()) | st.binary(), st.text(st.characters()) | st.binary())
@settings(deadline=None)
def test_secrets_are_equal_when_what_they_hide_is(one: str | bytes, two: str | bytes) -> None:
    assert (one == two) == (secret(one) == secret(two))
    assert secret(one) == secret(one)
    assert hash(secret(one)) == hash(secret(one))


@pytest.mark.parametrize("other", [Secret("b"), Secret(b"a"), "a", None])
def test_a_secret_differs_from_another_and_from_a_bare_value(other: object) -> None:
    assert Secret("a") != other


def test_text_that_is_not_unicode_can_be_compared_all_the_same() -> None:
    assert Secret("\ud800") != Secret("\ud801")


def test_a_secret_survives_being_sent_to_another_process() -> None:
    assert Secret(HIDDEN) == pickle.loads(pickle.dumps(Secret(HIDDEN)))


def test_a_secret_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        Secret(HIDDEN)._value = "other"  # type: ignore[misc]  # that it is refused is what is tested


# --- the key ring -----------------------------------------------------------------------------------------------------


def test_the_newest_key_derives_and_its_id_finds_the_same_key_again() -> None:
    ring = KeyRing([OLD, NEW])
    derived = ring.derive("l402", b"payment")
    assert derived is not None
    assert (ring.newest, KEY_ID_BYTES, KEY_BYTES) == (
        derived.key_id,
        len(derived.key_id),
        len(derived.key.reveal()),
    )
    assert derived == ring.derive("l402", b"payment", derived.key_id)


def test_what_was_derived_before_a_rotation_is_derived_after_it() -> None:
    before = KeyRing([OLD]).derive("l402", b"payment")
    assert before is not None
    assert before == KeyRing([OLD, NEW]).derive("l402", b"payment", before.key_id)
    assert before != KeyRing([OLD, NEW]).derive("l402", b"payment")


def test_a_removed_key_derives_nothing_any_more() -> None:
    assert KeyRing([NEW]).derive("l402", b"payment", KeyRing([OLD]).newest) is None


@pytest.mark.parametrize(
    ("purpose", "message"), [("l402", b"another"), ("other", b"payment"), ("l402p", b"ayment"), ("l40", b"2payment")]
)
def test_another_purpose_or_message_is_another_key(purpose: str, message: bytes) -> None:
    ring = KeyRing([OLD])
    assert ring.derive("l402", b"payment") != ring.derive(purpose, message)


def test_the_ids_are_told_oldest_first_and_say_nothing_of_the_keys() -> None:
    assert KeyRing([OLD, NEW]).key_ids() == (KeyRing([OLD]).newest, KeyRing([NEW]).newest)
    assert KeyRing([OLD]).newest not in OLD


def test_a_fresh_ring_has_a_key_of_its_own() -> None:
    assert KeyRing.generate().newest != KeyRing.generate().newest


@pytest.mark.parametrize(
    "masters",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="an empty one"),
        pytest.param([OLD[:-1]], id="a short one"),
        pytest.param([OLD, b"\0" * 32], id="zeros"),
        pytest.param([b"changeme" * 4], id="a default"),
        pytest.param([b"correct horse battery staple, and a little more"], id="a sentence"),
        pytest.param([bytes(range(32))], id="a count"),
        pytest.param([bytes(range(250, -6, -8))], id="a count down"),
        pytest.param([NEW[:16] * 2], id="half a key twice"),
        pytest.param([NEW[:17] + NEW[:15]], id="half a key, nearly twice"),
    ],
)
def test_a_ring_without_a_good_key_is_refused_and_says_how_to_get_one(masters: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="farebox init"):
        KeyRing(masters)


def test_random_keys_are_taken() -> None:
    for _ in range(1000):
        assert 1 == len(KeyRing([secrets.token_bytes(KEY_BYTES)]).key_ids())


def test_a_ring_is_keys_that_never_change() -> None:
    ring = KeyRing([OLD])
    assert ring is ring.ring()
    assert ring is ring.ring(b"made")
    assert ring.newest in ring
    assert b"made" not in ring


def test_no_key_prints_itself() -> None:
    ring = KeyRing([OLD])
    shown = repr(ring) + repr(ring.derive("l402", b"payment"))
    assert str(OLD)[2:-1] not in shown
    assert "•••" in shown
