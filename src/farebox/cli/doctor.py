"""`farebox doctor node`: whether a node or wallet can be sold with, found out before a customer does.

Rules
1. One line for each thing that was looked at: what it is, how it stands, and what to do where it is not well.
2. One invoice is made and read back, for a satoshi, which nobody pays and which ends by itself. No money moves.
3. What a credential is too narrow to be told is no fault: narrow is what it should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from farebox.cli.books import conversed
from farebox.cli.output import Cell, Exit, show
from farebox.core.amount import Amount
from farebox.core.errors import FareboxError
from farebox.core.ports import Capability, Conversation, Inspected, InvoiceState, Receiver, SpendProbe
from farebox.gate.nodes import check_receivers

T = TypeVar("T")


class Ask(Protocol):
    """Carries a conversation to its end."""

    def __call__(self, conversation: Conversation[T], /) -> T: ...


_A_SAT: Final = Amount.sats(1)
_LITTLE: Final = Amount.sats(10_000)
_MEANING: Final = {
    Capability.HOLD: "invoices that are held when they are paid, until they are taken or given back",
    Capability.OWN_PREIMAGE: "invoices for a preimage of ours",
    Capability.DESCRIPTION_HASH: "long descriptions",
    Capability.FEE_LIMIT: "a limit for the routing fee of each payment",
    Capability.STREAM: "payments are learnt of at once",
    Capability.LOOKUP: "payments are found by their hash",
    Capability.PAYS_ONCE: "no invoice is paid twice, so that a payment which broke off can be gone on with",
    Capability.MSAT: "prices below a satoshi, where every channel on the way carries so little",
}


class Verdict(StrEnum):
    """How something stands."""

    WELL = "ok"
    WARNING = "warning"
    BAD = "bad"
    UNTOLD = "not told"
    MISSING = "can't"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


def examine_node(receiver: Receiver) -> Iterator[Finding]:
    """What there is to say of a receiver, as it is found out; no more than that if it can't be asked."""
    ask = conversed()
    try:
        ask(receiver.lookup_invoice(bytes(32)))
    except FareboxError as error:
        yield Finding(check="answers", verdict=Verdict.BAD, found=error.detail or "", mend="mend this first")
        return
    yield Finding(check="answers", verdict=Verdict.WELL, found=receiver.name)
    yield _credential(ask, receiver)
    yield from _invoice(ask, receiver)
    yield from _facts(ask, receiver)
    for capability in Capability:
        able = capability in receiver.capabilities
        yield Finding(
            check=capability.replace("_", " "),
            verdict=Verdict.WELL if able else Verdict.MISSING,
            found=_MEANING[capability],
        )


def show_nodes(receivers: Sequence[Receiver], *, as_json: bool) -> Exit:
    """The findings as a table for each node, or a JSON object each; FAILED when something is bad.

    Raises ConfigError when invoices of all of them were made, and are not for one chain.
    """
    failed = False
    for receiver in receivers:
        findings = list(examine_node(receiver))
        failed = failed or any(each.verdict is Verdict.BAD for each in findings)
        rows: list[dict[str, Cell]] = [
            {"check": each.check, "verdict": each.verdict.value, "found": each.found, "what_to_do": each.mend}
            for each in findings
        ]
        if as_json:
            rows = [{"node": receiver.name, **row} for row in rows]
        show(rows, title=f"Node: {receiver.name}", as_json=as_json)
    check_receivers(receivers)
    return Exit.FAILED if failed else Exit.DONE


def _credential(ask: Ask, receiver: Receiver) -> Finding:
    spends = ask(receiver.spends()) if isinstance(receiver, SpendProbe) else False
    match spends:
        case True:
            narrow = receiver.narrow if isinstance(receiver, SpendProbe) else ""
            return Finding(
                check="credential", verdict=Verdict.BAD, found="it can spend, and a shop need not", mend=narrow
            )
        case False:
            return Finding(check="credential", verdict=Verdict.WELL, found="it can be paid, and can't pay")
        case None:
            return Finding(
                check="credential", verdict=Verdict.UNTOLD, found="the node does not say whether it can spend"
            )


def _invoice(ask: Ask, receiver: Receiver) -> Iterator[Finding]:
    try:
        invoice = ask(receiver.create_invoice(_A_SAT, description="farebox doctor", expires_in=timedelta(minutes=1)))
        yield Finding(check="makes an invoice", verdict=Verdict.WELL, found=f"{invoice.amount}, on {invoice.network}")
        status = ask(receiver.lookup_invoice(invoice.payment_hash))
    except FareboxError as error:
        mend = f"if the credential is too narrow: {receiver.narrow}" if isinstance(receiver, SpendProbe) else ""
        yield Finding(check="makes an invoice", verdict=Verdict.BAD, found=error.detail or "", mend=mend)
        return
    if status.state is InvoiceState.OPEN:
        yield Finding(check="finds it again", verdict=Verdict.WELL, found="open, as nobody has paid it")
    else:
        yield Finding(check="finds it again", verdict=Verdict.BAD, found=f"it calls an unpaid invoice {status.state}")


def _facts(ask: Ask, receiver: Receiver) -> Iterator[Finding]:
    if not isinstance(receiver, Inspected):
        return
    try:
        facts = ask(receiver.facts())
    except FareboxError as error:
        yield Finding(check="says of itself", verdict=Verdict.UNTOLD, found=error.detail or "")
        return
    if facts.synced is False:
        yield Finding(
            check="has the chain",
            verdict=Verdict.BAD,
            found="it has not seen all of it",
            mend="wait until it is synced",
        )
    if facts.inbound is None:
        yield Finding(check="can receive", verdict=Verdict.UNTOLD, found="this credential is not told about channels")
    elif facts.inbound < _LITTLE:
        yield Finding(
            check="can receive",
            verdict=Verdict.WARNING,
            found=f"{facts.inbound} in all",
            mend="get inbound liquidity: a channel that others open to you, or one of yours that is spent from",
        )
    else:
        yield Finding(check="can receive", verdict=Verdict.WELL, found=f"{facts.inbound} in all")
