"""Metrics: what the gate tells, counted for Prometheus.

Rules
1. A label has few values: a route as the seller lists it, the type of an error, the name of an operation or of a node.
   Never a hash, a path, a token or a caller's address. What goes beyond `MOST_RESOURCES` is counted under `other`.
2. Names follow Prometheus' conventions: `farebox_` in front, base units, `_total` behind what only grows. Money is in
   millisatoshis, because a float keeps every one of them exactly up to 90,000 BTC.
3. Counting a replay, which the quickest path does, is one addition in a dictionary; `flush` hands them on.
4. Nothing is global: metrics belong to the registry that they were made in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric as PrometheusMetric

from farebox.core.payment import Balance
from farebox.gate.events import (
    AnswerReplayed,
    CallCaptured,
    CallChallenged,
    CallRefused,
    CallReleased,
    Ended,
    FreeCallAsked,
    HoldEnded,
    HoldTaken,
    Step,
)
from farebox.telemetry.observers import Handlers

Metric = TypeVar("Metric", Counter, Histogram)

MOST_RESOURCES: Final = 500
OTHER: Final = "other"

_NODE_STEPS: Final = (Step.CREATE_INVOICE, Step.LOOKUP_INVOICE, Step.MOVE_INVOICE)
_NODE_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2)  # a node may take 2 s by default
_LEDGER_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_CALL_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_UPSTREAM_FAILED: Final = "upstream-failed"


class _Labelled(dict[tuple[str, ...], Metric], Generic[Metric]):
    """The children of a metric by their labels; finding one in here takes a tenth of what `labels()` takes."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric: Metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Metric:
        child: Metric = self._metric.labels(*labels)
        self[labels] = child
        return child


class Metrics:
    """A watcher that counts (see telemetry.observers); `ledger_operation` is told by a timed ledger."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)  # first, so that what the others show is up to date

        def counter(name: str, told: str, *labels: str) -> _Labelled[Counter]:
            return _Labelled(Counter(f"farebox_{name}", told, labels, registry=registry))

        def histogram(name: str, told: str, buckets: tuple[float, ...], *labels: str) -> _Labelled[Histogram]:
            return _Labelled(Histogram(f"farebox_{name}", told, labels, registry=registry, buckets=buckets))

        self._challenges = counter(
            "challenges", "Answers 402, with a new invoice or again one's own", "resource", "invoice"
        )
        self._free_calls = counter(
            "free_calls", "Calls without proof, by whether they were free", "resource", "granted"
        )
        self._conversions = counter("conversions", "Payments that were called with for the first time", "resource")
        self._paid_calls = counter("paid_calls", "Calls that were charged", "resource")
        self._earned = counter("earned_msat", "What was charged, in millisatoshis", "resource")
        self._replays = counter("replays", "Paid answers given again", "resource", "source")
        self._releases = counter("releases", "Paid calls that failed or were refused, and not charged", "resource")
        self._credits = counter("credits", "Payments that became credit at the end of a call", "resource")
        self._credited = counter("credited_msat", "What became credit so, in millisatoshis", "resource")
        self._refusals = counter("refusals", "Calls answered with a problem, by its type", "resource", "reason")
        self._upstream_failures = counter("upstream_failures", "Calls that the seller's service failed", "resource")
        self._node_failures = counter("node_failures", "Questions that a node did not answer", "request", "node")
        self._ledger_failures = counter("ledger_failures", "Operations that the ledger could not do", "operation")
        self._calls_s = histogram(
            "call_duration_seconds", "Paid calls, from claim to charge", _CALL_SECONDS, "resource"
        )
        self._node_s = histogram(
            "node_request_duration_seconds", "Questions to a node", _NODE_SECONDS, "request", "node"
        )
        self._ledger_s = histogram(
            "ledger_operation_duration_seconds",
            "Operations of the ledger, waiting included",
            _LEDGER_SECONDS,
            "operation",
        )
        self._live_holds = Gauge(
            "farebox_live_holds", "Paid calls that are running", registry=registry, multiprocess_mode="livesum"
        )
        self._resources: set[str] = set()
        # Replays since the beginning, by whether they came from memory; of these, so many were handed on.
        self._replayed: dict[bool, dict[str, int]] = {True: {}, False: {}}
        self._handed_on: dict[tuple[bool, str], int] = {}
        self._handing_on = threading.Lock()
        self.handlers: Final[Handlers] = {
            AnswerReplayed: self._answer_replayed,
            CallCaptured: self._call_captured,
            CallChallenged: self._call_challenged,
            CallRefused: self._call_refused,
            CallReleased: self._call_released,
            Ended: self._ended,
            FreeCallAsked: self._free_call_asked,
            HoldEnded: self._hold_ended,
            HoldTaken: self._hold_taken,
        }

    def collect(self) -> Iterable[PrometheusMetric]:
        """Called when the registry is read: brings it up to date, and has nothing of its own to show."""
        self.flush()
        return ()

    def flush(self) -> None:
        """Hand on what was counted on the side, from any thread."""
        with self._handing_on:
            for remembered, by_resource in self._replayed.items():
                for resource, count in tuple(by_resource.items()):
                    new = count - self._handed_on.get((remembered, resource), 0)
                    if new:
                        self._replays[self._bounded(resource), "memory" if remembered else "ledger"].inc(new)
                        self._handed_on[remembered, resource] = count

    def ledger_operation(self, operation: str, took: timedelta, error: str) -> None:
        """Count an operation of the ledger."""
        self._ledger_s[(operation,)].observe(took.total_seconds())
        if error == "store-unavailable":
            self._ledger_failures[(operation,)].inc()

    def _bounded(self, resource: str) -> str:
        if resource in self._resources:
            return resource
        if len(self._resources) >= MOST_RESOURCES:
            return OTHER
        self._resources.add(resource)
        return resource

    # --- each kind of event -------------------------------------------------------------------------------------------

    def _answer_replayed(self, event: AnswerReplayed) -> None:
        counted = self._replayed[event.remembered]
        counted[event.resource] = counted.get(event.resource, 0) + 1

    def _call_challenged(self, event: CallChallenged) -> None:
        self._challenges[self._bounded(event.resource), "own" if event.reused else "new"].inc()

    def _free_call_asked(self, event: FreeCallAsked) -> None:
        self._free_calls[self._bounded(event.resource), str(event.granted).lower()].inc()

    def _hold_taken(self, event: HoldTaken) -> None:
        self._live_holds.inc()
        if event.first:
            self._conversions[(self._bounded(event.resource),)].inc()

    def _hold_ended(self, event: HoldEnded) -> None:
        self._live_holds.dec()
        self._calls_s[(self._bounded(event.resource),)].observe(event.took.total_seconds())

    def _call_captured(self, event: CallCaptured) -> None:
        labels = (self._bounded(event.resource),)
        self._paid_calls[labels].inc()
        self._earned[labels].inc(event.amount.msat)

    def _call_released(self, event: CallReleased) -> None:
        labels = (self._bounded(event.resource),)
        self._releases[labels].inc()
        if event.owed:
            self._credits[labels].inc()
            self._credited[labels].inc(event.owed.msat)

    def _call_refused(self, event: CallRefused) -> None:
        resource = self._bounded(event.resource)
        self._refusals[resource, event.reason].inc()
        if event.reason == _UPSTREAM_FAILED:
            self._upstream_failures[(resource,)].inc()

    def _ended(self, event: Ended) -> None:
        if event.step in _NODE_STEPS:
            labels = (event.step.value, event.node)
            self._node_s[labels].observe(event.took.total_seconds())
            if event.error:
                self._node_failures[labels].inc()


class BooksMetrics:
    """What the books said when they were last looked into; of one process for each ledger, which looks."""

    def __init__(self, registry: CollectorRegistry, *, version: str) -> None:
        self._balanced = Gauge(
            "farebox_ledger_balanced", "1 while the books balance, 0 when they do not", registry=registry
        )
        self._accounts = Gauge(
            "farebox_ledger_msat", "The accounts of the ledger, in millisatoshis", ("account",), registry=registry
        )
        self._looked_at = Gauge(
            "farebox_ledger_audit_timestamp_seconds", "When the books were last looked into", registry=registry
        )
        self._took_s = Gauge("farebox_ledger_audit_duration_seconds", "How long that took", registry=registry)
        Gauge("farebox_build_info", "Which farebox this is", ("version",), registry=registry).labels(version).set(1)

    def looked(self, balance: Balance | None, *, balanced: bool, at: datetime, took: timedelta) -> None:
        """The books were looked into. balance: None where an account is below nothing."""
        self._balanced.set(1 if balanced else 0)
        if balance is not None:
            for account in ("received", "earned", "held", "credit", "refunded"):
                self._accounts.labels(account).set(getattr(balance, account).msat)
        self._looked_at.set(at.timestamp())
        self._took_s.set(took.total_seconds())
