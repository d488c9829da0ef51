"""What a gate tells of its work: small values, handed to one observer as things happen.

Rules
1. Nothing here names a payment, a proof or a caller. A `resource` is what is sold as the seller lists it, such as
   `POST /api/dvm`, so there are as many as there are routes; a `node` is a receiver's name.
2. An observer is called in the task that does the work, once the thing is settled. It is quick, and does not raise.
3. A step that began ends in the same task, whatever happens, so that an observer may nest what happens in between.
4. Without an observer nothing is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from time import perf_counter
from types import TracebackType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.errors import FareboxError


class Step(StrEnum):
    """What takes time: deciding about a call, asking the node, telling it to settle or cancel, charging."""

    ADMIT = "admit"
    CREATE_INVOICE = "create_invoice"
    LOOKUP_INVOICE = "lookup_invoice"
    MOVE_INVOICE = "move_invoice"
    CAPTURE = "capture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A step begins. resource: empty for a question to a node. node: the name of the one that is asked."""

    step: Step
    resource: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A step ended. error: the type of the error, such as `node-unavailable`; empty when it went well."""

    step: Step
    resource: str
    took: timedelta
    error: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePassedOver:
    """A node did not make an invoice, so the next one is asked. reason: what it, or its line, said."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallChallenged:
    """A 402. reused: it holds the caller's own unpaid invoice, and no new one."""

    resource: str
    amount: Amount
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCallAsked:
    """A call without proof asked for a free call."""

    resource: str
    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTaken:
    """A paid call may run. first: nobody had called with this payment before, so a challenge has become a sale."""

    resource: str
    amount: Amount
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldEnded:
    """A paid call is over, however it ended; one for each HoldTaken."""

    resource: str
    took: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCaptured:
    """A paid call was charged, and its answer decided."""

    resource: str
    amount: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReleased:
    """A paid call failed or was refused. owed: what became credit by it; nothing while the proof stays good."""

    resource: str
    owed: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReplayed:
    """A paid answer was given again. remembered: this process had it in mind, and did not ask the ledger."""

    resource: str
    remembered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefused:
    """A call was answered with a problem. reason: the error's type. resource: empty where none was found yet."""

    resource: str
    reason: str


Event = (
    Began
    | Ended
    | NodePassedOver
    | CallChallenged
    | FreeCallAsked
    | HoldTaken
    | HoldEnded
    | CallCaptured
    | CallReleased
    | AnswerReplayed
    | CallRefused
)
Observer = Callable[[Event], None]

_UNWATCHED: Final = nullcontext()


def watched(
    observer: Observer | None, step: Step, resource: str = "", *, node: str = ""
) -> AbstractContextManager[None]:
    """Tells the observer when what is inside begins, and when and how it ends."""
    return _UNWATCHED if observer is None else _Watched(observer, step, resource, node)


class _Watched(AbstractContextManager[None]):
    def __init__(self, observer: Observer, step: Step, resource: str, node: str) -> None:
        self._observer = observer
        self._step = step
        self._resource = resource
        self._node = node
        self._began_s = 0.0

    def __enter__(self) -> None:
        self._observer(Began(step=self._step, resource=self._resource, node=self._node))
        self._began_s = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = timedelta(seconds=perf_counter() - self._began_s)
        self._observer(
            Ended(step=self._step, resource=self._resource, took=took, error=_name_of(error), node=self._node)
        )


def _name_of(error: BaseException | None) -> str:
    match error:
        case None:
            return ""
        case FareboxError():
            return error.type
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "unexpected"
