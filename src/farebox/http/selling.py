"""A gate, opened from what an operator writes down: a node, a store and keys.

gate = farebox.open_gate(receiver="phoenixd+http://:password@127.0.0.1:9740", store="sqlite:///shop.db", keys=[...])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from farebox import gate as front_room
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.core.fiat import Fiat
from farebox.core.ports import Clock, Conversation, Ledger, Receiver
from farebox.core.secret import KeyRing, Keys
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.gate.nodes import check_receivers
from farebox.http.converse import Lines, aconverse
from farebox.http.rates import Rates
from farebox.lightning import open_receiver
from farebox.stores import open_ledger

if TYPE_CHECKING:
    from starlette.requests import Request

    from farebox.http.sale import Sale

T = TypeVar("T")


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


class Gate(front_room.Gate):
    """A gate that speaks HTTP's three dialects; hand it to a Paywall, a shop, or ask it for a `price`.

    rates: at which the prices in fiat are asked for that it is asked for; None for those of public services.
    """

    rates: Rates | None = None

    def price(self, price: str | Amount | Fiat, *, rerun: bool = False) -> Callable[[Request], Awaitable[Sale]]:
        """A FastAPI dependency: `sale: Annotated[Sale, Depends(gate.price("10 sat"))]`.

        rerun: whether a paid call of unknown outcome may be run once more. Raises MalformedAmount, ConfigError.
        """
        from farebox.http.fastapi import priced

        self.rates = self.rates or Rates()
        return priced(self, price, rerun=rerun, rates=self.rates)

    async def close(self) -> None:
        """Close the ledger and the connections to the node."""
        await super().close()
        if isinstance(self.converse, Talk):
            await self.converse.aclose()


class Talk:
    """Carries conversations with a node, over lines that are opened when first needed."""

    def __init__(self) -> None:
        self._lines = Lines()

    async def __call__(self, conversation: Conversation[T], /) -> T:
        """The outcome of the conversation."""
        return await aconverse(conversation, self._lines)

    async def aclose(self) -> None:
        """Close the lines."""
        await self._lines.aclose()


def opened_receivers(receivers: Sequence[str | Receiver]) -> tuple[Receiver, ...]:
    """Nodes by their URLs, or themselves, which a shop can be paid by. Raises ConfigError, WalletError."""
    if len(receivers) > 1 and any(isinstance(each, str) and each.startswith("sandbox:") for each in receivers):
        raise ConfigError("a sandbox moves no real money, so it stands in for no node; leave it out")
    opened = tuple(open_receiver(each) if isinstance(each, str) else each for each in receivers)
    check_receivers(opened)
    return opened


def open_gate(
    *,
    receiver: str | Receiver | Sequence[str | Receiver] = "sandbox:",
    store: str | Ledger = "sqlite::memory:",
    keys: Sequence[bytes] | Keys | None = None,
    terms: front_room.Terms | None = None,
    realm: str = "farebox",
    clock: Clock | None = None,
    observer: front_room.Observer | None = None,
    rates: Rates | None = None,
) -> Gate:
    """A gate, ready to admit.

    receiver: a node's URL, or the node itself, or several, the preferred one first; `sandbox:` moves no real money.
    store: `sqlite:///path`, `postgresql://…`, or `sqlite::memory:` for one that forgets. clock: None for the store's
    own, by which all gates that share it go, whatever their machines' say. keys: master keys of at least 32 random
    bytes, oldest first; without any, one is made up that lives as long as the gate, so that no token outlives it.
    observer: is told what happens. rates: for the prices in fiat of `gate.price`; None for those of public services.
    Raises ConfigError, WalletError.
    """
    several = receiver if isinstance(receiver, Sequence) and not isinstance(receiver, str) else (receiver,)
    receivers = opened_receivers(several)
    ring: Keys = KeyRing.generate() if not keys else KeyRing(keys) if isinstance(keys, Sequence) else keys
    kept = (terms or front_room.Terms()).keep_answers
    ledger = open_ledger(store, clock, keep_answers=kept, keys=ring) if isinstance(store, str) else store
    gate = Gate(
        ledger=ledger,
        receiver=receivers,
        dialects=(L402(ring), PaymentAuth(ring, realm=realm), PaymentHash()),
        converse=Talk(),
        clock=ledger.now if clock is None else clock,
        terms=terms,
        observer=observer,
        keys=ring,
    )
    gate.rates = rates
    return gate
