"""Windows of a purse: of a host, a tag or a sub-purse, of calendar days, and of tokens that were narrowed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.allowance import Allowance
from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import OverBudget
from farebox.core.ports import Purse
from farebox.core.purse_token import PurseToken
from farebox.core.secret import Secret
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import DAILY, DAY, PREIMAGE, PurseStage, at_once, buy, purchase

PARIS: Final = ZoneInfo("Europe/Paris")
KEY: Final = Secret(bytes(32))
MOMENT: Final = timedelta(milliseconds=1)


def under(text: str, *labels: str) -> tuple[Window, ...]:
    """The windows of a budget that a purchase with these labels must fit in."""
    return Budget.read(text).among(labels)


class PurseWindows(PurseStage):
    """What a window counts, and from when."""

    # --- labels -------------------------------------------------------------------------------------------------------

    def test_a_window_of_a_host_counts_what_was_bought_there(self, purse: Purse, clock: StillClock) -> None:
        """Another host has its own; without a label everything counts."""
        text, here, there = "30 sat/day per host, 50 sat/day", "host:a.example", "host:b.example"
        buy(purse, purchase(clock, "a", 30, labels=[here]), under(text, here))
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "b", 1, labels=[here]), under(text, here))
        assert ("30 sat/day on a.example", 0) == (refused.value.evidence["window"], refused.value.evidence["left_msat"])
        buy(purse, purchase(clock, "c", 20, labels=[there]), under(text, there))
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "d", 1, labels=[there]), under(text, there))
        assert "50 sat/day" == refused.value.evidence["window"]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("tag:a", "tag:ab"),
            ("tag:b", "tag:ab"),
            ("host:a.example", "host:b.a.example"),
            ("host:a", "tag:a"),
            ("purse:p", "purse:p/0123"),
            ("tag:a_", "tag:ab"),
            ("tag:%", "tag:a"),
        ],
    )
    def test_a_label_is_no_part_of_another_one(self, purse: Purse, clock: StillClock, one: str, other: str) -> None:
        """Neither the one that is longer, nor the one that is shorter."""
        for name, label in (("a", one), ("b", other)):
            buy(purse, purchase(clock, name, 7 if label == one else 5, labels=["tag:before", label, "tag:zz"]))
        limit = Amount.sats(9)
        windows = [Window(limit=limit, per="day", label=label) for label in (one, other, "tag:zz", "tag:none")]
        assert [7, 5, 12, 0] == [purse.spent(window).in_sats_exact() for window in windows]
        assert [["a"], ["b"]] == [
            [
                name
                for name in "ab"
                if purchase(clock, name).payment_hash == purse.history(9, label=label)[0].payment_hash
            ]
            for label in (one, other)
        ]

    def test_what_has_several_labels_counts_under_each(self, purse: Purse, clock: StillClock) -> None:
        """A host and two tags."""
        labels = ["host:a.example", "tag:x", "tag:y"]
        text = "50 sat/day, 40 sat/day on a.example, 30 sat/day per tag, 25 sat/day tagged y"
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "a", 26, labels=labels), under(text, *labels))
        assert "25 sat/day tagged y" == refused.value.evidence["window"]
        buy(purse, purchase(clock, "b", 25, labels=labels), under(text, *labels))
        with pytest.raises(OverBudget) as refused:
            purse.hold(purchase(clock, "c", 6, labels=["tag:x"]), under(text, "tag:x"))
        assert "30 sat/day tagged x" == refused.value.evidence["window"]

    def test_what_is_unresolved_counts_under_its_label_however_old_it_is(self, purse: Purse, clock: StillClock) -> None:
        """And under no other."""
        here, there = "tag:here", "tag:there"
        purse.hold(purchase(clock, "a", 30, labels=[here]), ())
        clock.pass_by(DAY * 3)
        window = Window.read("30 sat/day tagged here"), Window.read("30 sat/day tagged there")
        assert (Amount.sats(30), NOTHING) == (purse.spent(window[0]), purse.spent(window[1]))
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1, labels=[here]), window[:1])
        assert purse.hold(purchase(clock, "b", 30, labels=[there]), window[1:]) is None

    def test_a_window_of_a_label_rolls(self, purse: Purse, clock: StillClock) -> None:
        """What was paid counts for exactly the span."""
        buy(purse, purchase(clock, "a", 30, labels=["tag:x"]))
        window = Window.read("30 sat/hour tagged x")
        clock.pass_by(timedelta(hours=1) - MOMENT)
        assert Amount.sats(30) == purse.spent(window)
        clock.pass_by(MOMENT)
        assert NOTHING == purse.spent(window)

    def test_a_limit_per_call_under_a_label_counts_nothing_but_the_call(self, purse: Purse, clock: StillClock) -> None:
        """However much was bought there."""
        windows = [Window.read("5 sat/call on a.example")]
        for name in "abc":
            buy(purse, purchase(clock, name, 5, labels=["host:a.example"]), windows)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "d", 6, labels=["host:a.example"]), windows)

    # --- calendars ----------------------------------------------------------------------------------------------------

    def test_a_calendars_day_begins_anew_at_the_users_midnight(self, purse: Purse, clock: StillClock) -> None:
        """To the millisecond, wherever the machine is."""
        window = Window.read("30 sat/calendar day", PARIS)
        midnight = datetime(2026, 1, 11, tzinfo=PARIS).astimezone(UTC)
        clock.at = midnight - MOMENT
        buy(purse, purchase(clock, "a", 30), [window])
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [window])
        clock.at = midnight
        assert NOTHING == purse.spent(window)
        buy(purse, purchase(clock, "b", 30), [window])
        clock.at = midnight + DAY - MOMENT
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "c", 1), [window])
        clock.at = midnight + DAY
        assert purse.hold(purchase(clock, "c", 30), [window]) is None

    @pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25)])
    def test_the_days_on_which_clocks_are_changed_are_as_long_as_they_are(
        self, purse: Purse, clock: StillClock, month: int, day: int, hours: int
    ) -> None:
        """23 hours in spring, 25 in autumn."""
        window = Window.read("30 sat/calendar day", PARIS)
        clock.at = midnight = datetime(2026, month, day, tzinfo=PARIS).astimezone(UTC)
        buy(purse, purchase(clock, "a", 30), [window])
        clock.at = midnight + timedelta(hours=hours) - MOMENT
        assert Amount.sats(30) == purse.spent(window)
        clock.at = midnight + timedelta(hours=hours)
        assert NOTHING == purse.spent(window)

    def test_a_day_with_two_midnights_is_one_day(self, purse: Purse, clock: StillClock) -> None:
        """In Havana, when clocks are set back at one o'clock."""
        havana = ZoneInfo("America/Havana")
        window = Window.read("30 sat/calendar day", havana)
        clock.at = midnight = datetime(2026, 11, 1, tzinfo=havana).astimezone(UTC)
        buy(purse, purchase(clock, "a", 30), [window])
        clock.at = midnight + timedelta(minutes=90)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [window])

    def test_what_is_unresolved_at_midnight_counts_on(self, purse: Purse, clock: StillClock) -> None:
        """And once it is known to be paid, on the day on which that was known."""
        window = Window.read("30 sat/calendar day", PARIS)
        clock.at = datetime(2026, 1, 10, 23, 59, tzinfo=PARIS).astimezone(UTC)
        bought = purchase(clock, "a", 30)
        purse.hold(bought, [window])
        clock.pass_by(timedelta(minutes=2))
        assert Amount.sats(30) == purse.spent(window)
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=NOTHING)
        assert Amount.sats(30) == purse.spent(window)
        clock.pass_by(DAY)
        assert NOTHING == purse.spent(window)

    def test_setting_the_clock_back_to_yesterday_frees_nothing_of_today(self, purse: Purse, clock: StillClock) -> None:
        """The day of a purse does not come back."""
        window = Window.read("30 sat/calendar day", PARIS)
        buy(purse, purchase(clock, "a", 30), [window])
        clock.pass_by(-DAY * 2)
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock, "b", 1), [window])

    # --- tokens -------------------------------------------------------------------------------------------------------

    def test_two_children_of_one_mother_never_spend_more_than_she_may(self, purse: Purse, clock: StillClock) -> None:
        """Each may almost as much as she; a grandchild less; and all of them no more than the sub-purse."""
        mother = PurseToken.mint("researcher", KEY).attenuate(limits=[Window.read("50 sat/day")])
        child = mother.attenuate(limits=[Window.read("40 sat/day")])
        sister = mother.attenuate(limits=[Window.read("30 sat/day")])
        grandchild = child.attenuate(limits=[Window.read("10 sat/hour")])
        fit = [
            self._spend(purse, clock, token, name, sats)
            for name, token, sats in (
                ("a", grandchild, 10),
                ("b", grandchild, 1),  # over its own
                ("c", child, 30),
                ("d", child, 1),  # over its own, for which the grandchild's counts
                ("e", sister, 11),  # over its mother's
                ("f", sister, 10),
                ("g", mother, 1),  # her children have spent it
                ("h", PurseToken.mint("researcher", KEY), 50),
                ("i", PurseToken.mint("researcher", KEY), 1),  # over the sub-purse's
                ("j", PurseToken.mint("writer", KEY), 100),
            )
        ]
        assert [True, False, True, False, False, True, False, True, False, True] == fit

    def test_sixteen_holders_at_once_never_spend_more_than_their_mother_may(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Each with a token of its own, which may as much as hers."""
        mother = PurseToken.mint("researcher", KEY).attenuate(limits=[Window.read("50 sat/day")])
        bought: list[int] = []

        def spend(number: int) -> None:
            token = mother.attenuate(limits=[Window.read(f"{50 + number} sat/day")])
            for call in range(3):
                if self._spend(purse, clock, token, f"{number} {call}", 7):
                    bought.append(7)

        at_once(16, spend)
        assert 49 == sum(bought)

    def test_whoever_spends_in_whatever_order_no_token_is_spent_beyond(self) -> None:
        """A tree of tokens, each of which knows what was spent with it and below it."""

        @given(
            st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), min_size=1, max_size=5),
            st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=12),
        )
        @settings(deadline=None, max_examples=15)
        def check(made: list[tuple[int, int]], spent: list[tuple[int, int]]) -> None:
            clock = StillClock()
            purse = self.open_purse(clock)
            tokens, mothers, limits = [PurseToken.mint("p", KEY)], [-1], [100]
            for mother, sats in made:
                token = tokens[mother % len(tokens)].attenuate(limits=[Window.read(f"{sats} sat/day")])
                if token not in tokens:  # the same limit of the same mother is the same token
                    mothers.append(mother % len(tokens))
                    limits.append(sats)
                    tokens.append(token)
            left = dict(enumerate(limits))
            for number, (who, sats) in enumerate(spent):
                line = _line(who % len(tokens), mothers)
                fits = all(left[one] >= sats for one in line)
                assert fits is self._spend(purse, clock, tokens[line[0]], f"{number}", sats)
                left |= {one: left[one] - sats for one in line if fits}
            purse.close()

        check()

    def _spend(self, purse: Purse, clock: StillClock, token: PurseToken, name: str, sats: int) -> bool:
        allowed: Allowance = token.allowance(KEY, limits=[Window.read("100 sat/day")], now=clock())
        windows = Budget(allowed.windows).among(allowed.labels)
        try:
            return purse.hold(purchase(clock, name, sats, labels=allowed.labels), [*windows, DAILY]) is None
        except OverBudget:
            return False


def _line(one: int, mothers: Sequence[int]) -> list[int]:
    """A token, its mother, hers, and so on."""
    line = []
    while one >= 0:
        line.append(one)
        one = mothers[one]
    return line
