"""Calls that are paid on success: kept as they came until the node holds their money, and then run.

Rules
1. Whoever pays an invoice that is held has no proof of it before the call has succeeded, so the call that was asked for
   is run from here. Its payer shows the proof afterwards, and is given the kept answer.
2. Calls are kept in memory, so many and so much of them. What is lost with a process costs nobody anything: the money
   goes back at the end of the invoice, unless the call is made again before with its payment hash.
3. The node is asked about the newest calls often and about older ones less, and about so many in a second in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from farebox.catalog.routes import Route
from farebox.core.bolt11 import Invoice
from farebox.core.errors import CallerError, GateOverloaded, Unavailable
from farebox.gate import Gate
from farebox.gate.grant import HeldCall
from farebox.http.request import Message, PricedRequest, Scope

log = structlog.get_logger("farebox")

_TICK_S: Final = 0.2
_MOST_LOOKS: Final = 10  # in a tick
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
    expires_at: datetime
    size: int
    look_at_s: float
    pause_s: float = _FIRST_LOOK_S


class HeldCalls:
    """The calls of a paywall that wait for their money. run: runs one that was paid for, to its end."""

    def __init__(self, gate: Gate, run: Callable[[Kept, HeldCall], Awaitable[None]]) -> None:
        self._gate = gate
        self._run = run
        self._kept: dict[bytes, Kept] = {}
        self._bytes = 0
        self._watching: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, invoice: Invoice, route: Route, request: PricedRequest, scope: Scope) -> None:
        """Run this call as soon as the node holds its money. Raises GateOverloaded when there are too many."""
        if invoice.payment_hash in self._kept:
            return
        size = len(request.body) + sum(len(name) + len(value) for name, value in request.arrived)
        if len(self._kept) >= _MOST_CALLS or self._bytes + size > _MOST_BYTES:
            raise GateOverloaded("too many calls wait for their money")
        self._bytes += size
        self._kept[invoice.payment_hash] = Kept(
            route=route,
            request=request,
            scope=dict(scope),
            expires_at=invoice.expires_at,
            size=size,
            look_at_s=_now_s() + _FIRST_LOOK_S,
        )
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="farebox-held-calls")

    def forget(self, payment_hash: bytes) -> None:
        """It is run from elsewhere, or over."""
        kept = self._kept.pop(payment_hash, None)
        self._bytes -= 0 if kept is None else kept.size

    # --- small print --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ask about what is due, until nothing is kept any more."""
        try:
            while self._kept:
                await asyncio.sleep(_TICK_S)
                now_s, now = _now_s(), self._gate.now()
                due = sorted(
                    [(kept.look_at_s, payment_hash) for payment_hash, kept in self._kept.items()],
                )[:_MOST_LOOKS]
                await asyncio.gather(*[self._look(each, now_s, now) for look_at_s, each in due if look_at_s <= now_s])
        finally:
            self._watching = None

    async def _look(self, payment_hash: bytes, now_s: float, now: datetime) -> None:
        kept = self._kept.get(payment_hash)
        if kept is None:
            return
        kept.look_at_s = now_s + kept.pause_s
        kept.pause_s = min(kept.pause_s * _SELDOMER, _LONGEST_S)
        try:
            granted = await self._gate.escrows.take(payment_hash)
        except Unavailable:
            return  # asked again
        except CallerError:
            self.forget(payment_hash)
            return
        if granted is not None:
            self.forget(payment_hash)
            running = asyncio.get_running_loop().create_task(self._run_to_end(kept, granted))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
        elif kept.expires_at <= now:
            self.forget(payment_hash)

    async def _run_to_end(self, kept: Kept, granted: HeldCall) -> None:
        try:
            await self._run(kept, granted)
        except (CallerError, Unavailable) as error:
            log.info("held-call-failed", resource=kept.route.resource, problem=error.type, detail=error.detail)
        except Exception:
            log.exception("call-failed", resource=kept.route.resource)


async def to_nobody(message: Message) -> None:
    """A send for a call that nobody listens to."""
    raise OSError("nobody is there")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
