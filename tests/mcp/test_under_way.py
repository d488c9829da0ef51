"""Work that is done once for all who ask for it at once, and what happens when they go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest

from farebox.mcp.under_way import UnderWay


@dataclass
class Desk:
    """Does numbered work that takes until it is told to end. log: what was done, in order."""

    log: list[str] = field(default_factory=list)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    cleaned: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    def __post_init__(self) -> None:
        self.under_way = UnderWay[int]()

    def ask(self, same: str = "a") -> asyncio.Task[int]:
        return asyncio.create_task(self.under_way.result(same, self.do))

    async def do(self) -> int:
        number = len([line for line in self.log if line.startswith("begins")])
        self.log.append(f"begins {number}")
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.log.append(f"is broken off {number}")
            await self.cleaned.wait()
            self.log.append(f"is cleaned up {number}")
            raise
        if self.fails:
            raise ValueError(number)
        return number


async def a_while() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scene: Awaitable[None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await scene

    asyncio.run(main())


def test_who_asks_for_what_is_under_way_gets_its_result_and_it_is_done_once() -> None:
    async def scene() -> None:
        desk = Desk()
        asked = [desk.ask(), desk.ask(), desk.ask("b")]
        await a_while()
        desk.end.set()

        assert [0, 0, 1] == await asyncio.gather(*asked)

    run(scene())


def test_nothing_is_kept_and_who_asks_after_the_end_has_it_done_again() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.end.set()

        assert [0, 1] == [await desk.ask(), await desk.ask()]

    run(scene())


@pytest.mark.parametrize("leaves", [0, 1])
def test_who_goes_away_leaves_the_work_to_the_others(leaves: int) -> None:
    async def scene() -> None:
        desk = Desk()
        asked = [desk.ask(), desk.ask()]
        await a_while()
        asked[leaves].cancel()
        await a_while()
        desk.end.set()

        assert 0 == await asked[1 - leaves]
        assert asked[leaves].cancelled()
        assert ["begins 0"] == desk.log

    run(scene())


def test_when_nobody_is_left_it_is_broken_off_and_who_asks_then_waits_until_it_has_ended() -> None:
    async def scene() -> None:
        desk = Desk()
        first = desk.ask()
        await a_while()
        first.cancel()
        await a_while()
        again = desk.ask()
        await a_while()
        assert ["begins 0", "is broken off 0"] == desk.log
        desk.cleaned.set()
        desk.end.set()

        assert 1 == await again
        assert ["begins 0", "is broken off 0", "is cleaned up 0", "begins 1"] == desk.log

    run(scene())


def test_a_failure_is_told_to_all_who_wait() -> None:
    async def scene() -> None:
        desk = Desk(fails=True)
        asked = [desk.ask(), desk.ask()]
        await a_while()
        desk.end.set()

        told = await asyncio.gather(*asked, return_exceptions=True)

        assert ["0", "0"] == [str(error) for error in told if isinstance(error, ValueError)]

    run(scene())
