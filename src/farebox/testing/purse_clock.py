"""The time of a purse whose clock was ahead once: nothing is freed, refusals say why, and a person sets it right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import ApprovalNeeded, NothingPaid, OverBudget, SellerShunned
from farebox.core.ports import Purchase, Purse
from farebox.core.purse import ApprovalState, Guards
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import DAILY, DAY, PurseStage, buy, purchase

HERE: Final = "host:a.example"
AHEAD: Final = DAY * 1000
HOUR: Final = timedelta(hours=1)
MOMENT: Final = timedelta(milliseconds=1)
ASKED: Final = Guards(approval_above=Amount.sats(20), approval_for=HOUR)


class PurseClock(PurseStage):
    """What becomes of a purse that was written with a clock far ahead."""

    # --- ahead --------------------------------------------------------------------------------------------------------

    def test_a_purse_that_was_written_ahead_frees_nothing_until_then(self, purse: Purse, clock: StillClock) -> None:
        """One window in all, however many days go by; then it goes on as ever."""
        began = self._ahead(purse, clock, [purchase(clock, "ahead", 200)])
        buy(purse, purchase(clock, "then", 300), [DAILY])
        for at in (began, began + DAY * 9, began + AHEAD + DAY - MOMENT):
            clock.at = at
            with pytest.raises(OverBudget):
                purse.hold(purchase(clock, "one more", 1), [DAILY])
            assert Amount.sats(500) == purse.spent(DAILY)
        clock.at += MOMENT
        assert Amount(0) == purse.spent(DAILY)

    def test_a_refusal_says_that_time_stands_still_and_how_to_set_it_right(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Of the budget and of a seller; where it does not, nothing is said."""
        shunning = Guards(seller=HERE)
        unserved = [purchase(clock, name, 250, labels=[HERE]) for name in "ab"]
        began = self._ahead(purse, clock, unserved)
        for one in unserved:
            purse.mark_undelivered(one.payment_hash)
        told = (
            f" The purse was last written at {(began + AHEAD).isoformat(timespec='seconds')}, which is 1000 days,"
            " 0:00:00 ahead of this clock: nothing is free again until then. If that was a wrong clock,"
            " `farebox purse repair`."
        )
        for guards in (Guards(), shunning):
            assert told in self._refusal(purse, purchase(clock, "c", 1, labels=[HERE]), guards)
            clock.at = began + AHEAD - timedelta(minutes=10) + MOMENT
            assert "last written" not in self._refusal(purse, purchase(clock, "c", 1, labels=[HERE]), guards)
            clock.at = began

    def test_no_time_that_a_seller_names_moves_the_purses(self, purse: Purse, clock: StillClock) -> None:
        """Of his invoice, of his challenge, or of how long his proof is good."""
        bought = purchase(clock)
        lasting = replace(
            bought,
            invoice_expires_at=clock() + AHEAD,
            reusable_until=clock() + AHEAD,
            challenge=replace(bought.challenge, expires_at=clock() + AHEAD),
        )
        buy(purse, lasting)
        purse.mark_served(bought.payment_hash)
        assert purse.repair_time() is None
        clock.pass_by(DAY)
        assert Amount(0) == purse.spent(DAILY)

    def test_what_was_taken_over_is_not_free_because_a_clock_was_ahead(self, purse: Purse, clock: StillClock) -> None:
        """Its invoice can still be paid, by the time of whoever pays it."""
        taken = purchase(clock, "taken")
        purse.hold(taken, ())
        clock.pass_by(timedelta(seconds=2))
        purse.take_over(taken.payment_hash, held_for=timedelta(seconds=2))
        self._ahead(purse, clock, [purchase(clock, "ahead")])
        assert purse.release(taken.payment_hash, reason="no route") is not None
        clock.pass_by(taken.invoice_expires_at + timedelta(minutes=10) + MOMENT - clock())
        assert purse.release(taken.payment_hash, reason="no route") is None

    # --- set right ----------------------------------------------------------------------------------------------------

    def test_a_person_sets_it_right_and_what_was_spent_ahead_counts_from_then(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """A whole window, to the millisecond; what was bought before counts as it did."""
        buy(purse, purchase(clock, "before", 50))
        clock.pass_by(HOUR)
        began = self._ahead(purse, clock, [purchase(clock, "ahead", 200)])
        clock.pass_by(HOUR)
        assert began + AHEAD == purse.repair_time()
        assert began + HOUR == {one.payment_hash: one.held_at for one in purse.history(9)}[self._hash("ahead")]
        assert purse.repair_time() is None
        clock.at = began - HOUR + DAY
        assert Amount.sats(200) == purse.spent(DAILY)
        clock.at = began + HOUR + DAY - MOMENT
        assert Amount.sats(200) == purse.spent(DAILY)
        clock.at += MOMENT
        assert Amount(0) == purse.spent(DAILY)

    def test_what_was_not_served_ahead_counts_from_then(self, purse: Purse, clock: StillClock) -> None:
        """Also where nothing was paid ahead; and what was marked before stays marked as it was."""
        began = clock()
        for name in "ab":
            buy(purse, purchase(clock, name, labels=[HERE]))
        purse.mark_undelivered(self._hash("a"))
        clock.pass_by(AHEAD)
        purse.mark_undelivered(self._hash("b"))
        clock.at = began + HOUR
        assert began + AHEAD == purse.repair_time()
        marked = {one.payment_hash: one.undelivered_at for one in purse.history(9)}
        assert {self._hash("a"): began, self._hash("b"): began + HOUR} == marked

    def test_what_was_taken_over_ahead_is_held_from_then(self, purse: Purse, clock: StillClock) -> None:
        """Or nobody could take it over again."""
        began = clock()
        purse.hold(purchase(clock), ())
        clock.pass_by(AHEAD)
        purse.take_over(purchase(clock).payment_hash, held_for=HOUR)
        clock.at = began + HOUR
        assert began + AHEAD == purse.repair_time()
        assert [began + HOUR] == [one.held_at for one in purse.history(9)]

    def test_words_of_before_run_out_when_it_is_set_right(self, purse: Purse, clock: StillClock) -> None:
        """When they were given nobody knows; so with questions; what has run out stays as it was."""
        began = clock()
        self._park(purse, purchase(clock, "long ago", digest=b"long ago"))
        clock.pass_by(AHEAD)
        for name in ("asked", "approved"):
            self._park(purse, purchase(clock, name, digest=name.encode()))
        purse.decide(3, approved=True)
        clock.at = began + HOUR * 2
        assert began + AHEAD == purse.repair_time()
        expired = {one.number: (one.state, one.expires_at) for one in purse.approvals(pending=False)}
        assert {
            1: (ApprovalState.EXPIRED, began + HOUR),
            2: (ApprovalState.EXPIRED, clock()),
            3: (ApprovalState.EXPIRED, clock()),
        } == expired
        self._park(purse, purchase(clock, "approved", digest=b"approved"))

    def test_where_nothing_is_ahead_nothing_is_changed(self, purse: Purse, clock: StillClock) -> None:
        """Not even a question that waits."""
        buy(purse, purchase(clock, "bought", labels=[HERE]))
        purse.mark_undelivered(self._hash("bought"))
        self._park(purse, purchase(clock, "asked", digest=b"asked"))
        stands = [*purse.history(9), *purse.approvals(pending=True)]
        assert purse.repair_time() is None
        assert stands == [*purse.history(9), *purse.approvals(pending=True)]

    def _ahead(self, purse: Purse, clock: StillClock, bought: Sequence[Purchase]) -> datetime:
        """Buy with a clock that is ahead, and set it right: the right time."""
        began = clock()
        clock.pass_by(AHEAD)
        for one in bought:
            buy(purse, one, [DAILY])
        clock.at = began
        return began

    def _refusal(self, purse: Purse, asked: Purchase, guards: Guards) -> str:
        with pytest.raises(NothingPaid) as refused:
            purse.hold(asked, [DAILY], guards)
        assert isinstance(refused.value, SellerShunned if guards.seller else OverBudget)
        return str(refused.value)

    def _park(self, purse: Purse, asked: Purchase) -> None:
        with pytest.raises(ApprovalNeeded):
            purse.hold(asked, (), ASKED)

    def _hash(self, name: str) -> bytes:
        return purchase(StillClock(), name).payment_hash
