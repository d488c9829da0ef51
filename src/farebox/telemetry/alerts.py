"""Alerts: the few lines of a log that should wake somebody.

    ledger-unbalanced   critical   the books do not add up; stop selling and look (telemetry.auditor)
    node-unavailable    critical   a node has not answered for a minute; without another, nothing is sold
    node-available      info       it answers again
    node-passed-over    warning    a node made no invoice, and the next one was asked
    many-credits        error      paid calls that could not be delivered, so many in an hour

Rules
1. An alert that goes on is told again after `AGAIN`, not with every call.
2. One answer of a node ends its silence; a question that nobody waited for the answer of says nothing.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

import structlog

from farebox.core.ports import Clock
from farebox.gate.events import CallReleased, Ended, NodePassedOver, Step
from farebox.telemetry.observers import Handlers

log = structlog.get_logger("farebox")

NODE_SILENT_FOR: Final = timedelta(minutes=1)
MOST_CREDITS: Final = 10
CREDITS_WITHIN: Final = timedelta(hours=1)
AGAIN: Final = timedelta(minutes=10)

_NODE_STEPS: Final = (Step.CREATE_INVOICE, Step.LOOKUP_INVOICE, Step.MOVE_INVOICE)
_CANCELLED: Final = "cancelled"


class Alerts:
    """A watcher that logs what should wake somebody (see telemetry.observers)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silent_since: dict[str, datetime] = {}  # by the node's name
        self._credits: deque[datetime] = deque(maxlen=MOST_CREDITS)
        self._told: dict[tuple[str, str], datetime] = {}
        self.handlers: Final[Handlers] = {
            CallReleased: self._credit,
            Ended: self._node,
            NodePassedOver: self._passed_over,
        }

    def _node(self, event: Ended) -> None:
        if event.step not in _NODE_STEPS or event.error == _CANCELLED:
            return
        now = self._clock()
        if event.error:
            lasted = now - self._silent_since.setdefault(event.node, now)
            if lasted >= NODE_SILENT_FOR and self._is_due("node-unavailable", now, event.node):
                log.critical("node-unavailable", node=event.node, for_s=round(lasted.total_seconds()), told=event.error)
            return
        since = self._silent_since.pop(event.node, now)
        if self._told.pop(("node-unavailable", event.node), None) is not None:
            log.info("node-available", node=event.node, after_s=round((now - since).total_seconds()))

    def _passed_over(self, event: NodePassedOver) -> None:
        if self._is_due("node-passed-over", self._clock(), event.node):
            log.warning("node-passed-over", node=event.node, reason=event.reason)

    def _credit(self, event: CallReleased) -> None:
        if not event.owed:
            return
        now = self._clock()
        self._credits.append(now)
        if len(self._credits) < MOST_CREDITS or now - self._credits[0] > CREDITS_WITHIN:
            return
        if self._is_due("many-credits", now):
            within_s = round((now - self._credits[0]).total_seconds())
            log.error("many-credits", credits=MOST_CREDITS, within_s=within_s, newest=event.resource)

    def _is_due(self, alert: str, now: datetime, node: str = "") -> bool:
        told = self._told.get((alert, node))
        if told is not None and now - told < AGAIN:
            return False
        self._told[alert, node] = now
        return True
