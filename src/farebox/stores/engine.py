"""The engine: what a store needs from a database, so that SQLite and PostgreSQL are one file each.

Rules
1. An operation is a generator that yields statements and is sent their rows, so that it knows nothing of a driver and
   an engine may run many of them in step. It may run twice, so it changes nothing but the database, and where the
   first run was kept after all (a connection lost while it was being committed) the second one finds that out.
2. A write is answered when it is durable, and not before. If it can't be kept, nothing of it was done.
3. A read sees every write that was answered before it was asked for.
4. Operations about the same thing run one after the other, in the order in which they were asked for.
5. The engine has the clock: where several machines share a database, the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")
State = TypeVar("State", bound=StrEnum)
Move = TypeVar("Move", bound=StrEnum)
Edges = frozenset[tuple[str, str]]  # (from, to) states of a machine
Row = tuple[Any, ...]  # of one statement's columns, in their order: whoever wrote the statement knows their types

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Cursor(Protocol):
    """The outcome of a statement."""

    def fetchone(self) -> Row | None:
        """The next row."""

    def fetchall(self) -> list[Row]:
        """Every row that is left."""


class Connection(Protocol):
    """A connection inside a transaction."""

    def execute(self, statement: str, parameters: Mapping[str, object] = ..., /) -> Cursor:
        """Run one statement with `:name` parameters."""


Step = tuple[str, Mapping[str, object]]  # a statement with `:name` parameters, and what they stand for
Operation = Generator[Step, list[Row], T]
Work = Callable[[int], Operation[T]]  # of the time now, in milliseconds since 1970 UTC


class Engine(Protocol):
    """Runs operations off the event loop. Raises StoreUnavailable when they can't be kept or read."""

    async def write(self, work: Work[T], *, about: bytes, tells: bool = False) -> T:
        """What the operation returns, once it is durable; whatever it raises, with nothing done.

        about: what it moves, such as a payment hash. tells: wake up whoever waits for that, in any process.
        """

    async def read(self, work: Work[T], *, thorough: bool = False) -> T:
        """What the operation returns; it sees one state of the database and must not change it.

        thorough: it looks through whole tables, so it may take long, and nobody else's reading should wait for it.
        """

    async def changed(self, about: bytes, *, within: timedelta) -> None:
        """Returns when something was told about this, or may have been, at the latest after so long."""

    def now(self) -> datetime:
        """The time that everybody who shares this database goes by."""

    async def close(self) -> None:
        """Finish what is under way, then let go of the database."""


def drive(operation: Operation[T], run: Callable[[str, Mapping[str, object]], list[Row]]) -> T:
    """Run an operation to its end, one statement after the other."""
    try:
        step = next(operation)
        while True:
            step = operation.send(run(*step))
    except StopIteration as ended:
        result: T = ended.value
        return result


def rows_of(statement: str, parameters: Mapping[str, object]) -> Operation[list[Row]]:
    """The operation that is one statement."""
    return (yield statement, parameters)


def edges(moves: Mapping[tuple[State, Move], State]) -> Edges:
    """The edges of a table of moves, for the database to keep."""
    return frozenset((before.value, after.value) for (before, _), after in moves.items())


def utc_now() -> datetime:
    """The clock of a store that was given no other."""
    return datetime.now(UTC)


def in_ms(instant: datetime) -> int:
    """An instant as a column keeps it: milliseconds since 1970 UTC, rounded down."""
    return (instant - _EPOCH) // _MILLISECOND


def span_in_ms(span: timedelta) -> int:
    """A span in whole milliseconds, rounded down."""
    return span // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """The instant that a column keeps."""
    return _EPOCH + timedelta(milliseconds=milliseconds)
