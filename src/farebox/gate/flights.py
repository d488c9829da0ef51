"""Flights: work that several callers ask for at once is done once, and only so much at a time is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from farebox.core.errors import Unavailable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Work by key: whoever asks for what is under way shares its outcome.

    most: so many keys at once; one more is refused at once. full: the error that says so.
    """

    def __init__(self, most: int, full: Callable[[], Unavailable]) -> None:
        self._most = most
        self._full = full
        self._flying: dict[K, asyncio.Task[T]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._flying

    async def join(self, key: K, begin: Callable[[], Awaitable[T]]) -> T:
        """The outcome of what is under way for this key, or begins now. It goes on when its callers have gone away."""
        task = self._flying.get(key)
        if task is None:
            if len(self._flying) >= self._most:
                raise self._full()
            task = asyncio.ensure_future(_outcome(begin))
            self._flying[key] = task
            task.add_done_callback(lambda ended: self._landed(key, ended))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        flying = tuple(self._flying.values())
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)

    def _landed(self, key: K, task: asyncio.Task[T]) -> None:
        del self._flying[key]
        if not task.cancelled():
            task.exception()  # looked at, so that it is no surprise where nobody waits any more


async def _outcome(begin: Callable[[], Awaitable[T]]) -> T:
    return await begin()
