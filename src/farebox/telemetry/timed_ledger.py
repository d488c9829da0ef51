"""A ledger whose operations are timed, as the one who asks feels them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import wraps
from time import perf_counter
from typing import ParamSpec, TypeVar, cast

from farebox.core.errors import FareboxError
from farebox.core.ports import Ledger

P = ParamSpec("P")
T = TypeVar("T")

Told = Callable[[str, timedelta, str], None]  # the operation, how long it took, the type of the error or nothing


def timed(ledger: Ledger, told: Told, *, without: frozenset[str] = frozenset({"changed", "close"})) -> Ledger:
    """The same ledger; each awaited method tells how long it took and which error it raised.

    without: methods that wait for something else than the ledger.
    """
    return cast(Ledger, _Timed(ledger, told, without))  # it has whatever the ledger has


class _Timed:
    def __init__(self, ledger: Ledger, told: Told, without: frozenset[str]) -> None:
        self._ledger = ledger
        self._told = told
        self._without = without

    def __getattr__(self, name: str) -> object:
        found: object = getattr(self._ledger, name)
        if not inspect.iscoroutinefunction(found) or name in self._without:
            return found
        timed = _timed(name, found, self._told)
        self.__dict__[name] = timed  # so that this is asked once
        return timed


def _timed(name: str, method: Callable[P, Awaitable[T]], told: Told) -> Callable[P, Awaitable[T]]:
    @wraps(method)
    async def timed_method(*args: P.args, **kwargs: P.kwargs) -> T:
        began_s = perf_counter()
        error = ""
        try:
            return await method(*args, **kwargs)
        except FareboxError as raised:
            error = raised.type
            raise
        finally:
            told(name, timedelta(seconds=perf_counter() - began_s), error)

    return timed_method
