"""Named SQL: the statements and the numbered migrations that lie beside this file in `sql/`.

Rules
1. A statement is text with a name and one sentence saying why its WHERE is the guard; nothing in Python writes SQL.
2. Statements mean the same in SQLite and PostgreSQL. A migration that can't names its engine: `0002_moves.sqlite.sql`.
3. Migrations are numbered from one without gaps and never edited once released.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME: Final = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)
_MIGRATION: Final = re.compile(r"(?P<number>[0-9]{4})_(?P<name>[a-z_]+)(?:\.(?P<engine>[a-z]+))?\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of a schema: its number, its name and the text that makes it."""

    number: int
    name: str
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
            found.append(Migration(number=int(match["number"]), name=match["name"], text=text))
    return tuple(sorted(found, key=lambda migration: migration.number))
