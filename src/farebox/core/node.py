"""A node or wallet, as the front rooms need it: who is paid, who pays, and what either can do.

Rules
1. Receiver (can be paid) and Wallet (can pay) are two ports: a shop's key must not be able to spend.
2. Paying has three outcomes. Unknown is never failed: `Failed` is only what the backend says explicitly and for good.
3. What a backend can do it declares; nobody finds it out by trying. Its methods are conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.conversation import Conversation
from farebox.core.secret import Secret


class Capability(StrEnum):
    """What a backend can do beyond the least that every one can."""

    HOLD = "hold"  # be paid into a hold, which we settle or cancel afterwards
    OWN_PREIMAGE = "own_preimage"  # make an invoice for a payment hash or preimage of ours
    DESCRIPTION_HASH = "description_hash"  # put the hash of a longer description into an invoice
    FEE_LIMIT = "fee_limit"  # be told what routing may cost at most
    STREAM = "stream"  # tell by itself what was settled
    LOOKUP = "lookup"  # find invoices and payments by their payment hash
    MSAT = "msat"  # ask for fractions of a satoshi
    PAYS_ONCE = "pays_once"  # refuse to pay an invoice that it is paying, or has paid


Capabilities = frozenset[Capability]


# --- being paid -------------------------------------------------------------------------------------------------------


class InvoiceState(StrEnum):
    """Where an invoice stands at the node."""

    OPEN = "open"
    HELD = "held"  # paid into a hold: not ours yet
    PAID = "paid"
    CANCELLED = "cancelled"  # or expired: it can't be paid any more
    UNKNOWN = "unknown"  # the node does not know this payment hash


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceStatus:
    """What the node says of one invoice; `received` counts only what is ours for good."""

    state: InvoiceState
    received: Amount = NOTHING


class Receiver(Protocol):
    """A node or wallet that can be paid. Conversations raise NodeUnavailable when the node does not answer sensibly."""

    @property
    def name(self) -> str:
        """What to call it in logs and tables; never a secret."""

    @property
    def network(self) -> Network | None:
        """The chain its invoices are for; None until it is known, which it is once an invoice was made."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount, with a preimage that the node chose."""

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Whether one of our invoices was paid."""


@runtime_checkable
class HoldReceiver(Protocol):
    """A Receiver with `Capability.HOLD`: what is paid is ours only when we say so, and goes back when we say that."""

    def create_hold_invoice(
        self, amount: Amount, *, payment_hash: bytes, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        """An invoice for a preimage of ours, which the node is not told yet. Raises NodeUnavailable, WalletError."""

    def settle_invoice(self, preimage: Secret[bytes]) -> Conversation[InvoiceStatus]:
        """Take what is held; where it then stands. Done again it changes nothing. Raises NodeUnavailable."""

    def cancel_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Give back what is held, or let nobody pay; where it then stands: PAID when it was settled before.

        Done again it changes nothing. Raises NodeUnavailable.
        """


@runtime_checkable
class SpendProbe(Protocol):
    """A Receiver that can find out whether its credential could also pay, which a shop's must not."""

    @property
    def narrow(self) -> str:
        """How a credential is made that can only be paid; what an operator reads."""

    def spends(self) -> Conversation[bool | None]:
        """Whether the node would let us pay, found without moving anything; None when it can't be told now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself; None for what it does not, or may not with this credential.

    synced: whether it has seen the whole chain. inbound: what can be paid to it in all, as its channels are.
    """

    network: Network | None = None
    synced: bool | None = None
    inbound: Amount | None = None


@runtime_checkable
class Inspected(Protocol):
    """A Receiver that says more of itself than a sale needs."""

    def facts(self) -> Conversation[NodeFacts]:
        """How it is. Raises NodeUnavailable when it does not answer."""


# --- paying -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """The payment arrived; the preimage proves it. `fee` is what routing cost on top."""

    preimage: Secret[bytes]
    fee: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The backend says explicitly that this payment did not and will not happen."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """Nobody can tell yet. `known` is False when the backend has never heard of the payment."""

    reason: str
    known: bool = True


PayOutcome = Paid | Failed | Unresolved


class Wallet(Protocol):
    """A node or wallet that can pay. Its conversations return an outcome and raise only WalletError."""

    @property
    def name(self) -> str:
        """What to call it in logs and tables; never a secret."""

    @property
    def network(self) -> Network | None:
        """The chain it pays on; None when that is known only by asking."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, or find out that it is paid already. Called once per payment hash."""

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment."""

    def balance(self) -> Conversation[Amount]:
        """What can be spent. Raises WalletError."""


@runtime_checkable
class Named(Protocol):
    """A Wallet that knows, without asking, under which key its own node signs invoices."""

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed."""
