"""Payments of a purse that were told to have failed, and turn out to be paid: money that moved is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import OverBudget, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import Purchase, Purse
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import DAILY, DAY, PREIMAGE, PurseStage, purchase

FEE: Final = Amount.msats(7)


class PurseLate(PurseStage):
    """What a wallet was wrong about."""

    def test_what_turns_out_to_be_paid_counts_though_it_was_released(self, purse: Purse, clock: StillClock) -> None:
        """From when that was known, with its fee, even beyond the limit: the money is gone."""
        bought, other = purchase(clock, sats=400, fee_sats=5), purchase(clock, "other", sats=400)
        for one in (bought, other):
            purse.hold(one, [DAILY])
            _fail(purse, one)
        purse.hold(purchase(clock, "third", sats=200), [DAILY])
        clock.pass_by(DAY)
        _pay(purse, bought)
        _pay(purse, bought)
        paid = replace(bought, state=DrawState.CAPTURED, preimage=PREIMAGE, fee=FEE, held_at=clock() - DAY)
        assert [paid] == [one for one in purse.unfinished() if one.payment_hash == bought.payment_hash]
        assert Amount.sats(600) + FEE == purse.spent(DAILY)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "fourth", 1), [DAILY])
        with pytest.raises(StoreUnavailable):
            _fail(purse, bought)
        known = purse.hold(purchase(clock, sats=400), [])  # it is not paid a second time
        assert known == paid
        released = [one for one in purse.history(9) if one.payment_hash == other.payment_hash]
        assert [DrawState.RELEASED] == [one.state for one in released]

    def test_of_several_attempts_the_newest_turns_out_to_be_paid(self, purse: Purse, clock: StillClock) -> None:
        """The money moved once; and another payment has attempts of its own."""
        for name in ("a call", "a call", "another"):
            purse.hold(purchase(clock, name), ())
            _fail(purse, purchase(clock, name))
        for name in ("a call", "a call", "another"):
            _pay(purse, purchase(clock, name))
        attempts = sorted((one.attempt, one.state) for one in purse.history(9))
        assert [(0, DrawState.CAPTURED), (0, DrawState.RELEASED), (1, DrawState.CAPTURED)] == attempts
        assert (Amount.sats(21) + FEE) * 2 == purse.spent(DAILY)

    def test_what_is_being_paid_again_is_what_turns_out_to_be_paid(self, purse: Purse, clock: StillClock) -> None:
        """And not the attempt before it, whichever of the two it was."""
        purse.hold(purchase(clock), ())
        _fail(purse, purchase(clock))
        purse.hold(purchase(clock), ())
        _pay(purse, purchase(clock))
        attempts = sorted((one.attempt, one.state) for one in purse.history(9))
        assert [(0, DrawState.RELEASED), (1, DrawState.CAPTURED)] == attempts


def _pay(purse: Purse, bought: Purchase) -> None:
    purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=FEE)


def _fail(purse: Purse, bought: Purchase) -> None:
    purse.release(bought.payment_hash, reason="no route")
