"""Nodes: the receivers of a shop, in order of preference; which one makes an invoice, and which one is asked about it.

Rules
1. A new invoice is made at the first node that is not known to be away. When that one does not answer, refuses, or
   makes another invoice than it was asked for, the next one is asked. All of it ends within `Terms.mint_within`, of
   which the nodes that are still to be asked have equal shares, so that one that hangs leaves time for the next.
2. A node that is away is not asked for an invoice for a second, and then by one caller only; one that keeps hanging is
   left alone for longer, where another one stands in. Each is asked by a few at a time.
3. A payment remembers its node, and that one is asked about it. Where it remembers none, or one that is no longer
   ours, all are asked: paid or held at one of them counts; anything else only when every one has said.
4. An unpaid invoice of a node that is away, or no longer ours, is not told again while another node answers: it can be
   paid, and a preimage proves it, but nobody could tell for a bare payment hash.
5. All are paid on one chain: the first that is known to be one's. What another node makes for another chain is refused.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import ConfigError, NodeUnavailable
from farebox.core.ports import Capability, Conversation, HoldReceiver, InvoiceState, InvoiceStatus, Receiver
from farebox.core.secret import Secret
from farebox.gate.asking import Asking, Converse
from farebox.gate.events import NodePassedOver, Observer
from farebox.gate.terms import Terms

_AWAY_S: Final = 1.0
_HANGING_S: Final = 4.0  # less than the 5 s within which a node that is back is used
_FAILURES: Final = 3
_MOST_MADE: Final = 1024
_ROUNDING_S: Final = 0.01  # of an event loop's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An invoice that is wanted. preimage: for a node that can hold what it is paid until we show it."""

    amount: Amount
    description: str
    expires_in: timedelta
    preimage: Secret[bytes] | None = None


class Circuit:
    """Remembers that a node is away, so that it is not asked for a second, and then by one caller only.

    longest_s: a node that hangs again costs its caller time, so it is left alone for twice as long, up to this.
    """

    def __init__(self, *, longest_s: float = _AWAY_S) -> None:
        self._longest_s = longest_s
        self._pause_s = _AWAY_S
        self._is_tried = False
        self._failures = 0
        self._away_until_s = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether the node was found to be away, and has not answered since."""
        return self._failures >= _FAILURES

    def may_ask(self, now_s: float) -> bool:
        """Whether it can be asked now."""
        return not self.is_open or now_s >= self._away_until_s

    def begin(self, now_s: float) -> None:
        """It is going to be asked; whoever tries it after a while is the only one to. Raises NodeUnavailable."""
        if not self.may_ask(now_s):
            raise _away()
        if self.is_open:
            self._is_tried = True
            self._away_until_s = now_s + self._pause_s

    def failed(self, now_s: float, *, slow: bool) -> None:
        """It did not answer. slow: it was waited for as long as can be, which is enough to know."""
        if slow and self._is_tried:
            self._pause_s = min(2 * self._pause_s, self._longest_s)
        self._is_tried = False
        self._failures = max(self._failures + 1, _FAILURES if slow else 0)
        self._away_until_s = now_s + self._pause_s

    def answered(self) -> None:
        """It did."""
        self._failures, self._pause_s, self._is_tried = 0, _AWAY_S, False


class Node:
    """One receiver, and whether it answers. alone: no other one stands in for it."""

    def __init__(
        self, receiver: Receiver, converse: Converse, terms: Terms, observer: Observer | None, *, alone: bool
    ) -> None:
        self.receiver = receiver
        self.name = receiver.name
        self.circuit = Circuit(longest_s=_AWAY_S if alone else _HANGING_S)
        self.asking = Asking(receiver, converse, terms.mint_within, observer)
        self._made: OrderedDict[bytes, None] = OrderedDict()  # of late
        self._minting = asyncio.Semaphore(terms.limits.minting_at_once)

    async def mint(self, order: Order, *, until_s: float, network: Network | None) -> Invoice:
        """An invoice as it was ordered, and of this network, by then. Raises NodeUnavailable."""
        try:
            async with asyncio.timeout_at(until_s):
                await self._minting.acquire()
        except TimeoutError:
            raise NodeUnavailable("it takes too long to answer others") from None
        try:
            self.circuit.begin(_now_s())
            try:
                invoice = await self.asking.mint(self._make(order), timedelta(seconds=until_s - _now_s()))
                self._check(invoice, order, network)
            except NodeUnavailable:
                self.circuit.failed(_now_s(), slow=_now_s() >= until_s - _ROUNDING_S)
                raise
        finally:
            self._minting.release()
        self.circuit.answered()
        return invoice

    @property
    def holder(self) -> HoldReceiver | None:
        """The receiver, if it can hold what it is paid."""
        receiver = self.receiver
        return receiver if Capability.HOLD in receiver.capabilities and isinstance(receiver, HoldReceiver) else None

    def _make(self, order: Order) -> Conversation[Invoice]:
        amount, description, expires_in = order.amount, order.description, order.expires_in
        if order.preimage is None or self.holder is None:
            return self.receiver.create_invoice(amount, description=description, expires_in=expires_in)
        payment_hash = sha256(order.preimage.reveal()).digest()
        return self.holder.create_hold_invoice(
            amount, payment_hash=payment_hash, description=description, expires_in=expires_in
        )

    def _check(self, invoice: Invoice, order: Order, network: Network | None) -> None:
        if invoice.payment_hash in self._made:
            raise NodeUnavailable("the node made the same invoice again")
        self._made[invoice.payment_hash] = None
        if len(self._made) > _MOST_MADE:
            self._made.popitem(last=False)
        held = None if order.preimage is None or self.holder is None else sha256(order.preimage.reveal()).digest()
        if invoice.amount != order.amount or held not in (None, invoice.payment_hash):
            raise NodeUnavailable("the node made another invoice than it was asked for")
        if network not in (None, invoice.network):
            raise NodeUnavailable(f"{self.name} is on {invoice.network}, and this shop is paid on {network}")


class Nodes:
    """The nodes of a shop, the preferred one first. Raises ConfigError as `check_receivers` does."""

    def __init__(
        self, receivers: Sequence[Receiver], converse: Converse, terms: Terms, observer: Observer | None
    ) -> None:
        check_receivers(receivers)
        alone = len(receivers) == 1
        self._nodes = tuple(Node(receiver, converse, terms, observer, alone=alone) for receiver in receivers)
        self._network = next((each.network for each in receivers if each.network is not None), None)
        self._within_s = terms.mint_within.total_seconds()
        self._observer = observer

    def check(self) -> None:
        """Raises NodeUnavailable while all of them are known to be away."""
        if not self._askable(_now_s()):
            raise _away()

    async def mint(self, order: Order) -> tuple[Invoice, str]:
        """An invoice of the first node that makes one, and the node's name. Raises NodeUnavailable."""
        until_s = _now_s() + self._within_s
        askable = self._askable(_now_s())
        failure = _away()
        for asked, node in enumerate(askable):
            if asked and self._observer is not None:
                self._observer(NodePassedOver(node=askable[asked - 1].name, reason=str(failure.detail)))
            share_s = (until_s - _now_s()) / (len(askable) - asked)
            try:
                invoice = await node.mint(order, until_s=_now_s() + share_s, network=self._network)
            except NodeUnavailable as error:
                failure = error
            else:
                self._network = invoice.network
                return invoice, node.name
        raise failure

    def may_tell_again(self, receiver: str) -> bool:
        """Whether an unpaid invoice of the node with this name may be told again (rule 4)."""
        own = [node for node in self._nodes if receiver in (node.name, "")]
        return any(not node.circuit.is_open for node in own) or all(node.circuit.is_open for node in self._nodes)

    async def look_up(self, payment_hash: bytes, *, receiver: str, proven: bool) -> tuple[str, InvoiceStatus]:
        """Where an invoice stands, and at which node. Raises NodeUnavailable.

        receiver: the name of the one that made it; any other one asks all. proven: a good preimage was shown for it.
        """
        nodes = [node for node in self._nodes if node.name == receiver] or self._nodes
        if len(nodes) == 1:
            return nodes[0].name, await nodes[0].asking.look_up(payment_hash, proven=proven)
        said = await asyncio.gather(
            *(node.asking.look_up(payment_hash, proven=proven) for node in nodes), return_exceptions=True
        )
        known = [(node.name, each) for node, each in zip(nodes, said, strict=True) if isinstance(each, InvoiceStatus)]
        for state in (InvoiceState.PAID, InvoiceState.HELD):
            for name, status in known:
                if status.state is state:
                    return name, status
        for each in said:
            if isinstance(each, BaseException):
                raise each
        return next((each for each in known if each[1].state is not InvoiceState.UNKNOWN), known[0])

    @property
    def holds(self) -> bool:
        """Whether one of them can hold what it is paid."""
        return any(node.holder is not None for node in self._nodes)

    def holders(self, receiver: str) -> list[Node]:
        """The node with this name; where it is no longer ours, or was renamed, all that can hold what they are paid.

        Raises NodeUnavailable where there are none.
        """
        found = [node for node in self._nodes if node.name == receiver]
        found = found or [node for node in self._nodes if node.holder is not None]
        if not found:
            raise NodeUnavailable(f"{receiver or 'the node that made it'} is no longer a receiver of this shop")
        return found

    async def close(self) -> None:
        """End what is under way."""
        for node in self._nodes:
            await node.asking.close()

    def _askable(self, now_s: float) -> list[Node]:
        return [node for node in self._nodes if node.circuit.may_ask(now_s)]


def check_receivers(receivers: Sequence[Receiver]) -> None:
    """Whether a shop can be paid by all of these. Raises ConfigError: no receiver, one twice, more than one chain."""
    if not receivers:
        raise ConfigError("a shop needs a receiver")
    names = [each.name for each in receivers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name} is named twice among the receivers, and one account of a node is enough")
    known = [each for each in receivers if each.network is not None]
    for each in known:
        if each.network is not known[0].network:
            raise ConfigError(
                f"{known[0].name} is on {known[0].network}, and {each.name} on {each.network}: "
                "the receivers of a shop are on one chain"
            )


def _away() -> NodeUnavailable:
    return NodeUnavailable("it did not answer a moment ago")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
