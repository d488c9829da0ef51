"""A street of buyers in front of a shop: each buys one thing after the other, while something happens to the shop.

A buyer pays at the sandbox's own file, so that nothing but the shop stands between a call and its answer, unless a test
has it pay in another way; and pays for each call once, whatever comes of it. Whether a call that fails is a failure, or
to be made again, the test decides.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.ports import Paid, PayOutcome
from farebox.http.converse import converse
from farebox.lightning.sandbox import Sandbox

FEE_LIMIT: Final = Amount.sats(1)
PATIENCE_S: Final = 30.0
_AGAIN_AFTER_S: Final = 0.05
_CATCH_UP_AT_ONCE: Final = 16


@dataclass
class Purchase:
    """One paid call. answers: every one that came. hits: how often the call itself was interrupted."""

    prompt: str
    payment_hash: bytes = b""
    proof: dict[str, str] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)
    hits: int = 0


class Street:
    """Buyers, what they bought, and a tally of everything that was neither a 402 nor a 200.

    insisting: whether a buyer who is not answered comes again, rather than noting a failure. later: purchases whose
    call was interrupted, which are put off: it may be that nobody else can make it before its lease has run out.
    sandbox: its file; None where `pay` is overridden.
    """

    def __init__(self, url: str, sandbox: Path | None, *, insisting: bool, keep_alive: int = 20) -> None:
        self.url = url
        self.insisting = insisting
        self.purchases: list[Purchase] = []
        self.tally: Counter[str] = Counter()
        self.failures: list[str] = []
        self.later: list[Purchase] = []
        self._closing = asyncio.Event()
        self._sandbox = Sandbox.open(sandbox)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep_alive)
        self._http = httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, limits=limits)

    @asynccontextmanager
    async def busy(self, buyers: int) -> AsyncIterator[None]:
        """While inside, so many buyers shop around; in the end each has the answer to his last call."""
        async with asyncio.TaskGroup() as group:
            for _ in range(buyers):
                group.create_task(self._shop_around())
            try:
                yield
            finally:
                self._closing.set()

    async def hang_up(self) -> None:
        """Close every connection to the shop."""
        await self._http.aclose()

    async def close(self) -> None:
        """Go home."""
        await self.hang_up()
        self._sandbox.close()

    async def buy(self, prompt: str) -> Purchase:
        """Ask, pay, and keep the proof; the call itself is not made."""
        purchase = Purchase(prompt)
        self.purchases.append(purchase)
        asked = await self._insist(lambda: self._http.post(self.url, content=prompt), 402, purchase)
        if asked is None:
            return purchase
        challenge = json.loads(asked.content)
        invoice = decode(challenge["invoice"])
        paid = await self.pay(invoice)
        assert isinstance(paid, Paid), paid
        purchase.payment_hash = invoice.payment_hash
        purchase.proof = {"authorization": f"L402 {challenge['macaroon']}:{paid.preimage.reveal().hex()}"}
        return purchase

    async def pay(self, invoice: Invoice) -> PayOutcome:
        """What the buyers' wallet says of paying."""
        return converse(self._sandbox.buyer.pay_invoice(invoice, fee_limit=FEE_LIMIT))

    async def call(self, purchase: Purchase) -> None:
        """Show the proof, until the answer is there, or the call is put off, or once if nobody insists."""
        answer = await self._insist(lambda: self._call(purchase), 200, purchase)
        if answer is not None:
            purchase.answers.append(answer.content)

    async def catch_up(self) -> None:
        """Make the calls that were put off, the oldest first, until each is answered."""

        async def make() -> None:
            while self.later:
                await self.call(self.later.pop(0))
                await asyncio.sleep(_AGAIN_AFTER_S)

        while self.later:
            await asyncio.gather(*(make() for _ in range(_CATCH_UP_AT_ONCE)))

    async def call_once(self, purchase: Purchase) -> int:
        """Show the proof once; the status."""
        answer = await self._call(purchase)
        if answer.status_code == 200:
            purchase.answers.append(answer.content)
        return answer.status_code

    def _call(self, purchase: Purchase) -> Awaitable[httpx.Response]:
        return self._http.post(self.url, content=purchase.prompt, headers=purchase.proof)

    def balance(self) -> Amount:
        """What is left in the buyers' wallet."""
        return converse(self._sandbox.buyer.balance())

    async def _shop_around(self) -> None:
        while not self._closing.is_set():
            purchase = await self.buy(f"prompt {len(self.purchases):06}")
            if purchase.proof:
                await self.call(purchase)

    async def _insist(
        self, send: Callable[[], Awaitable[httpx.Response]], wanted: int, purchase: Purchase
    ) -> httpx.Response | None:
        while True:
            try:
                answer = await send()
            except httpx.TransportError as error:
                told, hit = f"{wanted}: {type(error).__name__}", wanted == 200
            else:
                if answer.status_code == wanted:
                    self.tally[str(wanted)] += 1
                    return answer
                told, hit = f"{wanted}: {answer.status_code} {answer.json().get('error')}", wanted == 200
            self.tally[told] += 1
            if not self.insisting:
                self.failures.append(told)
                return None
            if hit:
                purchase.hits += 1
                self.later.append(purchase)
                return None
            await asyncio.sleep(_AGAIN_AFTER_S)
