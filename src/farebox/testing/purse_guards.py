"""Guards of a purse: sellers that are paid too much at once, or took money for nothing; and weighing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Budget
from farebox.core.errors import NothingPaid, OverBudget, SellerShunned, TooManyInFlight
from farebox.core.ports import Purchase, Purse
from farebox.core.purse import Guards
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import DAILY, DAY, DIGEST, PREIMAGE, PurseStage, at_once, buy, purchase

HERE: Final = "host:a.example"
THERE: Final = "host:b.a.example"
OF_HERE: Final = Guards(seller=HERE)
MOMENT: Final = timedelta(milliseconds=1)


class PurseGuards(PurseStage):
    """Who is not paid just now."""

    # --- in flight ----------------------------------------------------------------------------------------------------

    def test_two_payments_to_a_host_may_be_on_their_way_and_no_third(self, purse: Purse, clock: StillClock) -> None:
        """Another host, and a purchase that goes by no host, go on."""
        for name in "ab":
            assert purse.hold(purchase(clock, name, labels=[HERE]), (), OF_HERE) is None
        with pytest.raises(TooManyInFlight, match=r"a\.example"):
            purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE)
        assert 2 == len(purse.history(9))
        assert purse.hold(purchase(clock, "c", labels=[THERE]), (), Guards(seller=THERE)) is None
        assert purse.hold(purchase(clock, "d", labels=[HERE]), ()) is None

    # --- taking over ------------------------------------------------------------------------------------------------

    def test_what_was_held_long_enough_is_taken_over_by_the_first_who_asks(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """It is held anew from then on, and nobody else's row is."""
        for name in "ab":
            purse.hold(purchase(clock, name), ())
        a, b = (purchase(clock, name).payment_hash for name in "ab")
        clock.pass_by(timedelta(seconds=2) - MOMENT)
        assert purse.take_over(a, held_for=timedelta(seconds=2)) is None
        clock.pass_by(MOMENT)
        taken = purse.take_over(a, held_for=timedelta(seconds=2))
        assert taken is not None
        assert (a, clock()) == (taken.payment_hash, taken.held_at)
        assert purse.take_over(a, held_for=timedelta(seconds=2)) is None
        assert purse.take_over(b, held_for=timedelta(seconds=2)) is not None

    def test_what_was_taken_over_is_free_only_when_its_invoice_can_be_paid_no_more(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Two may be paying it, and one of them has failed; it may still turn out to be paid."""
        for name in "ab":
            purse.hold(purchase(clock, name), ())
            clock.pass_by(timedelta(seconds=2))
            purse.take_over(purchase(clock, name).payment_hash, held_for=timedelta(seconds=2))
        a, b = purse.history(9)[::-1]
        stands = purse.release(a.payment_hash, reason="no route")
        assert stands is not None
        assert (a.payment_hash, a.counted) == (stands.payment_hash, stands.counted)
        purse.capture(a.payment_hash, preimage=PREIMAGE, fee=NOTHING)
        clock.pass_by(b.invoice_expires_at + timedelta(minutes=10) - clock())
        assert purse.release(b.payment_hash, reason="no route") is not None
        clock.pass_by(MOMENT)
        assert purse.release(b.payment_hash, reason="no route") is None
        assert purse.release(b.payment_hash, reason="no route") is None

    @pytest.mark.parametrize("ended", ["capture", "release"])
    def test_what_is_held_no_more_is_not_taken_over(self, purse: Purse, clock: StillClock, ended: str) -> None:
        """Nor what never was."""
        first = purchase(clock)
        purse.hold(first, ())
        if ended == "capture":
            purse.capture(first.payment_hash, preimage=PREIMAGE, fee=NOTHING)
        else:
            purse.release(first.payment_hash, reason="no route")
        clock.pass_by(DAY)
        assert purse.take_over(first.payment_hash, held_for=timedelta(seconds=2)) is None
        assert purse.take_over(bytes(32), held_for=timedelta(0)) is None

    @pytest.mark.parametrize("ended", ["capture", "release"])
    def test_when_one_has_ended_the_next_one_may_go(self, purse: Purse, clock: StillClock, ended: str) -> None:
        """Paid or not."""
        first, *others = (purchase(clock, name, labels=[HERE]) for name in "abc")
        purse.hold(first, (), OF_HERE)
        purse.hold(others[0], (), OF_HERE)
        if ended == "capture":
            purse.capture(first.payment_hash, preimage=PREIMAGE, fee=NOTHING)
        else:
            purse.release(first.payment_hash, reason="no route")
        assert purse.hold(others[1], (), OF_HERE) is None

    def test_a_payment_that_is_unresolved_for_days_is_on_its_way(self, purse: Purse, clock: StillClock) -> None:
        """It may be paid yet."""
        purse.hold(purchase(clock, "a", labels=[HERE]), (), replace(OF_HERE, most_in_flight=1))
        clock.pass_by(DAY * 9)
        with pytest.raises(TooManyInFlight):
            purse.hold(purchase(clock, "b", labels=[HERE]), (), replace(OF_HERE, most_in_flight=1))

    def test_of_sixteen_threads_exactly_two_pay_a_host_at_once(self, purse: Purse, clock: StillClock) -> None:
        """Of each of two hosts."""
        held: list[str] = []

        def pay(number: int) -> None:
            label = (HERE, THERE)[number % 2]
            try:
                if purse.hold(purchase(clock, f"{number}", labels=[label]), [DAILY], Guards(seller=label)) is None:
                    held.append(label)
            except TooManyInFlight:
                return

        at_once(16, pay)
        assert [HERE, HERE, THERE, THERE] == sorted(held)

    # --- unserved -----------------------------------------------------------------------------------------------------

    def test_who_took_money_twice_and_did_not_serve_is_not_paid_a_third_time(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Another host is; and once is not twice."""
        for name, label in (("a", HERE), ("b", HERE), ("of another", THERE), ("served", HERE)):
            self._unserved(purse, clock, name, label)
        purse.mark_served(purchase(clock, "served").payment_hash)
        with pytest.raises(SellerShunned, match=r"2 calls to a\.example") as refused:
            purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE)
        until = (clock() + DAY).isoformat(timespec="seconds")
        assert {"host": "a.example", "unserved": 2, "paid_msat": 42_000, "until": until} == refused.value.evidence
        told = f"and not served; until {refused.value.evidence['until']} no other is paid from here"
        assert f"2 calls to a.example were paid, 42 sat in all, {told}" == refused.value.detail
        assert purse.hold(purchase(clock, "c", labels=[THERE]), (), Guards(seller=THERE)) is None
        assert purse.hold(purchase(clock, "d", labels=[HERE]), ()) is None

    def test_who_is_shunned_is_told_so_before_the_budget_is(self, purse: Purse, clock: StillClock) -> None:
        """More budget would be of no use."""
        for name in "ab":
            self._unserved(purse, clock, name)
        with pytest.raises(SellerShunned):
            purse.hold(purchase(clock, "c", 999, labels=[HERE]), [DAILY], OF_HERE)

    def test_after_a_day_a_seller_is_paid_again(self, purse: Purse, clock: StillClock) -> None:
        """Counted from the first time each was known not to be served, to the millisecond."""
        self._unserved(purse, clock, "a")
        clock.pass_by(timedelta(hours=1))
        self._unserved(purse, clock, "b")
        clock.pass_by(timedelta(hours=22))
        for name in "ab":  # asked again, and not served again
            purse.mark_undelivered(purchase(clock, name).payment_hash)
        clock.pass_by(timedelta(hours=1) - MOMENT)
        with pytest.raises(SellerShunned):
            purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE)
        clock.pass_by(MOMENT)
        assert purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE) is None

    def test_setting_the_clock_back_brings_no_seller_back(self, purse: Purse, clock: StillClock) -> None:
        """Nor does setting it forward bring back the first time."""
        for name in "ab":
            self._unserved(purse, clock, name)
        clock.pass_by(-DAY * 9)
        with pytest.raises(SellerShunned):
            purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE)

    def test_who_serves_after_all_is_paid_again(self, purse: Purse, clock: StillClock) -> None:
        """When it was marked stays written."""
        for name in "ab":
            self._unserved(purse, clock, name)
        purse.mark_served(purchase(clock, "a").payment_hash)
        assert purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE) is None

    def test_what_is_lost_is_held_against_the_seller_and_not_asked_for_again(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """It says since when and why; and what is served in the end is not lost."""
        for name in "ab":
            buy(purse, purchase(clock, name, labels=[HERE]), ())
            purse.mark_lost(purchase(clock, name).payment_hash, reason="the call failed too often")
        since = clock()
        assert [] == list(purse.unfinished())
        for row in purse.history(9):
            assert (False, True, since) == (row.served, row.lost, row.undelivered_at)
            assert "the call failed too often" == row.reason
        with pytest.raises(SellerShunned):
            purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE)
        clock.pass_by(timedelta(hours=1))
        purse.mark_lost(purchase(clock, "a").payment_hash, reason="again")
        assert {since} == {row.undelivered_at for row in purse.history(9)}
        purse.mark_served(purchase(clock, "a").payment_hash)
        assert purse.hold(purchase(clock, "c", labels=[HERE]), (), OF_HERE) is None

    def test_what_was_not_served_says_since_when(self, purse: Purse, clock: StillClock) -> None:
        """And stays unfinished; what was served was never undelivered."""
        first = clock()
        self._unserved(purse, clock, "a")
        clock.pass_by(DAY)
        purse.mark_undelivered(purchase(clock, "a").payment_hash)
        buy(purse, purchase(clock, "b", labels=[HERE]))
        purse.mark_served(purchase(clock, "b").payment_hash)
        purse.mark_undelivered(purchase(clock, "b").payment_hash)
        assert [None, first] == [one.undelivered_at for one in purse.history(9)]
        assert [first] == [one.undelivered_at for one in purse.unfinished(DIGEST)]

    def test_what_became_of_one_purchase_marks_no_other(self, purse: Purse, clock: StillClock) -> None:
        """Though it was paid as well."""
        buy(purse, purchase(clock, "other", labels=[HERE]))
        self._unserved(purse, clock, "a")
        marked = {one.payment_hash: one.undelivered_at for one in purse.history(9)}
        assert {purchase(clock, "other").payment_hash: None, purchase(clock, "a").payment_hash: clock()} == marked

    def test_who_is_shunned_is_told_until_when(self, purse: Purse, clock: StillClock) -> None:
        """When one fewer counts than is too many."""
        began = clock()
        for name in "abc":
            self._unserved(purse, clock, name)
            clock.pass_by(timedelta(hours=1))
        with pytest.raises(SellerShunned, match="3 calls") as refused:
            purse.hold(purchase(clock, "d", labels=[HERE]), (), OF_HERE)
        until = began + timedelta(hours=25)
        assert until.isoformat(timespec="seconds") == refused.value.evidence["until"]
        clock.at = until - MOMENT
        with pytest.raises(SellerShunned):
            purse.hold(purchase(clock, "d", labels=[HERE]), (), OF_HERE)
        clock.at = until
        assert purse.hold(purchase(clock, "d", labels=[HERE]), (), OF_HERE) is None

    def test_what_one_account_was_not_served_is_no_other_accounts_business(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Or who holds a token could have a seller shunned by all; the tokens of one sub-purse are one account."""
        accounts = {"": [], "p": ["purse:p"], "p1": ["purse:p", "purse:p/1"], "p2": ["purse:p2"]}
        for name in "ab":
            self._unserved(purse, clock, name, HERE, *accounts["p1"])
        for number, (account, labels) in enumerate(accounts.items()):
            asked = purchase(clock, f"{number}", labels=[HERE, *labels])
            if account in ("p", "p1"):
                with pytest.raises(SellerShunned):
                    purse.weigh(asked, (), OF_HERE)
            else:
                purse.weigh(asked, (), OF_HERE)
        for name in "cd":
            self._unserved(purse, clock, name)
        purse.weigh(purchase(clock, "e", labels=[HERE, *accounts["p2"]]), (), OF_HERE)
        with pytest.raises(SellerShunned, match="2 calls"):
            purse.weigh(purchase(clock, "e", labels=[HERE]), (), OF_HERE)

    def test_where_one_host_is_many_sellers_each_is_by_itself(self, purse: Purse, clock: StillClock) -> None:
        """What is on its way to one, and what one did not serve; it is named with its port."""
        one, other = (Guards(seller=HERE, origin=f"http://a.example:{port}") for port in (8402, 9000))
        for name in "ab":
            self._unserved(purse, clock, name, origin=one.origin)
        with pytest.raises(SellerShunned, match=r"2 calls to a\.example:8402 were paid, 42 sat"):
            purse.hold(replace(purchase(clock, "c", labels=[HERE]), origin=one.origin), (), one)
        for name in "cd":
            purse.hold(replace(purchase(clock, name, labels=[HERE]), origin=other.origin), (), other)
        with pytest.raises(TooManyInFlight, match=r"to a\.example:9000"):
            purse.hold(replace(purchase(clock, "e", labels=[HERE]), origin=other.origin), (), other)
        third = Guards(seller=HERE, origin="https://a.example:8402")
        assert purse.hold(replace(purchase(clock, "e", labels=[HERE]), origin=third.origin), (), third) is None

    # --- weighing -----------------------------------------------------------------------------------------------------

    def test_weighing_writes_nothing(self, purse: Purse, clock: StillClock) -> None:
        """No purchase, no price, no payee; and what may be held may be weighed any number of times."""
        for _ in range(3):
            purse.weigh(purchase(clock, sats=500, labels=[HERE]), [DAILY], OF_HERE)
        assert ([], NOTHING) == (purse.history(9), purse.spent(DAILY))
        seen = purse.seen(purchase(clock).origin, purchase(clock).resource)
        assert (None, None, None) == (seen.price, seen.since, seen.payee)
        assert purse.hold(purchase(clock, sats=500, labels=[HERE]), [DAILY], OF_HERE) is None

    def test_weighing_says_what_holding_says(self) -> None:
        """Whatever was bought before; and it leaves everything as it was."""
        labels = st.sampled_from([HERE, THERE])
        past = st.tuples(st.sampled_from(["held", "paid", "unserved", "served", "parked", "denied"]), labels)

        @given(
            st.lists(past, max_size=6), labels, st.integers(1, 60), st.sampled_from([None, 20, 40]), st.integers(0, 7)
        )
        @settings(deadline=None, max_examples=30)
        def check(before: list[tuple[str, str]], label: str, sats: int, above: int | None, name: int) -> None:
            clock = StillClock()
            purse = self.open_purse(clock)
            limits = Budget.read("150 sat/day, 55 sat/call, 60 sat/hour per host").among([label])
            guards = Guards(seller=label, approval_above=None if above is None else Amount.sats(above))
            for number, (what, where) in enumerate(before):
                self._past(purse, purchase(clock, f"{number}", labels=[where]), what)
            asked = purchase(clock, f"{name}", sats, labels=[label])
            stands = self._all(purse)
            weighed = _said(lambda: purse.weigh(asked, limits, guards))
            assert stands == self._all(purse)
            assert weighed == _said(lambda: purse.hold(asked, limits, guards))
            purse.close()

        check()

    def _unserved(
        self, purse: Purse, clock: StillClock, name: str, *labels: str, origin: str = "https://shop.example:443"
    ) -> None:
        buy(purse, replace(purchase(clock, name, labels=labels or [HERE]), origin=origin))
        purse.mark_undelivered(purchase(clock, name).payment_hash)

    def _past(self, purse: Purse, bought: Purchase, what: str) -> None:
        if what in ("parked", "denied"):
            with pytest.raises(NothingPaid):
                purse.hold(replace(bought, amount=Amount.sats(60)), (), Guards(approval_above=NOTHING))
            if what == "denied" and (pending := purse.approvals(pending=True)):
                purse.decide(pending[0].number, approved=False)
            return
        purse.hold(bought, ())
        if what == "held":
            return
        purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=NOTHING)
        if what == "unserved":
            purse.mark_undelivered(bought.payment_hash)
        if what == "served":
            purse.mark_served(bought.payment_hash)

    def _all(self, purse: Purse) -> Sequence[object]:
        at = purchase(StillClock())
        return [purse.history(99), purse.approvals(pending=False), purse.seen(at.origin, at.resource)]


def _said(asked: Callable[[], object]) -> type[NothingPaid] | str | None:
    """What kind of refusal, if it is one; which window it was and whether a person has said no is part of that."""
    try:
        asked()
    except OverBudget as error:
        return str(error)
    except NothingPaid as error:
        return type(error)
    return None
