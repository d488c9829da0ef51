"""Waves: many operations run in step, so that what each of them asks next is asked together.

Rules
1. Each operation yields its first statement in the first wave, its second one in the next, and so on.
2. Operations about the same thing run one after the other, in the order in which they were asked for. One that is about
   nothing that has a name may be about anything: then all of them run one after the other.
3. Statements of a wave are in the order of what they are about, so that two gateways lock rows in one order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farebox.stores.engine import Operation, Row, Step
from farebox.stores.group_commit import Asked

Wave = Callable[[Sequence[Step]], Sequence[list[Row]]]  # what the statements of a wave give, each its rows


@dataclass(slots=True)
class _Running:
    place: int
    operation: Operation[Any]
    step: Step


def run_in_step(batch: Sequence[Asked], now_ms: int, ask: Wave, *, only_reading: bool = False) -> list[Any]:
    """What each operation returned. Raises what an operation or `ask` raises.

    only_reading: none of them changes anything, so that all run in step whatever they are about.
    """
    results: list[Any] = [None] * len(batch)
    lines = [_Line(line) for line in _lines(batch, only_reading=only_reading)]
    running = [one for line in lines if (one := line.start(batch, now_ms, results)) is not None]
    of_place = {place: line for line in lines for place in line.places}
    while running:
        rows = ask([one.step for one in running])
        following: list[_Running] = []
        for one, given in zip(running, rows, strict=True):
            try:
                one.step = one.operation.send(given)
                following.append(one)
            except StopIteration as ended:
                results[one.place] = ended.value
                after = of_place[one.place].start(batch, now_ms, results)
                if after is not None:
                    following.append(after)
        running = following
    return results


def _lines(batch: Sequence[Asked], *, only_reading: bool) -> list[list[int]]:
    """Which operations wait for one another, by their places in the batch."""
    if only_reading:
        return [[place] for place in range(len(batch))]
    lines: dict[bytes, list[int]] = {}
    for place, asked in enumerate(batch):
        lines.setdefault(asked.about, []).append(place)
    if b"" in lines:
        return [list(range(len(batch)))]
    return [lines[about] for about in sorted(lines)]


class _Line:
    """Operations that wait for one another."""

    def __init__(self, places: Sequence[int]) -> None:
        self.places = tuple(places)
        self._waiting = deque(places)

    def start(self, batch: Sequence[Asked], now_ms: int, results: list[Any]) -> _Running | None:
        """Start the next one that asks for something; None when there is none left."""
        while self._waiting:
            place = self._waiting.popleft()
            operation = batch[place].work(now_ms)
            try:
                return _Running(place, operation, next(operation))
            except StopIteration as ended:
                results[place] = ended.value
        return None


def grouped(steps: Sequence[Step]) -> Mapping[str, list[int]]:
    """The places of each statement in a wave, in the order in which it is first there."""
    places: dict[str, list[int]] = {}
    for place, (statement, _) in enumerate(steps):
        places.setdefault(statement, []).append(place)
    return places
