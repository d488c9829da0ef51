"""FaultyNode: a Lightning node that is away, forgets to reply, is paid late, in part, twice or into a hold.

Its invoices are real ones, signed BOLT11; its preimages are told to nobody who did not pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import NodeUnavailable
from farebox.core.ports import Capabilities, Capability, Conversation, InvoiceState, InvoiceStatus
from farebox.core.settlement import Settlement, Settlements
from farebox.testing.simulation.chance import Chance

T = TypeVar("T")

_SECRET_KEY: Final = sha256(b"the node of a simulation").digest()


@dataclass(slots=True)
class Incoming:
    """An invoice of the node, and what became of it."""

    invoice: Invoice
    preimage: bytes
    state: InvoiceState = InvoiceState.OPEN
    received: Amount = NOTHING


class FaultyNode:
    """A Receiver; tests pay its invoices as they like.

    clock: the node's own. name: no other one's. asked: how many conversations it had. invoices: all of them, by payment
    hash.
    """

    network = Network.REGTEST
    capabilities: Capabilities = frozenset({Capability.LOOKUP, Capability.MSAT, Capability.STREAM})

    def __init__(self, clock: Callable[[], datetime], chance: Chance, name: str = "simulated node") -> None:
        self.name = name
        self._clock = clock
        self._chance = chance
        self.invoices: dict[bytes, Incoming] = {}
        self._settled: list[bytes] = []
        self.asked = 0
        self.away = False

    # --- the port -----------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice."""
        yield from ()
        number = len(self.invoices)
        preimage = sha256(b"preimage %d of %d at %b" % (number, self._chance.seed, self.name.encode())).digest()
        invoice = sign(
            secret_key=_SECRET_KEY,
            network=self.network,
            amount=amount,
            payment_hash=sha256(preimage).digest(),
            payment_secret=sha256(b"secret %d" % number).digest(),
            description=description,
            created_at=self._clock(),
            expires_in=expires_in,
        )
        self.invoices[invoice.payment_hash] = Incoming(invoice, preimage)
        return invoice

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Where an invoice stands."""
        yield from ()
        incoming = self.invoices.get(payment_hash)
        if incoming is None:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        if incoming.state is InvoiceState.OPEN and incoming.invoice.expires_at <= self._clock():
            return InvoiceStatus(state=InvoiceState.CANCELLED)
        ours = incoming.received if incoming.state is InvoiceState.PAID else NOTHING
        return InvoiceStatus(state=incoming.state, received=ours)

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was settled, now and then with something told before, out of order, or not all at once."""
        yield from ()
        first = int(cursor)
        last = len(self._settled)
        if self._chance.happens(0.2):
            first = max(0, first - 2)
        if self._chance.happens(0.2):
            last = min(last, first + 1)
        told = [
            Settlement(payment_hash=each, received=self.invoices[each].received) for each in self._settled[first:last]
        ]
        if self._chance.happens(0.2):
            told.reverse()
        return Settlements(settled=tuple(told), cursor=str(last), more=last < len(self._settled))

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """From the beginning."""
        yield from ()
        return "0"

    # --- what happens to it -------------------------------------------------------------------------------------------

    def receive(self, payment_hash: bytes, amount: Amount, *, into_a_hold: bool = False) -> None:
        """Somebody pays; how much and when is not the node's business here."""
        incoming = self.invoices[payment_hash]
        incoming.state = InvoiceState.HELD if into_a_hold else InvoiceState.PAID
        incoming.received = amount
        if not into_a_hold:
            self._settled.append(payment_hash)

    def settle(self, payment_hash: bytes) -> None:
        """What was held is ours."""
        self.receive(payment_hash, self.invoices[payment_hash].received)

    def cancel(self, payment_hash: bytes) -> None:
        """What was held goes back."""
        self.invoices[payment_hash].state = InvoiceState.CANCELLED
        self.invoices[payment_hash].received = NOTHING

    def paid_in_full(self, payment_hash: bytes) -> bool:
        """Whether the whole amount of an invoice is ours."""
        incoming = self.invoices[payment_hash]
        asked = incoming.invoice.amount
        return incoming.state is InvoiceState.PAID and asked is not None and incoming.received >= asked

    # --- how it is reached --------------------------------------------------------------------------------------------

    async def converse(self, conversation: Conversation[T]) -> T:
        """Carry a conversation: slowly, or not at all, or without the reply. Raises NodeUnavailable."""
        chance, faults = self._chance, self._chance.faults
        self.asked += 1
        await asyncio.sleep(chance.between(0.001, 3.0))
        if self.away or chance.happens(faults.node_away):
            raise NodeUnavailable("it is away")
        result = _told(conversation)
        if chance.happens(faults.node_doubt):
            raise NodeUnavailable("its reply was lost")
        return result


def _told(conversation: Conversation[T]) -> T:
    try:
        next(conversation)
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("this node needs no network")
