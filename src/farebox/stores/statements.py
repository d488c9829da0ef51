"""Named SQL: the statements and the numbered migrations that lie beside this file in `sql/`.

Rules
1. A statement is text with a name and one sentence saying why its WHERE is the guard; nothing in Python writes SQL.
2. Statements mean the same in SQLite and PostgreSQL. A migration that can't names its engine: `0002_moves.sqlite.sql`;
   a statement that one engine says in a way of its own is there again, under its name: `ledger.postgresql.sql`.
3. Migrations are numbered from one without gaps and never edited once released. The name of one that an older farebox
   could not live with says so: `0007_one_less_column.contract.sql` (see farebox.stores.versions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME: Final = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)
_MIGRATION: Final = re.compile(
    r"(?P<number>[0-9]{4})_(?P<name>[a-z_]+)(?:\.(?P<engine>sqlite|postgresql))?(?:\.(?P<phase>contract))?\.sql"
)


class Phase(StrEnum):
    """Whether an older farebox can live with a migration."""

    EXPAND = "expand"  # it can: something is there that it does not ask for
    CONTRACT = "contract"  # it can't: something is gone, or must be so, that it counts on

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        return cls.CONTRACT  # a word of a farebox that is newer than this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of a schema: its number, its name, its phase and the text that makes it."""

    number: int
    name: str
    phase: Phase
    text: str


@cache
def statements(room: str) -> Mapping[str, str]:
    """Every statement of `sql/<room>.sql` by its name."""
    text = (files("farebox.stores") / "sql" / f"{room}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    named = zip(parts[::2], parts[1::2], strict=True)
    return MappingProxyType({name: _COMMENT.sub("", body).strip().removesuffix(";") for name, body in named})


@cache
def migrations(room: str, engine: str) -> tuple[Migration, ...]:
    """The migrations of `sql/<room>/` for one engine, in their order."""
    found = []
    for file in (files("farebox.stores") / "sql" / room).iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match is not None and match["engine"] in (None, engine):
            text = file.read_text(encoding="utf-8")
            phase = Phase(match["phase"] or Phase.EXPAND)
            found.append(Migration(number=int(match["number"]), name=match["name"], phase=phase, text=text))
    return tuple(sorted(found, key=lambda migration: migration.number))
