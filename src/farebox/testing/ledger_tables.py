"""The tables themselves: a row that can not be is refused, whoever writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from farebox.core.amount import NOTHING
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import DRAW_MOVES, DrawState, Payment
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_refunds import owe, refund_of
from farebox.testing.ledger_stage import DIGEST, OTHER_DIGEST, PRICE, LedgerStage, must_hold, run_sql, told

_P: Final = PRICE.msat
_OPEN: Final[Mapping[str, object]] = {
    "payment_hash": OTHER_DIGEST,
    "state": "open",
    "price_msat": _P,
    "digest": DIGEST,
    "resource": "",
    "client": "",
    "invoice": "",
    "created_at_ms": 0,
    "expires_at_ms": 1,
    "settled_at_ms": None,
    "received_msat": 0,
    "held_msat": 0,
    "captured_msat": 0,
    "refunded_msat": 0,
    "attempts": 0,
    "epoch": 0,
    "lease_until_ms": None,
    "receiver": "a node",
}
_FUNDED: Final = {**_OPEN, "state": "funded", "received_msat": _P, "settled_at_ms": 1}
_CREDIT: Final = {**_FUNDED, "state": "credit"}
_REFUNDED: Final = {**_FUNDED, "state": "refunded", "refunded_msat": _P}
_SPENT: Final = {**_FUNDED, "state": "spent", "captured_msat": _P}
_PAYMENTS: Final = (_OPEN, _FUNDED, _CREDIT, _REFUNDED, _SPENT)

# Each breaks one rule, and no other one.
_NO_PAYMENTS: Final = (
    {**_OPEN, "payment_hash": b"short"},
    {**_OPEN, "digest": b"short"},
    {**_FUNDED, "state": "lost"},
    {**_OPEN, "price_msat": 0},
    {**_FUNDED, "held_msat": -1, "lease_until_ms": 1},
    {**_FUNDED, "captured_msat": -1},
    {**_OPEN, "attempts": -1},
    {**_OPEN, "attempts": 1},
    {**_FUNDED, "state": "open"},
    {**_OPEN, "settled_at_ms": 1},
    {**_CREDIT, "received_msat": 1},
    {**_FUNDED, "lease_until_ms": 1},
    {**_CREDIT, "held_msat": _P, "lease_until_ms": 1},
    {**_FUNDED, "captured_msat": 1},
    {**_SPENT, "captured_msat": 0},
    {**_CREDIT, "refunded_msat": -1},
    {**_CREDIT, "refunded_msat": 1},
    {**_CREDIT, "captured_msat": _P + 1},
    {**_REFUNDED, "refunded_msat": _P + 1},
)
_DRAWS: Final = "INSERT INTO draws (payment_id, epoch, amount_msat, state, held_at_ms, ended_at_ms) SELECT payment_id, "
_ENTRIES: Final = (
    "INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms) SELECT payment_id, epoch, "
)
_REFUNDS: Final = (
    "INSERT INTO refunds (payment_id, attempt, refund_hash, invoice, wallet, amount_msat, fee_limit_msat, state,"
    " held_at_ms, ended_at_ms) SELECT payment_id, 1, payment_hash, '', '', 1, 0, "
)
_REFUSED: Final = (
    f"{_DRAWS} 0, 1, 'held', 0, NULL FROM payments",
    f"{_DRAWS} 2, 0, 'held', 0, NULL FROM payments",
    f"{_DRAWS} 2, 1, 'lost', 0, 1 FROM payments",
    f"{_DRAWS} 2, 1, 'held', 0, 1 FROM payments",
    f"{_DRAWS} 2, 1, 'captured', 0, NULL FROM payments",
    f"{_ENTRIES} 'held', 'earned', 0, 0 FROM payments",
    f"{_ENTRIES} 'held', 'received', 1, 0 FROM payments",
    f"{_ENTRIES} 'received', 'earned', 1, 0 FROM payments",
    f"{_REFUNDS} 'lost', 0, 1 FROM payments",
    "INSERT INTO strays (payment_hash, receiver, received_msat, seen_at_ms) VALUES (:short, '', 1, 0)",
    "INSERT INTO strays (payment_hash, receiver, received_msat, seen_at_ms) VALUES (:hash, '', 0, 0)",
    "INSERT INTO free_totals (bucket, day, taken) VALUES (:hash, 1, -1)",
)
_LET_THROUGH: Final = (
    f"{_DRAWS} 2, 1, 'held', 0, NULL FROM payments",
    f"{_ENTRIES} 'held', 'earned', 1, 0 FROM payments",
    f"{_REFUNDS} 'held', 0, NULL FROM payments",
    "INSERT INTO strays (payment_hash, receiver, received_msat, seen_at_ms) VALUES (:hash, '', 1, 0)",
    "INSERT INTO free_totals (bucket, day, taken) VALUES (:hash, 1, 0)",
)


class LedgerTables(LedgerStage):
    """Rows that can be, and those that can't."""

    @pytest.mark.parametrize("written", _NO_PAYMENTS)
    @told
    async def test_the_database_itself_refuses_a_payment_that_can_not_be(
        self, ledger: SqlLedger, written: Mapping[str, object]
    ) -> None:
        """Each breaks one of the invariants of core.payment."""
        with pytest.raises(StoreUnavailable):
            await self._insert(ledger, written)
        assert 0 == await self.count(ledger, "payments")

    @pytest.mark.parametrize("written", _PAYMENTS)
    @told
    async def test_the_database_itself_lets_a_payment_through_that_can_be(
        self, ledger: SqlLedger, written: Mapping[str, object]
    ) -> None:
        """So that what is refused above is refused for what it breaks."""
        await self._insert(ledger, written)
        assert 1 == await self.count(ledger, "payments")
        await run_sql(ledger, "DELETE FROM payments")

    @pytest.mark.parametrize("statement", _REFUSED)
    @told
    async def test_the_database_itself_refuses_what_can_not_be_beside_a_payment(
        self, ledger: SqlLedger, payment: Payment, statement: str
    ) -> None:
        """A draw, an entry, a refund, a stray, or a count."""
        await must_hold(ledger, payment)
        with pytest.raises(StoreUnavailable):
            await run_sql(ledger, statement, {"short": b"short", "hash": DIGEST})

    @pytest.mark.parametrize("statement", _LET_THROUGH)
    @told
    async def test_the_database_itself_lets_through_what_can_be_beside_a_payment(
        self, ledger: SqlLedger, payment: Payment, statement: str
    ) -> None:
        """As above."""
        await must_hold(ledger, payment)
        assert await self.allows(ledger, statement, {"short": b"short", "hash": DIGEST})

    @pytest.mark.parametrize("target", DrawState)
    @pytest.mark.parametrize("state", DrawState)
    @told
    async def test_the_database_itself_refuses_an_edge_of_a_refund(
        self, ledger: SqlLedger, payment: Payment, state: DrawState, target: DrawState
    ) -> None:
        """A refund moves as a draw does."""
        await owe(ledger, payment)
        await ledger.hold_refund(refund := refund_of(payment))
        if state is DrawState.CAPTURED:
            await ledger.capture_refund(refund, fee=NOTHING)
        if state is DrawState.RELEASED:
            await ledger.release_refund(refund, reason="no route")
        edges = {(before, after) for (before, _), after in DRAW_MOVES.items()} | {(state, state)}
        statement = "UPDATE refunds SET state = :state, ended_at_ms = :ended_at_ms"
        parameters = {"state": target.value, "ended_at_ms": None if target is DrawState.HELD else 1}
        assert ((state, target) in edges) is await self.allows(ledger, statement, parameters)

    async def _insert(self, ledger: SqlLedger, written: Mapping[str, object]) -> None:
        columns, values = ", ".join(written), ", ".join(f":{name}" for name in written)
        await run_sql(ledger, f"INSERT INTO payments ({columns}) VALUES ({values})", written)
