"""The engine: what a store needs from a database, so that SQLite and PostgreSQL are one file each.

Rules
1. An operation is a plain function of a connection. It may run twice, so it changes nothing but the database.
2. A write is answered when it is durable, and not before. If it can't be kept, nothing of it was done.
3. A read sees every write that was answered before it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    @property
    def rowcount(self) -> int:
        """How many rows a statement without RETURNING changed."""

    def fetchone(self) -> Row | None:
        """The next row."""

    def fetchall(self) -> list[Row]:
        """Every row that is left."""


class Connection(Protocol):
    """A connection inside a transaction."""

    def execute(self, statement: str, parameters: Mapping[str, object] = ..., /) -> Cursor:
        """Run one statement with `:name` parameters."""


class Engine(Protocol):
    """Runs operations off the event loop. Raises StoreUnavailable when they can't be kept or read."""

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """What the operation returns, once it is durable; whatever it raises, with nothing done."""

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """What the operation returns; it sees one state of the database and must not change it."""

    async def close(self) -> None:
        """Finish what is under way, then let go of the database."""


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
