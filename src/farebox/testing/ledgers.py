"""The suite that every ledger passes: subclass it, say how an empty one is opened, and run pytest.

    class TestSqlite(LedgerSuite):
        def open_ledger(self, clock: Clock) -> SqlLedger: return open_ledger("sqlite::memory:", clock)

What it proves: every move of core.payment happens when it may and changes nothing when it may not; of any number of
callers at once one wins; the books balance after every test; what was sealed and then tampered with is found; and
whatever is done in whatever order, the ledger agrees
with a model of it that fits on a page (`farebox.testing.ledger_model`).
"""

from __future__ import annotations

from farebox.testing.ledger_admission import LedgerAdmission
from farebox.testing.ledger_answers import LedgerAnswers
from farebox.testing.ledger_books import LedgerBooks
from farebox.testing.ledger_claims import LedgerClaims
from farebox.testing.ledger_escrow_tables import LedgerEscrowTables
from farebox.testing.ledger_escrows import LedgerEscrows
from farebox.testing.ledger_free_calls import LedgerFreeCalls
from farebox.testing.ledger_moves import LedgerMoves
from farebox.testing.ledger_neighbours import LedgerNeighbours
from farebox.testing.ledger_receivers import LedgerReceivers
from farebox.testing.ledger_refunds import LedgerRefunds
from farebox.testing.ledger_seals import LedgerSeals
from farebox.testing.ledger_settlements import LedgerSettlements
from farebox.testing.ledger_tables import LedgerTables
from farebox.testing.ledger_upkeep import LedgerUpkeep


class LedgerSuite(
    LedgerClaims,
    LedgerAnswers,
    LedgerMoves,
    LedgerNeighbours,
    LedgerBooks,
    LedgerFreeCalls,
    LedgerAdmission,
    LedgerSettlements,
    LedgerEscrows,
    LedgerEscrowTables,
    LedgerReceivers,
    LedgerRefunds,
    LedgerUpkeep,
    LedgerSeals,
    LedgerTables,
):
    """Everything that a ledger promises."""
