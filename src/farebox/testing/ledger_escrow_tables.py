"""The table of escrows: moves that are not in core.escrow, and rows that can not be, are refused by the database."""

from __future__ import annotations

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.core.escrow import ESCROW_MOVES, EscrowState
from farebox.core.payment import Payment
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import LedgerStage, run_sql, told


class LedgerEscrowTables(LedgerStage):
    """Moves and rows of an escrow."""

    @pytest.mark.parametrize(
        "row_",
        [
            "'elsewhere', NULL, NULL, NULL",
            "'ready', NULL, NULL, NULL",
            "'waiting', 200, '[]', payment_hash",
            "'ready', 200, NULL, payment_hash",
            "'ready', 200, '[]', NULL",
        ],
    )
    @told
    async def test_the_database_itself_refuses_an_escrow_that_can_not_be(
        self, ledger: SqlLedger, payment: Payment, row_: str
    ) -> None:
        """Each breaks one of its checks."""
        with pytest.raises(StoreUnavailable):
            await run_sql(
                ledger,
                "INSERT INTO escrows (payment_id, seed, lease_until_ms, state, status, headers_json, body) "
                f"SELECT payment_id, payment_hash, 0, {row_} FROM payments",
            )

    @told
    async def test_the_table_of_moves_refuses_what_is_not_in_it(self, ledger: SqlLedger, payment: Payment) -> None:
        """Whoever writes the statement."""
        edges = {(before, after) for (before, _), after in ESCROW_MOVES.items()}
        kept = [state for state in EscrowState if state is not EscrowState.ENDED]
        for before in kept:
            for after in (state for state in kept if state is not before):
                await self._put(ledger, before)
                moved = await self.allows(ledger, _move_to(after), {})
                assert moved == ((before, after) in edges), (before, after)

    async def _put(self, ledger: SqlLedger, state: EscrowState) -> None:
        """Have the escrow in a state, as if it had come there."""
        await run_sql(ledger, "DELETE FROM escrows")
        answer = "200, '[]', payment_hash" if state is EscrowState.READY else "NULL, NULL, NULL"
        await run_sql(
            ledger,
            "INSERT INTO escrows (payment_id, state, seed, lease_until_ms, status, headers_json, body) "
            f"SELECT payment_id, '{state.value}', payment_hash, 0, {answer} "
            "FROM payments",
        )


def _move_to(state: EscrowState) -> str:
    answer = "200" if state is EscrowState.READY else "NULL"
    text = "'[]'" if state is EscrowState.READY else "NULL"
    body = "seed" if state is EscrowState.READY else "NULL"
    return f"UPDATE escrows SET state = '{state.value}', status = {answer}, headers_json = {text}, body = {body}"
