"""Blanking: every guard in the SQL, and a pytest plugin that takes one of them away to see whether a test notices.

    python -m farebox.testing.blanking                  # all of them: each guard, and the test that noticed
    pytest -p farebox.testing.blanking --blank ledger.claim:3 tests/stores

Rules
1. A guard is one condition of a WHERE (of those that AND joins), one CHECK, one uniqueness, or one trigger.
2. A guard is taken away by putting in its place what is always true; the text around it stays.
3. Only guards of this project's own statements and tables count; a join's condition is no guard.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import pytest

from farebox.stores import statements as named_sql

ROOMS: Final = ("ledger", "purse")

_TOKENS: Final = re.compile(r"\(|\)|\bCASE\b|\bEND\b|\bAND\b|\bBETWEEN\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One guard. name: `ledger.claim:3`, or `ledger/0001_tables:12` in a migration. start, end: where in the text."""

    name: str
    text: str
    start: int
    end: int
    instead: str


def guards() -> Mapping[str, Guard]:
    """Every guard by its name."""
    found: dict[str, Guard] = {}
    for room in ROOMS:
        for name, text in named_sql.statements(room).items():
            for number, guard in enumerate(_conditions(text), 1):
                found[f"{room}.{name}:{number}"] = replace(guard, name=f"{room}.{name}:{number}")
        for migration in named_sql.migrations(room, "sqlite"):
            place = f"{room}/{migration.number:04}_{migration.name}"
            for number, guard in enumerate(_of_tables(migration.text), 1):
                found[f"{place}:{number}"] = replace(guard, name=f"{place}:{number}")
    return found


def _conditions(text: str) -> Iterator[Guard]:
    """The conditions of every WHERE that is not within a subquery of a SELECT list."""
    for match in re.finditer(r"\bWHERE\b", text):
        start = match.end()
        yield from _split(text, start, _end_of(text, start))


def _end_of(text: str, start: int) -> int:
    depth = 0
    for token in re.finditer(r"\(|\)|\b(?:RETURNING|ORDER BY|GROUP BY|LIMIT|UNION ALL|ON CONFLICT)\b", text[start:]):
        if token[0] == "(":
            depth += 1
        elif token[0] == ")":
            depth -= 1
            if depth < 0:
                return start + token.start()
        elif depth == 0:
            return start + token.start()
    return len(text)


def _split(text: str, start: int, end: int) -> Iterator[Guard]:
    depth, began = 0, start
    for token in _TOKENS.finditer(text, start, end):
        if token[0] in ("(", "CASE"):
            depth += 1
        elif token[0] in (")", "END"):
            depth -= 1
        elif token[0] == "AND" and depth == 0:
            yield _guard(text, began, token.start(), "1 = 1")
            began = token.end()
    yield _guard(text, began, end, "1 = 1")


def _of_tables(text: str) -> Iterator[Guard]:
    for match in re.finditer(r"\bCHECK \(", text):
        start = match.end()
        yield _guard(text, start, _closing(text, start), "1 = 1")
    for match in re.finditer(r"\bCREATE (UNIQUE) INDEX \w+", text):
        yield _guard(text, match.start(1), match.end(1), "")
    for match in re.finditer(r"\bCREATE TRIGGER (\w+) [^;]*?\bBEGIN\b(.*?)\bEND;", text, re.DOTALL):
        yield Guard(name="", text=f"trigger {match[1]}", start=match.start(2), end=match.end(2), instead=" SELECT 1; ")


def _closing(text: str, start: int) -> int:
    depth = 1
    for token in re.finditer(r"[()]", text[start:]):
        depth += 1 if token[0] == "(" else -1
        if not depth:
            return start + token.start()
    raise ValueError("a bracket is not closed")


def _guard(text: str, start: int, end: int, instead: str) -> Guard:
    inner = text[start:end]
    left, right = len(inner) - len(inner.lstrip()), len(inner) - len(inner.rstrip())
    told = re.sub(r"\s+", " ", inner.strip())
    return Guard(name="", text=told, start=start + left, end=end - right, instead=instead)


def blank(name: str) -> None:
    """Take one guard away, in this process, from whoever has read the statements already and whoever will."""
    guard = guards()[name]
    place = re.split(r"[./]", name)[0]
    if name[len(place)] == ".":
        statement = name[len(place) + 1 :].rpartition(":")[0]
        kept: dict[str, str] = gc.get_referents(named_sql.statements(place))[0]
        kept[statement] = _without(kept[statement], guard)
        return
    number = int(name[len(place) + 1 :][:4])
    read = named_sql.migrations(place, "sqlite")
    changed = tuple(replace(each, text=_without(each.text, guard)) if each.number == number else each for each in read)

    def migrations(room: str, engine: str) -> tuple[named_sql.Migration, ...]:
        return changed if room == place else _MIGRATIONS(room, engine)

    from farebox.stores import sqlite

    sqlite.migrations = migrations  # type: ignore[attr-defined]  # as read by whoever opens a file


_MIGRATIONS: Final = named_sql.migrations


def _without(text: str, guard: Guard) -> str:
    return text[: guard.start] + guard.instead + text[guard.end :]


# --- the command ------------------------------------------------------------------------------------------------------

# The quickest to notice come first. What only looks at the text of a statement proves nothing about a guard.
_LOOKED_AT: Final = (
    ("tests/stores", "-k", "not statements and not SqliteFile and not processes"),
    ("tests/stores", "tests/simulation", "tests/gate", "tests/http/test_answers.py", "-k", "not statements"),
)


_PLAINLY: Final = (
    *("-p", "farebox.testing.blanking", "-p", "no:cacheprovider", "--no-header", "--tb=no"),
    *("-m", "not system and not full and not soak"),
)


def noticed_by(name: str) -> str | None:
    """The first test that fails without this guard; None when none does."""
    for chosen in _LOOKED_AT:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", *_PLAINLY, f"--blank={name}", *chosen],
            capture_output=True,
            text=True,
            timeout=600,
        )
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
        if failed:
            return failed[1]
        if ended.returncode:
            raise RuntimeError(
                f"{name}: pytest ended with {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-500:]}"
            )
    return None


def main(names: Sequence[str]) -> int:
    """Blank the guards of these names, or all of them, and tell which test noticed each."""
    known = guards()
    chosen = [name for name in known if not names or any(name.startswith(each) for each in names)]
    already = noticed_by("")
    if already is not None:
        sys.stderr.write(f"{already} fails with every guard in place; mend that first\n")
        return 2
    survived = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, test in zip(chosen, pool.map(noticed_by, chosen), strict=True):
            sys.stdout.write(f"{name:36} {test or 'NOBODY NOTICED'}  [{known[name].text[:80]}]\n")
            sys.stdout.flush()
            if test is None:
                survived.append(name)
    sys.stdout.write(f"{len(chosen)} guards, {len(survived)} that nobody notices: {', '.join(survived) or 'none'}\n")
    return 1 if survived else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--blank", default="", metavar="GUARD", help="take this guard of the SQL away")


def pytest_configure(config: pytest.Config) -> None:
    """Take away the guard that is named."""
    name = str(config.getoption("--blank"))
    if name:
        blank(name)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
