"""The steps of a purchase: what the story asks of its driver, and what the driver replies.

Rules
1. A step says what is to be done, never how: HTTP, MCP and Nostr drive the same story, blocking or awaiting.
2. Each step has one kind of reply, named beside it. An error of a port is thrown into the story at its step.
3. A driver that is interrupted closes the story, and what was held stays held.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice
from farebox.core.budget import Window
from farebox.core.exchange import Receipt, Wire
from farebox.core.host import canonical_origin
from farebox.core.ports import PayOutcome
from farebox.core.purse import Guards, Purchase, Purse, Seen
from farebox.core.secret import Secret

T = TypeVar("T")


class OutgoingCall:
    """The call that the buyer wants answered.

    origin: `https://host:port` as the caller wrote it, which stays as `named`: nobody else is paid, nor who is written
    otherwise. As `origin` it has its host in one spelling, by which a seller is known and remembered.
    url: without fragment and user information, for the purse. method, path: what is sold, as prices go by them.
    digest: SHA-256 that tells the same call made again; None when its body can be read only once. A function is asked
    for it when it is needed, which it is not for what is free or paid for already.
    keeps_proofs: whether a proof stays at the origin wherever in the request it is, because no redirect is followed
    with it. Where that can't be seen to, only such are shown as HTTP clients drop by themselves: in `Authorization`.
    """

    # strays: it was led to another origin than the named one, which is neither paid nor shown a proof.
    __slots__ = ("_digest", "keeps_proofs", "method", "named", "origin", "path", "strays", "url")

    def __init__(
        self,
        *,
        origin: str,
        url: str,
        digest: bytes | Callable[[], bytes | None] | None,
        strays: bool = False,
        method: str = "GET",
        path: str = "/",
        keeps_proofs: bool = False,
    ) -> None:
        self.strays = strays
        self.named = origin
        self.origin = canonical_origin(origin)
        self.url = url
        self.method = method
        self.path = path
        self.keeps_proofs = keeps_proofs
        self._digest = digest

    @property
    def digest(self) -> bytes | None:
        """What tells the same call made again."""
        if callable(self._digest):
            self._digest = self._digest()
        return self._digest

    def led(self, *, strays: bool) -> OutgoingCall:
        """The same call, where a redirect has led it. strays: to another origin than the named one."""
        return OutgoingCall(
            origin=self.named,
            url=self.url,
            digest=lambda: self.digest,
            strays=strays,
            method=self.method,
            path=self.path,
            keeps_proofs=self.keeps_proofs,
        )

    @property
    def resource(self) -> str:
        """What is sold, such as `POST /api/dvm`."""
        return f"{self.method} {self.path}"

    @property
    def host(self) -> str:
        """The host of the origin in one spelling and without the port, such as `api.example.com` or `[::1]`."""
        return self.origin.partition("://")[2].rpartition(":")[0]


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the call, with a proof or without one. Reply: Answered, or NoAnswer if it was paid for just now or earlier.

    trouble: what the purse is told of a call whose answer was paid for, where whoever carries it gives up for what went
    wrong, and does not tell the story. None of any other call: that is the library's own error, as without farebox.
    """

    proof: Wire | None = None
    trouble: Mark | None = None

    @property
    def is_owed(self) -> bool:
        """Whether an answer to it was paid for, so that what goes wrong is told to the story."""
        return self.trouble is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Hand over the answer heard last, and mark it served when its last byte has come. Reply: None, or NoAnswer.

    One that is handed over before that, and breaks off, is marked as `trouble` says.

    kept: the seller refused the call and keeps the payment for it, so it is marked as that instead.
    """

    payment_hash: bytes
    kept: bool = False

    @property
    def outcome(self) -> Mark:
        """What the purse is told when the last byte has come."""
        return Mark(payment_hash=self.payment_hash, ending=Ending.KEPT if self.kept else Ending.SERVED)

    @property
    def trouble(self) -> Mark:
        """What the purse is told when it breaks off."""
        return undelivered(self.payment_hash)


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
    """Write the intent into the purse, before the wallet is called. Reply: None, or the purchase known already.

    weigh: write nothing, and only tell what would keep it from being held.
    """

    purchase: Purchase
    limits: tuple[Window, ...]
    guards: Guards
    weigh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """Go on with a payment that was held so long ago, unless somebody else does. Reply: the purchase, or None."""

    payment_hash: bytes
    held_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Write down that it was paid. Reply: None."""

    payment_hash: bytes
    preimage: Secret[bytes]
    fee: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Write down that it certainly was not paid. Reply: None; or the purchase, which stays held for another process."""

    payment_hash: bytes
    reason: str


class Ending(Enum):
    """How a paid purchase ended."""

    SERVED = "served"  # there is nothing more to ask for
    KEPT = "kept"  # the seller refused the call, and keeps the payment for it
    UNDELIVERED = "undelivered"  # the seller has the money and did not serve
    LOST = "lost"  # nor is its answer to be had any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Write down how it ended. Reply: None."""

    payment_hash: bytes
    ending: Ending
    reason: str = ""


def undelivered(payment_hash: bytes) -> Mark:
    """It was paid, and no answer came of it."""
    return Mark(payment_hash=payment_hash, ending=Ending.UNDELIVERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallProofs:
    """Ask the purse for proofs that may serve this call, too. Reply: a tuple of purchases, the newest first."""

    origin: str
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetProof:
    """The proof is good for nothing more. Reply: None."""

    payment_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallSeen:
    """Ask the purse what the seller asked before. Reply: Seen."""

    origin: str
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePrice:
    """Write down a price that was asked and found good. Reply: None."""

    origin: str
    resource: str
    price: Amount
    payee: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePayee:
    """Write down that another node is paid at this origin from now on. Reply: None."""

    origin: str
    payee: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AskApproval:
    """Tell whoever approves that a call is parked. Reply: None; what they say is found in the purse."""

    number: int


Remember = (
    Recall
    | Hold
    | TakeOver
    | Capture
    | Release
    | Mark
    | RecallProofs
    | ForgetProof
    | RecallSeen
    | NotePrice
    | ChangePayee
)
Step = Send | Deliver | Pay | LookUp | Wait | AskApproval | Remember


# --- replies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer, as far as the story has to know it.

    origin: of the address that answered in the end, after redirects. wire: its headers, and its body when that is
    JSON and short. location: the address itself, if redirects led to it.
    """

    status: int
    origin: str
    wire: Wire
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """The call was sent with a proof, and no whole answer came.

    location: where a redirect led that was the answer, and from where none came.
    """

    reason: str
    location: str | None = None


Reply = Answered | NoAnswer | PayOutcome | tuple[Purchase, ...] | Purchase | Seen | None
Story = Generator[Step, Reply, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What an answer cost.

    paid, fee: what was paid for it, now or in an earlier call. free: it cost nothing.
    replayed: it was paid in an earlier call whose answer had not come; nothing was paid now.
    reused: the proof of an earlier call was good for this one, too; nothing was paid now, and `paid` is nothing.
    dialect: in which the proof was shown. receipt: the seller's, where there is one.
    """

    paid: Amount = NOTHING
    fee: Amount = NOTHING
    payment_hash: bytes | None = None
    receipt: Receipt | None = None
    dialect: str | None = None
    replayed: bool = False
    reused: bool = False

    @property
    def free(self) -> bool:
        """Whether nothing was paid for this answer, now or before."""
        return self.payment_hash is None

    def again_after(self, first: Bought | None) -> Bought:
        """The same, of an answer that one call asked for again: what it paid for the first was not paid earlier."""
        if first is None or first.payment_hash != self.payment_hash:
            return self
        return replace(self, replayed=first.replayed)


def remember(purse: Purse, step: Remember) -> Reply:
    """Do the steps that concern the purse. Blocking; raises what core.purse.Purse does."""
    match step:
        case Recall(request_digest=digest):
            return tuple(purse.unfinished(digest))
        case Hold(purchase=purchase, limits=limits, guards=guards, weigh=weigh):
            if not weigh:
                return purse.hold(purchase, limits, guards)
            purse.weigh(purchase, limits, guards)
        case TakeOver(payment_hash=payment_hash, held_for=held_for):
            return purse.take_over(payment_hash, held_for=held_for)
        case Capture(payment_hash=payment_hash, preimage=preimage, fee=fee):
            purse.capture(payment_hash, preimage=preimage, fee=fee)
        case Release(payment_hash=payment_hash, reason=reason):
            return purse.release(payment_hash, reason=reason)
        case Mark(payment_hash=payment_hash, ending=Ending.SERVED):
            purse.mark_served(payment_hash)
        case Mark(payment_hash=payment_hash, ending=Ending.KEPT):
            purse.mark_kept(payment_hash)
        case Mark(payment_hash=payment_hash, ending=Ending.UNDELIVERED):
            purse.mark_undelivered(payment_hash)
        case Mark(payment_hash=payment_hash, ending=Ending.LOST, reason=reason):
            purse.mark_lost(payment_hash, reason=reason)
        case RecallProofs(origin=origin, resource=resource):
            return tuple(purse.reusable(origin, resource))
        case ForgetProof(payment_hash=payment_hash):
            purse.forget_proof(payment_hash)
        case RecallSeen(origin=origin, resource=resource):
            return purse.seen(origin, resource)
        case NotePrice(origin=origin, resource=resource, price=price, payee=payee):
            purse.note_price(origin, resource, price, payee)
        case ChangePayee(origin=origin, payee=payee):
            purse.change_payee(origin, payee)
    return None
