"""The suite that every purse passes: subclass it, say how one is opened, and run pytest.

    class TestSqlite(PurseSuite):
        def open_purse(self, clock: Clock) -> Purse: return open_purse(self.folder / "purse.db", clock)

What it proves: what is held fits in every window, for any number of threads at once and whatever the clock does; what
is captured, released and served is told as it is; and nothing that was paid is ever forgotten or counted for less.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from farebox.core.amount import Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import OverBudget, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import KEPT, Purchase, Purse
from farebox.core.secret import Secret
from farebox.testing.market import StillClock
from farebox.testing.purse_approvals import PurseApprovals
from farebox.testing.purse_clock import PurseClock
from farebox.testing.purse_guards import PurseGuards
from farebox.testing.purse_late import PurseLate
from farebox.testing.purse_memory import PurseMemory
from farebox.testing.purse_model import machine
from farebox.testing.purse_stage import DAILY, DAY, DIGEST, HOURLY, PER_CALL, PREIMAGE, at_once, purchase
from farebox.testing.purse_tables import PurseTables
from farebox.testing.purse_windows import PurseWindows


class PurseSuite(PurseTables, PurseWindows, PurseGuards, PurseApprovals, PurseClock, PurseLate, PurseMemory):
    """Holding, capturing and releasing within a budget."""

    model_runs = 30

    # --- what is written ----------------------------------------------------------------------------------------------

    def test_a_purchase_is_remembered_as_it_was(self, purse: Purse, clock: StillClock) -> None:
        """With the whole challenge, in the order of its parameters, and the time it was held."""
        bought = purchase(clock)
        assert purse.hold(bought, [DAILY]) is None
        assert [replace(bought, held_at=clock())] == purse.history(9)

    def test_a_challenge_without_its_optional_parts_is_remembered(self, purse: Purse, clock: StillClock) -> None:
        """No amount, no end."""
        bought = purchase(clock)
        bare = replace(
            bought, challenge=replace(bought.challenge, amount=None, expires_at=None, parameters=(), token="")
        )
        purse.hold(bare, [])
        assert bare.challenge == purse.history(1)[0].challenge

    def test_a_known_payment_is_returned_and_not_held_again(self, purse: Purse, clock: StillClock) -> None:
        """One invoice is paid once, whoever asks a second time, and even without budget for it."""
        purse.hold(purchase(clock), [DAILY])
        stands = purse.history(1)[0]
        clock.pass_by(timedelta(seconds=1))
        assert stands == purse.hold(purchase(clock, sats=499), [Window.read("1 sat/day")])
        assert [stands] == purse.history(9)

    def test_a_capture_keeps_the_proof_and_the_fee(self, purse: Purse, clock: StillClock) -> None:
        """Until it is served it is unfinished."""
        bought = purchase(clock, fee_sats=5)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount.msats(1500))
        expected = replace(bought, state=DrawState.CAPTURED, preimage=PREIMAGE, fee=Amount.msats(1500), held_at=clock())
        assert [expected] == purse.unfinished()

    def test_a_served_purchase_is_finished(self, purse: Purse, clock: StillClock) -> None:
        """It stays in the history, and may be told twice."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        purse.mark_served(bought.payment_hash)
        purse.mark_served(bought.payment_hash)
        assert ([], []) == (purse.unfinished(), purse.unfinished(DIGEST))
        assert purse.history(1)[0].served

    def test_a_released_purchase_is_finished_and_says_why(self, purse: Purse, clock: StillClock) -> None:
        """Nothing of it counts."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        purse.release(bought.payment_hash, reason="no route")
        assert ([], []) == (purse.unfinished(), purse.unfinished(DIGEST))
        expected = replace(bought, state=DrawState.RELEASED, reason="no route", held_at=clock())
        assert [expected] == purse.history(9)
        assert Amount(0) == purse.spent(DAILY)

    def test_a_released_payment_is_held_again_as_a_purchase_of_its_own(self, purse: Purse, clock: StillClock) -> None:
        """A wallet that could not pay an invoice may be able to a little later."""
        bought = purchase(clock)
        purse.hold(bought, ())
        purse.release(bought.payment_hash, reason="no balance")
        clock.pass_by(timedelta(seconds=1))
        assert purse.hold(purchase(clock), ()) is None
        assert [DrawState.HELD, DrawState.RELEASED] == [kept.state for kept in purse.history(9)]
        again = purse.hold(purchase(clock), ())
        assert again is not None
        assert again.state is DrawState.HELD

    def test_what_the_seller_keeps_stays_unfinished_and_says_so(self, purse: Purse, clock: StillClock) -> None:
        """The proof is good for the same call, and counts as what it cost."""
        bought = purchase(clock)
        purse.hold(bought, ())
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        purse.mark_kept(bought.payment_hash)
        purse.mark_kept(bought.payment_hash)
        assert [KEPT] == [kept.reason for kept in purse.unfinished(DIGEST)]
        assert bought.amount == purse.spent(DAILY)

    @pytest.mark.parametrize("done", ["capture", "release", "keep", "serve"])
    def test_what_becomes_of_one_purchase_becomes_of_no_other(self, purse: Purse, clock: StillClock, done: str) -> None:
        """Though another one is in the same state, and each counts its own attempts."""
        bought, other = purchase(clock), purchase(clock, "another")
        for each in (bought, other):
            purse.hold(each, ())
            if done in ("keep", "serve"):
                self._do(purse, each, "capture")
        stands = [one for one in purse.history(9) if one.payment_hash == other.payment_hash]
        assert [0] == [one.attempt for one in stands]
        self._do(purse, bought, done)
        assert stands == [one for one in purse.history(9) if one.payment_hash == other.payment_hash]

    @pytest.mark.parametrize("done", ["keep", "serve"])
    def test_an_attempt_that_was_released_stays_as_it_was(self, purse: Purse, clock: StillClock, done: str) -> None:
        """When a later one of the same invoice was paid."""
        for end in ("release", "capture"):
            purse.hold(purchase(clock), ())
            self._do(purse, purchase(clock), end)
        released = [one for one in purse.history(9) if one.attempt == 0]
        self._do(purse, purchase(clock), done)
        assert released == [one for one in purse.history(9) if one.attempt == 0]

    def test_what_was_served_is_not_kept_by_the_seller(self, purse: Purse, clock: StillClock) -> None:
        """The answer has arrived."""
        purse.hold(purchase(clock), ())
        for done in ("capture", "serve"):
            self._do(purse, purchase(clock), done)
        stands = purse.history(9)
        self._do(purse, purchase(clock), "keep")
        assert stands == purse.history(9)

    def test_unfinished_purchases_are_told_by_request_oldest_first(self, purse: Purse, clock: StillClock) -> None:
        """Of one request or of all; the history has the newest first."""
        other = sha256(b"another request").digest()
        for name, digest in (("a", DIGEST), ("b", other), ("c", DIGEST)):
            purse.hold(purchase(clock, name, digest=digest), [])
            clock.pass_by(timedelta(seconds=1))
        a, b, c = (purchase(clock, name).payment_hash for name in "abc")
        assert [a, c] == [one.payment_hash for one in purse.unfinished(DIGEST)]
        assert [a, b, c] == [one.payment_hash for one in purse.unfinished()]
        assert [c, b] == [one.payment_hash for one in purse.history(2)]

    @pytest.mark.parametrize("done", ["capture", "release"])
    def test_saying_the_same_twice_changes_nothing(self, purse: Purse, clock: StillClock, done: str) -> None:
        """A process that died after writing says it again."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        self._do(purse, bought, done)
        stands = purse.history(1)
        clock.pass_by(timedelta(seconds=1))
        self._do(purse, bought, done)
        assert stands == purse.history(1)

    def test_a_capture_told_again_counts_from_the_first(self, purse: Purse, clock: StillClock) -> None:
        """With the fee and the proof that were told first."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        stands = purse.history(1)
        clock.pass_by(DAY / 2)
        purse.capture(bought.payment_hash, preimage=Secret(bytes(32)), fee=Amount.sats(1))
        assert stands == purse.history(1)
        clock.pass_by(DAY / 2)
        assert Amount(0) == purse.spent(DAILY)

    def test_a_release_told_again_keeps_the_first_reason(self, purse: Purse, clock: StillClock) -> None:
        """Why it failed does not change."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        purse.release(bought.payment_hash, reason="no route")
        purse.release(bought.payment_hash, reason="another")
        assert "no route" == purse.history(1)[0].reason

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            ("capture", "release"),
            *((state, move) for state in ("hold", "release") for move in ("serve", "keep", "lose", "miss")),
        ],
    )
    def test_what_contradicts_the_purse_is_refused(
        self, purse: Purse, clock: StillClock, first: str, then: str
    ) -> None:
        """What was paid was not released, and nothing is served that was not paid."""
        bought = purchase(clock)
        purse.hold(bought, [DAILY])
        self._do(purse, bought, first)
        stands = purse.history(1)
        with pytest.raises(StoreUnavailable):
            self._do(purse, bought, then)
        assert stands == purse.history(1)

    @pytest.mark.parametrize("done", ["capture", "release", "serve", "keep", "lose", "miss"])
    def test_an_unknown_purchase_is_refused(self, purse: Purse, clock: StillClock, done: str) -> None:
        """Nothing becomes of what was never held."""
        with pytest.raises(StoreUnavailable):
            self._do(purse, purchase(clock), done)
        assert [] == purse.history(9)

    # --- the budget ---------------------------------------------------------------------------------------------------

    def test_a_purchase_fits_to_the_last_satoshi(self, purse: Purse, clock: StillClock) -> None:
        """And not one more."""
        assert purse.hold(purchase(clock, "a", 500), [DAILY]) is None
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [DAILY])
        assert Amount.sats(500) == purse.spent(DAILY)

    def test_over_budget_says_which_window_and_what_is_left(self, purse: Purse, clock: StillClock) -> None:
        """The first one without room; nothing is written."""
        purse.hold(purchase(clock, "a", 90), [DAILY, HOURLY])
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "b", 21, fee_sats=1), [DAILY, HOURLY])
        assert {
            "window": "100 sat/hour",
            "limit_msat": 100_000,
            "left_msat": 10_000,
            "asked_msat": 22_000,
        } == refused.value.evidence
        assert "100 sat/hour has 10 sat left, and this may cost 22 sat." == refused.value.detail
        assert 1 == len(purse.history(9))

    def test_a_purchase_must_fit_in_every_window(self, purse: Purse, clock: StillClock) -> None:
        """An hour later the hour has room again, and the day counts on."""
        for number in range(5):
            assert purse.hold(purchase(clock, f"{number}", 100), [HOURLY, DAILY]) is None
            with pytest.raises(OverBudget):
                purse.hold(purchase(clock, f"{number} again", 1), [HOURLY, DAILY])
            purse.capture(purchase(clock, f"{number}").payment_hash, preimage=PREIMAGE, fee=Amount(0))
            clock.pass_by(timedelta(hours=1))
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "6", 1), [HOURLY, DAILY])
        assert "500 sat/day" == refused.value.evidence["window"]

    def test_a_limit_per_call_counts_nothing_but_the_call(self, purse: Purse, clock: StillClock) -> None:
        """Its amount and the fee it may cost."""
        for name in "ab":
            assert purse.hold(purchase(clock, name, 45, fee_sats=5), [PER_CALL]) is None
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "c", 46, fee_sats=5), [PER_CALL])
        assert (50_000, 51_000) == (refused.value.evidence["left_msat"], refused.value.evidence["asked_msat"])
        assert Amount(0) == purse.spent(PER_CALL)

    def test_no_limit_holds_anything(self, purse: Purse, clock: StillClock) -> None:
        """A budget of no windows."""
        assert purse.hold(purchase(clock, "a", 10_000_000), Budget().windows) is None

    def test_the_fee_limit_is_held_and_the_fee_is_counted(self, purse: Purse, clock: StillClock) -> None:
        """What was not needed of the fee is free again."""
        bought = purchase(clock, sats=100, fee_sats=10)
        purse.hold(bought, [DAILY])
        assert Amount.sats(110) == purse.spent(DAILY)
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount.msats(1))
        assert Amount.sats(100) + Amount.msats(1) == purse.spent(DAILY)

    def test_a_window_rolls(self, purse: Purse, clock: StillClock) -> None:
        """A captured purchase counts for exactly the span."""
        bought = purchase(clock, sats=500)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        clock.pass_by(DAY - timedelta(milliseconds=1))
        assert Amount.sats(500) == purse.spent(DAILY)
        clock.pass_by(timedelta(milliseconds=1))
        assert Amount(0) == purse.spent(DAILY)

    def test_what_is_unresolved_counts_however_old_it_is(self, purse: Purse, clock: StillClock) -> None:
        """It may still be paid today; and once it was, it counts from when that was known."""
        bought = purchase(clock, sats=500)
        purse.hold(bought, [DAILY])
        clock.pass_by(DAY * 3)
        assert Amount.sats(500) == purse.spent(DAILY)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        clock.pass_by(DAY - timedelta(milliseconds=1))
        assert Amount.sats(500) == purse.spent(DAILY)

    def test_setting_the_clock_back_frees_nothing(self, purse: Purse, clock: StillClock) -> None:
        """The purse's time stands still until the clock has caught up."""
        bought = purchase(clock, sats=500)
        purse.hold(bought, [DAILY])
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount(0))
        clock.pass_by(-DAY * 30)
        assert Amount.sats(500) == purse.spent(DAILY)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [DAILY])

    def test_sixteen_threads_never_spend_more_than_the_budget(self, purse: Purse, clock: StillClock) -> None:
        """500 sat a day among them, in calls of 21 with a fee of up to 1: 22 calls, not one more."""
        granted: list[int] = []

        def spend(thread: int) -> None:
            for number in range(10):
                try:
                    if purse.hold(purchase(clock, f"{thread} {number}", 21, fee_sats=1), [DAILY]) is None:
                        granted.append(number)
                except OverBudget:
                    return

        at_once(16, spend)
        assert (22, Amount.sats(484)) == (len(granted), purse.spent(DAILY))

    def test_one_invoice_is_held_by_one_of_sixteen_threads(self, purse: Purse, clock: StillClock) -> None:
        """The others are told that it is known."""
        outcomes: list[Purchase | None] = []
        at_once(16, lambda _: outcomes.append(purse.hold(purchase(clock), [DAILY])))
        assert (16, 1) == (len(outcomes), outcomes.count(None))

    def test_the_purse_agrees_with_its_model(self) -> None:
        """Whatever is bought in whatever order, with the clock going forward and back."""
        bounded = settings(max_examples=self.model_runs, stateful_step_count=30, deadline=None)
        run_state_machine_as_test(machine(self.open_purse, purchase), settings=bounded)

    def _do(self, purse: Purse, bought: Purchase, what: str) -> None:
        match what:
            case "capture":
                purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=Amount.msats(7))
            case "release":
                purse.release(bought.payment_hash, reason="no route")
            case "serve":
                purse.mark_served(bought.payment_hash)
            case "keep":
                purse.mark_kept(bought.payment_hash)
            case "lose":
                purse.mark_lost(bought.payment_hash, reason="gone")
            case "miss":
                purse.mark_undelivered(bought.payment_hash)
