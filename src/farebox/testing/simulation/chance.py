"""Chance: every random decision of a simulation, from one seed, and how likely each kind of trouble is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How likely each trouble is, each time that it could happen.

    store_away: a write is refused, with nothing done. store_doubt: it is kept, and nobody is told.
    node_away: the node can't be asked. node_doubt: it did what it was asked, and its reply is lost.
    crash: a gateway dies, at each of its writes. pause: it stands still for up to two minutes.
    reply_lost: an answer never reaches its caller.
    upstream: a call fails in one of the ways of `story.UPSTREAM`. late: an invoice is paid after its time.
    never: it is never paid. hold: it is held for a while before it settles. under: less arrives than was asked.
    skew_s: how far a gateway's own clock may be off.
    """

    store_away: float = 0.03
    store_doubt: float = 0.03
    node_away: float = 0.1
    node_doubt: float = 0.05
    crash: float = 0.01
    pause: float = 0.01
    reply_lost: float = 0.1
    upstream: float = 0.35
    late: float = 0.1
    never: float = 0.1
    hold: float = 0.1
    under: float = 0.05
    skew_s: float = 3600.0


class Chance:
    """Decides. `peace` ends all trouble."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.seed = seed
        self.faults = faults
        self.peace = False
        self._random = random.Random(seed)

    def happens(self, likely: float) -> bool:
        """Whether a trouble of this likelihood happens now; never in peace."""
        return not self.peace and self._random.random() < likely

    def choose(self, among: Sequence[T]) -> T:
        """One of these."""
        return among[self._random.randrange(len(among))]

    def between(self, least: float, most: float) -> float:
        """A number between two, often near the smaller one."""
        return least + (most - least) * self._random.random() ** 3
