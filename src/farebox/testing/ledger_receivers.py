"""Receivers: a payment remembers which node made its invoice, and each node is asked about its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from farebox.core.payment import Payment
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import (
    ANSWER,
    CLIENT,
    DIGEST,
    MOST,
    NO_GRACE,
    PRICE,
    TTL,
    LedgerStage,
    hold,
    invoice,
    must_hold,
    row,
    run_sql,
    told,
)
from farebox.testing.market import StillClock

ODD = """a "node" at [::1], it's 1/2 \\ ₿"""
OTHER = "another node"


async def opened(ledger: SqlLedger, clock: StillClock, name: str, receiver: str) -> Payment:
    """An invoice of this node."""
    payment = replace(invoice(clock, name), receiver=receiver)
    assert await ledger.open_payment(payment)
    return payment


class LedgerReceivers(LedgerStage):
    """Payments of several nodes in one ledger."""

    @told
    async def test_a_payment_remembers_the_node_that_made_its_invoice_whatever_happens_to_it(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """However the row is asked for, unpaid, paid, held and used up."""
        payment = await opened(ledger, clock, "a payment of a node", ODD)
        assert payment == await row(ledger, payment)
        assert payment == await ledger.reusable_payment(client=CLIENT, digest=DIGEST, price=PRICE)
        assert [payment] == list(await ledger.recent_payments(10))
        assert [payment] == list(await ledger.due_payments(until=payment.expires_at, after=None, most=10))
        assert await ledger.settle(payment.payment_hash, PRICE)
        held = await must_hold(ledger, payment)
        busy = await hold(ledger, payment)
        assert isinstance(busy, Payment)
        assert ODD == busy.receiver
        assert ODD == (await ledger.release(held, most_attempts=MOST)).receiver
        assert await ledger.capture(await must_hold(ledger, payment), ANSWER)
        assert ODD == (await row(ledger, payment)).receiver

    @told
    async def test_a_payment_that_is_made_again_remembers_the_node_that_knew_of_it(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """What a restored backup has lost."""
        lost = replace(invoice(clock, "lost by a backup"), receiver=ODD)
        assert await ledger.restore_payment(lost, PRICE)
        assert ODD == (await row(ledger, lost)).receiver

    @told
    async def test_a_payment_of_an_older_farebox_remembers_no_node(
        self, ledger: SqlLedger, clock: StillClock, payment: Payment
    ) -> None:
        """Written by one that does not know the column, beside this one."""
        await run_sql(
            ledger,
            "INSERT INTO payments (payment_hash, state, price_msat, digest, resource, client, invoice, created_at_ms,"
            " expires_at_ms) SELECT digest, state, price_msat, digest, resource, client, 'another', created_at_ms,"
            " expires_at_ms FROM payments",
        )
        found = await ledger.find_payment(DIGEST)
        assert found is not None
        assert "" == found.receiver

    @pytest.mark.parametrize(
        ("others", "expected"),
        [((), "abcd"), ((OTHER,), "acd"), ((ODD,), "bcd"), ((ODD, OTHER), "cd"), (("nobody's",), "abcd")],
        ids=str,
    )
    @told
    async def test_unpaid_invoices_are_found_but_for_those_of_other_nodes(
        self, ledger: SqlLedger, clock: StillClock, others: tuple[str, ...], expected: str
    ) -> None:
        """Those that no node is known for are everyone's; each in its order, and from behind the last one."""
        payments = {}
        for name, receiver in zip("abcd", (ODD, OTHER, "", "a node that is gone"), strict=True):
            payments[name] = await opened(ledger, clock, name, receiver)
            clock.pass_by(timedelta(seconds=1))
        until, after, found = clock() + TTL, None, list[Payment]()
        while due := await ledger.due_payments(until=until, after=after, most=2, others=others):
            found += due
            after = found[-1]
        assert [payments[name] for name in expected] == found
        assert payments[expected[0]].created_at == await ledger.oldest_unsettled(others=others)

    @told
    async def test_the_oldest_unpaid_invoice_of_a_node_is_not_one_of_another_expired_or_not(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """From where a node that was never asked is read."""
        await opened(ledger, clock, "an older one", OTHER)
        clock.pass_by(TTL)
        own = await opened(ledger, clock, "its own", ODD)
        clock.pass_by(TTL * 2)
        await ledger.expire_payments(grace=NO_GRACE)
        assert own.created_at == await ledger.oldest_unsettled(others=(OTHER,))
        assert await ledger.oldest_unsettled(others=(OTHER, ODD)) is None
