"""What a buyer allows itself to spend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import MalformedBudget

AMOUNTS = st.integers(0, 21 * 10**17).map(Amount.msats)
LABELS = ["", "host:api.example.com", "host:[::1]", "tag:research", "host:*", "tag:*"]
ROLLING = st.builds(
    Window,
    limit=AMOUNTS,
    per=st.sampled_from(["min", "hour", "day", "week", "month"]),
    label=st.sampled_from(LABELS),
)
PER_CALL = st.builds(Window, limit=AMOUNTS, per=st.just("call"), label=st.sampled_from(LABELS[:4]))
CALENDAR = st.builds(
    Window,
    limit=AMOUNTS,
    per=st.sampled_from(["day", "week", "month"]),
    calendar=st.just(value=True),
    label=st.sampled_from(LABELS),
)
WINDOWS = ROLLING | PER_CALL | CALENDAR
PARIS = ZoneInfo("Europe/Paris")


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
    window = Window.read(text)
    assert (limit, span, "", False) == (window.limit, window.span, window.label, window.calendar)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("500 sat/calendar day", "500 sat per calendar-day"),
        ("500 sat/calendar month", "500 sat / CALENDAR month"),
        ("500 sat/day on api.example.com", "500 sat/day on API.example.com"),
        ("500 sat/day on [::1]", "500 sat/day on [::1]"),
        ("500 sat/day on [::1]", "500 sat/day on ::1"),
        ("500 sat/day on [2001:db8::7]", "500 sat/day on [2001:DB8:0:0::7]"),
        ("20 sat/min per host", "20 sat per minute per host"),
        ("20 sat/call tagged research", "20 sat/call tagged research"),
        ("20 sat/calendar week per tag", "20 sat/calendar week  per tag"),
    ],
)
def test_a_window_may_be_a_calendars_and_of_a_host_or_a_tag(told: str, text: str) -> None:
    assert told == str(Window.read(text))
    assert Window.read(told) == Window.read(text)


@pytest.mark.parametrize(
    ("text", "now", "since", "ends"),
    [
        ("1 sat/calendar day", (2026, 3, 29, 12), (2026, 3, 29), (2026, 3, 30)),  # the day is 23 hours long
        ("1 sat/calendar day", (2026, 10, 25, 23), (2026, 10, 25), (2026, 10, 26)),  # and this one 25
        ("1 sat/calendar week", (2026, 11, 22, 23), (2026, 11, 16), (2026, 11, 23)),
        ("1 sat/calendar month", (2026, 2, 28, 1), (2026, 2, 1), (2026, 3, 1)),
        ("1 sat/calendar month", (2026, 12, 31, 23), (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_a_calendars_window_begins_at_midnight_of_the_users_time(
    text: str, now: tuple[int, ...], since: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    window = Window.read(text, PARIS)
    here = datetime(*now, tzinfo=PARIS)  # type: ignore[misc] # year, month, day, hour
    first = datetime(*since, tzinfo=PARIS).astimezone(UTC)  # type: ignore[misc]
    began = window.since(here.astimezone(UTC))
    assert began is not None
    assert began < first <= began + timedelta(milliseconds=1)
    assert datetime(*ends, tzinfo=PARIS) == window.ends(here)  # type: ignore[misc]


HAVANA, CAIRO = ZoneInfo("America/Havana"), ZoneInfo("Africa/Cairo")


def test_a_day_with_two_midnights_begins_with_the_first_one() -> None:
    window = Window.read("1 sat/calendar day", HAVANA)
    midnight = datetime(2026, 11, 1, tzinfo=HAVANA).astimezone(UTC)
    for minutes in (0, 30, 60, 90, 120):  # at one o'clock it is midnight again
        assert midnight - timedelta(microseconds=1) == window.since(midnight + timedelta(minutes=minutes))
    assert midnight + timedelta(hours=25) == window.ends(midnight + timedelta(minutes=90))


def test_a_day_without_a_midnight_begins_when_the_one_before_it_ends() -> None:
    window = Window.read("1 sat/calendar day", CAIRO)
    first = datetime(2026, 4, 24, 1, tzinfo=CAIRO).astimezone(UTC)
    assert first - timedelta(microseconds=1) == window.since(first)
    assert first == window.ends(first - timedelta(microseconds=1))
    assert first + timedelta(hours=23) == window.ends(first)


@given(
    st.sampled_from([PARIS, HAVANA, CAIRO, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kathmandu")]),
    st.sampled_from(["day", "week", "month"]),
    st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
)
@settings(deadline=None)
def test_each_instant_is_in_one_calendar_window_which_ends_where_the_next_one_begins(
    zone: ZoneInfo, per: str, now: datetime
) -> None:
    window = Window.read(f"1 sat/calendar {per}", zone)
    since, ends = window.since(now), window.ends(now)
    assert since is not None
    assert ends is not None
    assert since < now < ends
    assert (since, ends) == (
        window.since(ends - timedelta(microseconds=1)),
        window.ends(since + timedelta(microseconds=1)),
    )
    assert ends - timedelta(microseconds=1) == window.since(ends)


def test_a_rolling_window_begins_a_span_ago_and_does_not_end() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert now - timedelta(days=1) == Window.read("5 sat/day").since(now)
    assert Window.read("5 sat/day").ends(now) is None
    assert Window.read("5 sat/call").since(now) is None


def test_a_window_applies_to_its_own_host_or_tag_and_one_for_each_is_one_window_for_each() -> None:
    budget = Budget.read("9 sat/day, 5 sat/day on a.example, 3 sat/day per host, 2 sat/day per tag")
    assert ["9 sat/day", "5 sat/day on a.example", "3 sat/day on a.example"] == [
        str(window) for window in budget.among(["host:a.example"])
    ]
    assert ["9 sat/day", "3 sat/day on b.example", "2 sat/day tagged x", "2 sat/day tagged y"] == [
        str(window) for window in budget.among(["host:b.example", "tag:y", "tag:x"])
    ]


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
        "500 sat/calendar hour",
        "500 sat/calendar call",
        "5 sat/day on",
        "5 sat/day on a b",
        "5 sat/day on a/b",
        "5 sat/day on api.example.com:8402",
        "5 sat/day on 127.0.0.1:8402",
        "5 sat/day on [::1]:8402",
        "5 sat/day tagged",
        "5 sat/day tagged *",
        "5 sat/call per host",
        "5 sat/day per call",
        "5 sat/day on " + "a" * 300,
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("500 sat/dya", r"'dya' is no span; there are call, min, minute, hour, day, week, month"),
        ("500 sat/calendar hour", r"'hour' is no calendar; there are day, week, month"),
        ("much/day", r"'much' is no amount, such as 21 sat"),
        ("500/day", r"'500' is no amount"),
        ("5 sat/call per host", r"a limit per call is the same for each host"),
        ("5 sat/day on a.example:80", r"a host is named without a port"),
    ],
)
def test_what_can_not_be_read_of_a_window_is_named(text: str, told: str) -> None:
    with pytest.raises(MalformedBudget, match=told) as refused:
        Window.read(text)
    assert text == refused.value.evidence["given"]


def test_the_limit_of_a_narrowed_token_is_told_as_the_token_s() -> None:
    assert "5 sat/call of this token (purse bot)" == str(Window(limit=Amount.sats(5), per="call", label="purse:bot/0f"))
