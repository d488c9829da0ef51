"""The store of a simulation: real statements on real tables, without threads, and a database that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from farebox.core.errors import StoreUnavailable
from farebox.core.payment import DRAW_MOVES, PAYMENT_MOVES
from farebox.stores.engine import Row, Work, drive, edges, in_ms
from farebox.stores.sqlite import SqliteConnection, open_file
from farebox.stores.waiting import Waiting
from farebox.testing.simulation.chance import Chance

T = TypeVar("T")


def open_database(clock: Callable[[], datetime]) -> SqliteConnection:
    """An empty ledger in memory, on the database's own clock."""
    machines = {"payment_moves": edges(PAYMENT_MOVES), "draw_moves": edges(DRAW_MOVES)}
    connection = open_file(None, room="ledger", moves=machines)
    connection.clock = clock
    return connection


class Died(Exception):
    """The process died in the middle of a transaction, of which nothing stays."""


class Steps:
    """The named steps that all processes of a town took, and the one at which the process that takes it dies."""

    def __init__(self, die_at: int | None) -> None:
        self.taken: list[str] = []
        self._die_at = die_at

    def take(self, name: str) -> bool:
        """Take a step; whether it is the one to die at."""
        self.taken.append(name)
        return len(self.taken) - 1 == self._die_at


class Process:
    """A process that may die: whatever it waits for then never comes."""

    def __init__(self, steps: Steps) -> None:
        self.alive = True
        self._stands_until = 0.0
        self.steps = steps
        self.on_death: Callable[[], None] = lambda: None

    def die(self) -> None:
        """`kill -9`."""
        self.alive = False
        self.on_death()

    def pause(self, span_s: float) -> None:
        """Stand still for so long, as a machine that is moved or swaps does."""
        self._stands_until = asyncio.get_running_loop().time() + span_s

    async def step(self, name: str) -> None:
        """Take a step, and perhaps die of it."""
        if self.alive and self.steps.take(name):
            self.die()
        await self.go_on()

    async def go_on(self) -> None:
        """Return when the process is not standing still, unless it is dead."""
        await asyncio.sleep(max(0.0, self._stands_until - asyncio.get_running_loop().time()))
        if not self.alive:
            await asyncio.get_running_loop().create_future()


class SimulatedEngine:
    """One gateway's connection to the shared database.

    waiting: shared by all gateways, as a database's notifications are.
    """

    def __init__(self, connection: SqliteConnection, chance: Chance, process: Process, waiting: Waiting) -> None:
        self._connection = connection
        self._chance = chance
        self._process = process
        self._waiting = waiting

    def now(self) -> datetime:
        """The database's time."""
        return self._connection.clock()

    async def write(self, work: Work[T], *, about: bytes, tells: bool = False) -> T:
        """As an engine does, with trouble: refused, kept without a word, or the end of the process."""
        chance, faults = self._chance, self._chance.faults
        await self._pause()
        if chance.happens(faults.crash):
            self._process.die()
        if chance.happens(faults.pause):
            self._process.pause(chance.between(1, 120))
        await self._process.step("a write is asked for")
        if chance.happens(faults.store_away):
            raise StoreUnavailable("it is away")
        try:
            result = self._run(work, stepping=True)
        except Died:
            self._process.die()
            await self._process.go_on()
            raise
        if tells:
            self._waiting.tell(about)
        if chance.happens(faults.crash):
            self._process.die()
        await self._process.step("a write was kept")
        if chance.happens(faults.store_doubt):
            raise StoreUnavailable("its reply was lost")
        return result

    async def read(self, work: Work[T], *, thorough: bool = False) -> T:
        """As an engine does."""
        await self._pause()
        if self._chance.happens(self._chance.faults.store_away):
            raise StoreUnavailable("it is away")
        return self._run(work, stepping=False)

    async def changed(self, about: bytes, *, within: timedelta) -> None:
        """As an engine does; a word may be missed."""
        await self._waiting.wait(about, within=min(within, timedelta(seconds=2)))
        await self._process.go_on()

    async def close(self) -> None:
        """The database stays."""

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.between(0.0001, 0.5))
        await self._process.go_on()

    def _run(self, work: Work[T], *, stepping: bool) -> T:
        connection = self._connection

        def run(statement: str, parameters: Mapping[str, object]) -> list[Row]:
            if stepping and self._process.steps.take(f"statement: {statement.split(None, 2)[:2]}"):
                raise Died
            return connection.execute(statement, parameters).fetchall()

        connection.begin()
        try:
            result = drive(work(in_ms(self.now())), run)
        except Died:
            connection.rollback()
            raise
        except Exception as error:
            connection.rollback()
            raise connection.translate(error) from error
        connection.commit()
        return result
