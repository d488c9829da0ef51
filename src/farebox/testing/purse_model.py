"""A purse that fits on a page, and a machine that asks it and a real one the same things."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import OverBudget
from farebox.core.payment import DrawState
from farebox.core.ports import Clock, Purchase, Purse
from farebox.core.secret import Secret
from farebox.testing.market import StillClock

LIMITS: Final = (Window.read("100 sat/day"), Window.read("60 sat/hour"), Window.read("40 sat/call"))


class Model:
    """What a budget counts: (amount, since when, whether it is still held) for each purchase."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.newest = clock()
        self.counted: dict[str, tuple[int, datetime, bool]] = {}

    def now(self) -> datetime:
        """The clock, which never goes back."""
        self.newest = max([self.clock(), *(at for _, at, _ in self.counted.values())])
        return self.newest

    def spent(self, window: Window) -> int:
        """Satoshis."""
        if window.span is None:
            return 0
        since = self.now() - window.span
        return sum(sats for sats, at, held in self.counted.values() if held or at > since)

    def fits(self, sats: int) -> bool:
        """Whether there is room in every window."""
        return all(self.spent(window) + sats <= window.limit.in_sats_exact() for window in LIMITS)


def machine(
    open_purse: Callable[[Clock], Purse], purchase: Callable[[Clock, str, int, int], Purchase]
) -> type[RuleBasedStateMachine]:
    """A state machine of Hypothesis that opens a purse for each run and asks the model the same."""

    made = {"open_purse": staticmethod(open_purse), "purchase": staticmethod(purchase)}
    return type("OpenedPurseMachine", (PurseMachine,), made)


class PurseMachine(RuleBasedStateMachine):
    """Asks both, and compares."""

    open_purse: ClassVar[Callable[[Clock], Purse]]
    purchase: ClassVar[Callable[[Clock, str, int, int], Purchase]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = StillClock()
        self.model = Model(self.clock)
        self.purse = type(self).open_purse(self.clock)
        self.fees: dict[str, int] = {}

    @rule(sats=st.integers(1, 41), fee=st.integers(0, 3))
    def hold(self, sats: int, fee: int) -> None:
        """Something is about to be bought."""
        name = f"{len(self.fees)}"
        self.fees[name] = fee
        fits = self.model.fits(sats + fee)
        try:
            held = self.purse.hold(type(self).purchase(self.clock, name, sats, fee), LIMITS) is None
        except OverBudget:
            held = False
        assert fits is held
        if held:
            self.model.counted[name] = (sats + fee, self.model.now(), True)

    @rule(which=st.integers(0, 9), paid=st.booleans())
    def resolve(self, which: int, *, paid: bool) -> None:
        """What was held turns out to be paid, with half of the fee, or not."""
        held = [name for name, (_, _, held) in self.model.counted.items() if held]
        if which >= len(held):
            return
        name = held[which]
        sats, at, _ = self.model.counted[name]
        payment_hash = type(self).purchase(self.clock, name, 1, 0).payment_hash
        unneeded = self.fees[name] // 2
        if paid:
            fee = Amount.sats(self.fees[name] - unneeded)
            self.purse.capture(payment_hash, preimage=Secret(bytes(32)), fee=fee)
            self.model.counted[name] = (sats - unneeded, self.model.now(), False)
        else:
            self.purse.release(payment_hash, reason="no route")
            self.model.counted[name] = (0, at, False)

    @rule(hours=st.sampled_from((-30, -1, 1, 2, 23)))
    def pass_time(self, hours: int) -> None:
        """Time passes, or somebody sets the clock."""
        self.clock.pass_by(timedelta(hours=hours))

    @invariant()
    def both_count_the_same(self) -> None:
        """In every window; and never more than its limit."""
        for window in LIMITS:
            spent = self.purse.spent(window)
            assert Amount.sats(self.model.spent(window)) == spent
            assert spent <= window.limit

    @invariant()
    def what_is_held_is_unfinished(self) -> None:
        """And nothing that was released is."""
        unfinished = [one for one in self.purse.unfinished() if one.state is DrawState.HELD]
        assert sum(held for _, _, held in self.model.counted.values()) == len(unfinished)

    def teardown(self) -> None:
        """Let go."""
        self.purse.close()
