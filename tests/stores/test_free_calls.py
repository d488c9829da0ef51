"""What a free call asks of the database, statement by statement, and what it takes back when it comes too late."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.core.payment import FreeCall, FreeScope
from farebox.stores.engine import drive, in_ms
from farebox.stores.free_calls import SQL, FreeLimits, take_free_call

CLIENT = "2001:db8:1:7::/64"
LIMITS = FreeLimits(calls=1, window=timedelta(days=1), calls_of_subnet=4, calls_of_all=100)
NOW_MS = in_ms(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
NAMES = {statement: name for name, statement in SQL.items()}
LOST_RACES = {  # a statement that finds what was there a moment ago gone, and what has to be taken back
    "everyone": ([[(1,)], [(1,)], []], [], FreeScope.EVERYONE),
    "subnet": ([[(1,)], [(1,)], [(1,)], []], ["uncount_free_call"], FreeScope.SUBNET),
    "slot": ([[(1,)], [(1,)], [(1,)], [(1,)], []], ["uncount_free_call"] * 2, FreeScope.CLIENT),
}


def asked(*answers: Any) -> tuple[list[str], FreeCall]:
    """The statements that follow on the salt and the slots, each given its answer, and the outcome."""
    operation = take_free_call(CLIENT, LIMITS, NOW_MS)
    names, rows = [], iter([[(bytes(32),)], [], *answers])
    try:
        statement, _ = next(operation)
        while True:
            names.append(NAMES[statement])
            statement, _ = operation.send(next(rows, []))
    except StopIteration as ended:
        return names[2:], ended.value


def test_a_free_call_is_counted_for_everyone_first_then_for_its_network_and_then_taken() -> None:
    names, call = asked([], [], [(1,)], [(1,)], [(0,)])
    assert ["free_total", "free_total", "count_free_call", "count_free_call", "take_slot"] == names[:5]
    assert ["forget_free_calls", "forget_free_totals"] == names[5:]
    assert call.granted


@pytest.mark.parametrize(
    ("totals", "scope"), [([[(100,)]], FreeScope.EVERYONE), ([[(99,)], [(4,)]], FreeScope.SUBNET)], ids=str
)
def test_a_call_whose_day_is_used_up_writes_nothing(totals: list[Any], scope: FreeScope) -> None:
    names, call = asked(*totals)
    assert {"free_total"} == set(names)
    assert (False, scope) == (call.granted, call.scope)


@pytest.mark.parametrize("lost", LOST_RACES)
def test_a_call_that_comes_too_late_takes_back_what_was_counted_for_it(lost: str) -> None:
    answers, taken_back, scope = LOST_RACES[lost]
    names, call = asked(*answers)
    assert taken_back == names[len(answers) :]
    assert (False, scope) == (call.granted, call.scope)


def test_what_is_taken_back_is_what_was_counted_and_of_the_same_day() -> None:
    answers = {"find_salt": [(bytes(32),)], "count_free_call": [(1,)]}
    told: dict[str, list[tuple[object, object]]] = {}

    def run(statement: str, given: Mapping[str, object]) -> list[Any]:
        told.setdefault(NAMES[statement], []).append((given.get("bucket"), given.get("day")))
        return answers.get(NAMES[statement], [])

    assert not drive(take_free_call(CLIENT, LIMITS, NOW_MS), run).granted
    assert 2 == len(told["count_free_call"])
    assert told["count_free_call"] == told["uncount_free_call"]
    assert {NOW_MS // 86_400_000} == {day for _, day in told["count_free_call"]}


def test_where_the_network_has_run_out_after_all_what_was_counted_for_everyone_is_taken_back() -> None:
    told: dict[str, list[tuple[object, object]]] = {}

    def run(statement: str, given: Mapping[str, object]) -> list[Any]:
        name = NAMES[statement]
        told.setdefault(name, []).append((given.get("bucket"), given.get("day")))
        first = name == "count_free_call" and len(told[name]) == 1
        return [(bytes(32),)] if name == "find_salt" else [(1,)] if first else []

    call = drive(take_free_call(CLIENT, LIMITS, NOW_MS), run)
    assert (False, LIMITS.calls, 0, FreeScope.SUBNET) == (call.granted, call.limit, call.remaining, call.scope)
    assert told["count_free_call"][:1] == told["uncount_free_call"]


def test_the_salt_that_is_kept_where_there_is_none_is_as_long_as_the_hash_it_keys() -> None:
    kept: list[bytes] = []

    def run(statement: str, given: Mapping[str, Any]) -> list[Any]:
        if NAMES[statement] == "keep_salt":
            kept.append(given["salt"])
        return [(salt,) for salt in kept] if NAMES[statement] == "find_salt" else []

    drive(take_free_call(CLIENT, LIMITS, NOW_MS), run)
    drive(take_free_call(CLIENT, LIMITS, NOW_MS), run)
    assert [32] == [len(salt) for salt in kept]
