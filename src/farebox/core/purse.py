"""What the buyer remembers: purchases, and beside them parked calls, prices that were seen, and sub-purses.

Rules
1. A purse keeps its own clock, which never runs backwards. Blocking; every method raises StoreUnavailable.
2. `hold` is the one gate between a call and the wallet: every limit is checked and taken in one transaction.
3. Nothing of a purse can be widened by who spends from it: limits are handed in, and approvals are given elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.exchange import Challenge
from farebox.core.payment import DrawState
from farebox.core.secret import Secret

KEPT: Final = "the seller refused the call, and keeps what was paid for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One row of the purse: what was, or is about to be, paid for.

    request_digest: SHA-256 that tells the same call made again. origin: `https://host:port`.
    resource: what is sold, such as `POST /api/dvm`; with the origin it is what prices go by.
    payee: the public key of the node that is paid. labels: what budgets count it under, such as `host:api.example.com`.
    fee_limit: held on top of the amount while paying; fee: what it came to.
    attempt: how often this payment was tried before, and certainly failed.
    state: HELD while paying or unresolved, CAPTURED when paid, RELEASED when it certainly failed.
    served: whether the paid answer arrived. undelivered_at: since when the seller is known not to have served it.
    lost: no answer is to be had for it any more, as `reason` tells; the same call would be paid anew.
    challenge: the challenge that was paid, for showing the proof again.
    reusable_until: until when the proof may be good for other calls of the same resource; None for this call only.
    """

    payment_hash: bytes
    request_digest: bytes
    origin: str
    url: str
    amount: Amount
    fee_limit: Amount
    challenge: Challenge
    invoice_expires_at: datetime
    resource: str = ""
    payee: bytes = b""
    labels: frozenset[str] = frozenset()
    state: DrawState = DrawState.HELD
    fee: Amount = NOTHING
    preimage: Secret[bytes] | None = None
    served: bool = False
    reason: str = ""
    held_at: datetime | None = None
    attempt: int = 0
    undelivered_at: datetime | None = None
    lost: bool = False
    reusable_until: datetime | None = None

    @property
    def counted(self) -> Amount:
        """What the budget counts: all that may still be spent while held, the exact cost when captured."""
        match self.state:
            case DrawState.HELD:
                return self.amount + self.fee_limit
            case DrawState.CAPTURED:
                return self.amount + self.fee
            case DrawState.RELEASED:
                return NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What a purchase must get past, besides the windows.

    seller: the label of the host, such as `host:api.example.com`, by which the next two go; empty for neither.
    origin: the only origin of that host that is meant, such as `http://127.0.0.1:8402`; empty for all of them.
    most_in_flight: so many payments to it may be on their way at once. most_unserved: after so many that were paid from
    the same account (see farebox.core.allowance.account_of) and not served within `unserved_for` it is not paid from
    there. approval_above: what costs more needs a person's word; None for nothing. approval_for: how long one waits for
    it, and how long it then holds.
    """

    seller: str = ""
    origin: str = ""
    most_in_flight: int = 2
    most_unserved: int = 2
    unserved_for: timedelta = timedelta(hours=24)
    approval_above: Amount | None = None
    approval_for: timedelta = timedelta(hours=1)


NO_GUARDS: Final = Guards()


class ApprovalState(StrEnum):
    """Where a parked call stands."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"  # approved, and paid for
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A call that costs more than may be spent without a person's word.

    request_digest: of the purchase, which tells calls of one URL apart.
    amount: the price that is asked about, without the fee; a higher one is another question.
    """

    number: int
    state: ApprovalState
    request_digest: bytes
    origin: str
    resource: str
    url: str
    amount: Amount
    payee: bytes
    labels: frozenset[str]
    asked_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a seller asked before.

    price: the last one of this resource that was seen and found good. since: when it came to be. payee: who was paid
    there first.
    """

    price: Amount | None = None
    since: datetime | None = None
    payee: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubPurse:
    """A part of the purse that somebody else may spend, with a token under its key."""

    name: str
    limits: tuple[Window, ...]
    key: Secret[bytes]
    made_at: datetime
    revoked_at: datetime | None = None


class Purse(Protocol):
    """What the buyer remembers, shared by all processes of one user. Blocking; raises StoreUnavailable."""

    # --- purchases

    def hold(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> Purchase | None:
        """Write the intent and hold amount + fee limit within every window and past every guard, or write nothing.

        limits: for the purchase's own labels (see Budget.among). None when it is held. When that payment is held or
        captured already: its row, and nothing is written. One that was released is tried again, as a purchase of its
        own. An approval is used up by it.
        Raises OverBudget naming the window and what is left in it, SellerShunned, TooManyInFlight, and ApprovalNeeded
        or ApprovalDenied, for which the call is parked.
        """

    def weigh(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> None:
        """Whether `hold` would hold it now, without writing anything. Raises what `hold` would raise."""

    def take_over(self, payment_hash: bytes, *, held_for: timedelta) -> Purchase | None:
        """Hold anew what was held so long ago; None when it is held no more, or somebody else has just done so."""

    def capture(self, payment_hash: bytes, *, preimage: Secret[bytes], fee: Amount) -> None:
        """It was paid; keep the proof until it is served.

        Also what was released before: the wallet was wrong about it, and its money counts from now on.
        """

    def release(self, payment_hash: bytes, *, reason: str) -> Purchase | None:
        """It certainly was not paid; free the amount.

        What was taken over stays held until ten minutes after its invoice, because the other one may be paying it: then
        this is the purchase as it stands.
        """

    def mark_served(self, payment_hash: bytes) -> None:
        """The paid answer arrived."""

    def mark_kept(self, payment_hash: bytes) -> None:
        """The seller refused the paid call and keeps the payment for it: unfinished, with `KEPT` as its reason."""

    def mark_undelivered(self, payment_hash: bytes) -> None:
        """The seller has the money, and did not serve. The first time counts; unfinished, so that it is asked again."""

    def mark_lost(self, payment_hash: bytes, *, reason: str) -> None:
        """The seller has the money, and no answer is to be had for it any more: it is not asked for again."""

    def unfinished(self, request_digest: bytes | None = None) -> Sequence[Purchase]:
        """HELD, or paid and neither served nor lost; oldest first; of one request or of all."""

    def spent(self, window: Window) -> Amount:
        """What counts against a window now: captured with fees, and everything held."""

    def history(self, limit: int, *, label: str = "", since: datetime | None = None) -> Sequence[Purchase]:
        """The newest purchases first, of one label or of all, made after an instant."""

    def repair_time(self) -> datetime | None:
        """Take what was written at a time that has not come yet as written now, and let every open approval run out.

        The latest such time; None for none, and nothing is changed. Only a person's word that the clock is right may
        lead here: whoever may set a clock back and call this frees what was spent.
        """

    # --- proofs that may serve more than one call

    def reusable(self, origin: str, resource: str) -> Sequence[Purchase]:
        """Purchases there that were served and whose proof may still be good, the newest first."""

    def forget_proof(self, payment_hash: bytes) -> None:
        """The proof is good for nothing more."""

    # --- what sellers asked before

    def seen(self, origin: str, resource: str) -> Seen:
        """The last price of this resource, and who was paid first at this origin."""

    def note_price(self, origin: str, resource: str, price: Amount, payee: bytes) -> None:
        """Remember a price that was asked and found good; `hold` does so by itself.

        Of one origin the newest 256 resources are remembered, by each sub-purse.
        """

    def change_payee(self, origin: str, payee: bytes) -> None:
        """Another node is paid at this origin from now on; only a person's word for it may lead here."""

    # --- parked calls

    def approvals(self, *, pending: bool) -> Sequence[Approval]:
        """Parked calls, the newest first; only those that wait for a word, or the last hundred."""

    def decide(self, number: int, *, approved: bool) -> Approval:
        """Give the word on a parked call. Raises DecisionRefused for one that does not wait for it any more."""

    # --- sub-purses

    def add_purse(self, name: str, limits: Sequence[Window], key: Secret[bytes]) -> SubPurse:
        """A new sub-purse, or the one of this name with these limits from now on and its key as it was.

        Raises MalformedValue for a name that can't be one, MalformedBudget without a limit for all that is spent from
        it, and ConfigError for one that was revoked.
        """

    def purses(self) -> Sequence[SubPurse]:
        """Every sub-purse, by name."""

    def revoke_purse(self, name: str) -> SubPurse:
        """Nothing more is spent with its tokens. Raises ConfigError for an unknown one."""

    def close(self) -> None:
        """Let go of the file."""
