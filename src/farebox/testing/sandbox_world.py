"""A world for the backend suites, made of the sandbox: its seller is paid, its buyer pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.ports import Conversation, Receiver, Wallet
from farebox.http.converse import converse
from farebox.lightning.sandbox import Sandbox, Trouble

T = TypeVar("T")


class SandboxWorld:
    """A ReceiverWorld and a WalletWorld around a sandbox.

    forward: moves the sandbox's clock. For an adapter that is tested against the sandbox, set `receiver` and `wallet`,
    and override `ask` and `out_of_reach`.
    """

    short = timedelta(minutes=10)
    began = datetime(2020, 1, 1, tzinfo=UTC)
    wait = timedelta(0)
    many = 510

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None]) -> None:
        self.sandbox = sandbox
        self.receiver: Receiver = sandbox.seller
        self.wallet: Wallet = sandbox.buyer
        self._forward = forward

    def ask(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""
        return converse(conversation)

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        """While this lasts neither node can be asked."""
        with self.sandbox.seller.out_of_reach(), self.sandbox.buyer.out_of_reach():
            yield

    def pass_time(self, span: timedelta) -> None:
        """Let so much time go by."""
        self._forward(span)

    def pay(self, invoice: Invoice) -> None:
        """The buyer pays."""
        self.sandbox.buyer.pay(invoice, fee_limit=None)

    def pay_into_hold(self, invoice: Invoice) -> None:
        """The buyer pays, and does not wait."""
        self.pay(invoice)

    def payers_funds(self) -> Amount:
        """What the buyer has."""
        return self.sandbox.buyer.funds()

    def invoice(self, amount: Amount, *, expires_in: timedelta) -> Invoice:
        """A new invoice of the seller's."""
        return self.sandbox.seller.issue(amount, description="a test", expires_in=expires_in)

    def received(self, invoice: Invoice) -> Amount:
        """What the seller has received for it."""
        return self.sandbox.seller.invoice_status(invoice.payment_hash).received

    def set_fee(self, fee: Amount) -> None:
        """What the buyer's payments cost on top."""
        self.sandbox.buyer.fee = fee

    def fail_next(self) -> None:
        """The next payment finds no route."""
        self.sandbox.script(None, Trouble.FAIL)

    def lose_next_reply(self) -> None:
        """The next payment is made, and nobody is told."""
        self.sandbox.script(None, Trouble.LOSE_REPLY)

    def hold_next(self) -> None:
        """The next payment stays in flight."""
        self.sandbox.script(None, Trouble.STAY_IN_FLIGHT)

    def release(self, invoice: Invoice) -> None:
        """The payment of this invoice arrives."""
        assert self.sandbox.release(invoice.payment_hash), "no payment of this invoice is in flight"
