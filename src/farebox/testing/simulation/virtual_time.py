"""Virtual time: an event loop whose clock jumps to the next thing that is due, and never waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stalled(AssertionError):
    """Nobody has anything to do, and nothing will ever be due."""


class _NoWait(selectors.SelectSelector):
    """A selector that lets virtual time pass instead of waiting; nothing it watches ever has news."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """No news, and it is later."""
        if timeout is None:
            raise Stalled("everybody waits, and nothing is due")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at zero."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        """Seconds since the story began."""
        return self._no_wait.now


def run(story: Coroutine[Any, Any, T]) -> T:
    """Tell a story to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)
