"""Who does not pay can't ask for much, and is never in the way of who did."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.client_prefix import LOCAL
from farebox.core.errors import (
    CallerError,
    CredentialRejected,
    GateOverloaded,
    MalformedCredential,
    NodeUnavailable,
    StoreUnavailable,
    TooManyUnpaidCalls,
    TooManyUnpaidInvoices,
    Unavailable,
)
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import Answer
from farebox.core.ports import InvoiceState, InvoiceStatus
from farebox.gate import Challenged, Decision, Free, Grant, Limits, Replay, Terms, Visit
from farebox.gate.admission import Admission, Outstanding, Pace, Paces
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

CLIENT = "192.0.2.7/32"
PRICE = Amount.sats(21)
ANSWER = Answer(status=200, headers=(), body=b"the answer")


def six(number: int) -> str:
    """A /64 of one /48."""
    return f"2001:db8:1:{number:x}::/64"


def visit(request: str = "a request", client: str = CLIENT, *, price: Amount = PRICE, **headers: str) -> Visit:
    wire = Wire(headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))
    quote = Quote(amount=price, resource="POST /x", digest=sha256(request.encode()).digest())
    return Visit(quote=quote, wire=wire, client=client, rerun=True)


class Opened:
    """A market, with what was asked of its node and ledger counted."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.gate = market.gate
        self.asked: list[str] = []  # of the node
        self.written = 0
        self.hold_node: asyncio.Event | None = None
        talk, write = self.gate.converse, market.gate.ledger.engine.write  # type: ignore[attr-defined]

        async def counted(conversation: Any) -> Any:
            self.asked.append(conversation.__name__)
            if self.hold_node is not None:
                await self.hold_node.wait()
            return await talk(conversation)

        async def written(*args: Any, **kwargs: Any) -> Any:
            self.written += 1
            return await write(*args, **kwargs)

        (self.node,) = self.gate._nodes._nodes
        self.node.asking._converse = counted  # type: ignore[assignment]
        market.gate.ledger.engine.write = written  # type: ignore[attr-defined]

    @property
    def minted(self) -> int:
        return self.asked.count("create_invoice")

    async def buy(self, request: str = "bought", client: str = CLIENT) -> str:
        """A paid proof, as an Authorization value."""
        asked = await self.gate.admit(visit(request, client))
        assert isinstance(asked, Challenged)
        preimage = self.market.pay(asked.invoice.text)
        return f"L402 {asked.wire.body['macaroon']}:{preimage.hex()}"

    async def outcome(self, visit: Visit) -> Any:
        """What one of them gets."""
        return (await self.outcomes([visit]))[0]

    async def outcomes(self, visits: list[Visit]) -> list[Decision | Exception]:
        """What all of them get at once."""
        return await asyncio.gather(*(self.gate.admit(each) for each in visits), return_exceptions=True)  # type: ignore[return-value]


@pytest.fixture
async def open_market() -> Any:
    opened: list[Market] = []

    def open_(*, store: str = "sqlite::memory:", terms: Terms | None = None, **limits: Any) -> Opened:
        opened.append(Market.open(terms, store=store, limits=Limits(**limits)))
        return Opened(opened[-1])

    yield open_
    for market in opened:
        await market.close()


def count(outcomes: list[Any], kind: type) -> int:
    return sum(isinstance(each, kind) for each in outcomes)


# --- paces ------------------------------------------------------------------------------------------------------------


def test_a_pace_allows_a_burst_and_then_so_many_a_second() -> None:
    pace = Pace(per_second=2, at_once=3)
    assert [True, True, True, False] == [pace.take(10.0) for _ in range(4)]
    assert [False, True, False] == [pace.take(at) for at in (10.4, 10.5, 10.9)]
    assert [True, True, True, False] == [pace.take(99.0) for _ in range(4)]


def test_what_is_given_back_to_a_pace_can_be_taken_again() -> None:
    pace = Pace(per_second=1, at_once=1)
    assert pace.take(0.0)
    pace.give_back()
    assert [True, False] == [pace.take(0.0) for _ in range(2)]


def test_a_reserve_of_a_pace_is_for_those_who_need_not_leave_it() -> None:
    pace = Pace(per_second=1, at_once=5)
    assert [True, True, True, False] == [pace.take(0.0, reserve=0.5) for _ in range(4)]
    assert [True, True, False] == [pace.take(0.0) for _ in range(3)]


def test_each_key_has_a_pace_of_its_own() -> None:
    paces = Paces(per_second=1, at_once=2)
    assert [True, True, False] == [paces.take("one", 0.0) for _ in range(3)]
    assert [True, True, False] == [paces.take("other", 0.0) for _ in range(3)]
    assert [True, False] == [paces.take("one", 1.0) for _ in range(2)]


def test_the_paces_of_ever_new_keys_are_bounded_and_those_of_late_are_kept() -> None:
    paces = Paces(per_second=1e-6, at_once=1, most=100)
    assert paces.take("early", 0.0)
    for number in range(150):
        paces.take(f"{number}", 0.0)
        assert len(paces) <= 200
    assert [False, False, True] == [paces.take(key, 1.0) for key in ("early", "149", "late")]
    for number in range(1000, 1300):
        paces.take(f"{number}", 0.0)
    assert paces.take("early", 2.0)


def test_a_client_has_a_pace_and_its_network_that_of_four() -> None:
    admission = Admission(Limits(calls_per_s=1e-6, calls_at_once=10))
    refused = 0
    for client in (CLIENT, *(six(number) for number in range(6))):
        for _ in range(20):
            try:
                admission.enter(client, 0.0)
            except TooManyUnpaidCalls:
                refused += 1
    assert 7 * 20 - 10 - 4 * 10 == refused


def test_who_has_no_address_is_no_caller_and_leaves_half_of_the_invoices_to_others() -> None:
    admission = Admission(Limits(calls_per_s=1e-6, calls_at_once=1, invoices_per_s=10))
    for _ in range(100):
        admission.enter(LOCAL, 0.0)
    assert [5, 5] == [sum(admission.take_invoice(client, 0.0) for _ in range(20)) for client in (LOCAL, CLIENT)]


# --- outstanding, and the node ----------------------------------------------------------------------------------------


class Counted:
    """A ledger's count of unpaid invoices."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked = 0
        self.go_on: asyncio.Event | None = None

    async def __call__(self) -> int:
        self.asked += 1
        counted = self.count
        if self.go_on is not None:
            await self.go_on.wait()
        return counted


async def test_no_more_invoices_are_unpaid_than_the_cap() -> None:
    counted = Counted(7)
    outstanding = Outstanding(counted, 10)
    for _ in range(3):
        await outstanding.begin(CLIENT, 0.0)
        outstanding.end()
    with pytest.raises(GateOverloaded):
        await outstanding.begin(CLIENT, 0.9)
    assert 1 == counted.asked
    counted.count = 9
    await outstanding.begin(CLIENT, 1.0)
    with pytest.raises(GateOverloaded):
        await outstanding.begin(CLIENT, 1.0)
    assert 2 == counted.asked


async def test_what_is_being_made_while_the_ledger_counts_is_not_forgotten() -> None:
    counted = Counted(0)
    outstanding = Outstanding(counted, 3)
    await outstanding.begin(CLIENT, 0.0)
    await outstanding.begin(CLIENT, 0.0)
    counted.go_on = asyncio.Event()
    third = asyncio.create_task(outstanding.begin(CLIENT, 1.0))
    await asyncio.sleep(0)
    outstanding.end()
    outstanding.end()
    counted.go_on.set()
    await third
    with pytest.raises(GateOverloaded):
        await outstanding.begin(CLIENT, 1.0)


async def test_who_has_no_address_leaves_half_of_the_cap_to_others() -> None:
    outstanding = Outstanding(Counted(5), 10)
    with pytest.raises(GateOverloaded):
        await outstanding.begin(LOCAL, 0.0)
    await outstanding.begin(CLIENT, 0.0)


# --- invoices ---------------------------------------------------------------------------------------------------------


async def test_a_client_owes_twenty_invoices_and_no_more(open_market: Any) -> None:
    opened = open_market()
    outcomes = [*await opened.outcomes([visit(f"{n}") for n in range(15)])]
    outcomes += await opened.outcomes([visit(f"{n}") for n in range(15, 40)])
    assert (20, 20) == (count(outcomes, Challenged), count(outcomes, TooManyUnpaidInvoices))
    assert 20 == await opened.gate.ledger.count_unpaid()
    assert isinstance(await opened.gate.admit(visit("0")), Challenged)  # its own, again
    assert isinstance(await opened.gate.admit(visit("another's", "192.0.2.8/32")), Challenged)


async def test_the_node_is_not_asked_for_an_invoice_that_would_be_too_many(open_market: Any) -> None:
    opened = open_market(unpaid_invoices=2)
    for number in range(3):
        await opened.outcomes([visit(f"{number}")])
    for number in range(9):
        await opened.outcomes([visit("six", six(number))])
    assert 2 + 8 == opened.minted == await opened.gate.ledger.count_unpaid()


async def test_two_gateways_with_one_ledger_let_a_client_owe_as_many_as_one(open_market: Any, tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path / 'ledger.db'}"
    one, other = open_market(store=store), open_market(store=store)
    pairs = await asyncio.gather(
        one.outcomes([visit(f"one {n}") for n in range(30)]), other.outcomes([visit(f"other {n}") for n in range(30)])
    )
    outcomes = [each for pair in pairs for each in pair]
    assert (20, 40) == (count(outcomes, Challenged), count(outcomes, TooManyUnpaidInvoices))


async def test_the_network_around_a_client_owes_four_clients_worth(open_market: Any) -> None:
    opened = open_market(unpaid_invoices=2)
    outcomes = await opened.outcomes([visit(f"{n}", six(n)) for n in range(12)])
    assert (8, 4) == (count(outcomes, Challenged), count(outcomes, TooManyUnpaidInvoices))


async def test_who_pays_may_owe_again(open_market: Any) -> None:
    opened = open_market(unpaid_invoices=1)
    for number in range(5):
        proof = await opened.buy(f"{number}")
        grant = await opened.gate.admit(visit(f"{number}", authorization=proof))
        await grant.capture(ANSWER)
    with pytest.raises(TooManyUnpaidInvoices):
        await opened.outcomes([visit("a")]) and await opened.gate.admit(visit("b"))


async def test_the_same_call_asked_for_64_times_at_once_gets_one_invoice(open_market: Any) -> None:
    opened = open_market()
    outcomes = await opened.outcomes([visit()] * 64)
    assert 1 == len({each.invoice.payment_hash for each in outcomes}) == opened.minted


async def test_a_caller_who_goes_away_does_not_take_the_invoice_from_the_others(open_market: Any) -> None:
    opened = open_market()
    opened.hold_node = asyncio.Event()
    first, second = (asyncio.create_task(opened.gate.admit(visit())) for _ in range(2))
    await until(lambda: 1 == opened.minted)
    first.cancel()
    opened.hold_node.set()
    assert isinstance(await second, Challenged)
    assert 1 == opened.minted == await opened.gate.ledger.count_unpaid()


async def test_so_many_invoices_are_made_in_a_second_however_many_ask(open_market: Any) -> None:
    opened = open_market(invoices_per_s=50)
    began = asyncio.get_running_loop().time()
    outcomes = await opened.outcomes([visit(f"{n}", f"10.0.{n >> 8}.{n & 255}/32") for n in range(1000)])
    most = 50 * (1 + asyncio.get_running_loop().time() - began) + 1
    made = count(outcomes, Challenged)
    assert 40 <= made <= most
    assert (made, 1000 - made) == (opened.minted, count(outcomes, GateOverloaded))


async def test_an_invoice_that_was_not_made_does_not_count(open_market: Any) -> None:
    opened = open_market(invoices_per_s=1e-6, unpaid_invoices=1)
    for _ in range(3):
        assert isinstance(await opened.gate.admit(visit()), Challenged)
    with pytest.raises(TooManyUnpaidInvoices):
        await opened.gate.admit(visit("more"))
    assert isinstance(await opened.gate.admit(visit(client="192.0.2.8/32")), Challenged)
    with pytest.raises(GateOverloaded):
        await opened.gate.admit(visit(client="192.0.2.9/32"))


async def test_the_ledger_is_looked_into_for_so_many_who_have_not_paid(open_market: Any) -> None:
    opened = open_market(invoices_per_s=1e-6)
    outcomes = [(await opened.outcomes([visit()]))[0] for _ in range(12)]
    assert [Challenged] * 8 + [GateOverloaded] * 4 == [type(each) for each in outcomes]


async def test_never_more_invoices_are_unpaid_than_the_cap(open_market: Any) -> None:
    opened = open_market(all_unpaid_invoices=30, invoices_per_s=1e6)
    outcomes = await opened.outcomes([visit(f"{n}", f"10.0.0.{n}/32") for n in range(100)])
    assert 30 == count(outcomes, Challenged) == await opened.gate.ledger.count_unpaid() == opened.minted
    assert 70 == count(outcomes, GateOverloaded)


async def test_while_no_more_may_be_made_the_own_invoice_is_still_told(open_market: Any) -> None:
    opened = open_market(invoices_per_s=0.01)
    own = await opened.gate.admit(visit())
    outcomes = await opened.outcomes([visit(client=f"10.0.0.{n}/32") for n in range(20)])
    assert (1, 19) == (count(outcomes, Challenged), count(outcomes, GateOverloaded))
    again = await opened.gate.admit(visit())
    assert (own.invoice, 2) == (again.invoice, opened.minted)


# --- a slow node ------------------------------------------------------------------------------------------------------


async def test_a_slow_node_is_asked_by_a_few_and_everyone_else_is_told_in_time(open_market: Any) -> None:
    terms = Terms(free_calls=0, mint_within=timedelta(milliseconds=200))
    opened = open_market(terms=terms, minting_at_once=4, waiting=32, invoices_per_s=1e6)
    opened.hold_node = asyncio.Event()
    loop = asyncio.get_running_loop()
    before, began = len(asyncio.all_tasks()), loop.time()
    asking = asyncio.create_task(opened.outcomes([visit(f"{n}", f"10.0.0.{n}/32") for n in range(100)]))
    await until(lambda: 4 == opened.minted)
    assert len(asyncio.all_tasks()) - before <= 1 + 100 + 32
    outcomes = await asking
    assert (32, 68) == (count(outcomes, NodeUnavailable), count(outcomes, GateOverloaded))
    assert 0.2 <= loop.time() - began < 2
    assert 4 == opened.minted
    await until(lambda: len(asyncio.all_tasks()) <= before)
    with pytest.raises(NodeUnavailable):  # it is known to be away
        await opened.gate.admit(visit("later"))
    assert 4 == opened.minted


async def test_a_node_that_is_back_is_asked_again(open_market: Any) -> None:
    opened = open_market()
    with opened.market.sandbox.seller.out_of_reach():
        for _ in range(5):
            with pytest.raises(NodeUnavailable):
                await opened.gate.admit(visit())
        assert 3 == opened.minted
        opened.node.circuit._away_until_s = 0.0  # a second later
        assert 9 == count(await opened.outcomes([visit(f"{n}") for n in range(9)]), NodeUnavailable)
        assert 4 == opened.minted
    opened.node.circuit._away_until_s = 0.0
    assert isinstance(await opened.gate.admit(visit()), Challenged)


async def test_now_and_then_a_failure_does_not_make_a_node_away(open_market: Any) -> None:
    opened = open_market()
    for number in range(4):
        with opened.market.sandbox.seller.out_of_reach():
            assert 1 == count(await opened.outcomes([visit("fails")]), NodeUnavailable)
        assert isinstance(await opened.gate.admit(visit(f"{number}")), Challenged)


async def test_nobody_waits_for_his_turn_to_ask_a_node_that_is_away(open_market: Any) -> None:
    opened = open_market(minting_at_once=1)
    await opened.node._minting.acquire()
    opened.node.circuit.failed(asyncio.get_running_loop().time(), slow=True)
    async with asyncio.timeout(1):
        with pytest.raises(NodeUnavailable):
            await opened.gate.admit(visit())
    opened.node._minting.release()


# --- who pays is not affected -----------------------------------------------------------------------------------------


async def test_a_good_proof_is_served_whatever_its_neighbours_ask_for(open_market: Any) -> None:
    opened = open_market(calls_per_s=1e-6, calls_at_once=30, unpaid_invoices=3, invoices_per_s=10, waiting=1)
    proof = await opened.buy()
    flood = await opened.outcomes([visit(f"{n}") for n in range(50)])
    flood += await opened.outcomes([visit(f"{n}", f"10.0.0.{n}/32") for n in range(50)])
    kinds = (TooManyUnpaidCalls, GateOverloaded)
    assert 0 not in [count(flood, kind) for kind in kinds]
    with opened.market.sandbox.seller.out_of_reach():
        grant = await opened.gate.admit(visit("bought", authorization=proof))
        assert isinstance(grant, Grant)
        await grant.capture(ANSWER)
        assert isinstance(await opened.gate.admit(visit("bought", authorization=proof)), Replay)


async def test_a_paid_hash_is_looked_up_however_many_unpaid_ones_are_shown(open_market: Any) -> None:
    opened = open_market(calls_per_s=1e-6, calls_at_once=3)
    asked = await opened.gate.admit(visit())
    opened.market.pay(asked.invoice.text)
    opened.gate._unknown_look_ups = Pace(per_second=1e-6, at_once=1)
    made_up = await opened.outcomes([visit(f"{n}", x_payment_hash=f"{n:064x}") for n in range(20)])
    assert 0 == count(made_up, Grant)
    assert isinstance(await opened.gate.admit(visit(x_payment_hash=asked.invoice.payment_hash.hex())), Grant)


async def test_a_hash_that_is_not_paid_costs_no_write_and_one_look_up_at_a_time(open_market: Any) -> None:
    opened = open_market()
    asked = await opened.gate.admit(visit())
    written = opened.written
    shown = visit(x_payment_hash=asked.invoice.payment_hash.hex())
    outcomes = await opened.outcomes([shown] * 30)
    assert {asked.invoice} == {each.invoice for each in outcomes}
    assert (0, 1) == (opened.written - written, opened.asked.count("lookup_invoice"))


async def test_an_unpaid_hash_may_be_asked_about_now_and_then_and_counts_when_it_is_shown_all_the_time(
    open_market: Any,
) -> None:
    opened = open_market(calls_per_s=1e-6, calls_at_once=10)
    asked = await opened.gate.admit(visit())
    shown = visit(x_payment_hash=asked.invoice.payment_hash.hex())
    outcomes = [await opened.outcome(shown) for _ in range(40)]
    assert {asked.invoice} == {each.invoice for each in outcomes[:3]}
    challenged = count(outcomes, Challenged)
    assert 40 - challenged == count(outcomes, TooManyUnpaidCalls)
    assert 12 <= challenged == opened.asked.count("lookup_invoice") < 20  # three at once, nine calls; and time goes by
    bought = await opened.buy(client="10.0.0.1/32")
    assert isinstance(await opened.gate.admit(visit("bought", authorization=bought)), Grant)


@pytest.mark.parametrize("client", [CLIENT, LOCAL])
async def test_made_up_hashes_count_as_no_proof_before_the_node_is_asked(open_market: Any, client: str) -> None:
    opened = open_market(calls_per_s=0.001, calls_at_once=3)
    told = [await opened.outcome(visit("x", client, x_payment_hash=f"{number:064x}")) for number in range(40)]
    assert [TooManyUnpaidCalls] * 20 == [type(each) for each in told[-20:]]
    assert opened.asked.count("lookup_invoice") < 15


async def test_of_a_crowd_without_addresses_each_gets_an_invoice_that_nobody_else_was_told(open_market: Any) -> None:
    opened = open_market()
    told = await opened.outcomes([visit(client=LOCAL)] * 5)
    told += [await opened.outcome(visit(client=LOCAL)) for _ in range(5)]
    assert 10 == len({each.invoice.payment_hash for each in told})


async def test_a_proof_that_was_spent_on_another_call_costs_one_claim(open_market: Any) -> None:
    opened = open_market()
    proof = await opened.buy()
    await (await opened.gate.admit(visit("bought", authorization=proof))).capture(ANSWER)
    await opened.gate.admit(visit("another", authorization=proof))
    written = opened.written
    for _ in range(10):
        assert isinstance(await opened.gate.admit(visit("another", authorization=proof)), Challenged)
    assert written == opened.written


@pytest.mark.parametrize("down", ["node", "ledger", "both"])
@pytest.mark.parametrize("by", ["preimage", "hash"])
@pytest.mark.parametrize("state", ["paid", "running", "spent", "expired"])
async def test_while_node_or_ledger_are_down_a_paid_call_is_never_asked_to_pay_again(
    open_market: Any, monkeypatch: pytest.MonkeyPatch, state: str, by: str, down: str
) -> None:
    opened = open_market(terms=Terms(free_calls=0, patience=timedelta(milliseconds=10)))
    asked = await opened.gate.admit(visit())
    preimage = opened.market.pay(asked.invoice.text)
    proof = f"L402 {asked.wire.body['macaroon']}:{preimage.hex()}"
    shown = {"authorization": proof} if by == "preimage" else {"x_payment_hash": asked.invoice.payment_hash.hex()}
    if state in ("running", "spent"):
        running = await opened.gate.admit(visit(authorization=proof))
        if state == "spent":
            await running.capture(ANSWER)
    elif state == "expired":
        opened.market.clock.pass_by(timedelta(hours=1))
        await opened.gate.ledger.expire_payments(grace=timedelta(0))
    opened.gate._given.clear()

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch, opened.market.sandbox.seller.out_of_reach():
        if down == "node":
            told = await opened.outcomes([visit(**shown)])
        else:
            patch.setattr(opened.gate.ledger.engine, "write", refuse)
            patch.setattr(opened.gate.ledger.engine, "read", refuse)
            opened.market.sandbox.seller.reachable = down == "ledger"
            told = await opened.outcomes([visit(**shown)])
            assert 1 == count(told, Unavailable)
    assert (0, 1) == (count(told, Challenged), opened.minted)


async def test_money_that_the_node_holds_is_not_asked_for_again(
    open_market: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_market()
    asked = await opened.gate.admit(visit())

    def held(*_: object) -> Any:
        return InvoiceStatus(state=InvoiceState.HELD)
        yield

    monkeypatch.setattr(opened.node.receiver, "lookup_invoice", held)
    shown = asked.invoice.payment_hash.hex()
    assert asked.invoice == (await opened.gate.admit(visit(x_payment_hash=shown))).invoice
    for other in (visit("another", x_payment_hash=shown), visit(x_payment_hash=shown)):
        with pytest.raises(NodeUnavailable):
            await opened.gate.admit(other)
        opened.market.clock.pass_by(timedelta(hours=1))
    assert 1 == opened.minted


# --- free calls -------------------------------------------------------------------------------------------------------


async def test_a_call_that_costs_much_is_never_free(open_market: Any) -> None:
    opened = open_market(terms=Terms(free_calls=1))
    dear = await opened.gate.admit(visit("dear", price=Amount.sats(1001)))
    assert (type(dear), dear.free_call) == (Challenged, None)
    assert isinstance(await opened.gate.admit(visit("cheap", price=Amount.sats(1000))), Free)


async def test_a_client_without_a_free_call_left_costs_the_ledger_nothing(open_market: Any) -> None:
    opened = open_market(terms=Terms(free_calls=1))
    await opened.gate.admit(visit())
    await opened.gate.admit(visit())
    written = opened.written
    again = [await opened.gate.admit(visit()) for _ in range(10)]
    assert (10, written) == (count(again, Challenged), opened.written)
    opened.market.clock.pass_by(timedelta(hours=24))
    assert isinstance(await opened.gate.admit(visit()), Free)


@pytest.mark.parametrize(
    ("terms", "clients", "free"),
    [
        (Terms(free_calls=1), [six(n) for n in range(100)], 4),
        (Terms(free_calls=2), [six(n // 2) for n in range(100)], 8),
        (Terms(free_calls=1, free_calls_of_subnet=2), [six(n) for n in range(100)], 2),
        (Terms(free_calls=1, free_calls_of_all=7), [f"10.0.0.{n}/32" for n in range(100)], 7),
    ],
    ids=["a /48", "two each", "a /48 of two", "everyone"],
)
async def test_a_network_and_everyone_have_so_many_free_calls(
    open_market: Any, terms: Terms, clients: list[str], free: int
) -> None:
    opened = open_market(terms=terms, unpaid_invoices=100, invoices_per_s=1e6)
    first = await opened.outcomes([visit(f"{n}", client) for n, client in enumerate(clients)])
    written = opened.written
    later = await opened.outcomes([visit(f"later {n}", client) for n, client in enumerate(clients)])
    assert (free, 0) == (count(first, Free), count(later, Free))
    assert opened.written - written == opened.minted - count(first, Challenged)  # their invoices, and nothing else


async def until(true: Callable[[], bool]) -> None:
    """Wait for something, and not for ever."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


# --- proofs that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made_up", ["L402 AgEE:00", "L402 {macaroon}:" + "00" * 32])
@pytest.mark.parametrize("client", [CLIENT, LOCAL])
async def test_who_makes_up_proofs_is_limited_like_who_shows_none_and_a_good_one_is_not(
    client: str, made_up: str
) -> None:
    market = Market.open(limits=Limits(calls_per_s=0.001, calls_at_once=3))
    opened = Opened(market)
    good = await opened.buy(client=CLIENT)
    macaroon = good.removeprefix("L402 ").partition(":")[0]
    told = []
    for _ in range(200):
        with pytest.raises(CallerError) as refused:
            await opened.gate.admit(visit(client=client, authorization=made_up.format(macaroon=macaroon)))
        told.append(type(refused.value))
    admitted = await opened.gate.admit(visit("bought", client, authorization=good))
    await market.close()
    assert told[0] in (CredentialRejected, MalformedCredential)
    assert [TooManyUnpaidCalls] * 100 == told[-100:]
    assert isinstance(admitted, Grant)
