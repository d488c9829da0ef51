"""Calls that are paid on success: kept as they came until the node holds their money, and then run.

Rules
1. Whoever pays an invoice that is held has no proof of it before the call has succeeded, so the call that was asked for
   is run from here. Its payer shows the proof afterwards, and is given the kept answer.
2. Calls are kept in memory, so many and so much of them. When there are more, the oldest of whoever has most is
   dropped. That, or a process that ends, costs nobody anything: the money goes back at the end of the invoice, unless
   the call is made again before with its payment hash.
3. The node is asked about so many in a second. Clients take turns, so that nobody waits behind the many calls of
   others; of one client's the newest are asked about often and older ones less.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from farebox.catalog.routes import Route
from farebox.core.bolt11 import Invoice
from farebox.core.errors import CallerError, Unavailable
from farebox.gate import Gate
from farebox.gate.grant import HeldCall
from farebox.http.request import Message, PricedRequest, Scope

log = structlog.get_logger("farebox")

_TICK_S: Final = 0.2
_MOST_LOOKS: Final = 10  # in a tick
_MOST_LOOKING: Final = 32
_FIRST_LOOK_S: Final = 0.2
_SELDOMER: Final = 1.3
_LONGEST_S: Final = 5.0
_MOST_CALLS: Final = 4096
_MOST_BYTES: Final = 32 * 2**20


@dataclass(slots=True, kw_only=True)
class Kept:
    """A call that was challenged. look_at_s, pause_s: when the node is asked about it next, and how long after."""

    route: Route
    request: PricedRequest
    scope: Scope
    client: str
    expires_at: datetime
    size: int
    look_at_s: float
    pause_s: float = _FIRST_LOOK_S


@dataclass(slots=True)
class _Client:
    """The calls of one client by their payment hashes, the oldest first."""

    calls: OrderedDict[bytes, Kept] = field(default_factory=OrderedDict)
    size: int = 0


class HeldCalls:
    """The calls of a paywall that wait for their money. run: runs one that was paid for, to its end."""

    def __init__(self, gate: Gate, run: Callable[[Kept, HeldCall], Awaitable[None]]) -> None:
        self._gate = gate
        self._run = run
        self._kept: dict[bytes, Kept] = {}
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # whose turn it is first
        self._size = 0
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, invoice: Invoice, route: Route, request: PricedRequest, scope: Scope, client: str) -> None:
        """Run this call as soon as the node holds its money."""
        if invoice.payment_hash in self._kept:
            return
        size = len(request.body) + sum(len(name) + len(value) for name, value in request.arrived)
        kept = Kept(
            route=route,
            request=request,
            scope=dict(scope),
            client=client,
            expires_at=invoice.expires_at,
            size=size,
            look_at_s=_now_s() + _FIRST_LOOK_S,
        )
        own = self._clients.setdefault(client, _Client())
        self._kept[invoice.payment_hash] = own.calls[invoice.payment_hash] = kept
        own.size += size
        self._size += size
        while self._size > _MOST_BYTES:
            self._drop_oldest(max(self._clients.values(), key=lambda each: each.size))
        while len(self._kept) > _MOST_CALLS:
            self._drop_oldest(max(self._clients.values(), key=lambda each: len(each.calls)))
        if self._watching is None and self._kept:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="farebox-held-calls")

    def forget(self, payment_hash: bytes) -> None:
        """It is run from elsewhere, or over."""
        kept = self._kept.pop(payment_hash, None)
        if kept is None:
            return
        own = self._clients[kept.client]
        del own.calls[payment_hash]
        own.size -= kept.size
        self._size -= kept.size
        if not own.calls:
            del self._clients[kept.client]

    # --- small print --------------------------------------------------------------------------------------------------

    def _drop_oldest(self, client: _Client) -> None:
        self.forget(next(iter(client.calls)))

    async def _watch(self) -> None:
        """Ask about what is due, until nothing is kept any more."""
        try:
            while self._kept:
                await asyncio.sleep(_TICK_S)
                for payment_hash in self._due(_now_s()):
                    self._begin(self._look(payment_hash))
        finally:
            self._watching = None

    def _due(self, now_s: float) -> list[bytes]:
        """One call of each client that has one due, in turn."""
        due: list[bytes] = []
        for client in tuple(self._clients):
            if len(due) >= min(_MOST_LOOKS, _MOST_LOOKING - self._looking):
                break
            calls = self._clients[client].calls
            look_at_s, payment_hash = min((kept.look_at_s, payment_hash) for payment_hash, kept in calls.items())
            if look_at_s <= now_s:
                calls[payment_hash].look_at_s = now_s + calls[payment_hash].pause_s
                calls[payment_hash].pause_s = min(calls[payment_hash].pause_s * _SELDOMER, _LONGEST_S)
                self._clients.move_to_end(client)
                due.append(payment_hash)
        return due

    async def _look(self, payment_hash: bytes) -> None:
        kept = self._kept.get(payment_hash)
        if kept is None:
            return
        self._looking += 1
        try:
            granted = await self._gate.escrows.take(payment_hash)
        except Unavailable:
            return  # asked again
        except CallerError:
            self.forget(payment_hash)
            return
        finally:
            self._looking -= 1
        if granted is not None:
            self.forget(payment_hash)
            await self._run_to_end(kept, granted)
        elif kept.expires_at <= self._gate.now():
            self.forget(payment_hash)

    async def _run_to_end(self, kept: Kept, granted: HeldCall) -> None:
        try:
            await self._run(kept, granted)
        except (CallerError, Unavailable) as error:
            log.info("held-call-failed", resource=kept.route.resource, problem=error.type, detail=error.detail)
        except Exception:
            log.exception("call-failed", resource=kept.route.resource)

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def to_nobody(message: Message) -> None:
    """A send for a call that nobody listens to."""
    raise OSError("nobody is there")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
