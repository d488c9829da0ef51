"""Callers who are turned away for asking too much without paying.

Rules
1. A flood must not cost what calls cost, nor fill the log: its answers are written once, and told in one line a second.
2. It must not keep anybody else waiting, so these answers leave at a steady pace, and the rest of them wait in a line.
   Whoever stands in it can't ask again meanwhile. It is as long as leaves in half a minute, which is about as long as
   anybody listens; beyond it, answers leave at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from farebox.core.errors import CallerError, GateOverloaded, TooManyUnpaidCalls, Unavailable
from farebox.http import problem
from farebox.http.request import RawHeaders

log = structlog.get_logger("farebox")

_APART_S: Final = 0.010
_LONGEST_S: Final = 30.0
_TELL_EVERY_S: Final = 1.0
_MOST_ANSWERS: Final = 64  # there are a handful of details


class TurnedAway:
    """Answers for callers who are turned away, at a pace, and a line about them now and then."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str | None], tuple[RawHeaders, bytes]] = {}
        self._since: Counter[str] = Counter()
        self._told_at_s = self._due_s = float("-inf")

    async def answer(self, error: CallerError | Unavailable) -> tuple[RawHeaders, bytes] | None:
        """Headers and body of the answer, when it is its turn; None, at once, for any other error than these."""
        if not isinstance(error, TooManyUnpaidCalls | GateOverloaded) or error.evidence:
            return None
        now_s = asyncio.get_running_loop().time()
        self._tell(error, now_s)
        wait_s = max(0.0, self._due_s - now_s)
        if wait_s <= _LONGEST_S:
            self._due_s = now_s + wait_s + _APART_S
            if wait_s > _APART_S:
                await asyncio.sleep(wait_s)
        return self._written(error)

    def _written(self, error: CallerError | Unavailable) -> tuple[RawHeaders, bytes]:
        key = error.type, error.detail
        answer = self._answers.get(key)
        if answer is None:
            headers, body = problem.problem(error)
            headers.append((b"content-length", b"%d" % len(body)))
            answer = headers, body
            if len(self._answers) < _MOST_ANSWERS:
                self._answers[key] = answer
        return answer

    def _tell(self, error: CallerError | Unavailable, now_s: float) -> None:
        self._since[error.type] += 1
        if now_s - self._told_at_s >= _TELL_EVERY_S:
            self._told_at_s = now_s
            log.warning("turned-away", **{name.replace("-", "_"): count for name, count in self._since.items()})
            self._since.clear()
