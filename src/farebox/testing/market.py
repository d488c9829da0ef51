"""A market for tests: a gate over a sandbox node and a ledger in memory, a buyer's wallet, and a service to sell.

Nothing here opens a socket. Time stands still until `clock.pass_by(...)`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from farebox.core.bolt11 import decode
from farebox.core.ports import Paid
from farebox.core.secret import KeyRing
from farebox.gate import Limits, Observer, Terms
from farebox.gate.terms import UNLIMITED
from farebox.http.converse import converse
from farebox.http.request import Message, Receive, Scope, Send
from farebox.http.selling import Gate, open_gate
from farebox.lightning.sandbox import Sandbox


class StillClock:
    """A clock that is moved by hand."""

    def __init__(self, at: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, span: timedelta) -> None:
        """Let time pass."""
        self.at += span


class ServiceFailed(Exception):
    """The service was told to fail."""


@dataclass
class Service:
    """What is sold: it answers `{"prompt": …}` with `{"result": …}`, counts its calls, and can be told to misbehave."""

    calls: int = 0
    failing: int = 0  # so many of the next calls fail
    status: int = 200
    seen: list[Scope] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    held: bool = False

    async def write(self, prompt: str) -> str:
        """The text for a prompt."""
        self.calls += 1
        self.entered.set()
        if self.held:
            await self.go_on.wait()
        if self.failing:
            self.failing -= 1
            raise ServiceFailed
        return f"{prompt} #{self.calls}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same as an ASGI app."""
        body = await whole_body(receive)
        self.seen.append(scope)
        self.bodies.append(body)
        try:
            result = await self.write(json.loads(body or b'{"prompt": ""}')["prompt"])
            status, answer = self.status, json.dumps({"result": result}).encode()
        except ServiceFailed:
            status, answer = 500, b"{}"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def whole_body(receive: Receive) -> bytes:
    """All that an ASGI app is sent."""
    body: bytes = b""
    while True:
        message: Message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


@dataclass
class TurningKeys:
    """Keys that are changed by hand."""

    now: KeyRing = field(default_factory=KeyRing.generate)

    def ring(self, key_id: bytes | None = None) -> KeyRing:
        """The ring as it is now."""
        return self.now


@dataclass
class Market:
    """A seller's gate and a buyer's wallet on one sandbox."""

    gate: Gate
    sandbox: Sandbox
    clock: StillClock
    keys: TurningKeys

    @property
    def ring(self) -> KeyRing:
        """The seller's key ring as it is now."""
        return self.keys.now

    @classmethod
    def open(
        cls,
        terms: Terms | None = None,
        *,
        store: str = "sqlite::memory:",
        observer: Observer | None = None,
        limits: Limits = UNLIMITED,
    ) -> Self:
        """A market that forgets everything when it is closed. limits: take the place of those in the terms."""
        clock = StillClock()
        sandbox = Sandbox.open(None, clock=clock)
        keys = TurningKeys()
        gate = open_gate(
            receiver=sandbox.seller,
            store=store,
            keys=keys,
            terms=replace(terms or Terms(free_calls=0), limits=limits),
            clock=clock,
            observer=observer,
        )
        return cls(gate=gate, sandbox=sandbox, clock=clock, keys=keys)

    def pay(self, invoice: str) -> bytes:
        """Pay an invoice from the buyer's wallet; the preimage."""
        decoded = decode(invoice)
        assert decoded.amount is not None
        outcome = converse(self.sandbox.buyer.pay_invoice(decoded, fee_limit=decoded.amount))
        assert isinstance(outcome, Paid), outcome
        return outcome.preimage.reveal()

    async def close(self) -> None:
        """Close the books, which have to balance."""
        try:
            assert (await self.gate.ledger.balance()).balanced
            assert not await self.gate.ledger.audit()
        finally:
            await self.gate.close()
            self.sandbox.close()
