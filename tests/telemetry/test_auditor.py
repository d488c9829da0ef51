"""Books that do not add up are told loudly, and looked into gently."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import MalformedAmount, StoreUnavailable
from farebox.core.payment import Balance
from farebox.core.ports import Ledger
from farebox.telemetry.auditor import Auditor
from farebox.testing.market import StillClock

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
EVEN = Balance(received=PRICE, earned=PRICE, held=NOTHING, credit=NOTHING, refunded=NOTHING)
ODD = Balance(received=PRICE, earned=NOTHING, held=NOTHING, credit=NOTHING, refunded=NOTHING)


class Books:
    """A ledger that says what it is told to."""

    def __init__(self, balance: Balance | None, *wrong: str, down: bool = False) -> None:
        self.said = balance
        self.wrong = wrong
        self.down = down

    async def balance(self) -> Balance:
        if self.said is None:
            raise MalformedAmount(given="-1")
        return self.said

    async def audit(self) -> Sequence[str]:
        if self.down:
            raise StoreUnavailable("it is gone")
        return self.wrong


class Told(list[tuple[Balance | None, bool]]):
    def __init__(self) -> None:
        super().__init__()
        self.twice = asyncio.Event()

    def __call__(self, balance: Balance | None, *, balanced: bool, at: datetime, took: timedelta) -> None:
        assert took >= timedelta(0)
        self.append((balance, balanced))
        if len(self) == 2:
            self.twice.set()


async def looked(books: Books) -> tuple[Told, list[Any]]:
    told = Told()
    structlog.reset_defaults()
    with capture_logs() as logs:
        await Auditor(cast(Ledger, books), StillClock(), told=(told,)).look()
    return told, list(logs)


async def test_books_that_balance_are_told_to_be_so_and_not_worth_a_line() -> None:
    assert ([(EVEN, True)], []) == await looked(Books(EVEN))


@pytest.mark.parametrize("books", [Books(ODD), Books(EVEN, "abcd: captured by its row"), Books(ODD, "a", "b")])
async def test_books_that_do_not_are_one_critical_line_with_what_is_off(books: Books) -> None:
    told, logs = await looked(books)
    assert [(books.said, False)] == told
    assert [("critical", "ledger-unbalanced", list(books.wrong), 21_000)] == [
        (each["log_level"], each["event"], each["wrong"], each["received_msat"]) for each in logs
    ]


async def test_an_account_below_nothing_is_unbalanced_too() -> None:
    told, logs = await looked(Books(None, "abcd: earned by the entries"))
    assert ([(None, False)], ["ledger-unbalanced"]) == (told, [each["event"] for each in logs])


async def test_books_that_can_not_be_read_are_not_called_unbalanced() -> None:
    told, logs = await looked(Books(EVEN, down=True))
    assert ([], [("error", "ledger-unreadable")]) == (told, [(each["log_level"], each["event"]) for each in logs])


async def test_they_are_looked_into_again_and_again() -> None:
    told = Told()
    auditor = Auditor(cast(Ledger, Books(EVEN)), StillClock(), told=(told,), every=timedelta(milliseconds=1))
    running = asyncio.create_task(auditor.run())
    async with asyncio.timeout(5):
        await told.twice.wait()
    running.cancel()
    assert [(EVEN, True)] * 2 == told[:2]
