"""The ports: what the two front rooms need from the rest of the house, and nothing about how it is done.

Rules
1. Receiver (can be paid) and Wallet (can pay) are two ports: a shop's key must not be able to spend.
2. Paying has three outcomes. Unknown is never failed: `Failed` is only what the backend says explicitly and for good.
3. What a backend can do it declares; nobody finds it out by trying. Its methods are conversations.
4. A ledger and a purse keep their own clock; everyone else is given `now`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.conversation import Conversation as Conversation
from farebox.core.conversation import HttpCall as HttpCall
from farebox.core.conversation import HttpReply as HttpReply
from farebox.core.conversation import Line as Line
from farebox.core.escrow import EscrowLedger
from farebox.core.exchange import Challenge, Credential, Quote, Receipt, Sealed, Wire
from farebox.core.node import Capabilities as Capabilities
from farebox.core.node import Capability as Capability
from farebox.core.node import Failed as Failed
from farebox.core.node import HoldReceiver as HoldReceiver
from farebox.core.node import Inspected as Inspected
from farebox.core.node import InvoiceState as InvoiceState
from farebox.core.node import InvoiceStatus as InvoiceStatus
from farebox.core.node import Named as Named
from farebox.core.node import NodeFacts as NodeFacts
from farebox.core.node import Paid as Paid
from farebox.core.node import PayOutcome as PayOutcome
from farebox.core.node import Receiver as Receiver
from farebox.core.node import SpendProbe as SpendProbe
from farebox.core.node import Unresolved as Unresolved
from farebox.core.node import Wallet as Wallet
from farebox.core.payment import Answer, Balance, FreeCall, Hold, Payment
from farebox.core.purse import KEPT as KEPT
from farebox.core.purse import Purchase as Purchase
from farebox.core.purse import Purse as Purse
from farebox.core.refund import RefundLedger
from farebox.core.settlement import SettlementLedger
from farebox.core.upkeep import UpkeepLedger

Clock = Callable[[], datetime]


# --- the seller's memory ----------------------------------------------------------------------------------------------


class Ledger(SettlementLedger, EscrowLedger, RefundLedger, UpkeepLedger, Protocol):
    """What the seller remembers.

    Every method raises StoreUnavailable when it can't be kept, and nothing was done; or, where a database went away in
    the middle, when nobody can tell. Asking the same again is right in either case, and does nothing twice.
    """

    def now(self) -> datetime:
        """The time that everybody who shares this ledger goes by."""

    async def open_payment(
        self,
        payment: Payment,
        *,
        most_unpaid: int | None = None,
        most_unpaid_of_subnet: int | None = None,
        seed: bytes | None = None,
    ) -> bool:
        """Remember a new invoice; durable before the 402 leaves. With a seed it is held in escrow.

        False, with nothing done, when its client has so many unpaid invoices already, or the /48 around the client so
        many together. Exact where the database runs one transaction after the other; else as many more can be opened
        as are being opened at the same moment in other processes.
        """

    async def count_unpaid(self) -> int:
        """How many invoices are unpaid, and not called expired yet."""

    async def count_unpaid_of(self, client: str) -> tuple[int, int]:
        """How many invoices can still be paid, of one client and of the /48 around it."""

    async def reusable_payment(self, *, client: str, digest: bytes, price: Amount) -> Payment | None:
        """This caller's own unpaid invoice for the same request and price, with more than half its time left."""

    async def find_payment(self, payment_hash: bytes) -> Payment | None:
        """The row, as it stands."""

    async def changed(self, payment_hash: bytes, *, within: timedelta) -> None:
        """Returns when the call that holds this payment may have ended, in any process; at the latest after so long."""

    async def hold(
        self,
        payment_hash: bytes,
        *,
        digest: bytes,
        proven: bool,
        lease: timedelta,
        most_attempts: int,
        rerun: bool = True,
    ) -> Hold | Payment | None:
        """Claim the price of one call with one conditional statement.

        A Hold when the claim was won: the payment is FUNDED, for this digest, with enough left, no live hold and
        attempts to spare. `proven` says that the preimage was shown, which settles an OPEN or EXPIRED payment for its
        price in the same transaction, whether or not the claim is then won. Otherwise the row as it stands, or None
        when there is no such payment. A payment whose last attempt lapsed without a word becomes CREDIT by it, and so
        does one whose call must not run twice (`rerun` False) when any attempt lapsed, because it may have run.
        """

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        """Extend the lease; False when the hold is no longer ours."""

    async def capture(self, hold: Hold, answer: Answer | None) -> bool:
        """The charge and the decision to answer in one step: keep the answer, draw the amount.

        False, with nothing done, when the hold is no longer ours. `None` for an answer too large to be kept.
        """

    async def release(self, hold: Hold, *, most_attempts: int, ran: bool = True) -> Payment:
        """The call failed: give the amount back to the tab; CREDIT when this was the last attempt. Returns the row.

        An attempt in which certainly nothing `ran` is not counted.
        """

    async def give_up(self, hold: Hold) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: to CREDIT at once. Returns the row."""

    async def find_answer(self, payment_hash: bytes) -> Answer | None:
        """The kept answer; None when it is no longer, or never was, kept."""

    async def take_free_call(
        self,
        client: str,
        *,
        limit: int,
        window: timedelta,
        subnet_limit: int | None = None,
        ceiling: int | None = None,
    ) -> FreeCall:
        """One free call of so many per rolling window, claimed in one transaction; durable when it returns.

        subnet_limit: so many a day (UTC) for the whole /48 around a client of IPv6. ceiling: so many a day for
        everyone together. None for as many as there are clients.
        """

    async def balance(self) -> Balance:
        """The books."""

    async def audit(self) -> Sequence[str]:
        """What does not add up, a sentence each: nothing, as long as the books and every payment agree."""

    async def recent_payments(self, limit: int) -> Sequence[Payment]:
        """The newest payments first."""

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""


# --- dialects ---------------------------------------------------------------------------------------------------------


class Dialect(Protocol):
    """How the three nouns look on a wire.

    Reading gives nothing for another language and raises for one badly spoken.
    """

    @property
    def name(self) -> str:
        """`L402`, `Payment`, `x402`, `payment_hash`."""

    @property
    def proof_headers(self) -> frozenset[str]:
        """Header names, lower case, that carry nothing but a proof (`authorization` is not one of them)."""

    @property
    def proof_fields(self) -> frozenset[str]:
        """Names of query parameters and JSON members that carry nothing but a proof."""

    def write_challenge(self, challenge: Challenge) -> Wire:
        """The parts of a 402 answer."""

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every challenge of this dialect in a 402 answer. Raises MalformedChallenge."""

    def write_credential(self, credential: Credential) -> Wire:
        """The parts of the paid request."""

    def read_credential(self, wire: Wire) -> Credential | None:
        """The proof in a request. Raises MalformedCredential."""

    def write_receipt(self, receipt: Receipt) -> Wire:
        """The parts of a paid answer; nothing where the dialect has no receipt."""

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """The receipt in an answer. Raises MalformedChallenge."""

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """Until when a proof of it may be good for other calls of the same resource; None for this call only."""

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge | None:
        """Seal an invoice for a quote; None when this price can't be said here. Needs the seller's keys."""

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Check the seal and the preimage; until when they stay good. Needs the seller's keys.

        Raises CredentialRejected.
        """

    def sealed(self, credential: Credential) -> Sealed | None:
        """The terms under the seal of a credential that `verify` has accepted; None where nothing is sealed."""
