"""A purse that fits on a page, and a machine that asks it and a real one the same things."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from farebox.core.amount import Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import OverBudget
from farebox.core.payment import DrawState
from farebox.core.ports import Clock, Purchase, Purse
from farebox.core.secret import Secret
from farebox.testing.market import StillClock

BUDGET: Final = Budget.read(
    "100 sat/day, 60 sat/hour, 40 sat/call, 90 sat/calendar day, 50 sat/day per host, 70 sat/day tagged x"
)
LABELS: Final = (
    frozenset[str](),
    frozenset({"host:a"}),
    frozenset({"host:ab", "tag:x"}),
    frozenset({"host:a", "tag:x"}),
)
WINDOWS: Final = tuple(dict.fromkeys(window for labels in LABELS for window in BUDGET.among(labels)))


class Model:
    """What a budget counts: (amount, since when, whether it is still held, its labels) for each purchase."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.newest = clock()
        self.counted: dict[str, tuple[int, datetime, bool, frozenset[str]]] = {}

    def now(self) -> datetime:
        """The clock, which never goes back."""
        self.newest = max([self.clock(), *(at for _, at, *_ in self.counted.values())])
        return self.newest

    def spent(self, window: Window) -> int:
        """Satoshis."""
        if window.span is None:
            return 0
        now = self.now()
        since = now.replace(hour=0, minute=0, second=0) if window.calendar else now - window.span
        return sum(
            sats
            for sats, at, held, labels in self.counted.values()
            if (held or at > since or (window.calendar and at == since))
            and (not window.label or window.label in labels)
        )

    def fits(self, sats: int, windows: Iterable[Window]) -> bool:
        """Whether there is room in every window."""
        return all(self.spent(window) + sats <= window.limit.in_sats_exact() for window in windows)


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
        self.asked: dict[str, int] = {}  # with the fee
        self.late = 0  # satoshis that were paid though their wallet had said they were not

    @rule(sats=st.integers(1, 41), fee=st.integers(0, 3), labels=st.sampled_from(LABELS))
    def hold(self, sats: int, fee: int, labels: frozenset[str]) -> None:
        """Something is about to be bought."""
        name = f"{len(self.fees)}"
        self.fees[name], self.asked[name] = fee, sats + fee
        windows = BUDGET.among(labels)
        fits = self.model.fits(sats + fee, windows)
        bought = replace(type(self).purchase(self.clock, name, sats, fee), labels=labels)
        try:
            held = self.purse.hold(bought, windows) is None
        except OverBudget:
            held = False
        assert fits is held
        if held:
            self.model.counted[name] = (sats + fee, self.model.now(), True, labels)

    @rule(which=st.integers(0, 9), paid=st.booleans())
    def resolve(self, which: int, *, paid: bool) -> None:
        """What was held turns out to be paid, with half of the fee, or not."""
        held = [name for name, (_, _, held, _) in self.model.counted.items() if held]
        if which >= len(held):
            return
        name = held[which]
        sats, at, _, labels = self.model.counted[name]
        payment_hash = type(self).purchase(self.clock, name, 1, 0).payment_hash
        unneeded = self.fees[name] // 2
        if paid:
            fee = Amount.sats(self.fees[name] - unneeded)
            self.purse.capture(payment_hash, preimage=Secret(bytes(32)), fee=fee)
            self.model.counted[name] = (sats - unneeded, self.model.now(), False, labels)
        else:
            self.purse.release(payment_hash, reason="no route")
            self.model.counted[name] = (0, at, False, labels)

    @rule(which=st.integers(0, 9))
    def pay_late(self, which: int) -> None:
        """What was released turns out to be paid, with all of its fee."""
        released = [name for name, (sats, _, held, _) in self.model.counted.items() if not held and not sats]
        if which >= len(released):
            return
        name = released[which]
        payment_hash = type(self).purchase(self.clock, name, 1, 0).payment_hash
        self.purse.capture(payment_hash, preimage=Secret(bytes(32)), fee=Amount.sats(self.fees[name]))
        sats = self.asked[name]
        self.model.counted[name] = (sats, self.model.now(), False, self.model.counted[name][3])
        self.late += sats

    @rule(hours=st.sampled_from((-30, -1, 1, 2, 23)))
    def pass_time(self, hours: int) -> None:
        """Time passes, or somebody sets the clock."""
        self.clock.pass_by(timedelta(hours=hours))

    @invariant()
    def both_count_the_same(self) -> None:
        """In every window; and never more than its limit, but for what was paid late."""
        for window in WINDOWS:
            spent = self.purse.spent(window)
            assert Amount.sats(self.model.spent(window)) == spent
            assert spent <= window.limit + Amount.sats(self.late)

    @invariant()
    def what_is_held_is_unfinished(self) -> None:
        """And nothing that was released is."""
        unfinished = [one for one in self.purse.unfinished() if one.state is DrawState.HELD]
        assert sum(held for _, _, held, _ in self.model.counted.values()) == len(unfinished)

    def teardown(self) -> None:
        """Let go."""
        self.purse.close()
