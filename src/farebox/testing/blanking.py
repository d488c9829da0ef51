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
import json
import os
import re
import select
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import pytest

from farebox.stores import statements as named_sql
from farebox.stores import versions

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
        return changed if (room, engine) == (place, "sqlite") else _MIGRATIONS(room, engine)

    vars(versions)["migrations"] = migrations  # as read by whoever opens a file


_MIGRATIONS: Final = named_sql.migrations


def _without(text: str, guard: Guard) -> str:
    return text[: guard.start] + guard.instead + text[guard.end :]


# --- the command ------------------------------------------------------------------------------------------------------

# What only looks at the text of a statement proves nothing about a guard; a model finds one by chance.
_LOOKED_AT: Final = (
    *("tests/stores", "tests/simulation", "tests/gate", "tests/http/test_answers.py"),
    *("-k", "not statements and not agrees_with_its_model", "-m", "not system and not full and not soak"),
)
_PLAINLY: Final = ("-qq", "-s", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--no-summary")
_AT_MOST_S: Final = 600  # a child that takes longer hangs, and is ended


@dataclass(eq=False)  # as a plugin it is one of a kind
class _Seen:
    """What a child saw: the first test that failed, and how long each took. error: why it could not tell."""

    failed: str | None = None
    took_s: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test, or what it needs, has ended."""
        self.took_s[report.nodeid] = self.took_s.get(report.nodeid, 0.0) + report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid


class _EachGuard:
    """A plugin that collects the tests once, and blanks each guard in a child of its own, as many at once as cores."""

    def __init__(self, chosen: Mapping[str, Guard]) -> None:
        self.chosen = chosen
        self.survived: list[str] = []
        self.fails: list[str] = []
        self._noticed: dict[str, str] = {}  # by guard
        self._took_s: dict[str, float] = {}
        self._children: dict[int, tuple[str, int]] = {}  # the guard, and where it tells, by the child's number

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests once."""
        middle = len(session.items) // 2
        for half in (session.items[:middle], session.items[middle:]):
            self._begin(session, "", half)
        while self._children:
            self._end()
        if self.fails:
            return True
        for name in self.chosen:
            while len(self._children) >= (os.cpu_count() or 1):
                self._end()
            self._begin(session, name, self._quickest_first(name, session.items))
        while self._children:
            self._end()
        return True

    def _quickest_first(self, name: str, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Those that noticed a guard of the same statement, then the suites of the stores, then what stands on them."""
        place = name.rpartition(":")[0]
        alike = {test for guard, test in self._noticed.items() if guard.rpartition(":")[0] == place}
        others = Counter(self._noticed.values())

        def rank(item: pytest.Item) -> tuple[bool, bool, int, float]:
            test = item.nodeid
            far = not test.startswith("tests/stores") or "SqliteFile" in test or "processes" in test
            return test not in alike, far, -others[test], self._took_s.get(test, 0.0)

        return sorted(items, key=rank)

    def _begin(self, session: pytest.Session, name: str, items: Sequence[pytest.Item]) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.close(writing)
            self._children[child] = name, reading
            return
        signal.alarm(_AT_MOST_S)
        seen = _look(session, name, items)
        os.write(writing, json.dumps(asdict(seen)).encode())
        os._exit(0)

    def _end(self) -> None:
        readable, _, _ = select.select([reading for _, reading in self._children.values()], [], [])
        child, (name, reading) = next(each for each in self._children.items() if each[1][1] in readable)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        del self._children[child]
        _, status = os.waitpid(child, 0)
        seen = _Seen(**json.loads(told)) if told else _Seen(error=f"it ended with {status}")
        if seen.error:
            raise RuntimeError(f"{name or 'nothing blanked'}: {seen.error}")
        if name:
            self._tell(name, seen.failed)
        else:
            self._took_s |= seen.took_s
            self.fails += [seen.failed] if seen.failed else []

    def _tell(self, name: str, test: str | None) -> None:
        sys.stdout.write(f"{name:36} {test or 'NOBODY NOTICED'}  [{self.chosen[name].text[:80]}]\n")
        sys.stdout.flush()
        if test is None:
            self.survived.append(name)
        else:
            self._noticed[name] = test


def _look(session: pytest.Session, name: str, items: Sequence[pytest.Item]) -> _Seen:
    """Run tests without this guard until one fails; in a child, whose files and output are nobody's."""
    seen = _Seen()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        if name:
            blank(name)
        session.config.pluginmanager.register(seen)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tempfile.tempdir:
            for item, following in zip(items, [*items[1:], None], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if seen.failed:
                    break
            with suppress(Exception):  # what is left of a test that failed goes with the child
                session.config.hook.pytest_sessionfinish(session=session, exitstatus=0)
    except BaseException as error:  # noqa: BLE001 - told to the parent, which stops
        seen.error = repr(error)
    return seen


def main(names: Sequence[str]) -> int:
    """Blank the guards of these names, or all of them, and tell which test noticed each."""
    chosen = {
        name: guard for name, guard in guards().items() if not names or any(name.startswith(each) for each in names)
    }
    each = _EachGuard(chosen)
    ended = pytest.main([*_PLAINLY, *_LOOKED_AT], plugins=[each])
    if each.fails:
        sys.stderr.write(f"{each.fails[0]} fails with every guard in place; mend that first\n")
    if each.fails or ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return 2
    survived = ", ".join(each.survived) or "none"
    sys.stdout.write(f"{len(chosen)} guards, {len(each.survived)} that nobody notices: {survived}\n")
    return 1 if each.survived else 0


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
