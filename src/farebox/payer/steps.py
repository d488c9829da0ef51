"""The steps of a purchase: what the story asks of its driver, and what the driver replies.

Rules
1. A step says what is to be done, never how: HTTP, MCP and Nostr drive the same story, blocking or awaiting.
2. Each step has one kind of reply, named beside it. An error of a port is thrown into the story at its step.
3. A driver that is interrupted closes the story, and what was held stays held.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice
from farebox.core.budget import Window
from farebox.core.exchange import Receipt, Wire
from farebox.core.ports import Failed, Paid, PayOutcome, Purchase, Purse, Unresolved
from farebox.core.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCall:
    """The call that the buyer wants answered.

    origin: `https://host:port` as the caller named it; nobody else is paid.
    url: without fragment and user information, for the purse.
    digest: SHA-256 that tells the same call made again; None when its body can be read only once.
    """

    origin: str
    url: str
    digest: bytes | None


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the call, with a proof or without one. Reply: Answered, or NoAnswer if there was a proof."""

    proof: Wire | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Hand over the answer heard last, and mark it served when its last byte has come. Reply: None, or NoAnswer.

    kept: the seller refused the call and keeps the payment for it, so it is marked as that instead.
    """

    payment_hash: bytes
    kept: bool = False

    @property
    def outcome(self) -> MarkServed | MarkKept:
        """What the purse is told when the last byte has come."""
        return (MarkKept if self.kept else MarkServed)(payment_hash=self.payment_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pay:
    """Have the wallet pay. Reply: a PayOutcome."""

    invoice: Invoice
    fee_limit: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Ask the wallet what became of a payment. Reply: a PayOutcome."""

    payment_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Let time pass. Reply: None."""

    span: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Ask the purse for unfinished purchases, of one request or of all. Reply: a tuple of purchases, oldest first."""

    request_digest: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Write the intent into the purse, before the wallet is called. Reply: None, or the purchase known already."""

    purchase: Purchase
    limits: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Write down that it was paid. Reply: None."""

    payment_hash: bytes
    preimage: Secret[bytes]
    fee: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Write down that it certainly was not paid. Reply: None."""

    payment_hash: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkServed:
    """Write down that there is nothing more to ask for. Reply: None."""

    payment_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkKept:
    """The seller refused the paid call, and keeps the payment for it. Reply: None."""

    payment_hash: bytes


Remember = Recall | Hold | Capture | Release | MarkServed | MarkKept
Step = Send | Deliver | Pay | LookUp | Wait | Remember


# --- replies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer, as far as the story has to know it.

    origin: of the address that answered in the end, after redirects. wire: its headers, and its body when that is
    JSON and short.
    """

    status: int
    origin: str
    wire: Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """The call was sent with a proof, and no whole answer came."""

    reason: str


Reply = Answered | NoAnswer | PayOutcome | tuple[Purchase, ...] | Purchase | None
Story = Generator[Step, Reply, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What an answer cost.

    paid, fee: what was paid for it, now or in an earlier call. free: it cost nothing.
    replayed: it was paid in an earlier call whose answer had not come; nothing was paid now.
    dialect: in which the proof was shown. receipt: the seller's, where there is one.
    """

    paid: Amount = NOTHING
    fee: Amount = NOTHING
    payment_hash: bytes | None = None
    receipt: Receipt | None = None
    dialect: str | None = None
    replayed: bool = False

    @property
    def free(self) -> bool:
        """Whether nothing was paid for this answer, now or before."""
        return self.payment_hash is None


def remember(purse: Purse, step: Remember) -> Reply:
    """Do the steps that concern the purse. Blocking; raises OverBudget and StoreUnavailable."""
    match step:
        case Recall(request_digest=digest):
            return tuple(purse.unfinished(digest))
        case Hold(purchase=purchase, limits=limits):
            return purse.hold(purchase, limits)
        case Capture(payment_hash=payment_hash, preimage=preimage, fee=fee):
            purse.capture(payment_hash, preimage=preimage, fee=fee)
        case Release(payment_hash=payment_hash, reason=reason):
            purse.release(payment_hash, reason=reason)
        case MarkServed(payment_hash=payment_hash):
            purse.mark_served(payment_hash)
        case MarkKept(payment_hash=payment_hash):
            purse.mark_kept(payment_hash)
    return None


# --- asking: one sub-story for each kind of reply, so that the story reads without casts -----------------------------


def _unfit(step: Step, reply: Reply) -> TypeError:
    return TypeError(f"{type(reply).__name__} is no reply to {type(step).__name__}")


def send(proof: Wire | None = None) -> Story[Answered | NoAnswer]:
    """Ask for Send."""
    step = Send(proof=proof)
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


def recall(request_digest: bytes | None) -> Story[tuple[Purchase, ...]]:
    """Ask for Recall."""
    step = Recall(request_digest=request_digest)
    reply = yield step
    if isinstance(reply, tuple):
        return reply
    raise _unfit(step, reply)


def hold(purchase: Purchase, limits: tuple[Window, ...]) -> Story[Purchase | None]:
    """Ask for Hold."""
    step = Hold(purchase=purchase, limits=limits)
    reply = yield step
    if reply is None or isinstance(reply, Purchase):
        return reply
    raise _unfit(step, reply)
