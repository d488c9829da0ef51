"""Where every story about a ledger starts: an empty ledger, whose books are looked into at the end, and an invoice."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import timedelta
from functools import wraps
from hashlib import sha256
from typing import Concatenate, Final, ParamSpec, TypeVar

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.core.ports import Clock
from farebox.stores.engine import Operation, Row, rows_of
from farebox.stores.ledger import SqlLedger
from farebox.testing.market import StillClock

P = ParamSpec("P")
S = TypeVar("S")

PRICE: Final = Amount.sats(21)
DIGEST: Final = sha256(b"the request that was paid for").digest()
OTHER_DIGEST: Final = sha256(b"another request").digest()
CLIENT: Final = "192.0.2.7/32"
LEASE: Final = timedelta(seconds=30)
TTL: Final = timedelta(minutes=10)
DAY: Final = timedelta(days=1)
MOST: Final = 3
NO_GRACE: Final = timedelta(0)
ANSWER: Final = Answer(
    status=200, headers=(("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")), body=b"\x00\xff"
)


def told(story: Callable[Concatenate[S, P], Coroutine[None, None, None]]) -> Callable[Concatenate[S, P], None]:
    """A test that awaits, as one that pytest can call."""

    @wraps(story)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(story(self, *args, **kwargs))

    return run


def invoice(clock: Clock, name: str = "a payment", *, price: Amount = PRICE, digest: bytes = DIGEST) -> Payment:
    """An invoice that nobody has paid."""
    return Payment(
        payment_hash=sha256(name.encode()).digest(),
        state=PaymentState.OPEN,
        price=price,
        digest=digest,
        resource="POST /api/dvm",
        client=CLIENT,
        invoice="lnbcrt210n1…",
        created_at=clock(),
        expires_at=clock() + TTL,
    )


async def hold(
    ledger: SqlLedger, payment: Payment, *, digest: bytes = DIGEST, proven: bool = True, most: int = MOST
) -> Hold | Payment | None:
    """Try to hold the price of one call."""
    return await ledger.hold(payment.payment_hash, digest=digest, proven=proven, lease=LEASE, most_attempts=most)


async def must_hold(ledger: SqlLedger, payment: Payment) -> Hold:
    """Hold the price of one call."""
    held = await hold(ledger, payment)
    assert isinstance(held, Hold)
    return held


async def row(ledger: SqlLedger, payment: Payment) -> Payment:
    """The payment as it stands."""
    found = await ledger.find_payment(payment.payment_hash)
    assert found is not None
    return found


async def run_sql(ledger: SqlLedger, statement: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
    """What a statement gives that is not one of the ledger's own."""
    return await ledger.engine.write(lambda _: rows_of(statement, parameters or {}), about=b"a test")


class LedgerStage(ABC):
    """A ledger for each test, and the books looked into after it."""

    @abstractmethod
    def open_ledger(self, clock: Clock) -> SqlLedger:
        """A ledger that remembers nothing yet, apart from every other one."""

    @pytest.fixture
    def clock(self) -> StillClock:
        """A clock that the test moves."""
        return StillClock()

    @pytest.fixture
    def ledger(self, clock: StillClock) -> Iterator[SqlLedger]:
        """A ledger whose books must balance when the test is over."""
        ledger = self.open_ledger(clock)
        yield ledger

        async def look() -> tuple[bool, list[str]]:
            balance, audit = await ledger.balance(), await ledger.audit()
            await ledger.close()
            return balance.balanced, list(audit)

        assert (True, []) == asyncio.run(look())

    @pytest.fixture
    def payment(self, ledger: SqlLedger, clock: StillClock) -> Payment:
        """An invoice that the ledger knows."""
        payment = invoice(clock)
        asyncio.run(ledger.open_payment(payment))
        return payment

    async def drop_guards(self, ledger: SqlLedger) -> None:
        """Make the tables what somebody who has the database can make of them: without triggers."""
        triggers = await run_sql(ledger, "SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers:
            await run_sql(ledger, f"DROP TRIGGER {name}")

    async def count(self, ledger: SqlLedger, table: str) -> int:
        """How many rows a table has."""
        return len(await run_sql(ledger, f"SELECT 1 FROM {table}"))

    async def allows(self, ledger: SqlLedger, statement: str, parameters: Mapping[str, object]) -> bool:
        """Whether the table of moves lets a statement through; nothing of it stays."""

        def move(_: int) -> Operation[None]:
            yield statement, parameters
            raise Undone

        with pytest.raises((Undone, StoreUnavailable)) as ended:
            await ledger.engine.write(move, about=b"a test")
        assert isinstance(ended.value, Undone) or "not in the table of moves" in str(ended.value)
        return isinstance(ended.value, Undone)


class Undone(Exception):
    """Ends a transaction whose statement was let through, so that nothing of it stays."""
