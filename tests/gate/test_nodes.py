"""Several nodes: an invoice comes from the first that answers, in time, and is looked up where it was made."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import ConfigError, NodeUnavailable, WalletError
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Payment
from farebox.core.ports import Conversation, HttpCall, InvoiceState, InvoiceStatus
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentHash
from farebox.gate import Challenged, Event, Gate, Grant, Terms, Visit
from farebox.gate.events import Ended, NodePassedOver
from farebox.gate.nodes import Circuit, Nodes, Order, check_receivers
from farebox.http.selling import opened_receivers
from farebox.stores import open_ledger
from farebox.testing.ledger_stage import invoice as unpaid
from farebox.testing.market import StillClock
from farebox.testing.settling_node import SilentNode
from farebox.testing.simulation.virtual_time import run

pytestmark = pytest.mark.anyio

T = TypeVar("T")

KEYS = KeyRing.generate()
CLIENT = "192.0.2.7/32"
PRICE = Amount.sats(21)
ORDER = Order(amount=PRICE, description="a call", expires_in=timedelta(minutes=10))
QUOTE = Quote(amount=PRICE, resource="POST /x", digest=sha256(b"a request").digest())
PAID = InvoiceStatus(state=InvoiceState.PAID, received=PRICE)


@dataclass
class Moody(SilentNode):
    """A node that may hang, refuse, or make another invoice than was asked for. minted: how often it was asked for one.

    late: its network, which is not known before it has made an invoice. repeats: it makes the same one each time.
    """

    hangs: bool = False
    refuses: bool = False
    asks_for: Amount | None = None
    late: Network | None = None
    repeats: bool = False
    minted: int = 0
    first: Invoice | None = None

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        self.minted += 1
        if self.hangs:
            yield HttpCall(method="POST", url="http://a-node-that-hangs")
        if self.refuses:
            raise WalletError("it has no room to receive")
        self.network = self.late or self.network
        made = yield from super().create_invoice(
            self.asks_for or amount, description=description, expires_in=expires_in
        )
        self.first = self.first or made
        return self.first if self.repeats else made

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        if self.hangs:
            yield HttpCall(method="GET", url="http://a-node-that-hangs")
        return (yield from super().lookup_invoice(payment_hash))


async def talk(conversation: Conversation[T]) -> T:
    """A line to nodes, on which what is not answered at once never is."""
    try:
        next(conversation)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    return await asyncio.Future[T]()


def moody(**how: Any) -> tuple[Moody, Moody]:
    """Two nodes, the first as it is told to be."""
    return Moody(StillClock(), name="the first", **how), Moody(StillClock(), name="the second")


def nodes_of(*nodes: SilentNode, told: list[Event] | None = None) -> Nodes:
    return Nodes(nodes, talk, Terms(), None if told is None else told.append)


async def took_s(asked: Awaitable[T]) -> tuple[T, float]:
    """An outcome, and the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await asked, loop.time() - began


# --- a new invoice ----------------------------------------------------------------------------------------------------


def test_the_first_node_makes_the_invoices_as_long_as_it_answers() -> None:
    first, second = moody()

    async def story() -> list[str]:
        nodes = nodes_of(first, second)
        return [(await nodes.mint(ORDER))[1] for _ in range(3)]

    assert ["the first"] * 3 == run(story())
    assert (3, 0) == (first.minted, second.minted)


@pytest.mark.parametrize(
    "how", [{"away": True}, {"refuses": True}, {"asks_for": Amount.sats(20)}, {"late": Network.MAINNET}], ids=str
)
def test_where_the_first_fails_the_next_makes_the_invoice_and_the_first_is_soon_asked_no_more(
    how: dict[str, Any],
) -> None:
    first, second = moody(**how)
    told: list[Event] = []
    first.network = None

    async def story() -> list[tuple[Invoice, str]]:
        nodes = nodes_of(first, second, told=told)
        return [await nodes.mint(ORDER) for _ in range(5)]

    made = run(story())
    assert [("the second", PRICE, Network.REGTEST)] * 5 == [(name, each.amount, each.network) for each, name in made]
    assert (3, 5) == (first.minted, second.minted)
    assert ["the first"] * 3 == [each.node for each in told if isinstance(each, NodePassedOver)]
    assert {"the first", "the second"} == {each.node for each in told if isinstance(each, Ended)}


def test_an_invoice_that_a_node_made_before_is_none() -> None:
    first, second = moody(repeats=True)

    async def story() -> list[str]:
        nodes = nodes_of(first, second)
        return [(await nodes.mint(ORDER))[1] for _ in range(3)]

    assert ["the first", "the second", "the second"] == run(story())


def test_a_node_that_hangs_leaves_half_the_time_to_the_next_and_costs_nothing_from_then_on() -> None:
    first, second = moody(hangs=True)

    async def story() -> list[tuple[str, float]]:
        nodes = nodes_of(first, second)
        spans = [await took_s(nodes.mint(ORDER)) for _ in range(9)]
        return [(name, span) for (_, name), span in spans]

    (name, longest), *others = run(story())
    assert "the second" == name
    assert pytest.approx(1.0) == longest
    assert [("the second", 0.0)] * 8 == others
    assert (1, 9) == (first.minted, second.minted)


def test_a_node_that_was_away_is_tried_by_one_caller_at_a_time_and_is_the_first_again_when_it_is_back() -> None:
    first, second = moody(hangs=True)

    async def story() -> tuple[list[str], float, list[str]]:
        nodes = nodes_of(first, second)
        await nodes.mint(ORDER)
        await asyncio.sleep(1)
        made, span = await took_s(asyncio.gather(*(nodes.mint(ORDER) for _ in range(50))))
        first.hangs = False
        await asyncio.sleep(2)
        return [name for _, name in made], span, [(await nodes.mint(ORDER))[1] for _ in range(2)]

    while_away, span, back = run(story())
    assert ["the second"] * 50 == while_away
    assert pytest.approx(1.0) == span
    assert ["the first"] * 2 == back
    assert 2 + 2 == first.minted


def test_a_node_that_keeps_hanging_delays_one_caller_in_a_few_seconds_and_is_used_within_five_of_its_return() -> None:
    first, second = moody(hangs=True)

    async def story() -> tuple[list[float], float]:
        nodes = nodes_of(first, second)
        spans = []
        for _ in range(120):
            spans.append((await took_s(nodes.mint(ORDER)))[1])
            await asyncio.sleep(0.5)
        first.hangs, began = False, asyncio.get_running_loop().time()
        while (await nodes.mint(ORDER))[1] != "the first":
            await asyncio.sleep(0.1)
        return spans, asyncio.get_running_loop().time() - began

    spans, back_s = run(story())
    assert {0.0, 1.0} == {round(span, 6) for span in spans}
    assert 20 > sum(span > 0 for span in spans)
    assert 5 > back_s


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_however_many_nodes_hang_the_caller_is_told_within_two_seconds(count: int) -> None:
    nodes = [Moody(StillClock(), name=f"node {number}", hangs=True) for number in range(count)]

    async def story() -> float:
        opened = nodes_of(*nodes)
        began = asyncio.get_running_loop().time()
        with pytest.raises(NodeUnavailable):
            await opened.mint(ORDER)
        return asyncio.get_running_loop().time() - began

    assert pytest.approx(2.0) == run(story())
    assert [1] * count == [node.minted for node in nodes]


def test_a_crowd_at_a_node_that_hangs_is_served_by_the_next_within_two_seconds() -> None:
    first, second = moody(hangs=True)

    async def story() -> tuple[set[str], float]:
        nodes = nodes_of(first, second)
        made, span = await took_s(asyncio.gather(*(nodes.mint(ORDER) for _ in range(500))))
        return {name for _, name in made}, span

    names, span = run(story())
    assert {"the second"} == names
    assert pytest.approx(1.0) == span
    assert (Terms().limits.minting_at_once, 500) == (first.minted, second.minted)


def test_while_every_node_is_away_none_is_asked() -> None:
    first, second = moody(away=True)
    second.away = True

    async def story() -> None:
        nodes = nodes_of(first, second)
        for _ in range(5):
            with pytest.raises(NodeUnavailable):
                await nodes.mint(ORDER)
        with pytest.raises(NodeUnavailable):
            nodes.check()
        await asyncio.sleep(1)
        nodes.check()

    run(story())
    assert (3, 3) == (first.minted, second.minted)


def test_one_node_alone_has_the_whole_time() -> None:
    first, _ = moody(hangs=True)

    async def story() -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(NodeUnavailable, match="too long"):
            await nodes_of(first).mint(ORDER)
        return asyncio.get_running_loop().time() - began

    assert pytest.approx(2.0) == run(story())


@pytest.mark.parametrize(("failures", "slow"), [(3, False), (1, True)])
def test_a_node_that_is_away_is_asked_again_by_one_after_a_second(failures: int, slow: bool) -> None:
    circuit = Circuit()
    for _ in range(failures):
        circuit.begin(0.0)
        circuit.failed(0.0, slow=slow)
    for at, refused in ((0.1, True), (0.99, True), (1.0, False), (1.01, True), (2.0, False)):
        assert refused == away(circuit, at)
    circuit.answered()
    assert [False, False] == [away(circuit, 3.0) for _ in range(2)]


def away(circuit: Circuit, at: float) -> bool:
    try:
        circuit.begin(at)
    except NodeUnavailable:
        return True
    return False


# --- which go together ------------------------------------------------------------------------------------------------


def test_one_node_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="a node is named twice"):
        check_receivers([Moody(StillClock()), Moody(StillClock())])


def test_nodes_on_different_chains_are_refused() -> None:
    first, second = moody(network=Network.MAINNET)
    with pytest.raises(ConfigError, match="the first is on mainnet, and the second on regtest"):
        check_receivers([first, second])


@pytest.mark.parametrize("sandbox", ["sandbox:", "sandbox:///a/file.db"])
def test_a_sandbox_stands_in_for_no_node(sandbox: str) -> None:
    with pytest.raises(ConfigError, match="no real money"):
        opened_receivers(["phoenixd+http://:password@127.0.0.1:9740", sandbox])


def test_one_node_named_twice_by_its_url_is_refused_whatever_the_password() -> None:
    with pytest.raises(ConfigError, match=r"phoenixd at 127\.0\.0\.1:9740 is named twice"):
        opened_receivers([f"phoenixd+http://:{password}@127.0.0.1:9740" for password in ("one", "another")])


def test_no_node_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a receiver"):
        check_receivers([])


def test_the_chain_on_which_a_shop_was_first_paid_is_its_own_whoever_comes_back() -> None:
    first, second = moody(away=True, late=Network.MAINNET, network=None)
    second.network, second.late = None, Network.REGTEST

    async def story() -> list[str]:
        nodes = nodes_of(first, second)
        made = [(await nodes.mint(ORDER))[1]]
        first.away = False
        return made + [(await nodes.mint(ORDER))[1] for _ in range(3)]

    assert ["the second"] * 4 == run(story())


# --- what became of an invoice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("paid", "unknown", "paid"),
        ("unknown", "paid", "paid"),
        ("away", "paid", "paid"),
        ("paid", "hangs", "paid"),
        ("away", "held", "held"),
        ("held", "unknown", "held"),
        ("unknown", "unknown", "unknown"),
        ("unknown", "cancelled", "cancelled"),
        ("open", "unknown", "open"),
        ("away", "unknown", None),
        ("cancelled", "away", None),
        ("unknown", "hangs", None),
        ("open", "away", None),
        ("away", "away", None),
    ],
)
@pytest.mark.parametrize("receiver", ["", "a node that is gone"])
def test_what_no_node_is_known_for_is_asked_of_all_and_only_money_or_all_of_them_decide(
    first: str, second: str, expected: str | None, receiver: str
) -> None:
    nodes, payment_hash = moody(), bytes(32)
    for node, how in zip(nodes, (first, second), strict=True):
        node.away, node.hangs = how == "away", how == "hangs"
        if how in set(InvoiceState):
            node.receive(payment_hash, PRICE, InvoiceState(how))

    async def story() -> InvoiceState:
        return (await nodes_of(*nodes).look_up(payment_hash, receiver=receiver, proven=False))[1].state

    if expected is None:
        with pytest.raises(NodeUnavailable):
            run(story())
    else:
        assert expected == run(story())


def test_what_a_node_made_is_asked_of_that_one_alone() -> None:
    first, second = moody(away=True)
    second.receive(bytes(32), PRICE)

    async def story() -> tuple[str, InvoiceStatus]:
        nodes = nodes_of(first, second)
        with pytest.raises(NodeUnavailable):
            await nodes.look_up(bytes(32), receiver="the first", proven=False)
        return await nodes.look_up(bytes(32), receiver="the second", proven=True)

    assert ("the second", PAID) == run(story())


# --- a gate with two nodes --------------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A gate with two nodes, and a ledger that outlives it."""

    clock: StillClock
    ledger: Any
    nodes: list[Moody] = field(default_factory=list)
    gate: Any = None

    def open(self, *nodes: Moody) -> None:
        """Open it anew, with these nodes."""
        self.nodes = list(nodes)
        self.gate = Gate(
            ledger=self.ledger,
            receiver=nodes,
            dialects=(L402(KEYS), PaymentHash()),
            converse=talk,
            clock=self.clock,
            terms=Terms(free_calls=0),
        )

    async def ask(self, **headers: str) -> Any:
        wire = Wire(headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))
        return await self.gate.admit(Visit(quote=QUOTE, wire=wire, client=CLIENT, rerun=True))

    async def invoice(self) -> Invoice:
        asked = await self.ask()
        assert isinstance(asked, Challenged)
        return asked.invoice

    async def show(self, invoice: Invoice) -> Any:
        """Show a bare payment hash, as long as it takes."""
        return await self.ask(x_payment_hash=invoice.payment_hash.hex())

    async def row(self, invoice: Invoice) -> Payment:
        row = await self.ledger.find_payment(invoice.payment_hash)
        assert isinstance(row, Payment)
        return row

    def find_away(self, node: Moody) -> None:
        """It has not answered for a while."""
        circuits = {each.name: each.circuit for each in self.gate._nodes._nodes}
        circuits[node.name].failed(asyncio.get_running_loop().time(), slow=True)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    clock = StillClock()
    shop = Shop(clock, open_ledger("sqlite::memory:", clock))
    shop.open(Moody(clock, name="the first"), Moody(clock, name="the second"))
    yield shop
    assert (await shop.ledger.balance()).balanced
    assert [] == await shop.ledger.audit()
    await shop.gate.close()


async def test_a_payment_remembers_the_node_that_made_its_invoice(shop: Shop) -> None:
    first, second = shop.nodes
    early = await shop.invoice()
    shop.find_away(first)
    late = await shop.invoice()
    assert ["the first", "the second"] == [(await shop.row(each)).receiver for each in (early, late)]
    assert ({early.payment_hash}, {late.payment_hash}) == (set(first.preimages), set(second.preimages))


async def test_an_invoice_of_a_node_that_is_away_is_not_told_again_and_its_substitute_is(shop: Shop) -> None:
    first, second = shop.nodes
    early = await shop.invoice()
    shop.find_away(first)
    assert 1 == len({(await shop.invoice()).payment_hash for _ in range(5)} - {early.payment_hash})
    assert (1, 1) == (first.minted, second.minted)


async def test_an_invoice_of_a_node_that_is_away_is_told_again_when_no_other_one_answers(shop: Shop) -> None:
    early = await shop.invoice()
    for node in shop.nodes:
        shop.find_away(node)
    assert early == await shop.invoice()


async def test_an_invoice_of_a_node_that_is_gone_is_not_told_again(shop: Shop) -> None:
    early = await shop.invoice()
    shop.open(shop.nodes[1])
    assert early != await shop.invoice()


async def test_an_invoice_of_an_older_farebox_is_told_again_and_found_at_whichever_node_has_it(shop: Shop) -> None:
    made = await talk(shop.nodes[1].create_invoice(PRICE, description="", expires_in=timedelta(minutes=10)))
    payment = unpaid(shop.clock, digest=QUOTE.digest)
    await shop.ledger.open_payment(replace(payment, payment_hash=made.payment_hash, invoice=made.text))
    assert made == await shop.invoice()
    shop.nodes[1].receive(made.payment_hash, PRICE)
    assert isinstance(await shop.show(made), Grant)


async def test_a_hash_paid_at_a_node_that_is_away_waits_for_it_and_is_served_when_it_is_back(shop: Shop) -> None:
    first, second = shop.nodes
    early = await shop.invoice()
    first.receive(early.payment_hash, PRICE)
    first.away = True
    shop.find_away(first)
    for _ in range(3):
        with pytest.raises(NodeUnavailable):
            await shop.show(early)
    assert (1, 0) == (first.minted, second.minted)
    first.away = False
    assert isinstance(await shop.show(early), Grant)


async def test_a_hash_of_a_node_that_answers_is_answered_though_the_other_one_is_away(shop: Shop) -> None:
    first, second = shop.nodes
    early = await shop.invoice()
    second.away = True
    unpaid_yet = await shop.show(early)
    assert isinstance(unpaid_yet, Challenged)
    assert early == unpaid_yet.invoice
    first.receive(early.payment_hash, PRICE)
    assert isinstance(await shop.show(early), Grant)


async def test_a_hash_paid_at_a_node_that_was_renamed_is_found(shop: Shop) -> None:
    first, second = shop.nodes
    early = await shop.invoice()
    first.receive(early.payment_hash, PRICE)
    first.name = "a new name"
    shop.open(second, first)
    assert isinstance(await shop.show(early), Grant)


async def test_a_hash_of_a_node_that_is_gone_is_not_served_and_not_asked_for_again_while_one_is_silent(
    shop: Shop,
) -> None:
    _, second = shop.nodes
    early = await shop.invoice()
    third = Moody(shop.clock, name="the third", away=True)
    shop.open(second, third)
    with pytest.raises(NodeUnavailable):
        await shop.show(early)
    third.away = False
    assert isinstance(await shop.show(early), Challenged)


async def test_a_hash_that_the_ledger_does_not_know_is_asked_of_all(shop: Shop) -> None:
    first, second = shop.nodes
    made_up = await talk(Moody(shop.clock).create_invoice(PRICE, description="", expires_in=timedelta(minutes=10)))
    second.away = True
    with pytest.raises(NodeUnavailable):
        await shop.show(made_up)
    second.away = False
    assert isinstance(await shop.show(made_up), Challenged)
    second.receive(made_up.payment_hash, PRICE)
    with pytest.raises(NodeUnavailable):
        await shop.show(made_up)
    assert 3 == first.asked.count(made_up.payment_hash)


async def test_a_payment_that_the_ledger_lost_remembers_the_node_that_knew_of_it(shop: Shop) -> None:
    first, second = shop.nodes
    shop.find_away(first)
    asked = await shop.ask()
    lost = asked.invoice
    second.receive(lost.payment_hash, PRICE)
    await shop.gate.close()
    shop.ledger = open_ledger("sqlite::memory:", shop.clock)
    proof = f"L402 {asked.wire.body['macaroon']}:{second.preimages[lost.payment_hash].hex()}"
    shop.open(first, second)
    assert isinstance(await shop.ask(authorization=proof), Grant)
    assert "the second" == (await shop.row(lost)).receiver
