"""What callers who have not paid may leave in a ledger: so many unpaid invoices, and so many free calls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from farebox.core.client_prefix import LOCAL, prefix_of
from farebox.core.payment import FreeCall, FreeScope, Payment
from farebox.stores.ledger import SQL, SqlLedger
from farebox.testing.ledger_stage import ANSWER, CLIENT, DAY, TTL, LedgerStage, invoice, must_hold, run_sql, told
from farebox.testing.market import StillClock

SUBNET: Final = "2001:db8:1"


def owed_by(clock: StillClock, client: str, name: str) -> Payment:
    """An invoice for a client."""
    return replace(invoice(clock, name), client=client)


def six(number: int) -> str:
    """The /64 of this number, all of one /48."""
    return f"{SUBNET}:{number:x}::/64"


async def ask(
    ledger: SqlLedger, client: str, limit: int = 1, *, of_subnet: int | None = None, of_all: int | None = None
) -> FreeCall:
    """Ask for a free call."""
    return await ledger.take_free_call(client, limit=limit, window=DAY, subnet_limit=of_subnet, ceiling=of_all)


class LedgerAdmission(LedgerStage):
    """Counting unpaid invoices, and the free calls of a day."""

    # --- unpaid invoices ----------------------------------------------------------------------------------------------

    @told
    async def test_a_client_owes_so_many_invoices_and_no_more(self, ledger: SqlLedger, clock: StillClock) -> None:
        """However many are opened at once; other clients are not affected."""
        opened = await asyncio.gather(
            *(ledger.open_payment(owed_by(clock, CLIENT, f"{n}"), most_unpaid=5) for n in range(64))
        )
        assert [True] * 5 == [each for each in opened if each]
        assert await ledger.open_payment(owed_by(clock, "192.0.2.8/32", "another's"), most_unpaid=5)
        assert ((5, 0), 6) == (await ledger.count_unpaid_of(CLIENT), await ledger.count_unpaid())

    @told
    async def test_a_refused_invoice_leaves_nothing(self, ledger: SqlLedger, clock: StillClock) -> None:
        """It has no row."""
        refused = owed_by(clock, CLIENT, "refused")
        assert not await ledger.open_payment(refused, most_unpaid=0)
        assert await ledger.find_payment(refused.payment_hash) is None

    @told
    async def test_an_invoice_that_is_said_again_is_not_refused_for_itself(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Whoever could not be told whether it was kept asks again."""
        payment = owed_by(clock, six(1), "one")
        for _ in range(2):
            assert await ledger.open_payment(payment, most_unpaid=1, most_unpaid_of_subnet=1)
        assert 1 == await ledger.count_unpaid()

    @told
    async def test_what_is_paid_or_has_run_out_is_not_owed(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Each makes room for another one."""
        first, second = owed_by(clock, CLIENT, "first"), owed_by(clock, CLIENT, "second")
        await ledger.open_payment(first)
        await ledger.open_payment(second)
        assert not await ledger.open_payment(owed_by(clock, CLIENT, "third"), most_unpaid=2)
        await ledger.capture(await must_hold(ledger, first), ANSWER)
        assert await ledger.open_payment(owed_by(clock, CLIENT, "third"), most_unpaid=2)
        clock.pass_by(TTL)
        assert ((0, 0), 2) == (await ledger.count_unpaid_of(CLIENT), await ledger.count_unpaid())
        await ledger.expire_payments(grace=timedelta(milliseconds=-1))
        assert 0 == await ledger.count_unpaid()

    @told
    async def test_the_network_around_a_client_owes_so_many_together(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Every /64 of a /48 counts; the next /48 does not, nor does IPv4."""
        opened = [
            await ledger.open_payment(owed_by(clock, six(n), f"{n}"), most_unpaid=20, most_unpaid_of_subnet=8)
            for n in range(12)
        ]
        assert [True] * 8 + [False] * 4 == opened
        assert (1, 8) == await ledger.count_unpaid_of(six(0))
        for client in ("2001:db8:2::/64", CLIENT, LOCAL):
            assert await ledger.open_payment(owed_by(clock, client, client), most_unpaid_of_subnet=1)
            assert (1, int(client.startswith("2001"))) == await ledger.count_unpaid_of(client)

    # --- free calls ---------------------------------------------------------------------------------------------------

    @told
    async def test_a_thousand_addresses_of_one_64_are_one_client(self, ledger: SqlLedger) -> None:
        """One free call, and as many as there are of its kind of IPv4 when it is mapped."""
        calls = [await ask(ledger, prefix_of(f"{SUBNET}:7::{n:x}"), of_subnet=4) for n in range(1000)]
        assert 1 == sum(call.granted for call in calls)
        mapped = [await ask(ledger, prefix_of(address)) for address in ("192.0.2.7", "::ffff:192.0.2.7")]
        assert [True, False] == [call.granted for call in mapped]

    @told
    async def test_a_thousand_clients_of_one_48_have_four_free_calls(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Asked at once or one after the other; the next /48 has its own, and so has the next day."""
        calls = await asyncio.gather(*(ask(ledger, six(n), of_subnet=4) for n in range(1000)))
        assert 4 == sum(call.granted for call in calls)
        assert FreeScope.SUBNET is calls[-1].scope
        assert (await ask(ledger, "2001:db8:2::/64", of_subnet=4)).granted
        clock.pass_by(calls[-1].resets_at - clock())
        again = [(await ask(ledger, six(n), of_subnet=4)).granted for n in range(2000, 2010)]
        assert [True] * 4 + [False] * 6 == again

    @pytest.mark.parametrize("clients", [300, pytest.param(100_000, marks=pytest.mark.full)])
    @told
    async def test_everyone_together_has_so_many_free_calls_a_day(
        self, ledger: SqlLedger, clock: StillClock, clients: int
    ) -> None:
        """Never more, of however many addresses; and as many again on the next day."""
        most = clients // 3
        asked = [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32" for n in range(clients)]
        granted, last = 0, None
        for begin in range(0, clients, 1000):
            calls = await asyncio.gather(*(ask(ledger, client, of_all=most) for client in asked[begin : begin + 1000]))
            granted, last = granted + sum(call.granted for call in calls), calls[-1]
        assert last is not None
        assert (most, FreeScope.EVERYONE, 0) == (granted, last.scope, last.remaining)
        clock.pass_by(last.resets_at - clock())
        assert (await ask(ledger, "192.0.2.1/32", of_all=most)).granted

    @told
    async def test_of_two_that_saw_one_call_left_today_one_is_counted(self, ledger: SqlLedger) -> None:
        """The statement itself decides, not what was read before it."""
        asked = {"bucket": bytes(32), "day": 1, "most": 2}
        outcomes = [await run_sql(ledger, SQL["count_free_call"], asked) for _ in range(3)]
        await run_sql(ledger, SQL["uncount_free_call"], asked)
        outcomes += [await run_sql(ledger, SQL["count_free_call"], asked) for _ in range(2)]
        assert [[(1,)], [(2,)], [], [(2,)], []] == outcomes

    @told
    async def test_a_call_that_its_network_refuses_does_not_count_for_everyone(self, ledger: SqlLedger) -> None:
        """Nothing of a refused call is counted anywhere."""
        for n in range(10):
            await ask(ledger, six(n), of_subnet=2, of_all=5)
        granted = [(await ask(ledger, f"192.0.2.{n}/32", of_subnet=2, of_all=5)).granted for n in range(5)]
        assert [True] * 3 + [False] * 2 == granted

    @told
    async def test_a_client_that_has_had_its_calls_uses_up_nobody_elses(self, ledger: SqlLedger) -> None:
        """Only a granted call is counted."""
        granted = [(await ask(ledger, six(1), of_subnet=2, of_all=2)).granted for _ in range(5)]
        assert [True] + [False] * 4 == granted
        assert (await ask(ledger, six(2), of_subnet=2, of_all=2)).granted

    @told
    async def test_a_refused_free_call_says_whose_have_run_out_and_until_when(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """A client's own come back a day after they were taken, everyone's at midnight (UTC)."""
        midnight = (clock() + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        assert (await ask(ledger, CLIENT, of_all=1)).granted
        own, others = await ask(ledger, CLIENT, of_all=1), await ask(ledger, six(1), of_all=1)
        assert (FreeScope.CLIENT, clock() + DAY) == (own.scope, own.resets_at)
        assert (FreeScope.EVERYONE, midnight) == (others.scope, others.resets_at)

    @told
    async def test_the_days_that_are_over_are_forgotten(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Only today's counts are kept."""
        for n in range(5):
            await ask(ledger, f"2001:db8:{n:x}::/64", of_subnet=4, of_all=100)
        assert 6 == await self.count(ledger, "free_totals")
        clock.pass_by(DAY)
        await ask(ledger, "2001:db8:ffff::/64", of_subnet=4, of_all=100)
        assert 2 == await self.count(ledger, "free_totals")
