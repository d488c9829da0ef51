"""Slow callers keep nobody waiting but themselves (target D6)."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import uvicorn

from farebox.core.amount import NOTHING, Amount
from farebox.http.paywall import Paywall
from farebox.http.request import Receive, Scope, Send
from farebox.http.server import strict_http
from farebox.http.watch import Patience
from farebox.testing.market import Market, Service, whole_body
from farebox.testing.raw_http import RawCaller, calling
from farebox.testing.slow_callers import dawdle

pytestmark = [pytest.mark.system, pytest.mark.anyio]

SHORT = Patience(
    head=timedelta(milliseconds=700),
    body=timedelta(milliseconds=900),
    slowest_body=1000,
    reading=timedelta(milliseconds=500),
    leaving=timedelta(milliseconds=300),
    look=timedelta(milliseconds=50),
)
FEW = 100
MANY = 2_000
MOST_RATIO = 2
PATIENCE_S = 20.0
LARGE = 64 * 2**20  # more than any two sockets hold


@asynccontextmanager
async def served(app: Any, patience: Patience = SHORT) -> AsyncIterator[int]:
    http = strict_http(patience)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, http=http, ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)


def p99(spans: list[float]) -> float:
    return statistics.quantiles(spans, n=100)[98]


async def test_half_a_request_is_told_so_and_closed_and_others_are_answered_meanwhile(
    tell: Callable[[str], object],
) -> None:
    service = Service()
    async with served(service) as port:
        attack = asyncio.create_task(dawdle(port, "/", heads=FEW, bodies=FEW, every_s=0.1))
        answered = 0
        while not attack.done():
            async with calling(port) as caller:
                caller.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                answer = await caller.hear()
            assert answer is not None
            assert 200 == answer.status
            answered += 1
        heads, bodies = await attack
    assert (({"408": FEW}, 0), ({"408": FEW}, 0)) == (
        (heads.statuses, heads.left_open),
        (bodies.statuses, bodies.left_open),
    )
    assert answered == service.calls  # no half of a request has run
    tell(
        f"D6, small and fast: {FEW} + {FEW} closed after at most {max(heads.after_s):.2f} s and "
        f"{max(bodies.after_s):.2f} s, where {SHORT.head.total_seconds()} s and {SHORT.body.total_seconds()} s are "
        f"allowed; {answered} others answered meanwhile"
    )
    assert 3 > max(heads.after_s)
    assert 3 > max(bodies.after_s)


async def test_who_connects_and_says_nothing_is_closed_without_a_word() -> None:
    async with served(Service()) as port, calling(port) as caller:
        assert [] == await caller.hear_all()


async def test_an_empty_line_now_and_again_is_no_request() -> None:
    async with served(Service()) as port, calling(port) as caller:
        caller.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert 200 == (await caller.hear()).status  # type: ignore[union-attr]
        caller.say(b"\r\n")
        assert [408] == [answer.status for answer in await caller.hear_all()]


async def test_a_caller_who_waits_to_be_asked_for_the_body_is_not_slow() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await go_on.wait()
        await Service()(scope, receive, send)

    async with served(app) as port, calling(port) as caller:
        caller.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        await begun.wait()
        heard = asyncio.ensure_future(caller.hear())
        await asyncio.wait([heard], timeout=1.2)  # twice as long as a body may stand still
        assert not heard.done()
        go_on.set()
        answer = await heard
    assert answer is not None
    assert 100 == answer.status


async def test_what_is_sent_behind_a_refusal_is_not_listened_to_for_ever() -> None:
    market, service = Market.open(), Service()
    async with served(Paywall(service, gate=market.gate, prices={"/x": "21 sat"})) as port, calling(port) as caller:
        caller.say(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        answers = asyncio.ensure_future(caller.hear_all())
        async with asyncio.timeout(PATIENCE_S):
            while not answers.done():
                caller.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await asyncio.sleep(0.005)
    payments = await market.gate.ledger.recent_payments(1)
    await market.close()
    assert ([413], []) == ([answer.status for answer in answers.result()], payments)


async def buys(caller: RawCaller, market: Market) -> bytes:
    """The proof of a payment for `GET /stream`."""
    caller.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    asked = await caller.hear()
    assert asked is not None
    told = json.loads(asked.body)
    return f"Authorization: L402 {told['macaroon']}:{market.pay(told['invoice']).hex()}\r\n".encode()


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
async def test_a_paid_answer_that_nobody_takes_is_charged_and_holds_up_nothing(kind: bytes) -> None:
    market, ended = Market.open(), asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"x" * 2**17, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async with served(Paywall(stream, gate=market.gate, prices={"GET /stream": "21 sat"})) as port:
        async with calling(port) as caller:
            proof = await buys(caller, market)
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n" + proof + b"\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await ended.wait()
                while (balance := await market.gate.ledger.balance()).earned == NOTHING:
                    await asyncio.sleep(0.005)
        async with calling(port) as caller:
            caller.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n" + proof + b"\r\n")
            again = await caller.hear()
    await market.close()
    assert (Amount.sats(21), NOTHING) == (balance.earned, balance.held)
    assert again is not None
    assert ([b"true"], 2**23) == (again.values(b"payment-replayed"), len(again.body))


async def test_an_answer_that_nobody_takes_does_not_keep_a_closing_connection_open() -> None:
    gone = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * LARGE})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with served(app) as port, calling(port) as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.say(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await gone.wait()
    # `served` waits for its connections to end before it is left.


async def test_the_ones_that_wait_make_room_for_a_new_one() -> None:
    service = Service()
    patience = Patience(most_connections=10)
    async with served(service, patience) as port:
        waiting = [await RawCaller.call(port) for _ in range(30)]
        for caller in waiting:
            caller.say(b"POST / HTTP/1.1\r\nHost: a\r\nX: ")
        async with calling(port) as caller:
            caller.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            answer = await caller.hear()
        for caller in waiting:
            await caller.close()
    assert answer is not None
    assert 200 == answer.status


async def test_when_every_connection_is_at_work_a_new_one_is_told_to_come_again() -> None:
    service = Service(held=True)
    async with served(service, Patience(most_connections=1)) as port, calling(port) as first:
        first.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await service.entered.wait()
        async with calling(port) as second:
            (told,) = await second.hear_all()
        service.go_on.set()
        answer = await first.hear()
    assert answer is not None
    assert (200, 503, [b"2"]) == (answer.status, told.status, told.values(b"retry-after"))


# --- the whole number -------------------------------------------------------------------------------------------------


async def honest(port: int, request: bytes, enough: Callable[[float], bool]) -> list[float]:
    """Seconds that each call of somebody in good order takes, on a connection of its own."""
    loop = asyncio.get_running_loop()
    began, spans = loop.time(), []
    while not enough(loop.time() - began):
        since = loop.time()
        async with calling(port) as caller:
            caller.say(request)
            answer = await caller.hear()
        assert answer is not None
        assert 200 == answer.status
        spans.append(loop.time() - since)
        await asyncio.sleep(0.002)
    return spans


@pytest.mark.full
@pytest.mark.alone
async def test_thousands_of_slow_callers_are_closed_in_time_and_honest_ones_notice_little(
    open_shop: Any, payer: Any, writer_url: str, tell: Callable[[str], object]
) -> None:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        proof = (await payer.buy(shop, "hello"))["authorization"]
        request = (
            f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{shop.port}\r\nAuthorization: {proof}\r\n"
            "Accept: */*\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        ).encode()
        await honest(shop.port, request, lambda passed: passed > 2)
        idle = await honest(shop.port, request, lambda passed: passed > 15)
        attack = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "farebox.testing.slow_callers"),
            *(str(shop.port), "/", str(MANY), str(MANY), "5"),
            stdout=asyncio.subprocess.PIPE,
        )
        ends = asyncio.ensure_future(attack.communicate())
        under = await honest(shop.port, request, lambda passed: ends.done())
        heads, bodies = json.loads((await ends)[0])
        idle += await honest(shop.port, request, lambda passed: passed > 10)  # a machine is not always equally quick
        told = shop.told
    ratio = p99(under) / p99(idle)
    tell(
        f"D6: {MANY} half heads closed after {min(heads['after_s']):.1f} to {max(heads['after_s']):.1f} s, {MANY} half "
        f"bodies after {min(bodies['after_s']):.1f} to {max(bodies['after_s']):.1f} s; answers {heads['statuses']}, "
        f"{bodies['statuses']}; honest p99 {p99(idle) * 1000:.2f} ms idle ({len(idle)} calls), "
        f"{p99(under) * 1000:.2f} ms under attack ({len(under)} calls): {ratio:.2f} times"
    )
    assert (0, 0) == (heads["left_open"], bodies["left_open"])
    assert 15 >= max(heads["after_s"])
    assert 30 >= max(bodies["after_s"])
    assert MOST_RATIO >= ratio
    assert "Traceback" not in told
    assert '"level": "error"' not in told
