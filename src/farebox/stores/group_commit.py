"""Group commit: one thread that runs everybody's operations, many in one transaction.

Rules
1. Operations run in the order in which they were asked for, on one thread, each batch in one transaction. What is asked
   for in one turn of an event loop is handed to the thread together, at the end of the turn.
2. Nobody is answered before the commit has returned. One wake-up of an event loop answers a whole batch.
3. When an operation raises, the batch is undone and each of its operations is run again by itself, so that only the one
   that can't be done fails.
4. When the commit itself fails, the batch is undone and nobody is told that it was done.
5. What passes by itself, such as a lost connection, is the database's to say: the batch is run again, commit and all,
   which is right because an operation finds out what it did before (farebox.stores.names). Nobody is asked to wait for
   long: when the database says that it is away, the whole batch fails at once.
6. Closing runs what was asked for before, then lets go of the connection. Nothing is accepted afterwards.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from farebox.core.errors import StoreUnavailable
from farebox.stores.engine import Work

T = TypeVar("T")

# These keep the database's lock, and everybody's wait, to a few milliseconds.
_MOST_IN_A_BATCH: Final = 256
_MOST_IN_A_PIECE: Final = 64  # a piece is not cut up, so the last one may make a batch that much larger


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation that somebody waits for, what it is about, and whether that is told to other processes."""

    work: Work[Any]  # of what the operation returns; Any because one queue carries operations of every type
    about: bytes
    tells: bool = False


class Remedy(Enum):
    """What to do about an error."""

    APART = auto()  # it is an operation's: run each by itself
    AGAIN = auto()  # it passed: run the batch again
    NONE = auto()  # the database is away


class TransactionalConnection(Protocol):
    """A connection that can begin and end transactions."""

    def begin(self) -> object:
        """Begin a transaction, holding from now on whatever lock it will need."""

    def perform(self, batch: Sequence[Asked]) -> Sequence[Any]:
        """Run the operations within the transaction; what each of them returned."""

    def commit(self) -> object:
        """Make it durable."""

    def rollback(self) -> object:
        """Undo it; does nothing where there is none."""

    def close(self) -> object:
        """Let go of the database."""

    def remedy(self, error: Exception, tries: int) -> Remedy:
        """What to do about an error of a batch that was tried so often; may wait, and connect again."""

    def translate(self, error: Exception) -> Exception:
        """A new StoreUnavailable for an error of the database; any other error as it is."""


@dataclass(slots=True)
class _Job:
    loop: AbstractEventLoop
    future: Future[Any]
    asked: Asked
    result: Any = None
    error: Exception | None = None


class GroupCommit:
    """A thread that owns a connection and commits in groups."""

    def __init__(self, connection: TransactionalConnection, *, name: str) -> None:
        self._connection = connection
        self._queue: SimpleQueue[Sequence[_Job] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._asked: dict[AbstractEventLoop, list[_Job]] = {}  # in this turn of each loop
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Work[T], *, about: bytes = b"", tells: bool = False) -> T:
        """What the operation returns, once it is committed; whatever it raises, with nothing done.

        Raises StoreUnavailable. When the caller is cancelled meanwhile, the operation is done all the same.
        """
        loop = asyncio.get_running_loop()
        future: Future[T] = loop.create_future()
        with self._closing:
            if self._closed:
                raise StoreUnavailable("It is closed.")
            asked = self._asked.get(loop)
            if asked is None:
                asked = self._asked[loop] = []
                loop.call_soon(self._hand_over, loop)
            asked.append(_Job(loop, future, Asked(work, about, tells)))
        return await future

    async def close(self) -> None:
        """Run what was asked for, then let go of the connection."""
        with self._closing:
            if not self._closed:
                self._closed = True
                for loop in tuple(self._asked):
                    self._put(loop)
                self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self, loop: AbstractEventLoop) -> None:
        # At the end of the turn: a thread that is woken by each operation fights this one for the interpreter.
        with self._closing:
            self._put(loop)

    def _put(self, loop: AbstractEventLoop) -> None:
        jobs = self._asked.pop(loop, [])
        for at in range(0, len(jobs), _MOST_IN_A_PIECE):
            self._queue.put(jobs[at : at + _MOST_IN_A_PIECE])

    def _work(self) -> None:
        open_ = True
        while open_:
            batch: list[_Job] = []
            piece = self._queue.get()
            with suppress(Empty):
                while piece is not None:
                    batch += piece
                    if len(batch) >= _MOST_IN_A_BATCH:
                        break
                    piece = self._queue.get_nowait()
            open_ = piece is not None
            if batch:
                self._run_together(batch)
                _answer(batch)
        self._connection.close()

    def _run_together(self, batch: Sequence[_Job]) -> None:
        tries, remedy = 1, self._try(batch, 1)
        while remedy is Remedy.AGAIN:
            tries += 1
            remedy = self._try(batch, tries)
        if remedy is Remedy.APART:
            for job in batch:
                self._run_together([job])

    def _try(self, batch: Sequence[_Job], tries: int) -> Remedy:
        """Run a batch once; what remains to be done about it, which is nothing when it is done or has failed."""
        connection, performing = self._connection, False
        try:
            connection.begin()
            performing = True
            results = connection.perform([job.asked for job in batch])
            performing = False
            connection.commit()
        except Exception as error:  # noqa: BLE001 - an operation may raise anything, and this thread must outlive it
            self._undo()
            remedy = connection.remedy(error, tries)
            if remedy is Remedy.AGAIN or (remedy is Remedy.APART and performing and len(batch) > 1):
                return remedy
            self._fail(batch, error)
            return Remedy.NONE
        for job, result in zip(batch, results, strict=True):
            job.result = result
        return Remedy.NONE

    def _fail(self, batch: Sequence[_Job], error: Exception) -> None:
        for job in batch:
            job.error = self._connection.translate(error)

    def _undo(self) -> None:
        with suppress(Exception):  # where it can't be undone now, the next begin fails and says so
            self._connection.rollback()


def _answer(batch: Sequence[_Job]) -> None:
    for loop in {job.loop for job in batch}:
        with suppress(RuntimeError):  # that loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_deliver, [job for job in batch if job.loop is loop])


def _deliver(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # its task was cancelled while it waited
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
