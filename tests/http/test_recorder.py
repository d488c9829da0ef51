"""Paid streams: they flow unbroken, are charged before their last byte, and break where they break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable, UpstreamFailed
from farebox.core.payment import PaymentState
from farebox.http.paywall import Manners, Paywall
from farebox.testing.market import Market, whole_body

pytestmark = pytest.mark.anyio

EVENTS = [(b"content-type", b"text/event-stream")]


class Script:
    """An app that sends what it is told, part by part."""

    def __init__(self, *parts: bytes, headers: Any = EVENTS, status: int = 200, then: Exception | None = None) -> None:
        self.parts = parts
        self.headers = headers
        self.status = status
        self.then = then
        self.calls = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        await whole_body(receive)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await self.go_on.wait()
        if self.then is not None:
            raise self.then
        await send({"type": "http.response.body", "body": b""})


class Paid:
    """One paid call of an app behind a paywall, driven message by message."""

    def __init__(self, market: Market, app: Any, manners: Manners) -> None:
        self.market = market
        self.paywall = Paywall(app, gate=market.gate, prices={"GET /stream": "21 sat"}, manners=manners)
        self.proof = b""
        self.sent: list[Any] = []
        self.first = asyncio.Event()

    async def buy(self) -> None:
        transport = httpx.ASGITransport(app=self.paywall, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://shop.test", headers={"accept": "*/*"}
        ) as http:
            asked = (await http.get("/stream")).json()
        preimage = self.market.pay(asked["invoice"])
        self.proof = f"L402 {asked['macaroon']}:{preimage.hex()}".encode()

    async def call(self) -> tuple[int, bytes, bool]:
        """Status, body, and whether the answer was whole."""
        self.sent = []
        self.first.clear()

        async def send(message: Any) -> None:
            self.sent.append(message)
            if message.get("body"):
                self.first.set()

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/stream",
            "raw_path": b"/stream",
            "query_string": b"",
            "client": ("192.0.2.7", 1),
            "headers": [(b"host", b"shop.test"), (b"accept", b"*/*"), (b"authorization", self.proof)],
        }
        await self.paywall(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in self.sent)
        return self.sent[0]["status"], body, not self.sent[-1].get("more_body", False)

    async def state(self) -> PaymentState:
        return (await self.market.gate.ledger.recent_payments(1))[0].state


@pytest.fixture
def paid() -> Any:
    @asynccontextmanager
    async def opened(app: Any, **manners: int) -> AsyncIterator[Paid]:
        market = Market.open()
        try:
            call = Paid(market, app, Manners(**manners))
            await call.buy()
            yield call
        finally:
            await market.close()

    return opened


async def test_an_event_stream_flows_before_it_ends_and_is_charged_when_it_does(paid: Any) -> None:
    app = Script(b"data: 1\n\n", b"data: 2\n\n")
    app.go_on.clear()
    async with paid(app) as call:
        running = asyncio.create_task(call.call())
        await call.first.wait()
        before = await call.state()
        app.go_on.set()
        status, body, whole = await running
        after = await call.state()
    assert (status, body, whole) == (200, b"data: 1\n\ndata: 2\n\n", True)
    assert (before, after) == (PaymentState.FUNDED, PaymentState.SPENT)


async def test_a_stream_is_replayed_whole(paid: Any) -> None:
    app = Script(b"data: 1\n\n", b"data: 2\n\n")
    async with paid(app) as call:
        first, again = await call.call(), await call.call()
    assert first == again
    assert app.calls == 1


async def test_a_stream_that_breaks_off_is_not_charged_and_is_never_taken_for_whole(paid: Any) -> None:
    app = Script(b"data: 1\n\n", then=UpstreamFailed("gone", sent=True))
    async with paid(app) as call:
        status, body, whole = await call.call()
        state = await call.state()
        app.then = None
        again = await call.call()
    assert (status, body, whole, state) == (200, b"data: 1\n\n", False, PaymentState.FUNDED)
    assert again == (200, b"data: 1\n\n", True)


async def test_a_large_answer_flows_and_is_kept(paid: Any) -> None:
    app = Script(b"x" * 60, b"y" * 60, headers=[(b"content-type", b"text/plain")])
    async with paid(app, held_back=100) as call:
        first, again = await call.call(), await call.call()
    assert first == again == (200, b"x" * 60 + b"y" * 60, True)
    assert app.calls == 1


async def test_an_answer_too_large_to_keep_is_given_once_and_then_gone(paid: Any) -> None:
    app = Script(b"x" * 60, b"y" * 60)
    async with paid(app, held_back=50, most_answer=100) as call:
        first, again = await call.call(), await call.call()
    assert first == (200, b"x" * 60 + b"y" * 60, True)
    assert again[0] == 410


async def test_a_ledger_that_fails_at_the_end_of_a_stream_keeps_its_last_byte_back(
    paid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Script(b"data: 1\n\n")
    async with paid(app) as call:

        async def fail(*_: object) -> bool:
            raise StoreUnavailable("disk full")

        with monkeypatch.context() as patched:
            patched.setattr(call.market.gate.ledger, "capture", fail)
            status, _, whole = await call.call()
        call.market.clock.pass_by(call.market.gate.terms.lease * 2)
        again = await call.call()
    assert (status, whole) == (200, False)
    assert again == (200, b"data: 1\n\n", True)


async def test_the_last_byte_of_a_stream_of_known_length_waits_for_the_charge(paid: Any) -> None:
    headers = [*EVENTS, (b"content-length", b"18")]
    app = Script(b"data: 1\n\n", b"data: 2\n\n", headers=headers, then=UpstreamFailed("gone", sent=True))
    async with paid(app) as call:
        status, body, whole = await call.call()
        state = await call.state()
    assert (status, body, whole, state) == (200, b"data: 1\n\n", False, PaymentState.FUNDED)


async def test_an_app_that_raises_is_a_502_without_a_word_of_its_error(paid: Any) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a secret of the seller")

    async with paid(broken) as call:
        status, body, whole = await call.call()
        state = await call.state()
    assert (status, whole, state) == (502, True, PaymentState.FUNDED)
    assert b"secret" not in body


async def test_an_app_that_stops_without_ending_is_a_502(paid: Any) -> None:
    async def lazy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async with paid(lazy) as call:
        status, _, _ = await call.call()
    assert status == 502


async def test_a_caller_who_left_does_not_stop_the_call(paid: Any) -> None:
    app = Script(b"data: 1\n\n", b"data: 2\n\n")
    async with paid(app) as call:
        sending = call.paywall

        async def gone(message: Any) -> None:
            raise OSError("the caller went away")

        await sending(
            {
                "type": "http",
                "method": "GET",
                "scheme": "http",
                "path": "/stream",
                "raw_path": b"/stream",
                "query_string": b"",
                "client": ("192.0.2.7", 1),
                "headers": [(b"host", b"shop.test"), (b"accept", b"*/*"), (b"authorization", call.proof)],
            },
            lambda: asyncio.sleep(0, {"type": "http.request", "body": b""}),
            gone,
        )
        again = await call.call()
    assert again == (200, b"data: 1\n\ndata: 2\n\n", True)
    assert app.calls == 1


@pytest.mark.parametrize(("rerun", "sent", "state"), [
    (False, True, PaymentState.CREDIT),
    (True, True, PaymentState.FUNDED),
    (False, False, PaymentState.FUNDED),
    (False, None, PaymentState.FUNDED),
])  # fmt: skip
async def test_a_call_of_unknown_outcome_is_credit_unless_it_may_run_again(
    rerun: bool, sent: bool | None, state: PaymentState
) -> None:
    market = Market.open()

    async def vanished(scope: Any, receive: Any, send: Any) -> None:
        raise UpstreamFailed("no answer", sent=sent)

    route = Route(method="POST", path="/pay", price=Amount.sats(21), rerun=rerun)
    app = Paywall(vanished, gate=market.gate, routes=RouteTable([route]))
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        asked = (await http.post("/pay", content=b"x")).json()
        preimage = market.pay(asked["invoice"])
        proof = {"authorization": f"L402 {asked['macaroon']}:{preimage.hex()}"}
        answer = await http.post("/pay", content=b"x", headers=proof)
    payment = (await market.gate.ledger.recent_payments(1))[0]
    await market.close()
    assert (answer.status_code, payment.state) == (502, state)


async def test_a_service_that_can_not_be_reached_uses_up_no_attempt() -> None:
    market = Market.open()
    reachable = False

    async def service(scope: Any, receive: Any, send: Any) -> None:
        if not reachable:
            raise UpstreamFailed("connection refused", sent=False)
        await Script(b"here")(scope, receive, send)

    app = Paywall(service, gate=market.gate, prices={"POST /x": "21 sat"})
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        asked = (await http.post("/x", content=b"x")).json()
        proof = {"authorization": f"L402 {asked['macaroon']}:{market.pay(asked['invoice']).hex()}"}
        failed = [(await http.post("/x", content=b"x", headers=proof)).status_code for _ in range(5)]
        reachable = True
        served = await http.post("/x", content=b"x", headers=proof)
    await market.close()
    assert failed == [502] * 5
    assert (served.status_code, served.content) == (200, b"here")


async def test_an_answer_that_could_not_be_stored_is_charged_and_given_when_it_is_asked_for_again() -> None:
    market = Market.open()
    ledger: Any = market.gate.ledger
    app = Script(b"here", headers=[(b"content-length", b"4")])
    paywall = Paywall(app, gate=market.gate, prices={"POST /x": "21 sat"})

    async def full(*_: object) -> bool:
        raise StoreUnavailable("disk full")

    transport = httpx.ASGITransport(app=paywall, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        asked = (await http.post("/x", content=b"x")).json()
        proof = {"authorization": f"L402 {asked['macaroon']}:{market.pay(asked['invoice']).hex()}"}
        ledger.capture = full
        statuses = [(await http.post("/x", content=b"x", headers=proof)).status_code for _ in range(2)]
        del ledger.capture
        market.clock.pass_by(market.gate.terms.lease * 2)
        served = await http.post("/x", content=b"x", headers=proof)
        earned = (await ledger.balance()).earned
    await market.close()
    assert statuses == [503, 503]
    assert (served.status_code, served.content, app.calls) == (200, b"here", 1)
    assert earned == Amount.sats(21)
