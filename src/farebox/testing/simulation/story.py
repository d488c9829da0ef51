"""The story that a seed tells: buyers come, pay in every way there is, insist, and get what they paid for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from farebox.core.amount import Amount
from farebox.core.payment import PaymentState
from farebox.testing.simulation import virtual_time
from farebox.testing.simulation.chance import Faults
from farebox.testing.simulation.town import ONCE, PRICE, RERUN, Gateway, Reply, Town

BUYERS: Final = 4
TROUBLE_S: Final = 1800.0
PEACE_S: Final = 6 * 3600.0
_INTACT: Final = frozenset({200, 402, 409, 410, 429, 500, 502, 503})


class Violated(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class Tally:
    """What happened in a story. steps: every named step that a gateway took."""

    calls: int = 0
    payments: int = 0
    answered: int = 0
    credited: int = 0
    crashes: int = 0
    runs: int = 0
    steps: tuple[str, ...] = ()
    statuses: dict[int, int] = field(default_factory=dict)


def simulate(seed: int, faults: Faults | None = None, *, buyers: int = BUYERS, die_at: int | None = None) -> Tally:
    """Tell the story of a seed. Raises Violated, with the seed, when a promise is broken.

    die_at: the number of the step at which the process that takes it dies, besides whatever else happens.
    """
    town = Town(seed, faults or Faults(), die_at)
    try:
        return virtual_time.run(_story(town, buyers))
    except AssertionError as broken:
        raise Violated(f"seed {seed}, die_at {die_at}: {broken}") from broken
    finally:
        town.database.close()


async def _story(town: Town, count: int) -> Tally:
    buyers = [Buyer(town, number) for number in range(count)]
    sweeper = asyncio.ensure_future(town.sweep())
    shopping = [asyncio.ensure_future(buyer.shop()) for buyer in buyers]
    done, _ = await asyncio.wait(shopping, timeout=TROUBLE_S, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    town.chance.peace = True
    done, left = await asyncio.wait(shopping, timeout=PEACE_S, return_when=asyncio.FIRST_EXCEPTION)
    sweeper.cancel()
    for task in done:
        task.result()
    _check(not left, f"{len(left)} buyers are still waiting after hours of peace")
    await _check_books(town, buyers)
    tally = Tally(crashes=town.crashes, runs=sum(map(len, town.runs.values())), steps=tuple(town.steps.taken))
    for buyer in buyers:
        tally.calls += buyer.calls
        tally.payments += buyer.paid
        tally.answered += bool(buyer.answers)
        tally.credited += buyer.credited
        for status, count in buyer.statuses.items():
            tally.statuses[status] = tally.statuses.get(status, 0) + count
    for gateway in town.gateways:
        gateway.gate._running.close()
    return tally


def _check(holds: bool, told: str) -> None:  # noqa: FBT001 - it is the one thing that it is told
    if not holds:
        raise Violated(told)


class Buyer:
    """Asks, pays (or not, or late, or too little), shows the proof until there is an answer, and then once more."""

    def __init__(self, town: Town, number: int) -> None:
        self.town = town
        self.path = town.chance.choose((RERUN, ONCE))
        self.body = b"prompt %d" % number
        self.client = f"192.0.2.{number + 1}"
        self.payment_hash = ""
        self.paid = False  # in full, and the node has it
        self.credited = False
        self.answers: list[bytes] = []
        self.calls = 0
        self.statuses: dict[int, int] = {}
        self.proof: Mapping[str, str] = {}

    async def shop(self) -> None:
        """The whole of it."""
        await asyncio.sleep(self.town.chance.between(0, 60))
        asked = await self._ask()
        self.payment_hash = asked["payment_hash"]
        paying = asyncio.ensure_future(self._pay(asked))
        await self._try_for_nothing()
        if not await paying:
            await self._try_for_nothing()
            return
        if self.town.chance.choose((True, False, False)):
            await self._mistake()
        if self.town.chance.happens(0.3):  # two at once
            await asyncio.gather(self._insist(), self._insist())
        await self._insist()
        if self.town.chance.happens(0.5):
            await self._mistake()

    async def _ask(self) -> dict[str, Any]:
        while True:
            reply = await self._call(self.body, {})
            if reply is not None and reply.status == 402:
                asked: dict[str, Any] = json.loads(reply.body)
                return asked
            _check(reply is None or reply.status in (429, 503), f"an asker was told {reply and reply.status}")
            await self._rest(reply)

    async def _pay(self, asked: Mapping[str, Any]) -> bool:
        """Pay in one of the ways of the world; whether all of it arrived."""
        chance, faults = self.town.chance, self.town.chance.faults
        payment_hash = bytes.fromhex(asked["payment_hash"])
        node = self.town.node_of(payment_hash)
        self.proof = {"x-payment-hash": asked["payment_hash"]}
        if chance.happens(faults.never):
            return False
        if chance.happens(faults.under):
            node.receive(payment_hash, Amount.msats(PRICE.msat - 1))
            return False
        await asyncio.sleep(chance.between(700, 3000) if chance.happens(faults.late) else chance.between(0, 300))
        if chance.happens(faults.hold):
            node.receive(payment_hash, PRICE, into_a_hold=True)
            await asyncio.sleep(chance.between(1, 900))
            if chance.happens(faults.never):
                node.cancel(payment_hash)
                return False
            node.settle(payment_hash)
        else:
            node.receive(payment_hash, PRICE)
        self.paid = True
        if chance.happens(0.7) or (not chance.peace and chance.happens(0.2)):
            preimage = node.invoices[payment_hash].preimage.hex()
            self.proof = {"authorization": f"L402 {asked['macaroon']}:{preimage}"}
        return True

    async def _try_for_nothing(self) -> None:
        """Show what proves nothing as long as it is not paid."""
        if self.town.chance.happens(0.5):
            before = self.paid
            reply = await self._call(self.body, {"x-payment-hash": self.payment_hash})
            if reply is not None and reply.status == 200:
                self._answered(reply)
                _check(before or self.paid, "it was answered before it was paid")

    async def _insist(self) -> None:
        """Show the proof until there is an answer, or credit."""
        while not self.credited:
            reply = await self._call(self.body, self.proof)
            if reply is not None:
                told = _problem(reply)
                _check(reply.status in _INTACT, f"a good proof was told {reply.status} {told}")
                _check(reply.status != 410, "an answer was forgotten too early")
                _check(reply.status != 402, "a payer was asked for money again")
                _check(told != "request-mismatch", "a good proof was taken for another request's")
                if reply.status == 200:
                    self._answered(reply)
                    return
                self.credited = told == "call-undeliverable"
            await self._rest(reply)

    async def _mistake(self) -> None:
        """Show the proof for something else, which buys nothing and loses nothing."""
        reply = await self._call(b"something else", self.proof)
        if reply is None:
            return
        _check(reply.status != 200, "an answer was given for another request")
        stands = self.town.row(self.payment_hash)  # a call of before may have ended meanwhile
        spent = stands is not None and stands.state in (PaymentState.SPENT, PaymentState.CREDIT)
        _check(reply.status != 402 or spent, "a payer with money here was asked for more")

    def _answered(self, reply: Reply) -> None:
        _check(reply.body.startswith(self.body), f"another one's answer was given: {reply.body!r}")
        payment_hash = bytes.fromhex(self.payment_hash)
        paid = self.town.node_of(payment_hash).paid_in_full(payment_hash)
        _check(paid, "an answer was given and the node was not paid")
        self.answers.append(reply.body)
        _check(1 == len(set(self.answers)), f"the answer changed: {self.answers}")
        _check(not self.credited, "it was answered and credited")

    async def _call(self, body: bytes, proof: Mapping[str, str]) -> Reply | None:
        self.calls += 1
        reply = await self.town.call(self.path, body, client=self.client, proof=proof)
        if reply is not None:
            self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
            _check(reply.status != 500, f"an error of ours was told: {reply.body!r}")
        return reply

    async def _rest(self, reply: Reply | None) -> None:
        after = float(reply.headers.get("retry-after", 0)) if reply is not None else 0.0
        await asyncio.sleep(after + self.town.chance.between(0.1, 20))


def _problem(reply: Reply) -> str:
    """The name of the problem that was told; nothing for an answer."""
    if reply.status < 400:
        return ""
    _check(reply.body.startswith(b"{"), f"a {reply.status} that is no problem: {reply}")
    error: str = json.loads(reply.body)["error"]
    return error


async def _check_books(town: Town, buyers: list[Buyer]) -> None:
    """What must be true of the whole, when everybody has gone home."""
    gateway = next((each for each in town.gateways if each.process.alive), None) or Gateway(town)  # all may have died
    balance, wrong = await gateway.ledger.balance(), await gateway.ledger.audit()
    _check(balance.balanced and not wrong, f"the books do not balance: {balance} {list(wrong)}")
    for buyer in buyers:
        if not buyer.paid:
            _check(not buyer.answers, "an answer was given for nothing")
            continue
        payment = town.row(buyer.payment_hash)
        _check(payment is not None, "a paid invoice was forgotten")
        assert payment is not None
        expected = PaymentState.CREDIT if buyer.credited else PaymentState.SPENT
        _check(payment.state is expected, f"a payment is {payment.state}, and its buyer was told {expected}")
        _check(payment.captured == (PRICE if buyer.answers else Amount(0)), "what was charged is not what was answered")
        runs = town.runs.get(buyer.payment_hash, [])
        untold = [run for run in runs if not run.told]
        _check(
            buyer.path != ONCE or len(untold) <= 1,
            f"a call that must not run twice ran again after {[run.how for run in runs]}",
        )
