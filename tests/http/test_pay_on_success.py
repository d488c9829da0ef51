"""Pay on success: the node holds the money until the call has succeeded, and gives it back when it has not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.errors import NodeUnavailable
from farebox.core.escrow import EscrowState
from farebox.core.node import Capability
from farebox.core.payment import PaymentState
from farebox.core.ports import Failed, InvoiceState, InvoiceStatus, Paid, Unresolved
from farebox.gate import Terms
from farebox.http import held
from farebox.http.converse import converse
from farebox.http.paywall import Paywall
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
PATH = "/api/dvm"
SOON_S = 5.0


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_TICK_S", 0.01)
    monkeypatch.setattr(held, "_FIRST_LOOK_S", 0.0)


@dataclass
class Shop:
    market: Market
    service: Service
    http: httpx.AsyncClient
    paywall: Paywall

    async def ask(self, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(PATH, json={"prompt": "hi"}, headers=named)

    async def challenged(self) -> Any:
        asked = await self.ask()
        assert asked.status_code == 402, asked.text
        return asked.json()

    def pay(self, asked: Any) -> Any:
        """What the buyer's wallet says of it; what is held is under way."""
        invoice = decode(asked["invoice"])
        return converse(self.market.sandbox.buyer.pay_invoice(invoice, fee_limit=PRICE))

    async def outcome(self, asked: Any) -> Any:
        """What became of the payment, as soon as that is known."""
        payment_hash = bytes.fromhex(asked["payment_hash"])
        async with asyncio.timeout(SOON_S):
            while isinstance(found := converse(self.market.sandbox.buyer.lookup_payment(payment_hash)), Unresolved):
                await asyncio.sleep(0.01)
        return found

    async def state(self, asked: Any) -> PaymentState:
        payment = await self.market.gate.ledger.find_payment(bytes.fromhex(asked["payment_hash"]))
        assert payment is not None
        return payment.state

    @property
    def funds(self) -> Amount:
        return self.market.sandbox.buyer.funds()

    async def answered(self, asked: Any, preimage: bytes) -> Any:
        return await self.ask(authorization=f"L402 {asked['macaroon']}:{preimage.hex()}")


def _hash(asked: Any) -> bytes:
    return bytes.fromhex(asked["payment_hash"])


@asynccontextmanager
async def opened(
    service: Service | None = None, addresses: list[str] | None = None, **route: Any
) -> AsyncIterator[Shop]:
    """A shop; addresses: those of its callers, one call after the other."""
    market = Market.open(terms=Terms(free_calls=0))
    sold = service or Service()
    routes = RouteTable([Route(method="POST", path=PATH, price=PRICE, on_success=True, **route)])
    paywall = Paywall(sold, gate=market.gate, routes=routes)
    left = iter(addresses or [])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await paywall(
            {**scope, "client": (next(left, "127.0.0.1" if not addresses else addresses[-1]), 1)}, receive, send
        )

    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            yield Shop(market, sold, http, paywall)
    finally:
        await market.close()


async def test_a_402_says_that_the_money_is_held_until_the_call_has_succeeded() -> None:
    async with opened() as shop:
        assert "on-success" == (await shop.challenged())["settle"]


async def test_a_call_is_run_when_its_money_is_held_and_paid_for_when_it_has_succeeded() -> None:
    async with opened() as shop:
        asked, before = await shop.challenged(), shop.funds
        assert isinstance(shop.pay(asked), Unresolved)
        paid = await shop.outcome(asked)
        assert isinstance(paid, Paid)
        answer = await shop.answered(asked, paid.preimage.reveal())
        assert (200, {"result": "hi #1"}, 1) == (answer.status_code, answer.json(), shop.service.calls)
        assert (before - PRICE, PRICE) == (shop.funds, (await shop.market.gate.ledger.balance()).earned)


async def test_a_call_that_fails_costs_its_buyer_nothing() -> None:
    async with opened(Service(failing=1)) as shop:
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        assert isinstance(await shop.outcome(asked), Failed)
        assert (before, 1) == (shop.funds, shop.service.calls)
        assert PaymentState.EXPIRED is await shop.state(asked)


async def test_what_goes_back_is_not_told_to_be_kept() -> None:
    async with opened(Service(failing=1)) as shop:
        with structlog.testing.capture_logs() as logged:
            asked = await shop.challenged()
            shop.pay(asked)
            await shop.outcome(asked)
        (told,) = [each["reason"] for each in logged if each["event"] == "released"]
        assert "goes back to its payer" in told
        assert "kept" not in told


async def test_a_call_that_is_refused_costs_its_buyer_nothing() -> None:
    async with opened(Service(status=422)) as shop:
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        assert isinstance(await shop.outcome(asked), Failed)
        assert before == shop.funds


async def test_a_status_that_is_charged_for_is_a_success() -> None:
    async with opened(Service(status=404), charge_for=(404,)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        paid = await shop.outcome(asked)
        assert isinstance(paid, Paid)
        assert 404 == (await shop.answered(asked, paid.preimage.reveal())).status_code


async def test_after_a_failed_call_its_caller_is_asked_anew() -> None:
    async with opened(Service(failing=1)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        await shop.outcome(asked)
        for again in (await shop.ask(), await shop.ask(x_payment_hash=asked["payment_hash"])):
            assert 402 == again.status_code
            assert asked["payment_hash"] != again.json()["payment_hash"]


async def test_an_answer_larger_than_what_is_kept_is_not_sold() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(18):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with opened(endless) as shop:  # type: ignore[arg-type]
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        assert isinstance(await shop.outcome(asked), Failed)
        assert before == shop.funds


async def test_a_stream_is_kept_whole_before_it_is_paid_for() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with opened(stream) as shop:  # type: ignore[arg-type]
        asked = await shop.challenged()
        shop.pay(asked)
        paid = await shop.outcome(asked)
        assert isinstance(paid, Paid)
        assert b"data: 0\n\ndata: 1\n\ndata: 2\n\n" == (await shop.answered(asked, paid.preimage.reveal())).content


async def test_whoever_shows_the_payment_hash_while_it_is_held_has_the_answer_of_the_one_call() -> None:
    async with opened(Service(held=True)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        shown = [asyncio.ensure_future(shop.ask(x_payment_hash=asked["payment_hash"])) for _ in range(5)]
        await asyncio.wait_for(shop.service.entered.wait(), SOON_S)
        await asyncio.sleep(0)
        shop.service.go_on.set()
        answers = await asyncio.gather(*shown)
        assert ([200] * 5, 1) == ([each.status_code for each in answers], shop.service.calls)


async def test_whoever_shows_the_payment_hash_of_a_call_that_fails_is_told_that_the_money_goes_back() -> None:
    async with opened(Service(failing=1)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        answer = await shop.ask(x_payment_hash=asked["payment_hash"])
        assert (502, "payment-returned", "given back; ask anew") == (
            answer.status_code,
            answer.json()["error"],
            answer.json()["payment"],
        )
        assert isinstance(await shop.outcome(asked), Failed)


async def test_whoever_shows_the_payment_hash_of_a_call_that_is_refused_hears_why_and_that_nothing_is_kept() -> None:
    async with opened(Service(status=422)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        answer = await shop.ask(x_payment_hash=asked["payment_hash"])
        assert (422, "false") == (answer.status_code, answer.headers["payment-kept"])


async def test_a_payment_hash_begins_no_other_call_than_was_asked_for() -> None:
    async with opened(Service(held=True)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        other = await shop.http.post(
            PATH, json={"prompt": "another"}, headers={"x-payment-hash": asked["payment_hash"]}
        )
        assert 503 == other.status_code
        shop.service.go_on.set()
        assert isinstance(await shop.outcome(asked), Paid)
        assert [b'{"prompt":"hi"}'] == shop.service.bodies


async def test_a_payment_hash_runs_a_call_that_this_process_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)  # it was challenged by another one
    async with opened() as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        assert 200 == (await shop.ask(x_payment_hash=asked["payment_hash"])).status_code
        assert isinstance(await shop.outcome(asked), Paid)


async def test_money_that_nobody_comes_for_goes_back_after_the_end_of_the_invoice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)
    async with opened() as shop:
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        assert 0 == await shop.market.gate.escrows.end_due()
        shop.market.clock.pass_by(timedelta(minutes=11))
        assert 1 == await shop.market.gate.escrows.end_due()
        assert (before, 0) == (shop.funds, shop.service.calls)
        assert isinstance(await shop.outcome(asked), Failed)


async def test_at_a_node_that_can_not_hold_a_call_is_paid_first_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from farebox.lightning.sandbox import node

    monkeypatch.setattr(node, "CAPABILITIES", node.CAPABILITIES - {Capability.HOLD})
    async with opened() as shop:
        asked = await shop.challenged()
        paid = shop.pay(asked)
        assert isinstance(paid, Paid)
        assert "settle" not in asked
        assert 200 == (await shop.answered(asked, paid.preimage.reveal())).status_code


async def test_while_the_node_is_away_nothing_is_given_and_nothing_is_lost() -> None:
    async with opened(Service(held=True)) as shop:
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        await asyncio.wait_for(shop.service.entered.wait(), SOON_S)
        with shop.market.sandbox.seller.out_of_reach():
            shop.service.go_on.set()
            while "ready" != await shop.market.gate.ledger.find_escrow(bytes.fromhex(asked["payment_hash"])):
                await asyncio.sleep(0.01)
            assert 503 == (await shop.ask(x_payment_hash=asked["payment_hash"])).status_code
            shop.market.clock.pass_by(timedelta(seconds=11))
            await shop.market.gate.escrows.end_due()
            assert PaymentState.OPEN is await shop.state(asked)
        shop.market.clock.pass_by(timedelta(seconds=11))
        await shop.market.gate.escrows.end_due()
        paid = await shop.outcome(asked)
        assert isinstance(paid, Paid)
        assert (200, 1) == ((await shop.answered(asked, paid.preimage.reveal())).status_code, shop.service.calls)
        assert before - PRICE == shop.funds


async def test_when_there_are_too_many_calls_the_oldest_of_whoever_has_most_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "_MOST_CALLS", 3)
    async with opened(addresses=["192.0.2.1", *["192.0.2.2"] * 3]) as shop:
        honest, first, *others = [await shop.challenged() for _ in range(4)]
        for asked in (honest, first, *others):
            shop.pay(asked)
        for asked in (honest, *others):
            assert isinstance(await shop.outcome(asked), Paid)
        assert isinstance(converse(shop.market.sandbox.buyer.lookup_payment(_hash(first))), Unresolved)


async def test_many_calls_of_one_client_do_not_keep_another_waiting() -> None:
    async with opened(addresses=[*["192.0.2.2"] * 15, "192.0.2.1"]) as shop:
        calls = shop.paywall._held
        for _ in range(16):
            await shop.challenged()
        due = calls._due(asyncio.get_running_loop().time() + 1)
        assert {"192.0.2.1/32", "192.0.2.2/32"} == {calls._kept[each].client for each in due}


async def test_a_call_that_is_asked_for_twice_has_two_invoices_and_each_runs_the_call_that_it_was_made_for() -> None:
    async with opened() as shop:
        first, second = await shop.ask(cookie="session=alice"), await shop.ask()
        assert first.json()["payment_hash"] != second.json()["payment_hash"]
        shop.pay(second.json())
        assert isinstance(await shop.outcome(second.json()), Paid)
        assert [b"cookie" in dict(scope["headers"]) for scope in shop.service.seen] == [False]


def _answers(*parts: bytes, kind: bytes = b"application/octet-stream", dies: bool = False) -> Any:
    """A service that answers in parts."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if dies:
            raise RuntimeError
        await send({"type": "http.response.body", "body": b""})

    return serve


@pytest.mark.parametrize("kind", [b"application/octet-stream", b"text/event-stream"])
async def test_of_what_is_held_nothing_is_given_before_it_is_paid(kind: bytes) -> None:
    """Whether it breaks off, or is too large to be kept, its buyer has nothing and has paid nothing."""
    for service in (
        _answers(bytes(2**20), bytes(2**20), kind=kind, dies=True),
        _answers(*[bytes(2**20)] * 18, kind=kind),
    ):
        async with opened(service) as shop:
            asked, before = await shop.challenged(), shop.funds
            shop.pay(asked)
            answer = await shop.ask(x_payment_hash=asked["payment_hash"])
            assert (502, "payment-returned") == (answer.status_code, answer.json()["error"])
            assert isinstance(await shop.outcome(asked), Failed)
            assert before == shop.funds


@pytest.mark.parametrize("kind", [b"application/octet-stream", b"text/event-stream"])
async def test_a_long_answer_is_given_whole_to_whoever_shows_the_payment_hash(
    monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)
    async with opened(_answers(b"a" * 2**20, b"b" * 2**20, kind=kind)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        answer = await shop.ask(x_payment_hash=asked["payment_hash"])
        assert (200, 2 * 2**20, str(2 * 2**20)) == (
            answer.status_code,
            len(answer.content),
            answer.headers["content-length"],
        )
        assert isinstance(await shop.outcome(asked), Paid)


async def test_who_is_refused_again_and_again_pays_first_for_a_while() -> None:
    async with opened(Service(status=422)) as shop:
        for _ in range(11):
            asked = await shop.challenged()
            assert "on-success" == asked["settle"]
            shop.pay(asked)
            assert isinstance(await shop.outcome(asked), Failed)
        asked = await shop.challenged()
        assert "settle" not in asked
        assert isinstance(shop.pay(asked), Paid)


async def test_that_calls_fail_counts_for_nobody() -> None:
    async with opened(Service(failing=15)) as shop:
        for _ in range(15):
            asked = await shop.challenged()
            shop.pay(asked)
            assert isinstance(await shop.outcome(asked), Failed)
        assert "on-success" == (await shop.challenged())["settle"]


async def test_what_the_node_does_not_know_is_asked_for_again_until_a_day_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy in front of it, or another one in its place, may say so."""
    async with opened(Service(held=True)) as shop:
        asked = await shop.challenged()
        shop.pay(asked)
        await asyncio.wait_for(shop.service.entered.wait(), SOON_S)

        def unknown(*_: object) -> Any:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
            yield

        with monkeypatch.context() as strange:
            strange.setattr(shop.market.sandbox.seller, "settle_invoice", unknown)
            shop.service.go_on.set()
            while EscrowState.READY is not await shop.market.gate.ledger.find_escrow(_hash(asked)):
                await asyncio.sleep(0.01)
            shop.market.clock.pass_by(timedelta(seconds=11))
            await shop.market.gate.escrows.end_due()
            assert EscrowState.READY is await shop.market.gate.ledger.find_escrow(_hash(asked))
        shop.market.clock.pass_by(timedelta(seconds=11))
        await shop.market.gate.escrows.end_due()
        assert isinstance(await shop.outcome(asked), Paid)


async def test_an_escrow_of_no_node_is_given_up_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as shop:
        asked = await shop.challenged()

        def unknown(*_: object) -> Any:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
            yield

        monkeypatch.setattr(shop.market.sandbox.seller, "cancel_invoice", unknown)
        shop.market.clock.pass_by(timedelta(minutes=11))
        await shop.market.gate.escrows.end_due()
        assert EscrowState.RETURNING is await shop.market.gate.ledger.find_escrow(_hash(asked))
        shop.market.clock.pass_by(timedelta(days=1))
        await shop.market.gate.escrows.end_due()
        assert await shop.market.gate.ledger.find_escrow(_hash(asked)) is None


async def test_what_a_renamed_node_holds_goes_back_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)
    async with opened() as shop:
        asked, before = await shop.challenged(), shop.funds
        shop.pay(asked)
        shop.market.gate.escrows._nodes._nodes[0].name = "the same node at another address"
        shop.market.clock.pass_by(timedelta(minutes=11))
        await shop.market.gate.escrows.end_due()
        assert isinstance(await shop.outcome(asked), Failed)
        assert before == shop.funds


class Died(BaseException):
    """The process was killed."""


class Fuse:
    """Dies at one step of what asks the ledger and the node: just before it, or just after."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after, self.burnt = at, after, False

    def around(self, call: Any) -> Any:
        async def stepped(*args: Any, **kwargs: Any) -> Any:
            if self.burnt:
                raise Died
            self.left -= 1
            self.burnt = self.left < 0
            if self.burnt and not self.after:
                raise Died
            result = await call(*args, **kwargs)
            if self.burnt:
                raise Died
            return result

        return stepped


async def _sell_and_die(shop: Shop, payment_hash: str, fuse: Fuse) -> None:
    """One call, run by a process that dies somewhere."""
    gate = shop.market.gate
    patched = pytest.MonkeyPatch()
    ledger, node = gate.ledger, gate.escrows._nodes._nodes[0].asking
    try:
        for name in ("begin_escrow", "renew_escrow", "keep_escrowed", "return_escrow", "end_escrow", "find_payment"):
            patched.setattr(ledger, name, fuse.around(getattr(ledger, name)), raising=False)
        for name in ("move", "look_up"):
            patched.setattr(node, name, fuse.around(getattr(node, name)))
        await shop.ask(x_payment_hash=payment_hash)
    except Died:
        pass
    finally:
        patched.undo()


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("after", [False, True])
async def test_wherever_a_process_dies_the_money_is_with_whoever_it_belongs_to(
    monkeypatch: pytest.MonkeyPatch, failing: int, after: bool
) -> None:
    """Each of both sides has the answer and the price, or neither: after every step that there is."""
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)
    ends: list[tuple[bool, int]] = []
    for step in range(30):
        async with opened(Service(failing=failing)) as shop:
            asked, before = await shop.challenged(), shop.funds
            shop.pay(asked)
            fuse = Fuse(step, after=after)
            await _sell_and_die(shop, asked["payment_hash"], fuse)
            for _ in range(3):
                shop.market.clock.pass_by(timedelta(minutes=11))
                await shop.market.gate.escrows.end_due()
            paid = isinstance(await shop.outcome(asked), Paid)
            status = shop.market.sandbox.seller.invoice_status(bytes.fromhex(asked["payment_hash"]))
            answer = await shop.market.gate.ledger.find_answer(bytes.fromhex(asked["payment_hash"]))
            earned = (await shop.market.gate.ledger.balance()).earned
            assert (PRICE if paid else Amount(0)) == before - shop.funds == earned
            assert paid == (answer is not None) == (status.state is InvoiceState.PAID)
            assert (PaymentState.SPENT if paid else PaymentState.EXPIRED) is await shop.state(asked)
            assert await shop.market.gate.ledger.find_escrow(bytes.fromhex(asked["payment_hash"])) is None
            ends.append((paid, shop.service.calls))
            if not fuse.burnt:
                break
    assert not fuse.burnt, "there are more steps than were tried"
    assert len(ends) >= 6
    assert (not failing) == any(paid for paid, _ in ends)
    assert all(calls <= 1 for _, calls in ends)


async def test_a_node_that_says_nothing_keeps_the_escrow_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held.HeldCalls, "keep", lambda *_: None)
    async with opened() as shop:
        asked = await shop.challenged()
        shop.pay(asked)

        def silent(*_: object) -> Any:
            raise NodeUnavailable("it is away")
            yield

        shop.market.clock.pass_by(timedelta(minutes=11))
        with monkeypatch.context() as away:
            away.setattr(shop.market.sandbox.seller, "cancel_invoice", silent)
            assert 1 == await shop.market.gate.escrows.end_due()
            assert isinstance(
                converse(shop.market.sandbox.buyer.lookup_payment(bytes.fromhex(asked["payment_hash"]))), Unresolved
            )
        shop.market.clock.pass_by(timedelta(seconds=11))
        assert 1 == await shop.market.gate.escrows.end_due()
        assert isinstance(await shop.outcome(asked), Failed)
