"""The drawn tree of errors is the tree of errors."""

import inspect
import re

import pytest

from farebox.core import errors
from farebox.core.errors import CallerError, FareboxError, PurchaseError, Unavailable

ROW = re.compile(r"^ {4}(?P<rails>[│├└─ ]*)(?P<name>[A-Z][A-Za-z]+)(?: +(?P<status>\d{3})\b)?", re.MULTILINE)
WIDTH = 4

DEFINED = {
    each.__name__: each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, FareboxError) and each.__module__ == errors.__name__
}


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Each drawn error, with the one above it and the status beside it."""
    path: list[str] = []
    found: dict[str, tuple[str | None, int | None]] = {}
    for row in ROW.finditer(errors.__doc__ or ""):
        depth = len(row["rails"]) // WIDTH
        path[depth:] = [row["name"]]
        found[row["name"]] = (path[depth - 1] if depth else None, int(row["status"]) if row["status"] else None)
    return found


def test_every_error_is_drawn_under_the_one_it_is_a_kind_of() -> None:
    parents = {name: each.__bases__[0].__name__ for name, each in DEFINED.items() if each is not FareboxError}
    assert {name: parent for name, (parent, _) in drawn().items() if parent} == parents
    assert drawn()["FareboxError"] == (None, None)


def test_a_drawn_status_is_the_status_of_the_answer() -> None:
    for name, (_, status) in drawn().items():
        if status is not None:
            assert (name, status) == (name, getattr(DEFINED[name], "status", None))


def test_every_error_that_is_answered_has_a_drawn_status_or_that_of_its_kind() -> None:
    rows = drawn()
    for name, each in DEFINED.items():
        if issubclass(each, CallerError | Unavailable) and each is not CallerError:
            parent = rows[name][0]
            assert (name, each.status) == (name, rows[name][1] or rows[str(parent)][1])


@pytest.mark.parametrize("name", sorted(DEFINED))
def test_the_docstring_of_an_error_is_its_message(name: str) -> None:
    documented = inspect.cleandoc(DEFINED[name].__doc__ or "")
    assert documented.splitlines()[0].endswith(".")
    assert str(DEFINED[name]()) == documented.splitlines()[0].rstrip(".")


@pytest.mark.parametrize("name", sorted(name for name, each in DEFINED.items() if issubclass(each, PurchaseError)))
def test_a_failed_purchase_says_what_to_do_next(name: str) -> None:
    only_a_branch = name in ("PurchaseError", "NothingPaid")
    assert bool(DEFINED[name].next_step) is not only_a_branch
