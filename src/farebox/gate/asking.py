"""Asking the node: in time, and not by everyone at once.

Rules
1. The node has so long to answer; what it says wrongly, or not at all, is NodeUnavailable, and never that nobody paid.
2. A payment that several callers ask about is looked up once.
3. Who shows a preimage does not wait behind those who only ask whether they have paid, nor do invoices wait for either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from farebox.core.bolt11 import Invoice
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import Conversation, InvoiceStatus, Receiver
from farebox.gate.events import Observer, Step, watched
from farebox.gate.flights import Flights

T = TypeVar("T")

_MOST_LOOK_UPS: Final = 64  # at once


class Converse(Protocol):
    """Carries a conversation with the node to its end."""

    def __call__(self, conversation: Conversation[T], /) -> Awaitable[T]: ...


async def in_time(converse: Converse, conversation: Conversation[T], within: timedelta) -> T:
    """Carry a conversation to its end. Raises NodeUnavailable, also when that takes longer."""
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await converse(conversation)
    except TimeoutError:
        raise NodeUnavailable("it took too long to answer") from None
    except WalletError as error:
        # Ours to mend, not the caller's: it is told that it can't be served now, and the operator reads why.
        raise NodeUnavailable(error.detail) from error


class Asking:
    """Asks one node. within: how long it may take to answer."""

    def __init__(self, receiver: Receiver, converse: Converse, within: timedelta, observer: Observer | None) -> None:
        self._receiver = receiver
        self._converse = converse
        self._within = within
        self._observer = observer
        self._look_ups: Flights[bytes, InvoiceStatus] = Flights(_MOST_LOOK_UPS, _too_many)
        self._proven: Flights[bytes, InvoiceStatus] = Flights(_MOST_LOOK_UPS, _too_many)

    async def look_up(self, payment_hash: bytes, *, proven: bool) -> InvoiceStatus:
        """Whether an invoice was paid. proven: a good preimage was shown for it. Raises NodeUnavailable."""
        lane = self._proven if proven else self._look_ups
        return await lane.join(
            payment_hash,
            lambda: self._ask(Step.LOOKUP_INVOICE, self._receiver.lookup_invoice(payment_hash), self._within),
        )

    async def mint(self, conversation: Conversation[Invoice], within: timedelta) -> Invoice:
        """The outcome of a conversation that makes an invoice. Raises NodeUnavailable."""
        return await self._ask(Step.CREATE_INVOICE, conversation, within)

    async def move(self, conversation: Conversation[InvoiceStatus]) -> InvoiceStatus:
        """The outcome of a conversation that settles or cancels an invoice. Raises NodeUnavailable."""
        return await self._ask(Step.MOVE_INVOICE, conversation, self._within)

    async def close(self) -> None:
        """End what is under way."""
        await self._look_ups.close()
        await self._proven.close()

    async def _ask(self, step: Step, conversation: Conversation[T], within: timedelta) -> T:
        with watched(self._observer, step, node=self._receiver.name):
            return await in_time(self._converse, conversation, within)


def _too_many() -> NodeUnavailable:
    return NodeUnavailable("too many payments are being looked up")
