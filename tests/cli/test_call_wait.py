"""Waiting for a payment of which the wallet can't tell, and what is told when a call is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from farebox.cli.call_wait import stopped, wait_for_outcome
from farebox.core.amount import Amount
from farebox.core.errors import PaidNotServed, PaymentFailed, PaymentUnresolved, StoreUnavailable
from farebox.core.exchange import Challenge
from farebox.core.payment import DrawState
from farebox.core.purse import Purchase
from farebox.core.secret import Secret
from farebox.stores import open_purse

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PREIMAGE = bytes(32)
HASH = bytes(range(32))
HELD = Purchase(
    payment_hash=HASH,
    request_digest=b"d" * 32,
    origin="https://api.example.com:443",
    url="https://api.example.com/x",
    amount=Amount.sats(21),
    fee_limit=Amount.sats(1),
    challenge=Challenge(dialect="L402", invoice="lnbc1", payment_hash=HASH),
    invoice_expires_at=NOW,
)
UNRESOLVED = PaymentUnresolved("no word", payment_hash=HASH.hex(), amount_msat=21_000)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def pause(self, span: float) -> None:
        self.now += span


def wait(look_up: Callable[[], tuple[Purchase, ...]], within_s: float = 60) -> Clock:
    clock = Clock()
    wait_for_outcome(UNRESOLVED, look_up, within_s=within_s, pause=clock.pause, clock=lambda: clock.now)
    return clock


def test_a_payment_that_is_found_to_be_made_ends_the_waiting() -> None:
    states = iter((DrawState.HELD, DrawState.HELD, DrawState.CAPTURED))
    assert wait(lambda: (replace(HELD, state=next(states)),)).now < 5


def test_a_payment_that_is_found_not_to_be_made_is_told_as_failed() -> None:
    with pytest.raises(PaymentFailed) as failed:
        wait(lambda: (replace(HELD, state=DrawState.RELEASED, reason="no route"),))
    assert ("no route", 21_000) == (failed.value.detail, failed.value.evidence["amount_msat"])


def test_when_the_patience_ends_nobody_can_tell_yet() -> None:
    looks: list[int] = []

    def look_up() -> tuple[Purchase, ...]:
        looks.append(1)
        return (HELD,)

    with pytest.raises(PaymentUnresolved):
        wait(look_up, within_s=10)
    assert 5 == len(looks)  # after 0.5, 1, 2, 4 and what was left of the ten seconds


def test_what_another_process_has_settled_is_not_taken_for_made() -> None:
    with pytest.raises(PaymentUnresolved):
        wait(lambda: (replace(HELD, payment_hash=bytes(32)),))


def test_a_purse_that_can_not_be_written_just_now_does_not_end_the_waiting() -> None:
    troubles = [StoreUnavailable("locked"), StoreUnavailable("locked")]

    def look_up() -> tuple[Purchase, ...]:
        if troubles:
            raise troubles.pop()
        return (replace(HELD, state=DrawState.CAPTURED),)

    assert wait(look_up).now < 5
    assert [] == troubles


def test_a_call_stopped_before_it_paid_has_left_nothing() -> None:
    assert stopped(open_purse(":memory:"), HELD.request_digest) is None
    assert stopped(open_purse(":memory:"), None) is None


def test_a_call_stopped_while_it_paid_may_have_paid() -> None:
    purse = open_purse(":memory:")
    purse.hold(HELD, ())
    told = stopped(purse, HELD.request_digest)
    assert isinstance(told, PaymentUnresolved)
    assert (21_000, HASH.hex()) == (told.evidence["amount_msat"], told.evidence["payment_hash"])


def test_a_call_stopped_after_it_paid_can_be_made_again_for_nothing() -> None:
    purse = open_purse(":memory:")
    purse.hold(HELD, ())
    purse.capture(HASH, preimage=Secret(PREIMAGE), fee=Amount.sats(1))
    assert isinstance(stopped(purse, HELD.request_digest), PaidNotServed)


def test_a_call_stopped_while_the_purse_can_not_be_read_may_have_paid() -> None:
    class Locked:
        def unfinished(self, _: bytes | None) -> tuple[Purchase, ...]:
            raise StoreUnavailable("locked")

    locked: Any = Locked()
    assert isinstance(stopped(locked, HELD.request_digest), PaymentUnresolved)
