"""A line for what should wake somebody, and not one for each call."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from farebox.core.amount import NOTHING, Amount
from farebox.gate.events import CallReleased, Ended, NodePassedOver, Step
from farebox.telemetry.alerts import AGAIN, CREDITS_WITHIN, MOST_CREDITS, NODE_SILENT_FOR, Alerts
from farebox.telemetry.observers import Observers
from farebox.testing.market import StillClock

OWED = CallReleased(resource="/x", owed=Amount.sats(21))
SECOND = timedelta(seconds=1)


def answered(error: str = "", step: Step = Step.CREATE_INVOICE, *, node: str = "a node") -> Ended:
    return Ended(step=step, resource="", took=timedelta(0), error=error, node=node)


SILENT = answered("node-unavailable")


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def observe(clock: StillClock) -> Observers:
    return Observers([Alerts(clock)])


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as logs:
        yield logs


def lines(logs: list[Any]) -> list[tuple[str, str]]:
    return [(each["log_level"], each["event"]) for each in logs]


def test_a_node_that_is_silent_for_a_minute_is_told_once_and_then_now_and_again(
    observe: Observers, clock: StillClock, logs: list[Any]
) -> None:
    for _ in range(int(NODE_SILENT_FOR / SECOND)):
        observe(SILENT)
        clock.pass_by(SECOND)
    assert [] == lines(logs)
    for _ in range(int(AGAIN / SECOND) + 1):
        observe(SILENT)
        clock.pass_by(SECOND)
    assert [("critical", "node-unavailable")] * 2 == lines(logs)
    assert [60, 660] == [each["for_s"] for each in logs]


def test_a_node_that_answers_now_and_then_is_not_silent(observe: Observers, clock: StillClock, logs: list[Any]) -> None:
    for _ in range(10):
        observe(SILENT)
        clock.pass_by(NODE_SILENT_FOR - SECOND)
        observe(answered())
    assert [] == lines(logs)


def test_a_node_that_comes_back_is_told_if_its_silence_was(
    observe: Observers, clock: StillClock, logs: list[Any]
) -> None:
    observe(SILENT)
    clock.pass_by(NODE_SILENT_FOR)
    observe(SILENT)
    observe(answered())
    observe(answered())
    assert [("critical", "node-unavailable"), ("info", "node-available")] == lines(logs)


def test_a_silent_node_is_told_by_its_name_though_another_one_answers(
    observe: Observers, clock: StillClock, logs: list[Any]
) -> None:
    for _ in range(int(NODE_SILENT_FOR / SECOND) + 1):
        observe(SILENT)
        observe(answered(node="another node"))
        clock.pass_by(SECOND)
    observe(answered())
    assert [("critical", "node-unavailable"), ("info", "node-available")] == lines(logs)
    assert ["a node"] * 2 == [each["node"] for each in logs]


def test_a_node_that_is_passed_over_is_told_once_and_then_now_and_again(
    observe: Observers, clock: StillClock, logs: list[Any]
) -> None:
    for _ in range(int(AGAIN / SECOND) + 1):
        for node in ("a node", "another node"):
            observe(NodePassedOver(node=node, reason="it is away"))
        clock.pass_by(SECOND)
    assert [("warning", "node-passed-over")] * 4 == lines(logs)
    assert ["a node", "another node"] * 2 == [each["node"] for each in logs]


@pytest.mark.parametrize("said", [answered("cancelled"), answered("store-unavailable", Step.CAPTURE)], ids=str)
def test_what_is_not_the_nodes_doing_says_nothing_of_it(
    observe: Observers, clock: StillClock, logs: list[Any], said: Ended
) -> None:
    observe(said)
    clock.pass_by(NODE_SILENT_FOR * 2)
    observe(said)
    assert [] == lines(logs)


def test_many_credits_within_an_hour_are_told_once(observe: Observers, clock: StillClock, logs: list[Any]) -> None:
    for _ in range(MOST_CREDITS - 1):
        observe(OWED)
        observe(CallReleased(resource="/x", owed=NOTHING))
    assert [] == lines(logs)
    for _ in range(5):
        observe(OWED)
    assert [("error", "many-credits")] == lines(logs)


def test_as_many_credits_over_a_longer_time_are_not_told(
    observe: Observers, clock: StillClock, logs: list[Any]
) -> None:
    for _ in range(MOST_CREDITS * 3):
        observe(OWED)
        clock.pass_by(CREDITS_WITHIN / (MOST_CREDITS - 1) + SECOND)
    assert [] == lines(logs)
