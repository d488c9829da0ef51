"""Asking: one sub-story for each kind of reply to a step, so that the stories read without casts."""

from __future__ import annotations

from farebox.core.exchange import Wire
from farebox.core.ports import Failed, Paid, PayOutcome, Unresolved
from farebox.core.purse import Purchase, Seen
from farebox.payer.steps import (
    Answered,
    Deliver,
    Hold,
    LookUp,
    NoAnswer,
    Pay,
    Recall,
    RecallProofs,
    RecallSeen,
    Release,
    Reply,
    Send,
    Step,
    Story,
    TakeOver,
    undelivered,
)


def _unfit(step: Step, reply: Reply) -> TypeError:
    return TypeError(f"{type(reply).__name__} is no reply to {type(step).__name__}")


def send(proof: Wire | None = None) -> Story[Answered]:
    """Ask for Send, of a call that nothing was paid for yet."""
    step = Send(proof=proof)
    reply = yield step
    if isinstance(reply, Answered):
        return reply
    raise _unfit(step, reply)


def show(proof: Wire, payment_hash: bytes) -> Story[Answered | NoAnswer]:
    """Ask for Send, of a call whose answer is owed."""
    step = Send(proof=proof, trouble=undelivered(payment_hash))
    reply = yield step
    if isinstance(reply, Answered | NoAnswer):
        return reply
    raise _unfit(step, reply)


def deliver(payment_hash: bytes, *, kept: bool = False) -> Story[NoAnswer | None]:
    """Ask for Deliver."""
    step = Deliver(payment_hash=payment_hash, kept=kept)
    reply = yield step
    if reply is None or isinstance(reply, NoAnswer):
        return reply
    raise _unfit(step, reply)


def consult(step: Pay | LookUp) -> Story[PayOutcome]:
    """Ask the wallet."""
    reply = yield step
    if isinstance(reply, Paid | Failed | Unresolved):
        return reply
    raise _unfit(step, reply)


def recall(step: Recall | RecallProofs) -> Story[tuple[Purchase, ...]]:
    """Ask the purse for purchases."""
    reply = yield step
    if isinstance(reply, tuple):
        return reply
    raise _unfit(step, reply)


def recall_seen(origin: str, resource: str) -> Story[Seen]:
    """Ask for RecallSeen."""
    step = RecallSeen(origin=origin, resource=resource)
    reply = yield step
    if isinstance(reply, Seen):
        return reply
    raise _unfit(step, reply)


def take_over(step: TakeOver) -> Story[bool]:
    """Ask for TakeOver; whether it is ours now."""
    reply = yield step
    if reply is None or isinstance(reply, Purchase):
        return reply is not None
    raise _unfit(step, reply)


def release(step: Release) -> Story[bool]:
    """Ask for Release; whether it is free now."""
    reply = yield step
    if reply is None or isinstance(reply, Purchase):
        return reply is None
    raise _unfit(step, reply)


def hold(step: Hold) -> Story[Purchase | None]:
    """Ask for Hold."""
    reply = yield step
    if reply is None or isinstance(reply, Purchase):
        return reply
    raise _unfit(step, reply)
