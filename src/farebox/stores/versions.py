"""Versions: which migrations a database still needs, and whether this farebox may open it.

Two versions of farebox run side by side while one replaces the other, so a schema changes in two phases.

Rules
1. An expand migration only adds: tables, indexes, columns that may be left out. Whoever opens a database applies those
   that it lacks, and an older farebox that runs meanwhile, or is started after, goes on as before.
2. A contract migration takes something away that older ones count on. It is applied only when an operator says so
   (`farebox ledger migrate`), when every gateway is new; a farebox that does not know it refuses the database.
3. A version of farebox that brings a contract migration runs on the database before and after it, and no later expand
   migration counts on one.
4. The edges of the state machines are those of this farebox, unless a newer one has been here: then its edges stay too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farebox.core.errors import ConfigError
from farebox.stores.engine import Edges
from farebox.stores.statements import Migration, Phase, migrations


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done with a database. needed: to be applied, in their order; newer: a newer farebox was here."""

    needed: tuple[Migration, ...]
    newer: bool

    def missing(self, edges: Edges, present: Edges) -> Edges:
        """The edges to add to a table of moves."""
        return edges - present

    def surplus(self, edges: Edges, present: Edges) -> Edges:
        """The edges to take away from a table of moves."""
        return frozenset() if self.newer else present - edges


def plan(applied: Mapping[int, Phase], *, place: str, room: str, engine: str, contract: bool = False) -> Plan:
    """What a database needs that has these migrations by their numbers.

    contract: also what older versions of farebox can't live with. Raises ConfigError, in one line that names the place,
    for one that was applied by a newer farebox.
    """
    ours = migrations(room, engine)
    known = max(one.number for one in ours)
    unknown = {number: phase for number, phase in applied.items() if number > known}
    if Phase.CONTRACT in unknown.values():
        raise ConfigError(
            f"{place} was written by a newer farebox (its {room} is at version {max(unknown)}, this one knows"
            f" {known}); update farebox or choose another place."
        )
    needed = (one for one in ours if one.number not in applied and (contract or one.phase is Phase.EXPAND))
    return Plan(needed=tuple(needed), newer=bool(unknown))
