"""What the gate is told, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer, FreeCall
from farebox.gate.events import AnswerReplayed

_FREE_UP_TO: Final = Amount.read("1000 sat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What callers without a payment may cost (reliability, 3.4: admission). Nobody who shows a good proof is bound.

    calls_per_s, calls_at_once: of one client, on average and in a burst; more is refused with 429.
    unpaid_invoices: of one client, outstanding. subnet: the /48 around a client of IPv6 has so many clients' allowance.
    invoices_per_s: new ones of this process for everyone; more is refused with 503. For four times as many
    callers the ledger is looked into. all_unpaid_invoices: outstanding, of everyone.
    minting_at_once: questions to each node for a new invoice. waiting: callers who wait for a new invoice, in all.
    """

    calls_per_s: float = 10
    calls_at_once: int = 100
    unpaid_invoices: int = 20
    subnet: int = 4
    invoices_per_s: float = 50
    all_unpaid_invoices: int = 100_000
    minting_at_once: int = 16
    waiting: int = 512


UNLIMITED: Final = Limits(
    calls_per_s=1e9,
    calls_at_once=10**9,
    unpaid_invoices=10**9,
    invoices_per_s=1e9,
    all_unpaid_invoices=10**9,
    waiting=10**9,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The seller's terms.

    free_calls: per client and rolling `free_window`; 0 for none. free_calls_of_subnet: a day for the whole /48 around a
    client of IPv6; None for four clients' worth. free_calls_of_all: a day for everyone; None for no end. free_up_to: a
    call that costs more is never free.
    invoice_expires_in: how long an invoice can be paid. claim_within: how long a paid one can be claimed.
    lease: how long a running call owns its payment without a sign of life. most_attempts: failed calls until credit.
    patience: how long a second caller with the same proof waits for the first one's answer.
    keep_answers: how long a paid answer can be fetched again, in a ledger that is opened with these terms.
    mint_within: how long a new invoice may take, at however many nodes; and each node to say whether one was paid.
    limits: what callers without a payment may cost.
    """

    free_calls: int = 1
    free_window: timedelta = timedelta(hours=24)
    free_calls_of_subnet: int | None = None
    free_calls_of_all: int | None = 10_000
    free_up_to: Amount = _FREE_UP_TO
    invoice_expires_in: timedelta = timedelta(minutes=10)
    claim_within: timedelta = timedelta(days=30)
    keep_answers: timedelta = timedelta(days=1)
    lease: timedelta = timedelta(seconds=30)
    most_attempts: int = 3
    patience: timedelta = timedelta(seconds=10)
    mint_within: timedelta = timedelta(seconds=2)
    limits: Limits = Limits()

    @property
    def free_limit_of_subnet(self) -> int:
        """How many free calls a day the whole /48 around a client has."""
        return self.limits.subnet * self.free_calls if self.free_calls_of_subnet is None else self.free_calls_of_subnet


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One call as it stands before the gate.

    client: the address prefix of the caller. probing: a free call is not wanted (HEAD, `?l402=require`, an empty POST).
    rerun: whether the call may run again when nobody knows whether it ran.
    on_success: whether the node is to hold the money until the call has succeeded, where it can.
    """

    quote: Quote
    wire: Wire
    client: str
    probing: bool = False
    rerun: bool = False
    on_success: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Let it run; it costs nothing."""

    free_call: FreeCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """Ask for money: one invoice, said in every dialect on `wire`.

    retry_after: set when the invoice that was shown is not paid yet, so the same proof may be good in a moment.
    held: whether the node is to hold what is paid until the call has succeeded, so that this call is to be run as soon
    as it does (`Gate.take_held`): the payer has no proof before.
    """

    quote: Quote
    invoice: Invoice
    wire: Wire
    free_call: FreeCall | None
    retry_after: timedelta | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Replay:
    """Give the answer that this payment bought once more. Each is only itself, so that a face can keep it rendered.

    replayed: what to tell an observer when it is given from memory.
    """

    answer: Answer
    receipt: Wire
    replayed: AnswerReplayed
