"""Paid streams over real sockets: callers who hang up, stall or come back, upstreams that are slow, and long calls."""

from __future__ import annotations

import asyncio
import gc
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.payment import Payment, PaymentState
from farebox.gate.terms import UNLIMITED, Terms
from farebox.http.manners import Manners
from farebox.http.proxy import Proxy
from farebox.http.selling import Gate, now, open_gate
from farebox.lightning.sandbox import Sandbox
from farebox.testing.gateway import bought, gateway, heard
from farebox.testing.market import Market, StillClock, TurningKeys
from farebox.testing.raw_http import read_message

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
PATIENCE_S = 20.0
MIB = 2**20
STREAM = Route(method="GET", path="/stream", price=PRICE)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"

Pour = Callable[[StreamWriter], Awaitable[None]]


class Tap:
    """An upstream that pours one body for each request, without a length; a body is over when the connection is.

    calls: requests so far. left: set when somebody has left before the end.
    """

    def __init__(self, pour: Pour) -> None:
        self.pour = pour
        self.calls = 0
        self.left = asyncio.Event()
        self.url = ""

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        pouring = leaving = None
        try:
            assert await read_message(reader) is not None
            self.calls += 1
            writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
            pouring = asyncio.ensure_future(self.pour(writer))
            leaving = asyncio.ensure_future(reader.read())
            await asyncio.wait([pouring, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not pouring.done() or pouring.exception() is not None:
                self.left.set()
            else:
                writer.write(b"0\r\n\r\n")
        finally:
            for task in (pouring, leaving):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            writer.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def tapped(pour: Pour) -> AsyncIterator[Tap]:
    tap = Tap(pour)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0, backlog=1024)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def selling(gate: Gate, tap: Tap, manners: Manners | None = None, idle: float = 10) -> AsyncIterator[str]:
    proxy = Proxy(tap.url, idle_timeout=timedelta(seconds=idle))
    async with gateway(gate, {STREAM: proxy}, manners=manners) as url:
        yield url + "/stream"
    await proxy.aclose()


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    market = Market.open(Terms(free_calls=0, limits=UNLIMITED))
    yield market
    await market.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        yield http


async def decided(gate: Gate) -> Payment:
    """The newest payment, once no call holds it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            payment = (await gate.ledger.recent_payments(1))[0]
            if payment.lease_until is None:
                return payment
            await asyncio.sleep(0.005)


async def call_and_hang_up(http: httpx.AsyncClient, url: str, proof: dict[str, str]) -> bytes:
    """What was heard first."""
    async with http.stream("GET", url, headers=proof) as answer:
        assert 200 == answer.status_code
        return await anext(answer.aiter_raw())


async def endless(writer: StreamWriter) -> None:
    while True:
        writer.write(chunk(bytes(1000)))
        await writer.drain()


# --- callers ----------------------------------------------------------------------------------------------------------


async def test_whoever_hangs_up_half_way_fetches_the_whole_with_the_same_proof(
    market: Market, http: httpx.AsyncClient
) -> None:
    hung_up = asyncio.Event()

    async def pour(writer: StreamWriter) -> None:
        writer.write(chunk(b"data: 1\n\n"))
        await hung_up.wait()
        writer.write(chunk(b"data: 2\n\n"))

    async with tapped(pour) as tap, selling(market.gate, tap) as url:
        proof = await bought(market, http, "GET", url)
        first = await call_and_hang_up(http, url, proof)
        hung_up.set()
        payment = await decided(market.gate)
        again = await heard(http, "GET", url, headers=proof)
    assert (b"data: 1\n\n", PaymentState.SPENT) == (first, payment.state)
    assert ((200, b"data: 1\n\ndata: 2\n\n", True), 1) == (again, tap.calls)


async def test_an_upstream_is_not_listened_to_for_ever_for_a_caller_who_hung_up(
    market: Market, http: httpx.AsyncClient
) -> None:
    async with tapped(endless) as tap, selling(market.gate, tap, Manners(most_drained=MIB)) as url:
        proof = await bought(market, http, "GET", url)
        await call_and_hang_up(http, url, proof)
        async with asyncio.timeout(PATIENCE_S):
            await tap.left.wait()
        payment = await decided(market.gate)
        again = await heard(http, "GET", url, headers=proof)
    assert (1, PaymentState.SPENT) == (payment.attempts, payment.state)
    assert (410, 1) == (again[0], tap.calls)


async def test_an_upstream_that_says_nothing_more_is_left_in_time_when_the_caller_hung_up(
    market: Market, http: httpx.AsyncClient
) -> None:
    async def pour(writer: StreamWriter) -> None:
        writer.write(chunk(b"data: 1\n\n"))
        await asyncio.Event().wait()

    manners = Manners(drain_within=timedelta(milliseconds=50))
    async with tapped(pour) as tap, selling(market.gate, tap, manners) as url:
        proof = await bought(market, http, "GET", url)
        await call_and_hang_up(http, url, proof)
        async with asyncio.timeout(PATIENCE_S):
            await tap.left.wait()
        payment = await decided(market.gate)
    assert (1, PaymentState.SPENT) == (payment.attempts, payment.state)


async def test_a_free_stream_ends_with_its_caller(http: httpx.AsyncClient) -> None:
    market = Market.open(Terms(free_calls=1))
    async with tapped(endless) as tap, selling(market.gate, tap) as url:
        await call_and_hang_up(http, url, {})
        async with asyncio.timeout(PATIENCE_S):
            await tap.left.wait()
    await market.close()


async def test_whoever_stalls_is_given_up_and_can_come_back_for_the_whole(
    market: Market, http: httpx.AsyncClient
) -> None:
    piece, pieces = bytes(range(256)) * 256, 48  # 3 MiB

    async def pour(writer: StreamWriter) -> None:
        for _ in range(pieces):
            writer.write(chunk(piece))
            await writer.drain()

    manners = Manners(reading_within=timedelta(milliseconds=100))
    async with tapped(pour) as tap, selling(market.gate, tap, manners) as url:
        proof = await bought(market, http, "GET", url)
        stalling = socket.socket()
        stalling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalling.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stalling, ("127.0.0.1", httpx.URL(url).port))
        asked = f"GET /stream HTTP/1.1\r\nhost: {httpx.URL(url).netloc.decode()}\r\naccept: */*\r\n"
        await loop.sock_sendall(stalling, f"{asked}authorization: {proof['authorization']}\r\n\r\n".encode())
        assert b"HTTP/1.1 200" in await loop.sock_recv(stalling, 100)
        payment = await decided(market.gate)
        stalling.close()
        again = await heard(http, "GET", url, headers=proof)
    assert (PaymentState.SPENT, 1) == (payment.state, tap.calls)
    assert (200, piece * pieces, True) == again


async def test_whoever_reads_slowly_makes_no_impatient_service_break_off(
    market: Market, http: httpx.AsyncClient
) -> None:
    piece, pieces = bytes(range(256)) * 256, 240  # 15 MiB, more than all sockets on its way hold

    async def pour(writer: StreamWriter) -> None:
        async with asyncio.timeout(PATIENCE_S / 2):
            for _ in range(pieces):
                writer.write(chunk(piece))
                await writer.drain()

    async with tapped(pour) as tap, selling(market.gate, tap) as url:
        proof = await bought(market, http, "GET", url)
        async with http.stream("GET", url, headers=proof) as answer:
            parts = answer.aiter_raw(65_536)
            body = await anext(parts)
            payment = await decided(market.gate)  # charged, as only a whole answer is, while hardly any of it was read
            read = len(body)
            body += b"".join([part async for part in parts])
    assert (PaymentState.SPENT, 1, piece * pieces) == (payment.state, tap.calls, body)
    assert read < len(body)


async def test_an_answer_too_large_to_be_kept_is_given_whole_once_and_then_gone(
    market: Market, http: httpx.AsyncClient
) -> None:
    async def pour(writer: StreamWriter) -> None:
        for _ in range(32):
            writer.write(chunk(bytes(65_536)))
            await writer.drain()

    async with tapped(pour) as tap, selling(market.gate, tap, Manners(most_answer=MIB)) as url:
        proof = await bought(market, http, "GET", url)
        first, again = [await heard(http, "GET", url, headers=proof) for _ in range(2)]
    assert ((200, bytes(2 * MIB), True), 410, 1) == (first, again[0], tap.calls)


# --- upstreams and long calls -----------------------------------------------------------------------------------------


async def test_a_stream_may_take_many_times_as_long_as_it_may_be_silent(
    market: Market, http: httpx.AsyncClient
) -> None:
    async def pour(writer: StreamWriter) -> None:
        for number in range(12):
            writer.write(chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.05)  # what is measured is time

    async with tapped(pour) as tap, selling(market.gate, tap, idle=0.2) as url:
        proof = await bought(market, http, "GET", url)
        answer = await heard(http, "GET", url, headers=proof)
    assert (200, b"".join(b"data: %d\n\n" % number for number in range(12)), True) == answer


async def test_a_call_of_many_leases_stays_its_own_before_a_second_gateway(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    lease = timedelta(milliseconds=150)
    sandbox = Sandbox.open(None, clock=now)
    keys = TurningKeys()

    def opened() -> Gate:
        terms = Terms(free_calls=0, lease=lease)
        return open_gate(
            receiver=sandbox.seller, store=f"sqlite:///{tmp_path}/ledger.db", keys=keys, terms=terms, clock=now
        )

    async def pour(writer: StreamWriter) -> None:
        for number in range(10):
            writer.write(chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.08)  # more than five leases in all

    one, other = opened(), opened()
    async with tapped(pour) as tap, selling(one, tap) as here, selling(other, tap) as there:
        market = Market(gate=one, sandbox=sandbox, clock=StillClock(), keys=keys)  # which nobody else looks at
        host = {"host": "shop.test"}
        proof = host | await bought(market, http, "GET", here, headers=host)
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*[heard(http, "GET", url, headers=proof) for url in (here, here, there, there)])
        took = asyncio.get_running_loop().time() - began
        balance = await one.ledger.balance()
    await other.close()
    await market.close()
    assert {(200, b"".join(b"data: %d\n\n" % number for number in range(10)), True)} == set(answers)
    assert took > 5 * lease.total_seconds()
    assert (1, PRICE) == (tap.calls, balance.earned)


# --- memory -----------------------------------------------------------------------------------------------------------


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    ("streams", "size"), [(12, 8 * MIB), pytest.param(100, 16 * MIB, marks=[pytest.mark.full, pytest.mark.alone])]
)
async def test_what_is_copied_of_many_streams_at_once_is_not_in_memory(
    streams: int, size: int, tmp_path: Path, market: Market, http: httpx.AsyncClient
) -> None:
    nearly_over, go_on = [0], asyncio.Event()
    piece = bytes(65_536)

    async def pour(writer: StreamWriter) -> None:
        for _ in range(size // len(piece)):
            writer.write(chunk(piece))
            await writer.drain()
        nearly_over[0] += 1
        await go_on.wait()

    async def call(proof: dict[str, str]) -> int:
        taken = 0
        async with http.stream("GET", url, headers=proof, timeout=120) as answer:
            async for part in answer.aiter_raw():
                taken += len(part)
        return taken

    async with tapped(pour) as tap, selling(market.gate, tap, Manners(spool=str(tmp_path)), idle=120) as url:
        accepts = [{"accept": f"text/event-stream;v={number}"} for number in range(streams + 1)]
        first, *proofs = [each | await bought(market, http, "GET", url, headers=each) for each in accepts]
        go_on.set()
        assert size == await call(first)  # whatever is made only once is there now
        go_on.clear()
        nearly_over[0], before = 0, resident()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call(proof)) for proof in proofs]
            async with asyncio.timeout(PATIENCE_S * 10):
                while nearly_over[0] < streams:
                    await asyncio.sleep(0.01)
            grown = resident() - before
            go_on.set()
        balance = await market.gate.ledger.balance()
    print(f"{streams} streams of {size // MIB} MiB: {grown / MIB:.1f} MiB more while all are under way")  # noqa: T201
    assert [size] * streams == [call.result() for call in calls]
    assert PRICE * (streams + 1) == balance.earned
    assert grown < streams * 2.5 * MIB  # of which are caller, gateway and upstream, all here
