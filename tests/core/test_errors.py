"""The tree of errors."""

from __future__ import annotations

import pickle
import re
import traceback
from collections.abc import Iterator

import pytest

from farebox.core import errors
from farebox.core.errors import CallerError, FareboxError, NothingPaid, OverBudget, PurchaseError, Unavailable

LINE = re.compile(r"(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?:\s+(?P<status>\d{3}))?(?:\s|$)")


def drawn() -> Iterator[tuple[str, str | None, int | None]]:
    """(name, parent, status) of every line of the tree in the module's docstring."""
    assert errors.__doc__ is not None
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines()[1:]:
        match = LINE.match(line)
        if match is None or not line.startswith("    "):
            continue
        indent = len(match["indent"])
        while above and above[-1][0] >= indent:
            above.pop()
        yield match["name"], above[-1][1] if above else None, int(match["status"]) if match["status"] else None
        above.append((indent, match["name"]))


def defined(kind: type[FareboxError] = FareboxError) -> Iterator[type[FareboxError]]:
    """Every error of the module, in the order in which a tree is drawn."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from defined(child)


EVERY = list(defined())


def parent(kind: type[FareboxError]) -> str | None:
    return None if kind is FareboxError else kind.__bases__[0].__name__


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    assert [(kind.__name__, parent(kind)) for kind in EVERY] == [(name, above) for name, above, _ in drawn()]


def test_every_error_of_the_module_hangs_on_the_tree() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names == {kind.__name__ for kind in EVERY}


def test_every_status_that_is_drawn_is_the_status_of_the_class() -> None:
    statuses = {name: status for name, _, status in drawn() if status is not None}
    assert statuses == {name: getattr(errors, name).status for name in statuses}


def test_everything_that_a_caller_can_do_wrong_has_its_status_drawn() -> None:
    statuses = {name: status for name, _, status in drawn()}
    callers = [kind for kind in EVERY if issubclass(kind, CallerError) and kind is not CallerError]
    assert [kind.status for kind in callers] == [statuses[kind.__name__] for kind in callers]


def test_statuses_blame_the_side_whose_fault_it_is() -> None:
    assert {kind.status // 100 for kind in EVERY if issubclass(kind, CallerError)} == {4}
    assert {kind.status // 100 for kind in EVERY if issubclass(kind, Unavailable)} == {5}


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_says_in_its_docstring_what_happened(kind: type[FareboxError]) -> None:
    assert kind.__dict__["__doc__"]
    assert kind.__dict__["__doc__"].splitlines()[0].endswith(".")
    assert not kind().title.endswith(".")


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_survives_pickling(kind: type[FareboxError]) -> None:
    error = kind("the detail", limit="21 sat", left=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(error) is type(again)
    assert (error.detail, error.evidence, str(error)) == (again.detail, again.evidence, str(again))


@pytest.mark.parametrize(
    "kind", [kind for kind in EVERY if issubclass(kind, PurchaseError) and kind is not PurchaseError]
)
def test_a_failed_purchase_says_whether_money_moved_and_what_to_do_next(kind: type[PurchaseError]) -> None:
    assert issubclass(kind, NothingPaid) == (kind.money_moved is False)
    assert kind.next_step.endswith(".") or kind is NothingPaid


def test_the_name_of_a_problem_is_the_name_of_its_class() -> None:
    assert errors.RequestMismatch().type == "request-mismatch"
    assert len(EVERY) == len({kind().type for kind in EVERY})


def test_an_error_tells_its_title_its_detail_and_its_evidence() -> None:
    assert str(OverBudget()) == "The price is over the budget"
    assert str(OverBudget("50 sat/call", price="60 sat", origin=None)) == (
        "The price is over the budget: 50 sat/call (price=60 sat)"
    )


def test_evidence_can_be_added_on_the_way_up() -> None:
    error = OverBudget("50 sat/call", price="60 sat")
    assert error is error.with_evidence(left="10 sat")
    assert error.evidence == {"price": "60 sat", "left": "10 sat"}


def test_a_failed_purchase_is_a_flat_object() -> None:
    assert OverBudget("50 sat/call", price_msat=60_000).as_json() == {
        "type": "over-budget",
        "title": "The price is over the budget",
        "detail": "50 sat/call",
        "money_moved": False,
        "next_step": "Raise the limit (`--budget`, `--max`), wait until the window has moved on, or do without.",
        "price_msat": 60_000,
    }


def test_a_traceback_of_an_error_ends_with_the_next_step() -> None:
    told = "".join(traceback.format_exception_only(OverBudget("500 sat/day has 12 sat left")))
    last, note = told.splitlines()
    assert "farebox.core.errors.OverBudget: The price is over the budget: 500 sat/day has 12 sat left" == last
    assert OverBudget.next_step == note
    assert [note] == pickle.loads(pickle.dumps(OverBudget())).__notes__
