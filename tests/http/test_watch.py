"""The watch, looked through with a time of the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil

import pytest

from farebox.http.watch import Patience, Wait, Waiting, Watch

pytestmark = pytest.mark.anyio

PATIENCE = Patience(
    head=timedelta(seconds=10),
    body=timedelta(seconds=20),
    slowest_body=256,
    reading=timedelta(seconds=30),
    leaving=timedelta(seconds=5),
    most_connections=3,
)


@dataclass(eq=False)
class Connection:
    """A connection that waits for what it is told to."""

    waiting: Waiting = field(default_factory=lambda: Waiting(Wait.HEAD, 0, 0))
    told: list[Wait | str] = field(default_factory=list)

    def waits_for(self) -> Waiting:
        return self.waiting

    def run_out(self, wait: Wait) -> None:
        self.told.append(wait)

    def make_room(self) -> None:
        self.told.append("make room")


class Watching:
    """One connection, looked at once a second from the moment at which it was taken."""

    def __init__(self) -> None:
        self.watch = Watch(PATIENCE)
        self.connection = Connection()
        self.watch.take(self.connection)
        self.now = ceil(asyncio.get_running_loop().time())  # whole seconds add up exactly

    def look(self, wait: Wait, turn: int, *done: int) -> int | None:
        """Look at it in these states, a second apart; after how many looks the patience ran out."""
        for count, each in enumerate(done, 1):
            self.connection.waiting = Waiting(wait, turn, each)
            self.now += 1
            self.watch.look(self.connection, self.now)
            if self.connection.told:
                assert [wait] == self.connection.told
                return count
        return None

    def close(self) -> None:
        self.watch.drop(self.connection)


@pytest.fixture
async def watching() -> Watching:
    return Watching()


async def test_a_head_has_its_span_from_the_moment_of_connecting(watching: Watching) -> None:
    assert watching.look(Wait.HEAD, 0, *[0] * 60) == 10
    watching.close()


async def test_the_next_head_has_a_span_of_its_own(watching: Watching) -> None:
    assert watching.look(Wait.HEAD, 0, *[0] * 9) is None
    assert watching.look(Wait.HEAD, 1, *[0] * 60) == 11
    watching.close()


async def test_a_connection_at_work_is_left_alone_for_ever(watching: Watching) -> None:
    assert watching.look(Wait.NOTHING, 1, *[0] * 10_000) is None
    assert watching.look(Wait.HEAD, 1, *[0] * 60) == 11
    watching.close()


async def test_a_body_that_stands_still_has_its_span(watching: Watching) -> None:
    assert watching.look(Wait.BODY, 1, *[7] * 60) == 21
    watching.close()


async def test_a_body_has_to_grow_by_so_much_a_second_on_average(watching: Watching) -> None:
    steady = range(0, 600 * 256, 256)
    assert watching.look(Wait.BODY, 1, *steady) is None
    lazy = range(600 * 256, 900 * 256, 255)
    assert watching.look(Wait.BODY, 1, *lazy) == 21
    watching.close()


async def test_small_bodies_one_after_the_other_are_not_one_slow_body(watching: Watching) -> None:
    for turn in range(1, 100):
        assert watching.look(Wait.BODY, turn, turn) is None
    watching.close()


async def test_a_reader_who_takes_nothing_has_its_span_even_while_more_is_written(watching: Watching) -> None:
    assert watching.look(Wait.READER, 0, *range(-1000, -9000, -100)) == 31
    watching.close()


async def test_a_reader_who_takes_anything_is_waited_for(watching: Watching) -> None:
    slow = [-70_000 + seconds // 25 for seconds in range(2000)]
    assert watching.look(Wait.READER, 0, *slow) is None
    watching.close()


async def test_a_reader_who_caught_up_and_fell_behind_again_is_waited_for(watching: Watching) -> None:
    for turn in range(100):
        assert watching.look(Wait.READER, turn, *[-70_000] * 20) is None
    watching.close()


async def test_who_was_told_everything_may_listen_for_a_moment(watching: Watching) -> None:
    assert watching.look(Wait.LEAVING, 1, *[0] * 60) == 6
    watching.close()


async def test_the_one_that_waits_longest_for_its_caller_makes_room() -> None:
    watch, connections = Watch(PATIENCE), [Connection() for _ in range(6)]
    for connection in connections[:3]:
        assert watch.take(connection)
    watch.busy(connections[0])
    watch.busy(connections[1])
    watch.idle(connections[1])
    assert watch.take(connections[3])
    watch.drop(connections[2])
    assert watch.take(connections[4])
    assert [[], ["make room"], ["make room"]] == [each.told for each in (*connections[:1], *connections[1:3])]
    for connection in connections:
        watch.drop(connection)


async def test_when_all_are_at_work_there_is_no_room() -> None:
    watch, connections = Watch(PATIENCE), [Connection() for _ in range(4)]
    for connection in connections[:3]:
        assert watch.take(connection)
        watch.busy(connection)
    assert not watch.take(connections[3])
    assert [[]] * 4 == [each.told for each in connections]
    for connection in connections:
        watch.drop(connection)


async def test_what_was_dropped_is_not_looked_at(watching: Watching) -> None:
    watching.close()
    assert watching.look(Wait.HEAD, 0, *[0] * 60) is None
