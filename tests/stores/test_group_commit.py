from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.stores.engine import Operation, Row, Work, drive
from farebox.stores.group_commit import Asked, GroupCommit, Remedy


class Notebook:
    """A database that is a list of lines. `broken` names what does not work; `gate` stops the thread in `begin`."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.pending: list[str] = []
        self.commits = 0
        self.closed = False
        self.broken = ""
        self.away_for = 0
        self.gate = threading.Event()
        self.gate.set()

    def perform(self, batch: Sequence[Asked]) -> Sequence[object]:
        return [drive(asked.work(0), self._write) for asked in batch]

    def _write(self, statement: str, _: Mapping[str, object]) -> list[Row]:
        self.pending.append(statement)
        return []

    def begin(self) -> None:
        self.gate.wait()
        self._work("begin")

    def commit(self) -> None:
        self._work("commit")
        self.kept += self.pending
        self.pending = []
        self.commits += 1

    def rollback(self) -> None:
        self.pending = []
        self._work("rollback")

    def close(self) -> None:
        self.closed = True

    def remedy(self, error: Exception, tries: int) -> Remedy:
        if isinstance(error, ConnectionError):
            self.broken = self.broken if tries < self.away_for else ""
            return Remedy.AGAIN if tries < 5 else Remedy.NONE
        return Remedy.APART

    def translate(self, error: Exception) -> Exception:
        return StoreUnavailable(str(error)) if isinstance(error, OSError) else error

    def _work(self, what: str) -> None:
        if f"lost in {what}" in self.broken:
            raise ConnectionError(f"lost in {what}")
        if what in self.broken:
            raise OSError(f"{what} failed")


def write(line: str) -> Work[str]:
    def operation(_: int) -> Operation[str]:
        yield line, {}
        return line.upper()

    return operation


def refuse(_: int) -> Operation[str]:
    yield "half of it", {}
    raise ValueError("refused")


async def all_of(group: GroupCommit, *operations: Work[str]) -> list[str | BaseException]:
    return await asyncio.gather(*(group.run(operation) for operation in operations), return_exceptions=True)


def test_sixty_four_operations_asked_for_at_once_are_kept_by_few_commits() -> None:
    book = Notebook()
    book.gate.clear()

    async def story() -> list[str | BaseException]:
        group = GroupCommit(book, name="test")
        asyncio.get_running_loop().call_later(0.02, book.gate.set)
        answers = await all_of(group, *(write(f"line {number}") for number in range(64)))
        await group.close()
        return answers

    assert [f"LINE {number}" for number in range(64)] == asyncio.run(story())
    assert [f"line {number}" for number in range(64)] == book.kept
    assert book.commits <= 2


@pytest.mark.parametrize(("operations", "commits"), [(1, 1), (64, 1), (1000, 16)])
def test_what_is_asked_for_in_one_turn_of_a_loop_is_kept_by_few_commits(operations: int, commits: int) -> None:
    book = Notebook()

    async def story() -> None:
        group = GroupCommit(book, name="test")
        await all_of(group, *(write(str(number)) for number in range(operations)))
        await group.close()

    asyncio.run(story())
    assert list(map(str, range(operations))) == book.kept
    assert book.commits <= commits


def test_an_operation_that_raises_fails_alone_and_leaves_nothing() -> None:
    book = Notebook()
    book.gate.clear()

    async def story() -> list[str | BaseException]:
        group = GroupCommit(book, name="test")
        asyncio.get_running_loop().call_later(0.02, book.gate.set)
        answers = await all_of(group, write("a"), refuse, write("b"), refuse, write("c"))
        await group.close()
        return answers

    a, first, b, second, c = asyncio.run(story())
    assert ("A", "B", "C") == (a, b, c)
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert ["a", "b", "c"] == book.kept


@pytest.mark.parametrize("broken", ["begin", "commit", "commit rollback"])
def test_a_database_that_fails_fails_everybody_and_keeps_nothing(broken: str) -> None:
    book = Notebook()
    book.broken = broken

    async def story() -> None:
        group = GroupCommit(book, name="test")
        answers = await all_of(group, write("a"), write("b"))
        assert [StoreUnavailable, StoreUnavailable] == [type(answer) for answer in answers]
        assert answers[0] is not answers[1]  # an error that two tasks raise would carry both their tracebacks
        book.broken = ""
        assert "C" == await group.run(write("c"))
        await group.close()

    asyncio.run(story())
    assert ["c"] == book.kept


@pytest.mark.parametrize("where", ["begin", "commit"])
def test_a_batch_that_met_what_passes_is_run_again_and_its_callers_hear_nothing_of_it(where: str) -> None:
    book = Notebook()
    book.broken, book.away_for = f"lost in {where}", 3

    async def story() -> list[str | BaseException]:
        group = GroupCommit(book, name="test")
        answers = await all_of(group, write("a"), write("b"))
        await group.close()
        return answers

    assert ["A", "B"] == asyncio.run(story())
    assert (["a", "b"], 1) == (book.kept, book.commits)


def test_a_batch_whose_database_stays_away_fails_as_a_whole_after_a_few_tries() -> None:
    book = Notebook()
    book.broken, book.away_for = "lost in begin", 99

    async def story() -> list[str | BaseException]:
        group = GroupCommit(book, name="test")
        answers = await all_of(group, write("a"), refuse, write("b"))
        await group.close()
        return answers

    assert [StoreUnavailable] * 3 == [type(answer) for answer in asyncio.run(story())]
    assert [] == book.kept


def test_a_write_is_answered_only_after_its_commit() -> None:
    book = Notebook()

    async def story() -> int:
        group = GroupCommit(book, name="test")
        await group.run(write("a"))
        commits = book.commits
        await group.close()
        return commits

    assert 1 == asyncio.run(story())


def test_closing_runs_what_was_asked_for_and_accepts_nothing_more() -> None:
    book = Notebook()
    book.gate.clear()

    async def story() -> None:
        group = GroupCommit(book, name="test")
        asked = [asyncio.create_task(group.run(write(line))) for line in "abc"]
        await asyncio.sleep(0)
        closing = asyncio.create_task(group.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await group.run(write("late"))
        book.gate.set()
        assert ["A", "B", "C"] == await asyncio.gather(*asked)
        await closing
        await group.close()

    asyncio.run(story())
    assert (["a", "b", "c"], True) == (book.kept, book.closed)


def test_closing_runs_what_was_asked_for_in_the_same_turn() -> None:
    book = Notebook()

    async def story() -> str:
        group = GroupCommit(book, name="test")
        answer, _ = await asyncio.gather(group.run(write("a")), group.close())
        return answer

    assert "A" == asyncio.run(story())
    assert ["a"] == book.kept


def test_what_a_cancelled_caller_asked_for_is_done_all_the_same() -> None:
    book = Notebook()
    book.gate.clear()

    async def story() -> None:
        group = GroupCommit(book, name="test")
        asked = asyncio.create_task(group.run(write("a")))
        await asyncio.sleep(0)
        asked.cancel()
        book.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert "B" == await group.run(write("b"))
        await group.close()

    asyncio.run(story())
    assert ["a", "b"] == book.kept


def test_a_loop_that_closed_meanwhile_harms_nobody() -> None:
    book = Notebook()
    book.gate.clear()
    group = GroupCommit(book, name="test")

    async def leave() -> None:
        task = asyncio.create_task(group.run(write("a")))
        await asyncio.sleep(0)
        task.cancel()

    async def stay() -> str:
        book.gate.set()
        answer = await group.run(write("b"))
        await group.close()
        return answer

    asyncio.run(leave())
    assert "B" == asyncio.run(stay())
    assert ["a", "b"] == book.kept
