"""Paid streams: they flow unbroken, are charged before their last byte, and break where they break."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable, UpstreamFailed
from farebox.core.payment import Answer, Payment, PaymentState
from farebox.http.manners import Manners
from farebox.http.paywall import Paywall
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

    def __init__(self, market: Market, app: Any, manners: Manners, method: str, charge_for: tuple[int, ...]) -> None:
        self.market = market
        self.method = method
        routes = RouteTable([Route(method=method, path="/stream", price=Amount.sats(21), charge_for=charge_for)])
        self.paywall = Paywall(app, gate=market.gate, routes=routes, manners=manners)
        self.proof = b""
        self.sent: list[Any] = []
        self.first = asyncio.Event()
        self.gone = asyncio.Event()  # the caller, if this is set
        self.reading = asyncio.Event()  # it takes what it is sent
        self.reading.set()
        self.refuses: Exception | None = None  # what the server says to a body

    async def buy(self) -> None:
        transport = httpx.ASGITransport(app=self.paywall, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://shop.test", headers={"accept": "*/*"}
        ) as http:
            asked = (await http.request(self.method, "/stream")).json()
        preimage = self.market.pay(asked["invoice"])
        self.proof = f"L402 {asked['macaroon']}:{preimage.hex()}".encode()

    async def call(self) -> tuple[int, bytes, bool]:
        """Status, body, and whether the answer was whole."""
        self.sent = []
        self.first.clear()

        asked = False

        async def send(message: Any) -> None:
            await self.reading.wait()
            if self.gone.is_set():  # as uvicorn has it
                return
            if self.refuses is not None and message.get("body"):
                raise self.refuses
            self.sent.append(message)
            if message.get("body"):
                self.first.set()

        async def receive() -> Any:
            nonlocal asked
            if asked:
                await self.gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b""}

        scope = {
            "type": "http",
            "method": self.method,
            "scheme": "http",
            "path": "/stream",
            "raw_path": b"/stream",
            "query_string": b"",
            "client": ("192.0.2.7", 1),
            "headers": [(b"host", b"shop.test"), (b"accept", b"*/*"), (b"authorization", self.proof)],
        }
        await self.paywall(scope, receive, send)
        if not self.sent:
            return 0, b"", False
        body = b"".join(message.get("body", b"") for message in self.sent)
        return self.sent[0]["status"], body, not self.sent[-1].get("more_body", False)

    async def call_and_leave(self) -> None:
        """Goes away after the first bytes."""
        calling = asyncio.create_task(self.call())
        await self.first.wait()
        self.gone.set()
        async with asyncio.timeout(5):
            await calling
        self.gone.clear()

    async def call_and_stall(self) -> None:
        """Reads nothing."""
        self.reading.clear()
        await self.call()
        self.reading.set()

    @property
    def had(self) -> int:
        """Bytes of the body that the caller was sent."""
        return sum(len(message.get("body", b"")) for message in self.sent)

    async def payment(self) -> Payment:
        return (await self.market.gate.ledger.recent_payments(1))[0]

    async def state(self) -> PaymentState:
        return (await self.payment()).state


@pytest.fixture
def paid() -> Any:
    @asynccontextmanager
    async def opened(
        app: Any, method: str = "GET", charge_for: tuple[int, ...] = (), **manners: Any
    ) -> AsyncIterator[Paid]:
        market = Market.open()
        try:
            call = Paid(market, app, Manners(**manners), method, charge_for)
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


# --- a caller who goes away -------------------------------------------------------------------------------------------

SOON = timedelta(milliseconds=20)


class Endless:
    """An app that streams for as long as it is let, and knows when it was stopped. pausing: it stops to think."""

    def __init__(self, *, chunk: bytes = bytes(1000), pausing: bool = False) -> None:
        self.chunk = chunk
        self.pausing = pausing
        self.calls = self.stopped = self.poured = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.poured = 0
        try:
            await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
            while True:
                self.poured += len(self.chunk)
                await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
                await (asyncio.Event().wait() if self.pausing else asyncio.sleep(0))
        finally:
            self.stopped += 1


async def test_what_a_caller_who_left_has_not_heard_is_read_on_charged_and_can_be_fetched(paid: Any) -> None:
    app = Script(b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")
    app.go_on.clear()
    async with paid(app) as call:
        calling = asyncio.create_task(call.call())
        await call.first.wait()
        call.gone.set()
        app.go_on.set()
        _, heard, _ = await calling
        state = await call.state()
        call.gone.clear()
        again = await call.call()
    assert (PaymentState.SPENT, 1) == (state, app.calls)
    assert heard.startswith(b"data: 1\n\n")
    assert (200, b"data: 1\n\ndata: 2\n\ndata: 3\n\n", True) == again


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stream_that_is_too_long_for_a_caller_who_left_is_stopped_and_was_given(paid: Any, method: str) -> None:
    app = Endless()
    async with paid(app, method=method, most_drained=100_000) as call:
        await call.call_and_leave()
        payment = await call.payment()
        again = await call.call()
    assert (1, 1) == (app.calls, app.stopped)
    assert 100_000 < app.poured < 200_000
    assert (PaymentState.SPENT, 1, 410) == (payment.state, payment.attempts, again[0])


async def test_a_stream_that_takes_too_long_for_a_caller_who_left_is_stopped_and_was_given(paid: Any) -> None:
    app = Endless(pausing=True)
    async with paid(app, drain_within=SOON) as call:
        await call.call_and_leave()
        payment = await call.payment()
    assert (1, 1) == (app.calls, app.stopped)
    assert (PaymentState.SPENT, 1) == (payment.state, payment.attempts)


async def test_a_stream_of_which_a_caller_who_left_had_nothing_is_not_charged(paid: Any) -> None:
    app = Endless()
    async with paid(app, most_drained=10_000) as call:
        call.gone.set()
        async with asyncio.timeout(5):
            await call.call()
        payment = await call.payment()
    assert (1, PaymentState.FUNDED, 1) == (app.stopped, payment.state, payment.attempts)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_too_large_to_keep_was_given_to_whoever_left_before_its_end(paid: Any, method: str) -> None:
    app = Script(*LARGE)
    app.go_on.clear()
    async with paid(app, method=method, most_answer=100_000) as call:
        calling = asyncio.create_task(call.call())
        await call.first.wait()
        call.gone.set()
        app.go_on.set()
        await calling
        state = await call.state()
    assert (PaymentState.SPENT, 1) == (state, app.calls)


async def test_a_stream_that_must_not_run_twice_is_credit_when_it_breaks_off(paid: Any) -> None:
    app = Script(b"data: 1\n\n", then=RuntimeError("a secret of the seller"))
    async with paid(app, method="POST") as call:
        status, _, whole = await call.call()
        state = await call.state()
    assert (200, False, PaymentState.CREDIT) == (status, whole, state)


async def test_what_can_not_be_kept_is_stopped_when_its_caller_left(paid: Any) -> None:
    app = Endless()
    async with paid(app, held_back=500, most_answer=5_000) as call:
        await call.call_and_leave()
        state = await call.state()
    assert (1, PaymentState.SPENT) == (app.stopped, state)
    assert app.poured < 100_000


async def test_a_caller_who_stops_reading_counts_as_gone(paid: Any) -> None:
    app = Script(b"data: 1\n\n", b"data: 2\n\n")
    async with paid(app, reading_within=SOON) as call:
        async with asyncio.timeout(5):
            await call.call_and_stall()
        state = await call.state()
        again = await call.call()
    assert (PaymentState.SPENT, 1) == (state, app.calls)
    assert (200, b"data: 1\n\ndata: 2\n\n", True) == again


async def test_a_server_that_cancels_the_call_of_a_caller_who_left_tells_so_by_it(paid: Any) -> None:
    app = Endless()
    async with paid(app, most_drained=10_000) as call:
        calling = asyncio.create_task(call.call())
        await call.first.wait()
        calling.cancel()
        async with asyncio.timeout(5):
            while not app.stopped:
                await asyncio.sleep(0)
            while (await call.payment()).lease_until is not None:
                await asyncio.sleep(0)
        state = await call.state()
    assert PaymentState.SPENT is state


async def test_a_charge_that_has_begun_is_not_undone_by_a_caller_who_leaves(
    paid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Script(b"data: 1\n\n")
    async with paid(app, drain_within=timedelta(0)) as call:
        ledger = call.market.gate.ledger
        capture = ledger.capture

        async def slowly(*given: Any) -> bool:
            call.gone.set()
            for _ in range(10):  # whatever would be done to it is done by now
                await asyncio.sleep(0)
            return bool(await capture(*given))

        monkeypatch.setattr(ledger, "capture", slowly)
        await call.call()
        state = await call.state()
        call.gone.clear()
        again = await call.call()
    assert (PaymentState.SPENT, 1) == (state, app.calls)
    assert (200, b"data: 1\n\n", True) == again


async def test_a_charge_that_takes_longer_than_a_caller_who_left_is_waited_for_is_made(
    paid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Script(b"data: 1\n\n")
    app.go_on.clear()
    async with paid(app, drain_within=SOON) as call:
        ledger = call.market.gate.ledger
        capture = ledger.capture

        async def slowly(*given: Any) -> bool:
            await asyncio.sleep(2 * SOON.total_seconds())  # what is measured is time
            return bool(await capture(*given))

        monkeypatch.setattr(ledger, "capture", slowly)
        calling = asyncio.create_task(call.call())
        await call.first.wait()
        call.gone.set()
        for _ in range(5):
            await asyncio.sleep(0)
        app.go_on.set()
        await calling
        payment = await call.payment()
    assert (PaymentState.SPENT, 1) == (payment.state, payment.attempts)


@pytest.mark.parametrize(
    ("keeps_up", "leaves", "state"),
    [
        (True, False, PaymentState.SPENT),
        (True, True, PaymentState.FUNDED),
        (False, False, PaymentState.FUNDED),
    ],
)
async def test_a_copy_that_can_not_be_read_back_is_charged_only_to_a_caller_who_was_given_all_of_it(
    paid: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeps_up: bool, leaves: bool, state: PaymentState
) -> None:
    def unreadable(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        sent = 0
        for part in LARGE:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            sent += len(part)
            while keeps_up and call.had < sent and not call.gone.is_set():
                await asyncio.sleep(0)
        call.reading.set()
        if leaves:
            call.gone.set()
        await send({"type": "http.response.body"})

    monkeypatch.setattr("farebox.http.spool.Spool._read", unreadable)
    async with paid(app, spool=str(tmp_path)) as call:
        if not keeps_up:
            call.reading.clear()
        await call.call()
        ended = call.sent[-1].get("more_body") is False
        assert (state, state is PaymentState.SPENT) == (await call.state(), ended)


# --- the copy ---------------------------------------------------------------------------------------------------------

LARGE = [bytes([number]) * 70_000 for number in range(10)]


async def test_a_large_stream_is_copied_to_a_file_without_a_name_and_replayed_whole(paid: Any, tmp_path: Path) -> None:
    app = Script(*LARGE)
    async with paid(app, spool=str(tmp_path)) as call:
        first, again = await call.call(), await call.call()
        left = list(tmp_path.iterdir())
    assert (200, b"".join(LARGE), True) == first == again
    assert (1, []) == (app.calls, left)


# --- a caller who reads slowly ----------------------------------------------------------------------------------------


async def charged(call: Paid) -> None:
    async with asyncio.timeout(5):
        while await call.state() is not PaymentState.SPENT:
            await asyncio.sleep(0)


async def test_a_caller_who_reads_slowly_does_not_keep_the_service_waiting_and_has_all_of_it_in_the_end(
    paid: Any, tmp_path: Path
) -> None:
    app = Script(*LARGE)
    async with paid(app, spool=str(tmp_path)) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        await charged(call)
        before = call.had
        call.reading.set()
        answer = await calling
    assert (0, (200, b"".join(LARGE), True)) == (before, answer)


async def test_a_caller_who_leaves_while_it_is_behind_can_fetch_what_was_charged(paid: Any, tmp_path: Path) -> None:
    app = Script(*LARGE)
    async with paid(app, spool=str(tmp_path)) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        await charged(call)
        call.gone.set()
        call.reading.set()
        _, heard, whole = await calling
        call.gone.clear()
        again = await call.call()
    assert (b"", False) == (heard, whole)
    assert ((200, b"".join(LARGE), True), 1) == (again, app.calls)


async def test_of_what_can_not_be_kept_no_more_is_read_than_its_caller_takes(paid: Any) -> None:
    app = Endless(chunk=bytes(1000))
    async with paid(app, held_back=500, most_answer=5_000) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        async with asyncio.timeout(5):
            while app.poured < 6_000:
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        kept_waiting = app.poured
        call.reading.set()
        async with asyncio.timeout(5):
            while call.had < 50_000:
                await asyncio.sleep(0)
        ahead = app.poured - call.had
        call.gone.set()
        await calling
    assert 6_000 == kept_waiting
    assert 0 <= ahead <= 1_000


async def test_a_caller_who_is_far_behind_with_what_can_not_be_kept_is_waited_for_no_longer_than_it_has_to_be(
    paid: Any, tmp_path: Path
) -> None:
    app = Endless(chunk=bytes(10_000))
    async with paid(app, spool=str(tmp_path), most_answer=1_000_000, held_back=500) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        ahead = await held_up(app)
        call.reading.set()
        async with asyncio.timeout(5):
            while call.had < 3_000_000:
                await asyncio.sleep(0)
        call.reading.clear()
        again = await held_up(app) - call.had
        call.gone.set()
        call.reading.set()
        await calling
    for behind in (ahead, again):
        assert 1_000_000 <= behind <= 1_000_000 + 2 * 262_144 + 20_000


async def held_up(app: Endless) -> int:
    """What an app has poured when it is kept waiting."""
    before = -1
    async with asyncio.timeout(5):
        while before != app.poured:
            before = app.poured
            await asyncio.sleep(0.05)
    return before


@pytest.mark.parametrize("trouble", ["the copy", "the server"])
async def test_a_caller_who_can_not_be_given_any_more_is_not_kept_and_neither_is_the_service(
    paid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def unreadable(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    app = Endless(chunk=bytes(10_000))
    async with paid(app, spool=str(tmp_path)) as call:
        if trouble == "the copy":
            monkeypatch.setattr("farebox.http.spool.Spool._read", unreadable)
            call.reading.clear()
        else:
            call.refuses = RuntimeError("Response content longer than Content-Length")
        calling = asyncio.create_task(call.call())
        while app.poured < 400_000 and not app.stopped:
            await asyncio.sleep(0)
        call.reading.set()
        async with asyncio.timeout(5):
            await calling
        state = await call.state()
    assert (1, PaymentState.FUNDED) == (app.stopped, state)
    assert app.poured < 16 * 2**20


async def test_an_app_that_sends_from_two_tasks_is_copied_as_it_was_sent(
    paid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, written = threading.Event(), os.pwrite

    def slow(*given: Any) -> int:
        writing.set()
        time.sleep(0.05)
        return written(*given)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        large = asyncio.create_task(send({"type": "http.response.body", "body": b"x" * 300_000, "more_body": True}))
        await asyncio.to_thread(writing.wait, 5)
        await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
        await large
        await send({"type": "http.response.body", "body": b"end"})

    monkeypatch.setattr(os, "pwrite", slow)
    async with paid(app, spool=str(tmp_path)) as call:
        first, again = await call.call(), await call.call()
    assert (200, b"x" * 300_000 + b": ping\n\nend", True) == first == again


async def test_what_is_in_the_file_can_be_given_when_the_disk_is_full(
    paid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, room, full = os.pwrite, 596_000, threading.Event()

    def filling(file: int, data: Any, at: int) -> int:
        if at >= room:
            full.set()
            raise OSError(28, "No space left on device")
        return written(file, data[: room - at], at)

    monkeypatch.setattr(os, "pwrite", filling)
    app = Script(*[bytes([number]) * 300_000 for number in range(4)])
    async with paid(app, spool=str(tmp_path)) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        await asyncio.to_thread(full.wait, 5)
        call.reading.set()
        answer = await calling
        again = await call.call()
    assert (200, b"".join(app.parts), True) == answer
    assert 410 == again[0]


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_whose_rest_can_not_be_read_is_not_charged(
    paid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    asked = threading.Event()

    def unreadable(*_: object) -> bytes:
        asked.set()
        raise OSError(5, "Input/output error")

    headers = [*EVENTS, (b"content-length", b"2000000")] if announced else EVENTS
    app = Script(bytes(2_000_000), headers=headers)
    monkeypatch.setattr("farebox.http.spool.Spool._read", unreadable)
    async with paid(app, spool=str(tmp_path)) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        await asyncio.to_thread(asked.wait, 5)
        call.reading.set()
        async with asyncio.timeout(5):
            await calling
        assert PaymentState.FUNDED is await call.state()


@pytest.mark.parametrize("sent", [50_000, 150_000])
async def test_an_answer_of_another_length_than_was_announced_is_not_given_once_and_charged(
    paid: Any, sent: int
) -> None:
    app = Script(*[bytes(10_000)] * (sent // 10_000), headers=[*EVENTS, (b"content-length", b"100000")])
    async with paid(app, most_answer=20_000, held_back=500) as call:
        _, body, whole = await call.call()
        state = await call.state()
    assert (False, PaymentState.FUNDED) == (whole, state)
    assert len(body) < 100_000


async def test_what_came_of_a_stream_that_breaks_off_is_given_before_the_connection_is_broken(paid: Any) -> None:
    app = Script(*LARGE, then=UpstreamFailed("gone", sent=True))
    async with paid(app) as call:
        call.reading.clear()
        calling = asyncio.create_task(call.call())
        async with asyncio.timeout(5):
            while not (payment := await call.payment()).attempts or payment.lease_until is not None:
                await asyncio.sleep(0)
        call.reading.set()
        _, heard, whole = await calling
    assert (b"".join(LARGE), False) == (heard, whole)


async def test_a_stream_that_the_disk_refuses_flows_all_the_same_and_is_given_once(paid: Any, tmp_path: Path) -> None:
    app = Script(*LARGE)
    async with paid(app, spool=str(tmp_path / "missing")) as call:
        first, again = await call.call(), await call.call()
    assert (200, b"".join(LARGE), True) == first
    assert (410, 1) == (again[0], app.calls)


# --- what is not charged ----------------------------------------------------------------------------------------------


async def test_a_refusal_that_the_seller_declares_an_answer_is_charged_and_kept(paid: Any) -> None:
    app = Script(b"not found", status=404, headers=[])
    async with paid(app, charge_for=(404, 410)) as call:
        first, again = await call.call(), await call.call()
        state = await call.state()
    assert (404, b"not found", True) == first == again
    assert (1, PaymentState.SPENT) == (app.calls, state)


async def test_every_other_refusal_is_passed_on_and_costs_nothing(paid: Any) -> None:
    app = Script(b"bad", status=400, headers=[])
    async with paid(app, charge_for=(404, 410)) as call:
        first = await call.call()
        state = await call.state()
    assert ((400, b"bad", True), PaymentState.FUNDED) == (first, state)


@pytest.mark.parametrize("status", [404, 500])
async def test_more_of_a_refusal_or_failure_than_anyone_wants_to_know_is_stopped(paid: Any, status: int) -> None:
    app = Script(*[bytes(1000)] * 50, status=status, headers=[])
    stopped = asyncio.Event()

    async def watched(*given: Any) -> None:
        try:
            await app(*given)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async with paid(watched, held_back=10_000) as call:
        answered, _, whole = await call.call()
        state = await call.state()
    assert (502, True, PaymentState.FUNDED) == (answered, whole, state)
    assert stopped.is_set()


# --- when another call took over --------------------------------------------------------------------------------------


async def overtaken(call: Paid, other: Answer | None) -> None:
    """The lease of the running call lapses, and another one holds the payment and answers."""
    gate = call.market.gate
    call.market.clock.pass_by(gate.terms.lease * 2)
    payment = await call.payment()
    hold: Any = await gate.ledger.hold(
        payment.payment_hash, digest=payment.digest, proven=True, lease=gate.terms.lease, most_attempts=3
    )
    if other is not None:
        assert await gate.ledger.capture(hold, other)


@pytest.mark.parametrize("events", [False, True])
async def test_the_late_answer_of_a_call_that_was_overtaken_is_discarded(paid: Any, events: bool) -> None:
    app = Script(b"late", headers=EVENTS if events else [])
    app.go_on.clear()
    other = Answer(status=203, headers=(("x-own", "kept"),), body=b"the other one's")
    async with paid(app) as call:
        calling = asyncio.create_task(call.call())
        while not app.calls:
            await asyncio.sleep(0)
        await overtaken(call, other)
        app.go_on.set()
        late = await calling
        told = dict(call.sent[0]["headers"])
        again = await call.call()
    if events:  # some of it is out already, and must not be taken for the answer
        assert (200, b"late", False) == late
    else:
        assert (203, b"the other one's", True) == late
        assert (b"kept", b"true") == (told[b"x-own"], told[b"payment-replayed"])
    assert (203, b"the other one's", True) == again


async def test_a_call_that_was_overtaken_by_one_that_still_runs_says_so(paid: Any) -> None:
    app = Script(b"late", headers=[])
    app.go_on.clear()
    async with paid(app) as call:
        calling = asyncio.create_task(call.call())
        while not app.calls:
            await asyncio.sleep(0)
        await overtaken(call, None)
        app.go_on.set()
        status, _, whole = await calling
    assert (409, True) == (status, whole)


async def test_every_run_of_a_paid_call_has_the_same_idempotency_key_whatever_its_caller_sends() -> None:
    market = Market.open()
    keys: list[bytes] = []

    async def service(scope: Any, receive: Any, send: Any) -> None:
        keys.extend(value for name, value in scope["headers"] if name == b"idempotency-key")
        raise UpstreamFailed("no answer", sent=False)

    app = Paywall(service, gate=market.gate, prices={"POST /x": "21 sat"})
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        asked = (await http.post("/x", content=b"x")).json()
        proof = {"authorization": f"L402 {asked['macaroon']}:{market.pay(asked['invoice']).hex()}"}
        for number in range(3):
            await http.post("/x", content=b"x", headers={**proof, "idempotency-key": f"mine-{number}"})
    await market.close()
    assert [asked["payment_hash"].encode()] * 3 == keys
