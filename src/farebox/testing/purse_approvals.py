"""Approvals of a purse: what costs more than may be spent without a person's word is parked until there is one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.errors import ApprovalDenied, ApprovalNeeded, DecisionRefused, OverBudget
from farebox.core.ports import Purchase, Purse
from farebox.core.purse import ApprovalState, Guards
from farebox.stores.parked import MOST_PARKED
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import PAYEE, PREIMAGE, PurseStage, at_once, purchase

HOUR: Final = timedelta(hours=1)
MOMENT: Final = timedelta(milliseconds=1)
ASKED: Final = Guards(approval_above=Amount.sats(20), approval_for=HOUR)
OTHER_DIGEST: Final = sha256(b"another request").digest()
OTHER_PAYEE: Final = b"\3" + bytes(32)


class PurseApprovals(PurseStage):
    """One word for one payment."""

    def test_what_costs_more_is_parked_and_not_paid(self, purse: Purse, clock: StillClock) -> None:
        """The price counts, without the fee; up to the line nobody is asked."""
        assert purse.hold(purchase(clock, "small", 20, fee_sats=5), (), ASKED) is None
        assert 1 == self._ask(purse, purchase(clock, "big", 21))
        assert 1 == len(purse.history(9))
        [parked] = purse.approvals(pending=True)
        asked = purchase(clock, "big")
        assert (1, ApprovalState.PENDING, asked.origin, asked.resource, asked.url, Amount.sats(21), PAYEE) == (
            parked.number, parked.state, parked.origin, parked.resource, parked.url, parked.amount, parked.payee
        )  # fmt: skip
        assert (frozenset(), clock(), clock() + HOUR) == (parked.labels, parked.asked_at, parked.expires_at)
        assert asked.request_digest == parked.request_digest

    def test_whoever_is_parked_is_told_the_number_and_until_when(self, purse: Purse, clock: StillClock) -> None:
        """And what it costs."""
        with pytest.raises(ApprovalNeeded) as refused:
            purse.hold(purchase(clock), (), ASKED)
        until = (clock() + HOUR).isoformat(timespec="seconds")
        assert {"asked_msat": 21_000, "approval": 1, "expires_at": until} == refused.value.evidence

    def test_a_call_is_parked_once_however_often_it_is_made(self, purse: Purse, clock: StillClock) -> None:
        """With another invoice, too, and for less."""
        for name, sats in (("a", 30), ("b", 30), ("c", 25)):
            assert 1 == self._ask(purse, purchase(clock, name, sats))
        assert [1] == [parked.number for parked in purse.approvals(pending=False)]

    def test_a_call_is_parked_once_by_sixteen_threads(self, purse: Purse, clock: StillClock) -> None:
        """All of them wait for the same word."""
        numbers: list[object] = []
        at_once(16, lambda number: numbers.append(self._ask(purse, purchase(clock, f"{number}"))))
        assert [1] * 16 == numbers

    def test_a_word_is_good_for_one_payment(self, purse: Purse, clock: StillClock) -> None:
        """Then the next one is asked about."""
        self._ask(purse, purchase(clock, "a"))
        approved = purse.decide(1, approved=True)
        assert (1, ApprovalState.APPROVED, clock() + HOUR) == (approved.number, approved.state, approved.expires_at)
        assert purse.hold(purchase(clock, "b"), (), ASKED) is None
        assert 2 == self._ask(purse, purchase(clock, "c"))
        states = [(parked.number, parked.state) for parked in purse.approvals(pending=False)]
        assert [(2, ApprovalState.PENDING), (1, ApprovalState.USED)] == states

    def test_a_word_is_good_for_one_payment_of_sixteen_threads(self, purse: Purse, clock: StillClock) -> None:
        """The others are parked, together."""
        self._ask(purse, purchase(clock, "first"))
        purse.decide(1, approved=True)
        outcomes: list[int | None] = []
        at_once(16, lambda number: outcomes.append(self._ask(purse, purchase(clock, f"{number}"))))
        assert [None] + [2] * 15 == sorted(outcomes, key=lambda number: number or 0)

    def test_what_is_known_needs_no_second_word(self, purse: Purse, clock: StillClock) -> None:
        """It was held, so it was said yes to."""
        self._ask(purse, purchase(clock))
        purse.decide(1, approved=True)
        assert purse.hold(purchase(clock), (), ASKED) is None
        known = purse.hold(purchase(clock), (), ASKED)
        assert known is not None
        assert [1] == [parked.number for parked in purse.approvals(pending=False)]

    def test_what_was_released_needs_another_word(self, purse: Purse, clock: StillClock) -> None:
        """The first one was for one try."""
        self._ask(purse, purchase(clock))
        purse.decide(1, approved=True)
        purse.hold(purchase(clock), (), ASKED)
        purse.release(purchase(clock).payment_hash, reason="no route")
        assert 2 == self._ask(purse, purchase(clock))

    def test_a_word_is_not_used_up_by_what_does_not_fit(self, purse: Purse, clock: StillClock) -> None:
        """Nothing of a purchase that is refused stays."""
        self._ask(purse, purchase(clock))
        purse.decide(1, approved=True)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock), [Window.read("20 sat/day")], ASKED)
        purse.weigh(purchase(clock), (), ASKED)
        assert [ApprovalState.APPROVED] == [parked.state for parked in purse.approvals(pending=False)]
        assert purse.hold(purchase(clock), (), ASKED) is None

    def test_what_does_not_fit_is_not_asked_about(self, purse: Purse, clock: StillClock) -> None:
        """A person's word is above no budget."""
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock), [Window.read("20 sat/day")], ASKED)
        assert [] == purse.approvals(pending=False)

    @pytest.mark.parametrize("what", ["label", "request", "price", "origin", "payee"])
    def test_another_question_needs_another_word(self, purse: Purse, clock: StillClock, what: str) -> None:
        """Another label, request, origin or payee; or a higher price of the same."""
        asked = purchase(clock, labels=["tag:a"])
        others = {
            "label": replace(asked, labels=frozenset({"tag:a", "tag:b"})),
            "request": replace(asked, request_digest=OTHER_DIGEST),
            "price": replace(asked, amount=asked.amount + Amount.msats(1)),
            "origin": replace(asked, origin="https://other.example:443"),
            "payee": replace(asked, payee=OTHER_PAYEE),
        }
        assert 1 == self._ask(purse, asked)
        with pytest.raises(ApprovalNeeded) as refused:
            purse.weigh(others[what], (), ASKED)
        assert "approval" not in refused.value.evidence
        assert 2 == self._ask(purse, others[what])  # beside one that waits
        purse.decide(2, approved=False)
        purse.decide(1, approved=True)
        with pytest.raises(ApprovalDenied):
            purse.hold(others[what], (), ASKED)
        assert purse.hold(asked, (), ASKED) is None

    @pytest.mark.parametrize("what", ["label", "request", "price", "origin", "payee"])
    def test_a_word_is_good_for_nothing_else(self, purse: Purse, clock: StillClock, what: str) -> None:
        """Though nothing else was asked."""
        asked = purchase(clock, labels=["tag:a"])
        others = {
            "label": replace(asked, labels=frozenset({"tag:b"})),
            "request": replace(asked, request_digest=OTHER_DIGEST),
            "price": replace(asked, amount=asked.amount + Amount.msats(1)),
            "origin": replace(asked, origin="https://other.example:443"),
            "payee": replace(asked, payee=OTHER_PAYEE),
        }
        self._ask(purse, asked)
        purse.decide(1, approved=True)
        assert 2 == self._ask(purse, others[what])

    def test_a_no_holds_whoever_is_to_be_paid(self, purse: Purse, clock: StillClock) -> None:
        """A seller who names another node for each call has nobody asked again."""
        self._ask(purse, purchase(clock))
        purse.decide(1, approved=False)
        for ask in (purse.hold, purse.weigh):
            with pytest.raises(ApprovalDenied) as refused:
                ask(replace(purchase(clock, "another invoice"), payee=OTHER_PAYEE), (), ASKED)
            assert 1 == refused.value.evidence["approval"]
        assert [1] == [parked.number for parked in purse.approvals(pending=False)]

    # --- time ---------------------------------------------------------------------------------------------------------

    def test_a_question_that_nobody_answers_runs_out(self, purse: Purse, clock: StillClock) -> None:
        """To the millisecond; then it can't be decided, and is asked anew."""
        self._ask(purse, purchase(clock))
        clock.pass_by(HOUR - MOMENT)
        assert 1 == self._ask(purse, purchase(clock))
        clock.pass_by(MOMENT)
        assert [] == purse.approvals(pending=True)
        assert [ApprovalState.EXPIRED] == [parked.state for parked in purse.approvals(pending=False)]
        with pytest.raises(DecisionRefused, match="1 is expired"):
            purse.decide(1, approved=True)
        assert 2 == self._ask(purse, purchase(clock))

    def test_a_word_runs_out(self, purse: Purse, clock: StillClock) -> None:
        """An hour after it was given, not after it was asked for."""
        self._ask(purse, purchase(clock))
        clock.pass_by(HOUR - MOMENT)
        purse.decide(1, approved=True)
        clock.pass_by(HOUR - MOMENT)
        purse.weigh(purchase(clock), (), ASKED)
        clock.pass_by(MOMENT)
        assert [ApprovalState.EXPIRED] == [parked.state for parked in purse.approvals(pending=False)]
        assert 2 == self._ask(purse, purchase(clock))

    def test_a_no_holds_as_long_as_a_yes_would(self, purse: Purse, clock: StillClock) -> None:
        """Nobody is asked again meanwhile, also not by another invoice or for less."""
        self._ask(purse, purchase(clock, sats=30))
        denied = purse.decide(1, approved=False)
        assert ApprovalState.DENIED is denied.state
        clock.pass_by(HOUR - MOMENT)
        for ask in (purse.hold, purse.weigh):
            with pytest.raises(ApprovalDenied) as refused:
                ask(purchase(clock, "another invoice", 25), (), ASKED)
            assert {"asked_msat": 25_000, "approval": 1} == refused.value.evidence
        assert [ApprovalState.DENIED] == [parked.state for parked in purse.approvals(pending=False)]
        clock.pass_by(MOMENT)
        assert 2 == self._ask(purse, purchase(clock, sats=30))

    # --- deciding -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("then", [True, False])
    def test_a_word_is_given_once(self, purse: Purse, clock: StillClock, first: bool, then: bool) -> None:  # noqa: FBT001 - parameters
        """Whatever it was."""
        self._ask(purse, purchase(clock))
        decided = purse.decide(1, approved=first)
        with pytest.raises(DecisionRefused, match=f"1 is {decided.state}"):
            purse.decide(1, approved=then)
        assert [decided] == purse.approvals(pending=False)

    def test_what_was_used_or_never_asked_is_not_decided(self, purse: Purse, clock: StillClock) -> None:
        """It says how it stands."""
        with pytest.raises(DecisionRefused, match="1 is not known"):
            purse.decide(1, approved=True)
        self._ask(purse, purchase(clock))
        purse.decide(1, approved=True)
        purse.hold(purchase(clock), (), ASKED)
        with pytest.raises(DecisionRefused, match="1 is used"):
            purse.decide(1, approved=False)

    def test_of_sixteen_that_decide_at_once_one_does(self, purse: Purse, clock: StillClock) -> None:
        """The others are told that it was done."""
        self._ask(purse, purchase(clock))
        said: list[bool] = []

        def decide(number: int) -> None:
            try:
                purse.decide(1, approved=number % 2 == 0)
                said.append(number % 2 == 0)
            except DecisionRefused:
                return

        at_once(16, decide)
        [stands] = purse.approvals(pending=False)
        assert [stands.state is ApprovalState.APPROVED] == said

    def test_a_word_on_one_question_is_none_on_another(self, purse: Purse, clock: StillClock) -> None:
        """They are listed with the newest first."""
        for name, digest in (("a", OTHER_DIGEST), ("b", purchase(clock).request_digest)):
            self._ask(purse, purchase(clock, name, digest=digest))
        purse.decide(1, approved=True)
        assert [2] == [parked.number for parked in purse.approvals(pending=True)]
        states = [(parked.number, parked.state) for parked in purse.approvals(pending=False)]
        assert [(2, ApprovalState.PENDING), (1, ApprovalState.APPROVED)] == states
        assert 2 == self._ask(purse, purchase(clock, "b"))
        assert purse.hold(purchase(clock, "a", digest=OTHER_DIGEST), (), ASKED) is None
        purse.decide(2, approved=False)
        for number, stands in ((1, "used"), (2, "denied")):
            with pytest.raises(DecisionRefused, match=f"{number} is {stands}"):
                purse.decide(number, approved=True)

    def test_only_so_many_calls_of_one_account_wait_for_a_word(self, purse: Purse, clock: StillClock) -> None:
        """Whoever asks for ever more is told what the line is, and takes nothing from another; until a word is said."""

        def ask(number: int, account: str = "") -> object:
            labels = frozenset({account} if account else ())
            digest = sha256(f"{number} {account}".encode()).digest()
            return self._ask(purse, purchase(clock, f"{number} {account}", digest=digest, labels=labels))

        numbers = [ask(number, "purse:greedy") for number in range(MOST_PARKED + 3)]
        assert [*range(1, MOST_PARKED + 1), None, None, None] == numbers
        assert MOST_PARKED == len(purse.approvals(pending=True))
        assert [MOST_PARKED + 1, MOST_PARKED + 2] == [ask(1), ask(1, "purse:other")]
        assert 1 == ask(0, "purse:greedy")
        purse.decide(1, approved=False)
        assert MOST_PARKED + 3 == ask(MOST_PARKED, "purse:greedy")

    def test_weighing_asks_nobody_and_tells_who_is_asked(self, purse: Purse, clock: StillClock) -> None:
        """The number of the question that waits, if there is one."""
        with pytest.raises(ApprovalNeeded) as refused:
            purse.weigh(purchase(clock), (), ASKED)
        assert {"asked_msat": 21_000} == refused.value.evidence
        assert [] == purse.approvals(pending=False)
        self._ask(purse, purchase(clock))
        with pytest.raises(ApprovalNeeded) as refused:
            purse.weigh(purchase(clock), (), ASKED)
        assert 1 == refused.value.evidence["approval"]

    @pytest.mark.parametrize("end", ["used", "expired"])
    def test_what_was_used_or_ran_out_is_no_question_any_more(self, purse: Purse, clock: StillClock, end: str) -> None:
        """Weighing tells no number."""
        self._ask(purse, purchase(clock))
        if end == "used":
            purse.decide(1, approved=True)
            purse.hold(purchase(clock), (), ASKED)
        else:
            clock.pass_by(HOUR)
        with pytest.raises(ApprovalNeeded) as refused:
            purse.weigh(purchase(clock, "again"), (), ASKED)
        assert "approval" not in refused.value.evidence

    def test_the_last_hundred_are_told(self, purse: Purse, clock: StillClock) -> None:
        """And all that wait."""
        for number in range(103):
            digest, labels = sha256(b"%d" % number).digest(), frozenset({f"purse:p{number % 2}"})
            self._ask(purse, replace(purchase(clock), request_digest=digest, labels=labels))
        assert list(range(103, 3, -1)) == [parked.number for parked in purse.approvals(pending=False)]
        assert 103 == len(purse.approvals(pending=True))

    def test_what_was_approved_is_paid_and_counted_as_anything_else(self, purse: Purse, clock: StillClock) -> None:
        """Within the budget."""
        self._ask(purse, purchase(clock, sats=400))
        purse.decide(1, approved=True)
        daily = Window.read("500 sat/day")
        purse.hold(purchase(clock, sats=400), [daily], ASKED)
        purse.capture(purchase(clock).payment_hash, preimage=PREIMAGE, fee=NOTHING)
        assert Amount.sats(400) == purse.spent(daily)

    def _ask(self, purse: Purse, asked: Purchase) -> int | None:
        """The number of the question; None where there is none."""
        try:
            assert purse.hold(asked, (), ASKED) is None
        except ApprovalNeeded as error:
            number = error.evidence.get("approval")
            return None if number is None else int(number)
        return None
