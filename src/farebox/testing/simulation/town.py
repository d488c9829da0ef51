"""The town of a simulation: gateways that die and are opened again, over one ledger, two nodes and one upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, TypeVar

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import UpstreamFailed
from farebox.core.payment import Payment
from farebox.core.ports import Conversation
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.gate import Gate, Terms
from farebox.gate.reconciler import Reconciler
from farebox.http.paywall import Paywall
from farebox.http.request import Message, Receive, Scope, Send
from farebox.http.sale import SALE
from farebox.stores import moves
from farebox.stores.engine import drive
from farebox.stores.ledger import SqlLedger
from farebox.stores.waiting import Waiting
from farebox.testing.market import whole_body
from farebox.testing.simulation.chance import Chance, Faults
from farebox.testing.simulation.node import FaultyNode
from farebox.testing.simulation.store import Process, SimulatedEngine, Steps, open_database

T = TypeVar("T")

PRICE: Final = Amount.sats(21)
RERUN: Final = "/rerun"
ONCE: Final = "/once"
GATEWAYS: Final = 2
BEGAN: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEEP_ANSWERS: Final = timedelta(days=365)
FAILURES: Final = ("refused", "500", "raises", "unknown", "slow", "broken stream")
_KEYS: Final = KeyRing([sha256(b"the key of a simulation").digest()])


@dataclass(slots=True)
class Run:
    """One time that the upstream began a call. told: whether the gateway was told for certain that it failed."""

    how: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a caller heard; None of it when the line was lost."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Heard:
    """An ASGI answer as it arrives."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    async def __call__(self, message: Message) -> None:
        """A part of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message.get("headers", ())}
        else:
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)


class Gateway:
    """One process: a paywall, its gate and its ledger. What it waits for when it dies never comes."""

    def __init__(self, town: Town) -> None:
        self.process = Process(town.steps)
        self.died = asyncio.Event()
        chance = town.chance
        engine = SimulatedEngine(town.database, chance, self.process, town.waiting)
        self.process.on_death = self.died.set
        self.ledger = SqlLedger(engine, keep_answers=KEEP_ANSWERS)
        skew = timedelta(seconds=chance.between(-1, 1) * chance.faults.skew_s)
        self.gate = Gate(
            ledger=self.ledger,
            receiver=town.nodes,
            dialects=(L402(_KEYS), PaymentAuth(_KEYS, realm="town"), PaymentHash()),
            converse=self._converse,
            clock=lambda: town.now() + skew,
            terms=Terms(free_calls=0),
        )
        self.reconcilers = [
            Reconciler(
                ledger=self.ledger,
                receiver=node,
                converse=self._converse,
                others=[other.name for other in town.nodes if other is not node],
            )
            for node in town.nodes
        ]
        routes = [Route(method="POST", path=path, price=PRICE, rerun=path == RERUN) for path in (RERUN, ONCE)]
        self.paywall = Paywall(self._upstream, gate=self.gate, routes=RouteTable(routes))
        self._town = town

    async def _converse(self, conversation: Conversation[T]) -> T:
        await self.process.step("the node is asked")
        told = await self._town.nodes[0].converse(conversation)  # a line is no node's own
        await self.process.step("the node has told")
        return told

    async def _upstream(self, scope: Scope, receive: Receive, send: Send) -> None:
        town, chance = self._town, self._town.chance
        prompt = await whole_body(receive)
        how = chance.choose(FAILURES) if chance.happens(chance.faults.upstream) else "ok"
        await self.process.step("the upstream is called")
        if how == "refused":
            raise UpstreamFailed("the connection was refused", sent=False)
        run = Run(how)
        town.runs.setdefault(scope[SALE].payment_hash, []).append(run)
        await asyncio.sleep(chance.between(31, 90) if how == "slow" else chance.between(0.01, 20))
        if chance.happens(chance.faults.pause):
            self.process.pause(chance.between(1, 120))
        await self.process.step("the upstream has answered")
        match how:
            case "500":
                run.told = True
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body", "body": b"no"})
            case "raises":
                run.told = True
                raise Broken
            case "unknown":
                raise UpstreamFailed("it was cut off", sent=True)
            case "broken stream":
                head = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": prompt[:2], "more_body": True})
                raise UpstreamFailed("it broke off", sent=True)
            case _:
                answer = b"%b, run %d" % (prompt, len(town.runs[scope[SALE].payment_hash]))
                await send({"type": "http.response.start", "status": 200, "headers": [(b"x-town", b"1")]})
                await send({"type": "http.response.body", "body": answer})


class Broken(Exception):
    """The upstream, as an app of ours, failed."""


class Town:
    """Everything there is."""

    def __init__(self, seed: int, faults: Faults, die_at: int | None = None) -> None:
        self.steps = Steps(die_at)
        self.chance = Chance(seed, faults)
        self.database = open_database(self.now)
        self.waiting = Waiting()
        self.nodes = [FaultyNode(self.now, self.chance, name) for name in ("simulated node", "the one that stands in")]
        self.runs: dict[str, list[Run]] = {}
        self.crashes = 0
        self.gateways = [Gateway(self) for _ in range(GATEWAYS)]
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> datetime:
        """The true time, which is the database's and the node's."""
        return BEGAN + timedelta(seconds=asyncio.get_running_loop().time())

    def node_of(self, payment_hash: bytes) -> FaultyNode:
        """The node that made this invoice."""
        return next(node for node in self.nodes if payment_hash in node.invoices)

    def row(self, payment_hash: str) -> Payment | None:
        """A payment as it stands, whatever trouble there is."""
        return drive(moves.find(bytes.fromhex(payment_hash)), lambda *step: self.database.execute(*step).fetchall())

    async def call(self, path: str, body: bytes, *, client: str, proof: Mapping[str, str]) -> Reply | None:
        """A call of one of the gateways; None when its answer was lost, or broke off, or the gateway died."""
        number = self.chance.choose(range(GATEWAYS))
        gateway = self.gateways[number]
        heard = Heard()
        task = asyncio.ensure_future(gateway.paywall(_scope(path, body, client, proof), _receiving(body), heard))
        died = asyncio.ensure_future(gateway.died.wait())
        leaves = self.chance.between(0, 30) if self.chance.happens(self.chance.faults.reply_lost) else None
        await asyncio.wait((task, died), timeout=leaves, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if not task.done():
            if not gateway.process.alive:
                self._bury(number, task)
            else:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((task,), timeout=1)
            return None
        task.result()  # nothing is ever raised to a server
        if leaves is not None or not heard.whole:
            return None
        return Reply(heard.status, heard.headers, heard.body)

    def _bury(self, number: int, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)  # it waits for ever; somebody has to hold on to it
        if not self.gateways[number].process.alive:
            self.crashes += 1
            self.gateways[number].gate._running.close()
            self.gateways[number] = Gateway(self)

    async def sweep(self) -> None:
        """The upkeep of a gateway, once a minute."""
        while True:
            await asyncio.sleep(60)
            gateway = self.chance.choose(self.gateways)
            if gateway.process.alive:
                with suppress(Exception):
                    async with asyncio.timeout(30):  # it may die of it
                        await gateway.ledger.expire_payments(grace=timedelta(minutes=10))
                        for reconciler in gateway.reconcilers:
                            await reconciler.catch_up()


def _scope(path: str, body: bytes, client: str, proof: Mapping[str, str]) -> Scope:
    headers = {"host": "town.test", "content-type": "text/plain", "content-length": str(len(body)), **proof}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (client, 1234),
        "server": ("town.test", 443),
        "extensions": {},
    }


def _receiving(body: bytes) -> Receive:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
