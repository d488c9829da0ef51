"""The source as the tests of its form see it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file. name: as it is imported. where: its path from the root of the checkout."""

    name: str
    where: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first name below farebox: `core`, `gate`; empty for farebox itself."""
        return self.name.partition(".")[2].partition(".")[0]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def modules() -> Mapping[str, Module]:
    """Every module of farebox by its name."""
    found: dict[str, Module] = {}
    for path in sorted((ROOT / "src" / "farebox").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        where = str(path.relative_to(ROOT))
        found[name] = Module(name=name, where=where, text=text, tree=ast.parse(text, where))
    return found
