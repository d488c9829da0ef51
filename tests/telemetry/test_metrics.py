"""What the gate tells, as Prometheus reads it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import Balance
from farebox.gate.events import (
    AnswerReplayed,
    Began,
    CallCaptured,
    CallChallenged,
    CallRefused,
    CallReleased,
    Ended,
    Event,
    FreeCallAsked,
    HoldEnded,
    HoldTaken,
    Step,
)
from farebox.telemetry.metrics import MOST_RESOURCES, BooksMetrics, Metrics
from farebox.telemetry.observers import Observers

PRICE = Amount.sats(21)
RESOURCE = "POST /api/dvm"
SECOND = timedelta(seconds=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def told(registry: CollectorRegistry, *happened: Event) -> dict[str, float]:
    """Every sample that is not nothing after some events, by its name and labels as they are written."""
    observe = Observers([Metrics(registry)])
    for event in happened:
        observe(event)
    return read(registry)


def read(registry: CollectorRegistry) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for name, labels, value, *_ in family.samples:
            if value and not name.endswith(("_created", "_bucket")):
                found[name.removeprefix("farebox_") + "".join(f" {v}" for _, v in sorted(labels.items()))] = value
    return found


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        (CallChallenged(resource=RESOURCE, amount=PRICE, reused=False), {f"challenges_total new {RESOURCE}": 1}),
        (CallChallenged(resource=RESOURCE, amount=PRICE, reused=True), {f"challenges_total own {RESOURCE}": 1}),
        (FreeCallAsked(resource=RESOURCE, granted=True), {f"free_calls_total true {RESOURCE}": 1}),
        (FreeCallAsked(resource=RESOURCE, granted=False), {f"free_calls_total false {RESOURCE}": 1}),
        (
            HoldTaken(resource=RESOURCE, amount=PRICE, first=True),
            {"live_holds": 1, f"conversions_total {RESOURCE}": 1},
        ),
        (HoldTaken(resource=RESOURCE, amount=PRICE, first=False), {"live_holds": 1}),
        (
            CallCaptured(resource=RESOURCE, amount=PRICE),
            {f"paid_calls_total {RESOURCE}": 1, f"earned_msat_total {RESOURCE}": 21_000},
        ),
        (CallReleased(resource=RESOURCE, owed=NOTHING), {f"releases_total {RESOURCE}": 1}),
        (
            CallReleased(resource=RESOURCE, owed=PRICE),
            {
                f"releases_total {RESOURCE}": 1,
                f"credits_total {RESOURCE}": 1,
                f"credited_msat_total {RESOURCE}": 21_000,
            },
        ),
        (
            CallRefused(resource=RESOURCE, reason="request-mismatch"),
            {f"refusals_total request-mismatch {RESOURCE}": 1},
        ),
        (
            CallRefused(resource=RESOURCE, reason="upstream-failed"),
            {f"refusals_total upstream-failed {RESOURCE}": 1, f"upstream_failures_total {RESOURCE}": 1},
        ),
        (AnswerReplayed(resource=RESOURCE, remembered=True), {f"replays_total {RESOURCE} memory": 1}),
        (AnswerReplayed(resource=RESOURCE, remembered=False), {f"replays_total {RESOURCE} ledger": 1}),
        (
            Ended(step=Step.CREATE_INVOICE, resource="", took=SECOND, error="", node="a node"),
            {
                "node_request_duration_seconds_count a node create_invoice": 1,
                "node_request_duration_seconds_sum a node create_invoice": 1,
            },
        ),
        (
            Ended(step=Step.LOOKUP_INVOICE, resource="", took=SECOND, error="node-unavailable", node="a node"),
            {
                "node_request_duration_seconds_count a node lookup_invoice": 1,
                "node_request_duration_seconds_sum a node lookup_invoice": 1,
                "node_failures_total a node lookup_invoice": 1,
            },
        ),
        (Began(step=Step.ADMIT, resource=RESOURCE), {}),
        (Ended(step=Step.ADMIT, resource=RESOURCE, took=SECOND, error="node-unavailable"), {}),
    ],
    ids=str,
)
def test_an_event_is_counted_where_it_belongs_and_nowhere_else(
    registry: CollectorRegistry, event: Event, counted: dict[str, float]
) -> None:
    assert counted == told(registry, event)


def test_a_hold_that_ended_is_live_no_more_and_its_time_is_known(registry: CollectorRegistry) -> None:
    taken, ended = HoldTaken(resource=RESOURCE, amount=PRICE, first=False), HoldEnded(resource=RESOURCE, took=SECOND)
    expected = {f"call_duration_seconds_count {RESOURCE}": 1, f"call_duration_seconds_sum {RESOURCE}": 1}
    assert expected == told(registry, taken, ended)


def test_replays_are_counted_once_however_often_they_are_read(registry: CollectorRegistry) -> None:
    again = AnswerReplayed(resource=RESOURCE, remembered=True)
    told(registry, again, again)
    assert {f"replays_total {RESOURCE} memory": 2} == read(registry)


def test_there_are_never_more_resources_than_so_many(registry: CollectorRegistry) -> None:
    events = [CallCaptured(resource=f"/{n}", amount=PRICE) for n in range(MOST_RESOURCES + 7)]
    counted = {name: value for name, value in told(registry, *events).items() if name.startswith("paid_calls")}
    assert (MOST_RESOURCES + 1, 7) == (len(counted), counted["paid_calls_total other"])


def test_an_operation_of_the_ledger_is_counted_with_its_failure(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    metrics.ledger_operation("hold", SECOND, "")
    metrics.ledger_operation("hold", SECOND, "store-unavailable")
    expected = {
        "ledger_operation_duration_seconds_count hold": 2,
        "ledger_operation_duration_seconds_sum hold": 2,
        "ledger_failures_total hold": 1,
    }
    assert expected == read(registry)


def test_the_books_are_shown_as_they_were_last_seen(registry: CollectorRegistry) -> None:
    books = BooksMetrics(registry, version="9.9")
    at = datetime(2026, 1, 2, tzinfo=UTC)
    balance = Balance(received=PRICE * 6, earned=PRICE * 2, held=PRICE, credit=PRICE, refunded=PRICE)
    books.looked(balance, balanced=False, at=at, took=SECOND)
    expected = {
        "ledger_msat received": 126_000,
        "ledger_msat earned": 42_000,
        "ledger_msat held": 21_000,
        "ledger_msat credit": 21_000,
        "ledger_msat refunded": 21_000,
        "ledger_audit_timestamp_seconds": at.timestamp(),
        "ledger_audit_duration_seconds": 1,
        "build_info 9.9": 1,
    }
    assert expected == read(registry)  # where `ledger_balanced` is nothing
    books.looked(balance, balanced=True, at=at, took=SECOND)
    assert 1 == read(registry)["ledger_balanced"]


def test_the_handbook_tells_every_metric_and_no_other(registry: CollectorRegistry) -> None:
    Metrics(registry)
    BooksMetrics(registry, version="9.9")
    text = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    told = set(re.findall(r"`(farebox_[a-z_]+)`", text))
    shown = {f"{each.name}_total" if each.type == "counter" else each.name for each in registry.collect()}
    assert shown == told
