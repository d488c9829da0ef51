"""What the gate is told, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from farebox.core.bolt11 import Invoice
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, FreeCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The seller's terms.

    free_calls: per client and rolling `free_window`; 0 for none.
    invoice_expires_in: how long an invoice can be paid. claim_within: how long a paid one can be claimed.
    lease: how long a running call owns its payment without a sign of life. most_attempts: failed calls until credit.
    patience: how long a second caller with the same proof waits for the first one's answer.
    mint_within: how long the node may take to answer.
    """

    free_calls: int = 1
    free_window: timedelta = timedelta(hours=24)
    invoice_expires_in: timedelta = timedelta(minutes=10)
    claim_within: timedelta = timedelta(days=30)
    lease: timedelta = timedelta(seconds=30)
    most_attempts: int = 3
    patience: timedelta = timedelta(seconds=10)
    mint_within: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One call as it stands before the gate.

    client: the address prefix of the caller. probing: a free call is not wanted (HEAD, `?l402=require`, an empty POST).
    rerun: whether the call may run again when nobody knows whether it ran.
    """

    quote: Quote
    wire: Wire
    client: str
    probing: bool = False
    rerun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Let it run; it costs nothing."""

    free_call: FreeCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """Ask for money: one invoice, said in every dialect on `wire`.

    retry_after: set when the invoice that was shown is not paid yet, so the same proof may be good in a moment.
    """

    quote: Quote
    invoice: Invoice
    wire: Wire
    free_call: FreeCall | None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Replay:
    """Give the answer that this payment bought once more. Each is only itself, so that a face can keep it rendered."""

    answer: Answer
    receipt: Wire
