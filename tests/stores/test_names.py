"""What ended in doubt is found again by whoever asked for it, and by nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Hold, Payment
from farebox.stores import open_ledger
from farebox.stores.engine import Engine
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import DIGEST, OTHER_DIGEST, hold, invoice
from farebox.testing.market import StillClock


class LosesReplies:
    """An engine that does what it is asked and can't say so."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def write(self, work: Any, **about: Any) -> Any:
        await self.engine.write(work, **about)
        raise StoreUnavailable("the reply was lost")


@pytest.mark.parametrize("proven", [True, False], ids=["proven", "by its hash"])
def test_a_claim_in_doubt_is_given_to_its_own_request_and_to_no_other_that_shows_the_same_proof(proven: bool) -> None:
    async def story() -> tuple[Hold | Payment | None, Hold | Payment | None]:
        clock = StillClock()
        ledger: SqlLedger = open_ledger("sqlite::memory:", clock)
        payment = invoice(clock)
        await ledger.open_payment(payment)
        await ledger.settle(payment.payment_hash, payment.price)
        sound, ledger.engine = ledger.engine, LosesReplies(ledger.engine)  # type: ignore[assignment]  # it only writes
        with pytest.raises(StoreUnavailable):
            await hold(ledger, payment, proven=proven)
        ledger.engine = sound
        outcomes = [await hold(ledger, payment, digest=digest, proven=proven) for digest in (OTHER_DIGEST, DIGEST)]
        await ledger.close()
        return outcomes[0], outcomes[1]

    others, own = asyncio.run(story())
    assert isinstance(others, Payment)
    assert isinstance(own, Hold)
    assert DIGEST == own.digest
