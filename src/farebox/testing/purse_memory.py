"""What a purse remembers beside its budget: prices, payees, proofs that serve again, sub-purses and its history."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import pytest

from farebox.core.allowance import priced_as
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import ConfigError, MalformedBudget, MalformedValue, OverBudget
from farebox.core.ports import Purchase, Purse
from farebox.core.secret import Secret
from farebox.stores.parked import MOST_PRICES
from farebox.testing.market import StillClock
from farebox.testing.purse_stage import DAY, PAYEE, PurseStage, at_once, buy, purchase

ORIGIN: Final = "https://shop.example:443"
RESOURCE: Final = "GET /api/dvm"
OTHER_PAYEE: Final = b"\3" + bytes(32)
KEY: Final = Secret(bytes(range(32)))
OTHER_KEY: Final = Secret(bytes(32))
LIMITS: Final = (Window.read("100 sat/day"), Window.read("9 sat/call"))
SECOND: Final = timedelta(seconds=1)
MOMENT: Final = timedelta(milliseconds=1)


class PurseMemory(PurseStage):
    """What is told again as it was said."""

    # --- prices and payees --------------------------------------------------------------------------------------------

    def test_what_was_never_seen_is_not_made_up(self, purse: Purse) -> None:
        """No price, no time, no payee."""
        seen = purse.seen(ORIGIN, RESOURCE)
        assert (None, None, None) == (seen.price, seen.since, seen.payee)

    def test_what_is_held_leaves_its_price_and_its_payee(self, purse: Purse, clock: StillClock) -> None:
        """And what is refused leaves none."""
        with pytest.raises(OverBudget):
            purse.hold(purchase(clock), [Window.read("1 sat/day")])
        assert purse.seen(ORIGIN, RESOURCE).price is None
        purse.hold(purchase(clock), ())
        seen = purse.seen(ORIGIN, RESOURCE)
        assert (Amount.sats(21), clock(), PAYEE) == (seen.price, seen.since, seen.payee)

    def test_the_last_price_and_the_first_payee_are_told(self, purse: Purse, clock: StillClock) -> None:
        """A price of each resource, a payee of each origin."""
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(5), PAYEE)
        clock.pass_by(SECOND)
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(7), OTHER_PAYEE)
        noted = clock()
        clock.pass_by(SECOND)
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(7), OTHER_PAYEE)
        for origin, resource, sats in ((ORIGIN, "GET /other", 9), ("https://other.example:443", RESOURCE, 8)):
            clock.pass_by(SECOND)
            purse.note_price(origin, resource, Amount.sats(sats), OTHER_PAYEE)
        seen = purse.seen(ORIGIN, RESOURCE)
        assert (Amount.sats(7), noted, PAYEE) == (seen.price, seen.since, seen.payee)
        assert noted + SECOND * 2 == purse.seen(ORIGIN, "GET /other").since
        assert noted + SECOND * 3 == purse.seen("https://other.example:443", RESOURCE).since
        assert Amount.sats(9) == purse.seen(ORIGIN, "GET /other").price
        other = purse.seen("https://other.example:443", RESOURCE)
        assert (Amount.sats(8), OTHER_PAYEE) == (other.price, other.payee)
        assert purse.seen("https://other.example:443", "GET /other").price is None

    def test_of_ever_new_paths_only_the_newest_prices_are_remembered(self, purse: Purse, clock: StillClock) -> None:
        """So many of an origin; another price of one that is known takes the place of none, and the payee stays."""
        other = "https://other.example:443"
        purse.note_price(other, RESOURCE, Amount.sats(1), PAYEE)
        paths = [f"GET /{number}" for number in range(MOST_PRICES + 3)]
        for path in paths:
            clock.pass_by(SECOND)
            purse.note_price(ORIGIN, path, Amount.sats(2), OTHER_PAYEE)
        purse.note_price(ORIGIN, paths[-1], Amount.sats(3), PAYEE)
        assert [None] * 3 == [purse.seen(ORIGIN, path).price for path in paths[:3]]
        assert [Amount.sats(2)] * (MOST_PRICES - 1) == [purse.seen(ORIGIN, path).price for path in paths[3:-1]]
        assert Amount.sats(3) == purse.seen(ORIGIN, paths[-1]).price
        assert OTHER_PAYEE == purse.seen(ORIGIN, paths[0]).payee
        assert Amount.sats(1) == purse.seen(other, RESOURCE).price

    def test_who_asks_about_ever_new_paths_has_nothing_forgotten_that_another_sub_purse_remembers(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Nor what is remembered for none, whatever the paths are called."""
        accounts: list[list[str]] = [[], ["purse:a"], ["purse:ab"]]
        for account in accounts:
            purse.note_price(ORIGIN, priced_as(RESOURCE, account), Amount.sats(1), PAYEE)
        for number in range(MOST_PRICES):
            clock.pass_by(SECOND)
            path = f"GET /{number}" + ("", " purse:a", " purse:ab", " purse:")[number % 4]
            purse.note_price(ORIGIN, priced_as(path, ["purse:a"]), Amount.sats(2), PAYEE)
        told = [purse.seen(ORIGIN, priced_as(RESOURCE, account)).price for account in accounts]
        assert [Amount.sats(1), None, Amount.sats(1)] == told

    def test_a_payee_that_is_not_known_pins_nobody(self, purse: Purse) -> None:
        """The first one that is known does."""
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(5), b"")
        assert purse.seen(ORIGIN, RESOURCE).payee is None
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(5), PAYEE)
        assert PAYEE == purse.seen(ORIGIN, RESOURCE).payee

    def test_a_payee_is_changed_by_a_word_and_at_one_origin(self, purse: Purse) -> None:
        """Also where none was known; and the new one stays."""
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(5), PAYEE)
        purse.note_price("https://other.example:443", RESOURCE, Amount.sats(5), PAYEE)
        purse.change_payee(ORIGIN, OTHER_PAYEE)
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(5), PAYEE)
        assert OTHER_PAYEE == purse.seen(ORIGIN, RESOURCE).payee
        assert PAYEE == purse.seen("https://other.example:443", RESOURCE).payee
        purse.change_payee("https://new.example:443", PAYEE)
        assert PAYEE == purse.seen("https://new.example:443", RESOURCE).payee

    def test_of_sixteen_first_payees_at_once_one_is_the_first(self, purse: Purse) -> None:
        """And stays so."""
        at_once(
            16,
            lambda number: purse.note_price(ORIGIN, RESOURCE, Amount.sats(1), bytes([2]) + bytes(31) + bytes([number])),
        )
        first = purse.seen(ORIGIN, RESOURCE).payee
        purse.note_price(ORIGIN, RESOURCE, Amount.sats(1), PAYEE)
        assert first == purse.seen(ORIGIN, RESOURCE).payee

    # --- proofs -------------------------------------------------------------------------------------------------------

    def test_a_proof_serves_again_while_it_is_good(self, purse: Purse, clock: StillClock) -> None:
        """Where it was bought, once it was served, to the millisecond."""
        bought = self._lasting(purchase(clock), clock() + DAY)
        buy(purse, bought)
        assert [] == purse.reusable(ORIGIN, RESOURCE)  # its own call is owed
        purse.mark_served(bought.payment_hash)
        assert [bought.payment_hash] == [one.payment_hash for one in purse.reusable(ORIGIN, RESOURCE)]
        assert [clock() + DAY] == [one.reusable_until for one in purse.reusable(ORIGIN, RESOURCE)]
        assert [] == [*purse.reusable(ORIGIN, "GET /other"), *purse.reusable("https://other.example:443", RESOURCE)]
        clock.pass_by(DAY - MOMENT)
        assert 1 == len(purse.reusable(ORIGIN, RESOURCE))
        clock.pass_by(MOMENT)
        assert [] == purse.reusable(ORIGIN, RESOURCE)

    def test_a_proof_of_one_call_serves_no_other(self, purse: Purse, clock: StillClock) -> None:
        """It says so itself."""
        buy(purse, purchase(clock))
        purse.mark_served(purchase(clock).payment_hash)
        assert [] == purse.reusable(ORIGIN, RESOURCE)

    def test_a_payment_that_failed_is_no_proof(self, purse: Purse, clock: StillClock) -> None:
        """Nor is one that is on its way."""
        held, failed = (self._lasting(purchase(clock, name), clock() + DAY) for name in ("held", "failed"))
        for one in (held, failed):
            purse.hold(one, ())
        purse.release(failed.payment_hash, reason="no route")
        assert [] == purse.reusable(ORIGIN, RESOURCE)

    def test_the_newest_three_proofs_are_told(self, purse: Purse, clock: StillClock) -> None:
        """The newest first; what is forgotten is not told again."""
        for name in "abcd":
            buy(purse, self._lasting(purchase(clock, name), clock() + DAY))
            purse.mark_served(purchase(clock, name).payment_hash)
            clock.pass_by(SECOND)
        a, b, c, d = (purchase(clock, name).payment_hash for name in "abcd")
        assert [d, c, b] == [one.payment_hash for one in purse.reusable(ORIGIN, RESOURCE)]
        for _ in range(2):
            purse.forget_proof(c)
        assert [d, b, a] == [one.payment_hash for one in purse.reusable(ORIGIN, RESOURCE)]

    # --- sub-purses ---------------------------------------------------------------------------------------------------

    def test_a_sub_purse_is_there_with_its_limits_and_its_key(self, purse: Purse, clock: StillClock) -> None:
        """Those that are added are listed by name."""
        made = purse.add_purse("writer", LIMITS, KEY)
        purse.add_purse("researcher", LIMITS[:1], OTHER_KEY)
        assert ("writer", LIMITS, KEY.reveal(), clock(), None) == (
            made.name, made.limits, made.key.reveal(), made.made_at, made.revoked_at
        )  # fmt: skip
        assert ["researcher", "writer"] == [one.name for one in purse.purses()]
        assert made == purse.purses()[1]

    def test_a_sub_purse_that_is_added_again_has_other_limits_and_its_own_key(
        self, purse: Purse, clock: StillClock
    ) -> None:
        """Its tokens go on."""
        purse.add_purse("writer", LIMITS, KEY)
        purse.add_purse("other", LIMITS, OTHER_KEY)
        clock.pass_by(DAY)
        again = purse.add_purse("writer", LIMITS[:1], OTHER_KEY)
        assert (LIMITS[:1], KEY.reveal(), clock() - DAY) == (again.limits, again.key.reveal(), again.made_at)
        assert [LIMITS, LIMITS[:1]] == [one.limits for one in purse.purses()]

    def test_a_sub_purse_that_was_revoked_stays_so(self, purse: Purse, clock: StillClock) -> None:
        """Since the first time it was said; the others go on."""
        for name in ("writer", "other"):
            purse.add_purse(name, LIMITS, KEY)
        revoked = purse.revoke_purse("writer")
        assert clock() == revoked.revoked_at
        clock.pass_by(SECOND)
        assert revoked == purse.revoke_purse("writer")
        with pytest.raises(ConfigError, match="was revoked"):
            purse.add_purse("writer", LIMITS[:1], KEY)
        stand = {one.name: (one.limits, one.revoked_at) for one in purse.purses()}
        assert {"writer": (LIMITS, revoked.revoked_at), "other": (LIMITS, None)} == stand

    def test_a_sub_purse_that_is_not_there_is_not_revoked(self, purse: Purse) -> None:
        """It says how to find their names."""
        with pytest.raises(ConfigError, match="there is no purse writer"):
            purse.revoke_purse("writer")

    @pytest.mark.parametrize("text", ["100 sat/day on a.example", "100 sat/day tagged x", "100 sat/day per host"])
    def test_a_sub_purse_is_limited_as_a_whole(self, purse: Purse, text: str) -> None:
        """And by one limit at least."""
        for limits in ([], [Window.read(text)], [LIMITS[0], Window.read(text)]):
            with pytest.raises(MalformedBudget):
                purse.add_purse("writer", limits, KEY)
        assert [] == purse.purses()

    @pytest.mark.parametrize("name", ["", "Writer", "a b", "a/b", "-a", "a" * 41])
    def test_a_sub_purse_needs_a_name_that_can_be_one(self, purse: Purse, name: str) -> None:
        """Its tokens carry it."""
        with pytest.raises(MalformedValue, match="a purse is named with"):
            purse.add_purse(name, LIMITS, KEY)

    # --- the history --------------------------------------------------------------------------------------------------

    def test_the_history_is_told_by_label_and_since(self, purse: Purse, clock: StillClock) -> None:
        """What was made after an instant, the newest first, so many of them."""
        began = clock()
        for number, label in enumerate(["tag:x", "tag:y", "tag:x", "tag:x"]):
            purse.hold(purchase(clock, f"{number}", labels=[label]), ())
            clock.pass_by(SECOND)
        assert [3, 2, 1, 0] == self._numbers(purse, clock)
        assert [3, 2, 0] == self._numbers(purse, clock, label="tag:x")
        assert [1] == self._numbers(purse, clock, label="tag:y")
        assert [] == self._numbers(purse, clock, label="tag:z")
        assert [3, 2] == self._numbers(purse, clock, since=began + SECOND)
        assert [3, 2, 1] == self._numbers(purse, clock, since=began + SECOND - MOMENT)
        assert [3] == self._numbers(purse, clock, label="tag:x", since=began + SECOND, limit=1)
        assert [] == self._numbers(purse, clock, since=clock())

    def test_labels_a_resource_and_a_payee_are_remembered(self, purse: Purse, clock: StillClock) -> None:
        """As they were."""
        bought = self._lasting(purchase(clock, labels=["host:[::1]", "tag:a-b.c_d", "purse:p/0f"]), clock() + DAY)
        purse.hold(bought, ())
        assert [replace(bought, held_at=clock())] == purse.history(9)

    def test_a_reason_is_kept_as_far_as_it_is_text(self, purse: Purse, clock: StillClock) -> None:
        """Whatever a wallet says, what certainly failed is released."""
        for number, said in enumerate(["no \0 route", "half \ud800 a character", "ü"]):
            purse.hold(purchase(clock, f"{number}"), ())
            purse.release(purchase(clock, f"{number}").payment_hash, reason=said)
            clock.pass_by(SECOND)
        assert ["ü", "half ? a character", "no  route"] == [one.reason for one in purse.history(9)]

    def _lasting(self, bought: Purchase, until: datetime) -> Purchase:
        return replace(bought, reusable_until=until)

    def _numbers(
        self, purse: Purse, clock: StillClock, *, limit: int = 9, label: str = "", since: datetime | None = None
    ) -> list[int]:
        known = {purchase(clock, f"{number}").payment_hash: number for number in range(4)}
        return [known[one.payment_hash] for one in purse.history(limit, label=label, since=since)]
