"""A world for the backend suites, made of real lnd nodes: the buyer pays the seller through the hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.conversation import Call, Conversation, HttpCall, HttpReply
from farebox.core.ports import InvoiceState, Receiver, Unresolved, Wallet
from farebox.http.converse import Lines, aconverse
from farebox.lightning.lnd import Lnd
from farebox.testing.regtest import Refused, Regtest, free_ports
from farebox.testing.regtest_payments import attempts, funds, until

T = TypeVar("T")

_PATIENCE_S: Final = 20.0
_BETWEEN_S: Final = 0.02
_PAYS: Final = "/v2/router/send"
_UNPAYABLE: Final = Amount.sats(1_000)  # more than any fee limit


class RegtestWorld:
    """A ReceiverWorld and a WalletWorld around real nodes.

    For another backend that is tested against them, set `receiver` or `wallet`, and override `out_of_reach`; for one
    whose node is another, also `pay`, `is_payment`, `without_route` and `has_proof`.
    """

    short = timedelta(seconds=2)
    wait = timedelta(seconds=1)
    apart = timedelta(seconds=1)  # for those who read a stream: lnd tells no more of an instant than its second
    many = 40

    def __init__(self, regtest: Regtest) -> None:
        self.regtest = regtest
        self.receiver: Receiver = Lnd.from_url(regtest.seller.url())
        self.wallet: Wallet = Lnd.from_url(regtest.buyer.url(), pay_within=timedelta(seconds=3))
        self._fee = NOTHING
        self._fails = self._loses = self._holds = False
        self._held = False

    @cached_property
    def began(self) -> datetime:
        """When it is first asked for. A node may tell an instant's second only, so that one is let pass."""
        time.sleep(self.apart.total_seconds())
        return datetime.now(UTC)

    def close(self) -> None:
        """Leave the nodes as they were."""
        if self._held:
            self._let_go()
        self._charge(NOTHING)

    def ask(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end, and have the next payment go as it was said."""

        async def asked() -> T:
            lines = Lines()
            try:
                return await aconverse(self._troubled(conversation), lines)
            finally:
                await lines.aclose()

        return asyncio.run(asked())

    def _troubled(self, conversation: Conversation[T]) -> Conversation[T]:
        try:
            call = next(conversation)
            while True:
                reply = yield from self._paying(call) if self.is_payment(call) else _asking(call)
                call = conversation.send(reply)
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    def _paying(self, call: Call) -> Conversation[HttpReply]:
        loses, holds, fails = self._loses, self._holds, self._fails
        self._loses = self._holds = self._fails = False
        if holds:
            self.regtest.seller.node.pause()
            self._held = True
        with self.without_route() if fails else nullcontext():
            reply = yield call
        return HttpReply(status=0, sent=True, reason="ReadError") if loses else reply

    def is_payment(self, call: Call) -> bool:
        """Whether this is what pays."""
        return isinstance(call, HttpCall) and call.url.endswith(_PAYS)

    @contextmanager
    def without_route(self) -> Iterator[None]:
        """While this lasts a payment would cost more than anybody pays."""
        fee = self._fee
        self._charge(_UNPAYABLE)
        yield
        self._charge(fee)

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        """While this lasts nobody listens where the nodes are looked for."""
        receiver, wallet = self.receiver, self.wallet
        seller, buyer = self.regtest.seller, self.regtest.buyer
        self.receiver, self.wallet = (
            Lnd.from_url(node.url().replace(f":{node.rest}?", f":{free_ports(1)[0]}?")) for node in (seller, buyer)
        )
        yield
        self.receiver, self.wallet = receiver, wallet

    def pass_time(self, span: timedelta) -> None:
        """Wait, and until the nodes have noticed."""
        time.sleep(span.total_seconds() + 1)

    def pay(self, invoice: Invoice) -> None:
        """The buyer pays, or is refused."""
        with suppress(Refused):
            self.regtest.buyer.pays(invoice.text)

    def pay_into_hold(self, invoice: Invoice) -> None:
        """The buyer pays and does not wait for the end of it."""
        hasty = Lnd.from_url(self.regtest.buyer.url(), pay_within=timedelta(milliseconds=200))
        outcome = self.ask(hasty.pay_invoice(invoice, fee_limit=NOTHING))
        if isinstance(outcome, Unresolved):
            until(lambda: self._is_held(invoice) or not self._is_paying(invoice), "it is held or refused")

    def payers_funds(self) -> Amount:
        """What the buyer has, once nothing is on its way."""
        return funds(self.regtest.buyer)

    def invoice(self, amount: Amount, *, expires_in: timedelta) -> Invoice:
        """A new invoice of the seller's."""
        return decode(self.regtest.seller.invoice(amount, expires_in))

    def received(self, invoice: Invoice) -> Amount:
        """What the seller has received for it: while it stands still, nothing."""
        if self._held:
            return NOTHING
        seller = Lnd.from_url(self.regtest.seller.url())
        return self.ask(seller.lookup_invoice(invoice.payment_hash)).received

    def set_fee(self, fee: Amount) -> None:
        """What the hub asks for."""
        self._charge(fee)

    def fail_next(self) -> None:
        """The next payment finds no route."""
        self._fails = True

    def lose_next_reply(self) -> None:
        """The next payment is made, and the reply does not arrive."""
        self._loses = True

    def hold_next(self) -> None:
        """The next payment waits for the seller, who stands still."""
        self._holds = True

    def release(self, invoice: Invoice) -> None:
        """The seller goes on."""
        self._let_go()
        until = time.monotonic() + _PATIENCE_S
        while self.received(invoice) == NOTHING:
            assert time.monotonic() < until, "the payment does not arrive"
            time.sleep(_BETWEEN_S)
        while not self.has_proof(invoice):
            assert time.monotonic() < until, "the proof does not arrive"
            time.sleep(_BETWEEN_S)

    def _is_held(self, invoice: Invoice) -> bool:
        return self.ask(self.receiver.lookup_invoice(invoice.payment_hash)).state is InvoiceState.HELD

    def _is_paying(self, invoice: Invoice) -> bool:
        return attempts(self.regtest.buyer).get(invoice.payment_hash.hex()) == "IN_FLIGHT"

    def has_proof(self, invoice: Invoice) -> bool:
        """Whether who paid knows that it has arrived."""
        return self.regtest.buyer.has_paid(invoice.payment_hash)

    def _let_go(self) -> None:
        self.regtest.seller.node.go_on()
        self._held = False

    def _charge(self, fee: Amount) -> None:
        if fee != self._fee:
            self.regtest.charge(fee)
            self._fee = fee


def _asking(call: Call) -> Conversation[HttpReply]:
    return (yield call)
