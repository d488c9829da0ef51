"""SettlingNode: a node that is paid as a test likes, and tells what was settled, once, twice, late or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, TypeVar

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import NodeUnavailable
from farebox.core.ports import Capabilities, Capability, Clock, Conversation, InvoiceState, InvoiceStatus
from farebox.core.settlement import Settlement, Settlements
from farebox.http.converse import converse

T = TypeVar("T")

_SECRET_KEY: Final = sha256(b"a node that settles").digest()


@dataclass
class SilentNode:
    """A Receiver that tells nothing by itself. asked: payment hashes that it was asked about. away: can't be asked."""

    clock: Clock
    name: str = "a node"
    network: Network | None = Network.REGTEST
    capabilities: Capabilities = frozenset({Capability.LOOKUP, Capability.MSAT})
    away: bool = False
    asked: list[bytes] = field(default_factory=list)
    statuses: dict[bytes, InvoiceStatus] = field(default_factory=dict)
    preimages: dict[bytes, bytes] = field(default_factory=dict)

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice, whose preimage is in `preimages`."""
        yield from ()
        self._check()
        preimage = sha256(f"{self.name} {len(self.preimages)}".encode()).digest()
        payment_hash = sha256(preimage).digest()
        self.preimages[payment_hash] = preimage
        self.statuses[payment_hash] = InvoiceStatus(state=InvoiceState.OPEN)
        return sign(
            secret_key=_SECRET_KEY,
            network=self.network or Network.REGTEST,
            amount=amount,
            payment_hash=payment_hash,
            payment_secret=bytes(32),
            description=description,
            created_at=self.clock(),
            expires_in=expires_in,
        )

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What `statuses` says."""
        yield from ()
        self._check()
        self.asked.append(payment_hash)
        return self.statuses.get(payment_hash, InvoiceStatus(state=InvoiceState.UNKNOWN))

    def receive(self, payment_hash: bytes, amount: Amount, state: InvoiceState = InvoiceState.PAID) -> None:
        """Somebody pays."""
        received = amount if state is InvoiceState.PAID else NOTHING
        self.statuses[payment_hash] = InvoiceStatus(state=state, received=received)

    async def converse(self, conversation: Conversation[T], /) -> T:
        """Carry a conversation with it."""
        return converse(conversation)

    def _check(self) -> None:
        if self.away:
            raise NodeUnavailable("it is away")


@dataclass
class SettlingNode(SilentNode):
    """A Receiver that tells what was settled. A cursor is how much of `told` was read; page: so much at once.

    asked_at: the instants from which somebody began to read. reads: how often it was asked. again: how much of what was
    told before is told again each time.
    """

    page: int = 100
    again: int = 0
    reads: int = 0
    told: list[Settlement] = field(default_factory=list)
    asked_at: list[datetime] = field(default_factory=list)

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """The next page."""
        yield from ()
        self.reads += 1
        self._check()
        start = int(cursor)
        end = min(start + self.page, len(self.told))
        return Settlements(
            settled=tuple(self.told[max(0, start - self.again) : end]), cursor=str(end), more=end < len(self.told)
        )

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The beginning, whatever the instant."""
        yield from ()
        self._check()
        self.asked_at.append(at)
        return "0"

    def settle(self, payment_hash: bytes, amount: Amount) -> None:
        """Somebody pays, and it is told."""
        self.receive(payment_hash, amount)
        self.told.append(Settlement(payment_hash=payment_hash, received=amount))


@dataclass
class TellingNode(SilentNode):
    """A Receiver that tells what was paid to whoever listens, and keeps no list. heard: how often somebody listened."""

    heard: int = 0
    tells: list[list[Settlement]] = field(default_factory=list)

    def notices(self, *, wait: timedelta) -> Conversation[tuple[Settlement, ...]]:
        """What is to be told next; it does not wait."""
        yield from ()
        self.heard += 1
        self._check()
        return tuple(self.tells.pop(0)) if self.tells else ()
