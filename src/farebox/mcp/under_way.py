"""Work that is under way: whoever asks for the same meanwhile waits for it, and it is done once.

Rules
1. Whoever goes away leaves the work to the others who wait for it; when nobody is left, it is broken off.
2. Work that is being broken off is nobody's any more: who asks for the same then waits for its end, and it begins anew.
3. Nothing is kept. What is asked for after the end is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Work(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class UnderWay(Generic[T]):
    """What is being done now, each by what tells the same work; of one event loop."""

    def __init__(self) -> None:
        self._works: dict[Hashable, _Work[T]] = {}

    async def result(self, same: Hashable, do: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work comes to: that of the same which is under way, or else of what begins here.

        It runs in the context of whoever began it. Raises what it raises.
        """
        while (work := self._works.get(same)) is not None and not work.waiting:
            await asyncio.wait([work.task])
        if work is None:
            work = self._works[same] = _Work(asyncio.create_task(do()))
            work.task.add_done_callback(lambda _: self._works.pop(same))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting:
                work.task.cancel()
