"""The free tier: so many calls for one caller in a window that moves with time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from farebox.core.payment import FreeCall
from farebox.stores.ledger import SQL, SqlLedger
from farebox.testing.ledger_stage import CLIENT, DAY, LedgerStage, run_sql, told
from farebox.testing.market import StillClock


async def ask(ledger: SqlLedger, limit: int = 1, client: str = CLIENT) -> FreeCall:
    """Ask for a free call."""
    return await ledger.take_free_call(client, limit=limit, window=DAY)


class LedgerFreeCalls(LedgerStage):
    """Granting and refusing free calls."""

    @told
    async def test_the_first_call_is_free_and_the_next_is_not(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Both say what is left and when the next is free."""
        resets_at = clock() + DAY
        assert FreeCall(granted=True, limit=1, remaining=0, resets_at=resets_at) == await ask(ledger)
        clock.pass_by(timedelta(hours=1))
        assert FreeCall(granted=False, limit=1, remaining=0, resets_at=resets_at) == await ask(ledger)

    @told
    async def test_a_call_is_free_again_when_its_window_has_passed(self, ledger: SqlLedger, clock: StillClock) -> None:
        """To the millisecond."""
        await ask(ledger)
        clock.pass_by(DAY - timedelta(milliseconds=1))
        assert not (await ask(ledger)).granted
        clock.pass_by(timedelta(milliseconds=1))
        assert (await ask(ledger)).granted

    @told
    async def test_the_window_rolls(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Each of three calls becomes free a day after it was taken, not all at once."""
        began = clock()
        for remaining in (2, 1, 0):
            granted = await ask(ledger, 3)
            assert (True, remaining, began + DAY) == (granted.granted, granted.remaining, granted.resets_at)
            clock.pass_by(timedelta(hours=6))
        assert not (await ask(ledger, 3)).granted
        clock.pass_by(timedelta(hours=6))
        again = await ask(ledger, 3)
        assert (True, 0, began + DAY + timedelta(hours=6)) == (again.granted, again.remaining, again.resets_at)
        assert not (await ask(ledger, 3)).granted

    @told
    async def test_each_caller_has_free_calls_of_its_own(self, ledger: SqlLedger) -> None:
        """One caller's do not use up another's."""
        assert (await ask(ledger)).granted
        assert (await ask(ledger, client="192.0.2.8/32")).granted

    @told
    async def test_a_limit_of_nothing_grants_nothing(self, ledger: SqlLedger, clock: StillClock) -> None:
        """A seller may have no free tier."""
        expected = FreeCall(granted=False, limit=0, remaining=0, resets_at=clock() + DAY)
        assert expected == await ask(ledger, 0)
        assert 0 == await self.count(ledger, "free_calls")

    @told
    async def test_a_lowered_limit_counts_what_was_taken_before(self, ledger: SqlLedger, clock: StillClock) -> None:
        """The next is free when enough of the earlier ones are a day old."""
        for _ in range(3):
            await ask(ledger, 3)
            clock.pass_by(timedelta(hours=1))
        refused = await ask(ledger, 2)
        assert (False, 0, clock() + DAY - timedelta(hours=2)) == (refused.granted, refused.remaining, refused.resets_at)

    @told
    async def test_sixty_four_first_calls_at_once_get_one(self, ledger: SqlLedger) -> None:
        """Exactly one is free."""
        calls = await asyncio.gather(*(ask(ledger) for _ in range(64)))
        assert 1 == sum(call.granted for call in calls)

    @told
    async def test_sixty_four_calls_at_once_get_as_many_as_the_limit(self, ledger: SqlLedger) -> None:
        """Exactly five are free, and they count down."""
        calls = await asyncio.gather(*(ask(ledger, 5) for _ in range(64)))
        assert [4, 3, 2, 1, 0] == sorted((call.remaining for call in calls if call.granted), reverse=True)

    @told
    async def test_of_two_that_saw_the_same_slot_free_one_takes_it(self, ledger: SqlLedger) -> None:
        """The statement itself decides, not what was read before it."""
        asked = {"bucket": bytes(32), "slot": 0, "now_ms": 1000, "frees_at_ms": 2000}
        outcomes = [await run_sql(ledger, SQL["take_slot"], asked) for _ in range(2)]
        later = {**asked, "now_ms": 2000, "frees_at_ms": 3000}
        outcomes.append(await run_sql(ledger, SQL["take_slot"], later))
        assert [[(0,)], [], [(0,)]] == outcomes

    @told
    async def test_what_is_remembered_of_a_caller_is_not_its_address(self, ledger: SqlLedger) -> None:
        """A keyed hash, which nobody can try addresses against without the file's own key."""
        await ask(ledger)
        rows = await run_sql(ledger, "SELECT bucket FROM free_calls")
        assert [32] == [len(bucket) for (bucket,) in rows]
        assert CLIENT.encode() not in rows[0][0]

    @told
    async def test_old_free_calls_are_forgotten(self, ledger: SqlLedger, clock: StillClock) -> None:
        """A thousand callers of yesterday leave nothing behind once somebody calls today."""
        for number in range(9):
            await ask(ledger, client=f"192.0.2.{number}/32")
        clock.pass_by(DAY)
        await ask(ledger)
        assert 1 == await self.count(ledger, "free_calls")
