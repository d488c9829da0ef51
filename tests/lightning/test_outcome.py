from __future__ import annotations

import hashlib

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.conversation import HttpReply
from farebox.core.ports import Failed, Paid, PayOutcome, Unresolved
from farebox.core.secret import Secret
from farebox.lightning.outcome import failed_if_found_so, in_flight, is_unsent, never_heard, proven

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
PAID = Paid(preimage=Secret(PREIMAGE), fee=Amount.sats(1))


@pytest.mark.parametrize(("told", "fee"), [(Amount.sats(1), Amount.sats(1)), (None, NOTHING)])
def test_a_preimage_of_the_hash_is_paid(told: Amount | None, fee: Amount) -> None:
    outcome = proven({"shown": PREIMAGE.hex()}, "shown", PAYMENT_HASH, fee=told, by="Acme")
    assert Paid(preimage=Secret(PREIMAGE), fee=fee) == outcome


@pytest.mark.parametrize("shown", ["00" * 32, PAYMENT_HASH.hex(), "", None, 7])
def test_anything_else_proves_nothing_and_is_not_failed(shown: object) -> None:
    outcome = proven({"shown": shown}, "shown", PAYMENT_HASH, fee=NOTHING, by="Acme")
    assert Unresolved(reason="Acme says that it paid and does not prove it") == outcome


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (PAID, PAID),
        (Failed(reason="so it did"), Failed(reason="no route")),
        (never_heard("Acme"), Failed(reason="no route")),
        (in_flight(), Unresolved(reason="no route; the payment is in flight")),
    ],
)
def test_what_was_called_failed_has_failed_if_the_look_up_agrees(found: PayOutcome, expected: PayOutcome) -> None:
    assert expected == failed_if_found_so("no route", found)


@pytest.mark.parametrize(
    ("reply", "unsent"),
    [
        (HttpReply(status=0, sent=False), True),
        (HttpReply(status=0, sent=True), False),
        (HttpReply(status=500, sent=False), False),
    ],
)
def test_only_what_never_left_is_unsent(reply: HttpReply, unsent: bool) -> None:
    assert unsent is is_unsent(reply)
