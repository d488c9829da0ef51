"""Hooks: a node that calls the shop when something was paid. It only says which invoice to look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from farebox.core.payment import PaymentState
from farebox.core.ports import InvoiceState, Ledger, Receiver
from farebox.core.settlement import SettlementHook
from farebox.gate.asking import Converse, in_time


class Hooks:
    """Hears the calls of a gate's nodes. within: how long one may take to say what was paid."""

    def __init__(self, *, ledger: Ledger, receivers: Sequence[Receiver], converse: Converse, within: timedelta) -> None:
        self._ledger = ledger
        self._hooked = [each for each in receivers if isinstance(each, SettlementHook) and each.is_hooked]
        self._converse = converse
        self._within = within

    def __bool__(self) -> bool:
        return bool(self._hooked)

    async def hear(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Look up and settle what a call is about; False for a call that is no node's of ours.

        headers: names in lower case. Raises NodeUnavailable, StoreUnavailable.
        """
        for receiver in self._hooked:
            payment_hash = receiver.called_about(headers, body)
            if payment_hash is not None:
                await self._learn(receiver, payment_hash)
                return True
        return False

    async def _learn(self, receiver: Receiver, payment_hash: bytes) -> None:
        payment = await self._ledger.find_payment(payment_hash)
        if payment is None or payment.state not in (PaymentState.OPEN, PaymentState.EXPIRED):
            return
        status = await in_time(self._converse, receiver.lookup_invoice(payment_hash), self._within)
        if status.state is InvoiceState.PAID:
            await self._ledger.settle(payment_hash, status.received)
