"""A server that ends is not missed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from farebox.cli.listening import listening_socket
from farebox.cli.sandbox_api import sandbox_address, sandbox_api
from farebox.cli.server import QUIET, Draining
from farebox.core.amount import Amount
from farebox.http.converse import Lines, aconverse
from farebox.lightning.phoenixd import Phoenixd
from farebox.lightning.sandbox import Sandbox

pytestmark = [pytest.mark.system, pytest.mark.anyio]

REQUEST = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n"
PATIENCE_S = 20
LONG = timedelta(minutes=1)


class App:
    """It answers `x`, and waits with that while it is held."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"x"})


@asynccontextmanager
async def serving(app: App, bound: socket.socket) -> AsyncIterator[tuple[Draining, asyncio.Task[None]]]:
    server = Draining(app)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    async with asyncio.timeout(PATIENCE_S):
        await server.opened.wait()
        yield server, task
        await task


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The head of an answer."""
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"x" == await reader.readexactly(1)
    return head


async def test_a_connection_is_told_that_it_ends_with_the_next_answer_on_it() -> None:
    bound = listening_socket("127.0.0.1", 0)
    async with serving(App(), bound) as (server, task):
        caller = await asyncio.open_connection(*bound.getsockname())
        assert b"connection: close" not in await ask(*caller)
        server.drain(LONG)
        while not server._callers.told_to_leave:
            await asyncio.sleep(0.01)
        assert b"connection: close" in await ask(*caller)
        assert b"" == await caller[0].read()
        await task  # nobody is left, so it ends
        caller[1].close()


async def test_one_on_which_nobody_speaks_is_closed_when_it_has_been_quiet_for_a_while() -> None:
    bound = listening_socket("127.0.0.1", 0)
    async with serving(App(), bound) as (server, _):
        caller = await asyncio.open_connection(*bound.getsockname())
        await ask(*caller)
        began = asyncio.get_running_loop().time()
        server.drain(LONG)
        assert b"" == await caller[0].read()
        assert asyncio.get_running_loop().time() - began >= QUIET.total_seconds() / 2
        caller[1].close()


async def test_a_running_call_is_waited_for_but_not_for_ever() -> None:
    bound, app = listening_socket("127.0.0.1", 0), App()
    async with serving(app, bound) as (server, task):
        app.go_on.clear()
        first, second = [await asyncio.open_connection(*bound.getsockname()) for _ in range(2)]
        answered = asyncio.create_task(ask(*first))
        await app.asked.wait()
        server.drain(LONG)
        while not server._callers.told_to_leave:
            await asyncio.sleep(0.01)
        app.go_on.set()
        assert (await answered).startswith(b"HTTP/1.1 200")
        app.asked.clear()
        app.go_on.clear()
        second[1].write(REQUEST)
        await app.asked.wait()
        server.drain(timedelta(0))
        await task
        app.go_on.set()
        for _, writer in (first, second):
            writer.close()


async def test_who_waits_to_be_heard_when_the_last_one_ends_is_answered() -> None:
    bound = listening_socket("127.0.0.1", 0)
    at, server = bound.getsockname(), Draining(App())
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    async with asyncio.timeout(PATIENCE_S):
        await server.startup([bound])
        callers = [socket.create_connection(at) for _ in range(5)]  # without a turn of the loop, which would take them
        for caller in callers:
            caller.sendall(REQUEST)
        server.drain(LONG, last=True)
        await server.shutdown([bound])
    assert [b"HTTP/1.1 200 OK"] * 5 == [caller.recv(4096).splitlines()[0] for caller in callers]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(at)
    for caller in callers:
        caller.close()


async def test_one_of_several_that_ends_leaves_who_waits_to_the_others() -> None:
    bound, app = listening_socket("127.0.0.1", 0), App()
    at, others = bound.getsockname(), bound.dup()
    async with serving(app, bound) as (server, task):
        server.drain(LONG)
        await task
    caller = socket.create_connection(at)
    caller.sendall(REQUEST)
    async with serving(app, others) as (server, task):
        assert b"HTTP/1.1 200 OK" == (await asyncio.to_thread(caller.recv, 4096)).splitlines()[0]
        caller.close()
        server.drain(LONG, last=True)
        await task


async def test_the_server_of_the_sandbox_says_what_was_paid_over_its_websocket_and_ends_in_spite_of_it(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox.open(None)
    invoice = sandbox.seller.issue(Amount.sats(21), description="a test", expires_in=LONG)
    with sandbox_address(tmp_path) as (bound, wallets):
        seller, lines = Phoenixd.from_url(wallets.seller.reveal()), Lines()
        async with asyncio.timeout(PATIENCE_S), sandbox_api(sandbox, tmp_path, bound):
            cursor = await aconverse(seller.cursor_at(datetime.now(UTC) - LONG), lines)
            assert () == (await aconverse(seller.settlements(cursor, wait=LONG), lines)).settled
            waiting = asyncio.create_task(aconverse(seller.settlements(cursor, wait=LONG), lines))
            await asyncio.sleep(0.1)
            sandbox.buyer.pay(invoice, fee_limit=None)
            told = (await waiting).settled
            assert [invoice.payment_hash] == [each.payment_hash for each in told]
        await lines.aclose()
    sandbox.close()
