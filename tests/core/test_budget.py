"""What a buyer allows itself to spend."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import MalformedBudget

SPANS = [None, *(timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days", "weeks"))]
WINDOWS = st.builds(Window, limit=st.integers(0, 21 * 10**17).map(Amount.msats), span=st.sampled_from(SPANS))


@pytest.mark.parametrize(
    ("limit", "span", "text"),
    [
        (Amount.sats(500), timedelta(days=1), "500 sat/day"),
        (Amount.sats(500), timedelta(days=1), "500sat/day"),
        (Amount.sats(500), timedelta(days=1), " 500 sats / DAY "),
        (Amount.sats(50), None, "50 sat/call"),
        (Amount.sats(50), None, "50 sat per call"),
        (Amount.sats(20), timedelta(minutes=1), "20 sat per minute"),
        (Amount.sats(20), timedelta(minutes=1), "20 sat/min"),
        (Amount.msats(1500), timedelta(hours=1), "1500 msat/hour"),
        (Amount.sats(1_000), timedelta(weeks=1), "1_000 sat/week"),
        (Amount.sats(0), None, "0 sat/call"),
    ],
)
def test_a_window_is_an_amount_for_a_span(limit: Amount, span: timedelta | None, text: str) -> None:
    assert Window(limit=limit, span=span) == Window.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "500 sat",
        "500/day",
        "sat/day",
        "500 sat/",
        "/day",
        "500 sat/fortnight",
        "500 sat/day/call",
        "500 sat a day",
        "500 satperday",
        "-5 sat/day",
        "5.5 sat/day",
        "500 sat/2day",
        "per day",
        pytest.param(" " * 5000, id="blanks"),
        pytest.param("1" + " " * 5000 + "/day", id="a number and blanks"),
    ],
)
def test_what_is_not_an_amount_for_a_span_is_refused(text: str) -> None:
    with pytest.raises(MalformedBudget) as raised:
        Window.read(text)
    assert len(str(raised.value)) < 200


def test_a_budget_is_every_window_between_the_commas() -> None:
    assert Budget.read("500 sat/day, 50 sat/call") == Budget((Window.read("500 sat/day"), Window.read("50 sat/call")))


@pytest.mark.parametrize("text", ["", ",", "500 sat/day,", "500 sat/day, 50", "500 sat/day 50 sat/call"])
def test_a_budget_with_a_window_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(MalformedBudget):
        Budget.read(text)


@given(st.lists(WINDOWS, min_size=1, max_size=5))
@settings(deadline=None)
def test_what_a_budget_prints_reads_back_as_itself(windows: list[Window]) -> None:
    budget = Budget(tuple(windows))
    assert budget == Budget.read(str(budget))


@given(st.text())
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        budget = Budget.read(text)
    except MalformedBudget:
        return
    assert budget == Budget.read(str(budget))


def test_a_budget_prints_as_it_is_written() -> None:
    assert str(Budget.read("500 sat per day,50sat/call")) == "500 sat/day, 50 sat/call"


def test_a_budget_without_windows_says_that_it_has_no_limit() -> None:
    assert str(Budget()) == "no limit"


def test_a_span_that_has_no_name_is_told_all_the_same() -> None:
    assert str(Window(limit=Amount.sats(5), span=timedelta(hours=6))) == "5 sat in 6:00:00"
